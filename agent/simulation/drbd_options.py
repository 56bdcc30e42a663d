"""DRBD 8.4's options: names in the order in which `drbdsetup show` prints them, defaults, units (drbd.conf(5))."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """`default` as drbdsetup prints it. `unit` of numbers; `scale` is the unit of a number without a suffix."""

    default: str | None = None
    unit: str = ""
    scale: int = 0  # 0: not a number; 1: plain or bytes; 1024: KiB (resync rates), 512: sectors
    words: tuple[str, ...] = ()
    limits: tuple[int, int] | None = None  # of a number, where drbdadm looks at it itself; in units of `scale`

    def text(self, value: str) -> str:
        """A value as drbdsetup prints it; raises ValueError when it can't be one."""
        if self.words:
            if value.lower() not in {word.lower() for word in self.words}:
                raise ValueError(value)
            return value
        if not self.scale:
            return value
        return _scaled(number(value, self.scale) // self.scale, self.scale)


def _scaled(count: int, scale: int) -> str:
    suffix = {1: "", 512: "s", 1024: "k"}[scale]
    return f"{count}{suffix}"


def number(text: str, scale: int = 1) -> int:
    """Bytes (or a plain number) of "500M", "250k", "3"; without a suffix it counts `scale`. Raises ValueError."""
    match = re.fullmatch(r"([0-9]+)([sSkKmMgG]?)", text)
    if match is None:
        raise ValueError(text)
    factor = {"": scale, "s": 512, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}[match[2].lower()]
    return int(match[1]) * factor


BOOLEAN = ("yes", "no")
AFTER_SB = ("disconnect", "discard-younger-primary", "discard-older-primary", "discard-zero-changes",
            "discard-least-changes", "discard-local", "discard-remote", "consensus", "discard-secondary",
            "call-pri-lost-after-sb", "violently-as0p")  # fmt: skip

NET: dict[str, Option] = {
    "protocol": Option("C", words=("A", "B", "C")),
    "timeout": Option("60", "1/10 seconds", 1, limits=(1, 600)),
    "max-epoch-size": Option("2048", scale=1, limits=(1, 20000)),
    "max-buffers": Option("2048", scale=1, limits=(32, 131072)),
    "unplug-watermark": Option("128", scale=1),
    "connect-int": Option("10", "seconds", 1, limits=(1, 120)),
    "ping-int": Option("10", "seconds", 1, limits=(1, 120)),
    "sndbuf-size": Option("0", "bytes", 1, limits=(0, 10 << 20)),
    "rcvbuf-size": Option("0", "bytes", 1, limits=(0, 10 << 20)),
    "ko-count": Option("7", scale=1, limits=(0, 200)),
    "allow-two-primaries": Option("no", words=BOOLEAN),
    "cram-hmac-alg": Option(""),
    "shared-secret": Option(""),
    "after-sb-0pri": Option("disconnect", words=AFTER_SB),
    "after-sb-1pri": Option("disconnect", words=AFTER_SB),
    "after-sb-2pri": Option("disconnect", words=AFTER_SB),
    "always-asbp": Option("no", words=BOOLEAN),
    "rr-conflict": Option("disconnect", words=("disconnect", "violently", "call-pri-lost", "retry-connect")),
    "ping-timeout": Option("5", "1/10 seconds", 1),
    "data-integrity-alg": Option(""),
    "tcp-cork": Option("yes", words=BOOLEAN),
    "on-congestion": Option("block", words=("block", "pull-ahead", "disconnect")),
    "congestion-fill": Option("0s", "bytes", 512, limits=(0, 10 << 21)),
    "congestion-extents": Option("1237", scale=1, limits=(67, 0xFFFE)),
    "csums-alg": Option(""),
    "csums-after-crash-only": Option("no", words=BOOLEAN),
    "verify-alg": Option(""),
    "use-rle": Option("yes", words=BOOLEAN),
    "socket-check-timeout": Option("0", scale=1),
}
DISK: dict[str, Option] = {
    "on-io-error": Option("detach", words=("pass_on", "call-local-io-error", "detach")),
    "fencing": Option("dont-care", words=("dont-care", "resource-only", "resource-and-stonith")),
    "disk-barrier": Option("no", words=BOOLEAN),
    "disk-flushes": Option("yes", words=BOOLEAN),
    "disk-drain": Option("yes", words=BOOLEAN),
    "md-flushes": Option("yes", words=BOOLEAN),
    "resync-rate": Option("250k", "bytes/second", 1024, limits=(1, 4 << 20)),
    "resync-after": Option("-1"),
    "al-extents": Option("1237", scale=1),
    "al-updates": Option("yes", words=BOOLEAN),
    "discard-zeroes-if-aligned": Option("yes", words=BOOLEAN),
    "disable-write-same": Option("no", words=BOOLEAN),
    "c-plan-ahead": Option("20", "1/10 seconds", 1, limits=(0, 300)),
    "c-delay-target": Option("10", "1/10 seconds", 1, limits=(1, 100)),
    "c-fill-target": Option("100s", "bytes", 512, limits=(0, 1 << 20)),
    "c-max-rate": Option("102400k", "bytes/second", 1024, limits=(250, 4 << 20)),
    "c-min-rate": Option("250k", "bytes/second", 1024, limits=(0, 4 << 20)),
    "disk-timeout": Option("0", "1/10 seconds", 1),
    "read-balancing": Option("prefer-local"),
    "rs-discard-granularity": Option("0", scale=1),
}
RESOURCE: dict[str, Option] = {
    "cpu-mask": Option(""),
    "on-no-data-accessible": Option("io-error", words=("io-error", "suspend-io")),
}
STARTUP = {name: Option("0", scale=1, limits=(0, 300000)) for name in ("wfc-timeout", "degr-wfc-timeout",
                                                                      "outdated-wfc-timeout")}  # fmt: skip
HANDLERS = {
    "pri-on-incon-degr", "pri-lost-after-sb", "pri-lost", "initial-split-brain", "split-brain", "outdate-peer",
    "fence-peer", "unfence-peer", "local-io-error", "before-resync-target", "before-resync-source",
    "after-resync-target", "out-of-sync",
}  # fmt: skip
DEPRECATED = {"delay-probe-volume", "delay-probe-interval", "throttle-threshold", "hold-off-threshold"}
NOW = {"rate": "resync-rate", "after": "resync-after", "outdate-peer": "fence-peer"}
"""8.3's names, which 8.4's parser still reads."""


def value(options: dict[str, str], table: dict[str, Option], name: str) -> str:
    """What an option is: as set, or its default."""
    return options.get(name, table[name].default or "")


def shown(options: dict[str, str], table: dict[str, Option], indent: str) -> list[str]:
    """Lines of `drbdsetup show`: what differs from the default, in the tool's layout."""
    lines = []
    for name, option in table.items():
        if name in options and (text := option.text(options[name])) != option.default:
            quoted = text if option.words or option.scale else f'"{text}"'
            comment = f" # {option.unit}" if option.unit else ""
            lines.append(f"{indent}{name:<16}\t{quoted};{comment}")
    return lines

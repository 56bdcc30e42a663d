"""xl.cfg(5): what `xl create` reads, parsed into a `DomainSpec`. Errors are `ConfigError` with xl's own words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

Value = str | int | list["Value"]
TYPES = ("pv", "pvh", "hvm")
ACTIONS = (
    "destroy",
    "restart",
    "rename-restart",
    "preserve",
    "coredump-destroy",
    "coredump-restart",
    "soft-reset",
)


class ConfigError(Exception):
    """What xl would print to stderr before it exits 1."""


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """xl-disk-configuration(5). `script` is a name under /etc/xen/scripts, None = the plain `block`."""

    target: str
    vdev: str
    access: str = "w"  # "r" or "w"
    script: str | None = None
    backend: str | None = None

    @property
    def devid(self) -> int:
        return device_number(self.vdev)


@dataclass(frozen=True, slots=True)
class VifSpec:
    """xl-network-configuration(5)."""

    mac: str | None = None
    bridge: str = "xenbr0"
    script: str = "vif-bridge"


@dataclass(frozen=True, slots=True)
class DomainSpec:
    """A domain as configured. Memory in KiB, as libxl keeps it; `uuid` None until one is made."""

    name: str
    uuid: str | None = None
    type: str = "pv"
    target_kib: int = 32 * 1024
    max_kib: int = 32 * 1024
    vcpus: int = 1
    kernel: str | None = None
    ramdisk: str | None = None
    cmdline: str = ""
    bootloader: str | None = None
    disks: tuple[DiskSpec, ...] = ()
    vifs: tuple[VifSpec, ...] = ()
    on_poweroff: str = "destroy"
    on_reboot: str = "restart"
    on_crash: str = "destroy"


def device_number(vdev: str) -> int:
    """The number of a virtual device (xen-vbd-interface(7)): xvda 51712, hda1 769, sda 2048."""
    match = re.fullmatch(r"(xvd|d|hd|sd)([a-z]+)([0-9]*)", vdev)
    if match is None:
        if vdev.isdigit():
            return int(vdev)
        raise ConfigError(f"Invalid virtual disk identifier {vdev}")
    kind, letters, digits = match.groups()
    disk = 0
    for letter in letters:
        disk = disk * 26 + ord(letter) - ord("a") + 1
    disk, part = disk - 1, int(digits or 0)
    if kind == "hd" and disk <= 3 and part <= 63:
        return ((3 if disk < 2 else 22) << 8) | ((disk & 1) << 6) | part
    if kind == "sd" and disk <= 15 and part <= 15:
        return (8 << 8) | (disk << 4) | part
    if kind in ("xvd", "d"):
        return (202 << 8) | (disk << 4) | part if disk <= 15 and part <= 15 else (1 << 28) | (disk << 8) | part
    raise ConfigError(f"Invalid virtual disk identifier {vdev}")


# --- the file -----------------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""(?P<space>[ \t]+|\#[^\n]*|\\\n)
      | (?P<end>\n|;)
      | (?P<string>'[^'\n]*'|"[^"\n]*")
      | (?P<number>0x[0-9a-fA-F]+|[0-9]+(?![0-9A-Za-z_]))
      | (?P<ident>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<op>\+=|=|\[|\]|,)""",
    re.VERBOSE,
)


def parse_file(source: str, text: str) -> dict[str, Value]:
    """The settings of an xl.cfg(5) file; a later setting of the same name wins, `+=` appends."""
    tokens = _tokens(source, text)
    settings: dict[str, Value] = {}
    position = 0
    while position < len(tokens):
        kind, word, line = tokens[position]
        if kind == "end":
            position += 1
            continue
        operator = tokens[position + 1] if position + 1 < len(tokens) else ("end", "\n", line)
        if kind != "ident" or operator[1] not in ("=", "+="):
            raise _syntax(source, line, word if kind != "ident" else operator[1])
        value, position = _value(source, tokens, position + 2, line)
        if position < len(tokens) and tokens[position][0] != "end":
            raise _syntax(source, tokens[position][2], tokens[position][1])
        previous = settings.get(word)
        if operator[1] == "+=":
            value = _appended(previous, value)
        settings[word] = value
    return settings


def _appended(previous: Value | None, value: Value) -> Value:
    if isinstance(previous, list) and isinstance(value, list):
        return previous + value
    if isinstance(previous, str) and isinstance(value, str):
        return previous + value
    return value


def _tokens(source: str, text: str) -> list[tuple[str, str, int]]:
    tokens, position, line = [], 0, 1
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise _syntax(source, line, text[position], "lexical error")
        kind = str(match.lastgroup)
        if kind != "space":
            tokens.append((kind, match.group(), line))
        line += match.group().count("\n")
        position = match.end()
    return tokens


def _syntax(source: str, line: int, near: str, what: str = "syntax error") -> ConfigError:
    shown = "end of line" if near == "\n" else f"`{near}'"
    return ConfigError(
        f"{source}:{line}: config parsing error near {shown}: {what}\n"
        "Failed to parse config: Invalid argument"
    )  # fmt: skip


def _value(source: str, tokens: Sequence[tuple[str, str, int]], position: int, line: int) -> tuple[Value, int]:
    if position >= len(tokens):
        raise _syntax(source, line, "\n")
    kind, word, line = tokens[position]
    if kind == "string":
        return word[1:-1], position + 1
    if kind == "number":
        return int(word, 0), position + 1
    if word != "[":
        raise _syntax(source, line, word)
    items: list[Value] = []
    position += 1
    while True:
        while position < len(tokens) and tokens[position][1] == "\n":
            position += 1
        if position >= len(tokens):
            raise _syntax(source, line, "\n")
        if tokens[position][1] == "]":
            return items, position + 1
        if items and tokens[position - 1][1] not in (",", "\n"):
            raise _syntax(source, tokens[position][2], tokens[position][1])
        item, position = _value(source, tokens, position, line)
        items.append(item)
        while position < len(tokens) and tokens[position][1] == "\n":
            position += 1
        if position < len(tokens) and tokens[position][1] == ",":
            position += 1
        elif position < len(tokens) and tokens[position][1] != "]":
            raise _syntax(source, tokens[position][2], tokens[position][1])


def parse_config(source: str, text: str) -> DomainSpec:
    """What `xl create` makes of a configuration file."""
    settings = parse_file(source, text)
    name = _text(settings, "name")
    if not name:
        raise ConfigError("Domain name must be specified.")
    kind = _text(settings, "type") or ("hvm" if settings.get("builder") == "hvm" else "pv")
    if kind not in TYPES:
        raise ConfigError(f"Invalid domain type {kind}.")
    memory = _number(settings, "memory", 32)
    maximum = _number(settings, "maxmem", memory)
    actions = {}
    for key, default in (("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "destroy")):
        action = _text(settings, key) or default
        if action not in ACTIONS:
            raise ConfigError(f'Unknown {key} action "{action}" specified')
        actions[key] = action
    return DomainSpec(
        name=name,
        uuid=_text(settings, "uuid"),
        type=kind,
        target_kib=memory * 1024,
        max_kib=max(maximum, memory) * 1024,
        vcpus=_number(settings, "vcpus", 1),
        kernel=_text(settings, "kernel"),
        ramdisk=_text(settings, "ramdisk"),
        cmdline=_cmdline(settings),
        bootloader=_text(settings, "bootloader"),
        disks=tuple(parse_disk(item) for item in _texts(settings, "disk")),
        vifs=tuple(parse_vif(item) for item in _texts(settings, "vif")),
        **actions,
    )


def _text(settings: Mapping[str, Value], key: str) -> str | None:
    value = settings.get(key)
    return str(value) if isinstance(value, str | int) else None


def _texts(settings: Mapping[str, Value], key: str) -> list[str]:
    value = settings.get(key, [])
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _number(settings: Mapping[str, Value], key: str, default: int) -> int:
    value = settings.get(key, default)
    try:
        return int(value, 0) if isinstance(value, str) else int(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ConfigError(f"xl: config parameter `{key}' is not a valid number") from None


def _cmdline(settings: Mapping[str, Value]) -> str:
    """`cmdline`, or xm's `root` and `extra` put together (xl.cfg(5))."""
    if (cmdline := _text(settings, "cmdline")) is not None:
        return cmdline
    root, extra = _text(settings, "root"), _text(settings, "extra") or ""
    return f"root={root} {extra}".rstrip() if root else extra


def parse_disk(text: str) -> DiskSpec:
    """xl-disk-configuration(5): keys, positional parameters, the old prefixes; `target=` takes the rest of the line."""
    found: dict[str, str] = {}
    old = re.match(r"(phy|file|raw|drbd|iscsi|nbd|enbd|tap2?|aio):", text)
    positional = ["target", "format", "vdev", "access"]
    rest = text.strip()
    if old is not None:
        rest = rest[old.end() :]
        positional.remove("format")
        if old.group(1) in ("drbd", "iscsi", "nbd", "enbd"):
            found["script"] = f"block-{old.group(1)}"
    while rest:
        if rest.startswith("target="):
            found["target"] = rest[len("target=") :]
            break
        item, _, rest = rest.partition(",")
        rest = rest.lstrip()
        key, equals, value = item.strip().partition("=")
        if equals:
            found[key] = value
        elif key in ("discard", "no-discard", "direct-io-safe", "trusted", "untrusted", "cdrom"):
            continue
        else:
            free = [name for name in positional if name not in found]
            if not free:
                raise ConfigError(f"config parsing error in disk specification: too many positional parameters: {text}")
            found[free[0]] = key
    access = {"rw": "w", "w": "w", "r": "r", "ro": "r", "": "w"}.get(found.get("access", "w"))
    if access is None:
        raise ConfigError(f"config parsing error in disk specification: unknown value for access: {text}")
    for key in ("target", "vdev"):
        if key not in found:
            raise ConfigError(f"config parsing error in disk specification: no {key} specified in `{text}'")
    device_number(found["vdev"])
    return DiskSpec(found["target"], found["vdev"], access, found.get("script"), found.get("backendtype"))


def parse_vif(text: str) -> VifSpec:
    found = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = item.partition("=")
        if equals:
            found[key] = value
    return VifSpec(found.get("mac"), found.get("bridge") or "xenbr0", found.get("script") or "vif-bridge")


def with_uuid(spec: DomainSpec, uuid: str, macs: Sequence[str]) -> DomainSpec:
    """The spec with what libxl fills in at creation: a uuid, a MAC for each interface that has none."""
    vifs = tuple(replace(vif, mac=vif.mac or mac) for vif, mac in zip(spec.vifs, macs, strict=True))
    return replace(spec, uuid=spec.uuid or uuid, vifs=vifs)

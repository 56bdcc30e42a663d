"""What DRBD 8.4's drbdadm takes for a word of its configuration, with the numbers that its complaints call (TK ...).

Names and numbers are those of drbdadm_scanner.fl and drbdadm_parser.h of drbd-utils; what Xentandem has no use for
(stacked resources, proxies) is left out.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import NamedTuple

from agent.simulation import drbd_options as options


class TK(IntEnum):
    """Other kinds: the character itself, 0 at the end."""

    GLOBAL = 258
    RESOURCE = 259
    ON = 260
    NET = 263
    DISK = 264
    SKIP = 265
    SYNCER = 266
    STARTUP = 267
    DISABLE_IP_VERIFICATION = 268
    DIALOG_REFRESH = 269
    HANDLER = 271
    COMMON = 272
    ADDRESS = 273
    DEVICE = 275
    MINOR = 276
    META_DISK = 277
    FLEX_META_DISK = 278
    MINOR_COUNT = 279
    IPADDR = 280
    INTEGER = 281
    STRING = 282
    ELSE = 283
    DISK_FLAG = 284
    DISK_NO_FLAG = 285
    DISK_OPTION = 286
    NET_FLAG = 287
    NET_NO_FLAG = 288
    NET_OPTION = 289
    STARTUP_FLAG = 292
    STARTUP_OPTION = 293
    STARTUP_DELEGATE = 294
    HANDLER_OPTION = 295
    USAGE_COUNT = 296
    ASK = 297
    YES = 298
    NO = 299
    ERR_STRING_TOO_LONG = 308
    ERR_DQSTRING = 310
    SDP = 312
    SSOCKS = 313
    IPV4 = 314
    IPV6 = 315
    IPADDR6 = 316
    INCLUDE = 318
    DEPRECATED_OPTION = 321
    VOLUME = 322
    CMD_TIMEOUT_SHORT = 323
    CMD_TIMEOUT_MEDIUM = 324
    CMD_TIMEOUT_LONG = 325
    RES_OPTION = 326
    OPTIONS = 327
    UDEV_ALWAYS_USE_VNR = 328


OLD = 0x2000  # added to what 8.3 had in its section `syncer`
_OLD_NAMES = {
    "verify-alg", "csums-alg", "use-rle", "al-extents", "cpu-mask", "on-no-data-accessible", "c-plan-ahead",
    "c-delay-target", "c-fill-target", "c-max-rate", "c-min-rate",
}  # fmt: skip


_PLAIN = [
    TK.GLOBAL, TK.RESOURCE, TK.ON, TK.NET, TK.DISK, TK.SKIP, TK.SYNCER, TK.STARTUP, TK.DISABLE_IP_VERIFICATION,
    TK.DIALOG_REFRESH, TK.COMMON, TK.ADDRESS, TK.DEVICE, TK.MINOR, TK.META_DISK, TK.MINOR_COUNT, TK.USAGE_COUNT, TK.ASK,
    TK.YES, TK.NO, TK.SDP, TK.SSOCKS, TK.IPV4, TK.IPV6, TK.INCLUDE, TK.VOLUME, TK.CMD_TIMEOUT_SHORT,
    TK.CMD_TIMEOUT_MEDIUM, TK.CMD_TIMEOUT_LONG, TK.OPTIONS, TK.UDEV_ALWAYS_USE_VNR,
]  # fmt: skip


def _keywords() -> dict[str, int]:
    special = {
        "handlers": TK.HANDLER, "flexible-meta-disk": TK.FLEX_META_DISK, "rate": OLD | TK.DISK_OPTION,
        "after": OLD | TK.DISK_OPTION, "become-primary-on": TK.STARTUP_DELEGATE,
        "stacked-timeouts": TK.STARTUP_DELEGATE, "wait-after-sb": TK.STARTUP_FLAG,
    }  # fmt: skip
    words: dict[str, int] = {kind.name.lower().replace("_", "-"): kind for kind in _PLAIN}
    for table, flag, option in (
        (options.NET, TK.NET_FLAG, TK.NET_OPTION),
        (options.DISK, TK.DISK_FLAG, TK.DISK_OPTION),
        (options.RESOURCE, TK.RES_OPTION, TK.RES_OPTION),
    ):
        for name, one in table.items():
            words[name] = (flag if one.words == options.BOOLEAN else option) | OLD * (name in _OLD_NAMES)
    words |= dict.fromkeys(options.HANDLERS, TK.HANDLER_OPTION) | dict.fromkeys(options.STARTUP, TK.STARTUP_OPTION)
    words |= {f"no-{name}": TK.DISK_NO_FLAG for name in ("disk-barrier", "disk-flushes", "disk-drain", "md-flushes")}
    words["no-tcp-cork"] = TK.NET_NO_FLAG
    words |= dict.fromkeys(options.DEPRECATED, TK.DEPRECATED_OPTION)
    return words | special


_HEX = "[0-9a-fA-F]{1,4}"
_V4 = r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}"
_TOKEN = re.compile(
    r"""(?P<blank>[ \t\r]+|\#[^\n]*)|(?P<line>\n)"""
    r"""|(?P<string>"(?:[^"\\\n]|\\[^\n]){0,255}")|(?P<open>"(?:[^"\\\n]|\\[^\n]){0,255}[\\\n])"""
    rf"""|(?P<v6>::[fF]{{4}}:{_V4}|(?:(?:{_HEX}:){{0,5}}{_HEX})?:(?:{_HEX})?:(?:{_HEX}(?::{_HEX}){{0,5}})?"""
    r"""(?:%[a-zA-Z0-9/._-]{1,128})?)|(?P<long>[a-zA-Z0-9/._-]{129})|(?P<word>[a-zA-Z0-9/._-]+)|(?P<other>.)""",
    re.DOTALL | re.VERBOSE,
)
_KINDS = {"string": TK.STRING, "open": TK.ERR_DQSTRING, "long": TK.ERR_STRING_TOO_LONG, "v6": TK.IPADDR6}
_KEYWORDS = _keywords()


class Token(NamedTuple):
    kind: int
    text: str
    line: int


def scan(text: str, line: int) -> list[Token]:
    """All words, and the end. `line` is the number of the first line."""
    tokens = []
    for match in _TOKEN.finditer(text):
        group, word = match.lastgroup, match[0]
        if group == "line":
            line += 1
        elif group == "string":
            tokens.append(Token(TK.STRING, re.sub(r"\\(.)", r"\1", word[1:-1]), line))
        elif group == "word":
            tokens.append(Token(_word(word), word, line))
        elif group == "other":
            tokens.append(Token(ord(word) if word in "{};[]:" else TK.ELSE, word, line))
        elif group is not None and group != "blank":
            tokens.append(Token(_KINDS[group], word, line))
    tokens.append(Token(0, "", line))
    return tokens


def _word(word: str) -> int:
    if (kind := _KEYWORDS.get(word)) is not None:
        return kind
    if re.fullmatch(_V4, word):
        return TK.IPADDR
    return TK.INTEGER if re.fullmatch("[0-9]{1,8}[MKGs]?", word) else TK.STRING

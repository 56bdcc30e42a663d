"""Which resources the files under /etc/drbd.d configure, whoever wrote them (drbd.conf(5), both dialects). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from agent.drivers.drbd_config import OWNER_COMMENT
from agent.drivers.errors import Unreadable

_TOKEN = re.compile(r'\s+|#[^\n]*|"(?P<string>[^"\n]*)"|(?P<mark>[{};])|(?P<word>[^\s{};"#]+)')


@dataclass(frozen=True, slots=True)
class ResConfig:
    """One resource of the configuration: what it takes that nothing else on a host may have."""

    name: str
    path: str
    owner_uid: str | None  # None: not written by Xentandem
    minors: frozenset[int]
    ports: frozenset[int]
    disks: frozenset[str]  # backing devices and external metadata devices
    hosts: tuple[str, ...]


@dataclass
class _Collected:
    minors: set[int] = field(default_factory=set)
    ports: set[int] = field(default_factory=set)
    disks: set[str] = field(default_factory=set)
    hosts: list[str] = field(default_factory=list)

    def config(self, name: str, path: str, owner: str | None) -> ResConfig:
        sets = frozenset(self.minors), frozenset(self.ports), frozenset(self.disks)
        return ResConfig(name, path, owner, *sets, hosts=tuple(dict.fromkeys(self.hosts)))


@lru_cache(maxsize=1 << 14)  # all files are looked at before each change of a volume; few of them changed
def parse_config(path: str, text: str) -> tuple[tuple[ResConfig, ...], tuple[str, ...]]:
    """(the resources in one file, the patterns of its include statements). Raises Unreadable.

    A device whose minor can't be told is Unreadable, because it might be one that somebody else is about to take.
    """
    owner = text.split("\n", 1)[0].removeprefix(OWNER_COMMENT).strip() if text.startswith(OWNER_COMMENT) else None
    tokens = _tokens(path, text)
    resources: list[ResConfig] = []
    includes: list[str] = []
    for words, opens in _statements(path, tokens):
        if not opens:
            if words[0] != "include" or len(words) != 2:
                raise Unreadable(f"{path}: unknown statement {' '.join(words)!r}")
            includes.append(words[1])
        elif words[0] == "resource":
            if len(words) != 2:
                raise Unreadable(f"{path}: a resource needs one name, not {' '.join(words[1:])!r}")
            found = _Collected()
            _collect(path, tokens, found, level=1)
            resources.append(found.config(words[1], path, owner))
        else:
            _skip(path, tokens)
    return tuple(resources), tuple(includes)


def _tokens(path: str, text: str) -> Iterator[tuple[str, bool]]:
    """(text, is a mark) without blanks and comments."""
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise Unreadable(f"{path}: unreadable near {text[at : at + 40]!r}")
        at = match.end()
        if match["mark"]:
            yield match["mark"], True
        elif match["word"] is not None:
            yield match["word"], False
        elif match["string"] is not None:
            yield match["string"], False


def _statements(path: str, tokens: Iterator[tuple[str, bool]], depth: int = 0) -> Iterator[tuple[list[str], bool]]:
    """(words, whether a block follows) up to the end of this block; the caller consumes an opened block."""
    words: list[str] = []
    for text, mark in tokens:
        if not mark:
            words.append(text)
        elif text == "}":
            if words or depth == 0:
                raise Unreadable(f"{path}: '}}' where it can't be")
            return
        elif not words:
            # "{" alone is no block of ours; a lone ";" says nothing
            if text == "{":
                raise Unreadable(f"{path}: a block without a name")
        else:
            yield words, text == "{"
            words = []
    if words or depth:
        raise Unreadable(f"{path}: ends in the middle of a section")


def _skip(path: str, tokens: Iterator[tuple[str, bool]]) -> None:
    depth = 1
    for text, mark in tokens:
        if mark and text in "{}":
            depth += 1 if text == "{" else -1
            if depth == 0:
                return
    raise Unreadable(f"{path}: ends in the middle of a section")


def _collect(path: str, tokens: Iterator[tuple[str, bool]], found: _Collected, level: int) -> None:
    if level > 8:
        raise Unreadable(f"{path}: sections nested deeper than drbd.conf knows")
    for words, opens in _statements(path, tokens, depth=1):
        if opens:
            if words[0] in ("on", "stacked-on-top-of"):
                found.hosts += words[1:]
            if words[0] == "floating":
                found.ports |= _ports(path, words)
            if words[0] in ("on", "volume", "floating", "stacked-on-top-of", "connection"):
                _collect(path, tokens, found, level + 1)
            else:
                _skip(path, tokens)
        elif words[0] == "device":
            found.minors.add(_minor(path, words))
        elif words[0] in ("disk", "meta-disk", "flexible-meta-disk") and words[1:2] not in (["none"], ["internal"]):
            found.disks.add(re.sub(r"\[\d+\]$", "", words[1]) if len(words) > 1 else "")
        elif words[0] in ("address", "host") and len(words) > 1:
            found.ports |= _ports(path, words)


def _minor(path: str, words: list[str]) -> int:
    text = " ".join(words)
    match = re.search(r"(?: minor |^device /dev/drbd)([0-9]{1,7})$", text)
    if match is None:
        raise Unreadable(f"{path}: can't tell the minor of {text!r}")
    return int(match[1])


def _ports(path: str, words: list[str]) -> set[int]:
    """Of `address [ipv4] 10.0.0.81:7789` and 9's `host mk1 [address ...] [port 7789]`; a bare `host mk1` has none."""
    text = " ".join(words)
    found = {int(port) for port in re.findall(r"(?::| port )([0-9]{1,5})(?= |$)", text)}
    if not found and words[0] != "host":
        raise Unreadable(f"{path}: can't tell the port of {text!r}")
    return found

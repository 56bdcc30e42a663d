"""drbd.conf(5) as DRBD 8.4's drbdadm reads it: /etc/drbd.conf, what it includes, and its complaints (exit 10)."""

from __future__ import annotations

import fnmatch
import functools
import posixpath
import re
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from agent.simulation import drbd_options as options
from agent.simulation.files import VirtualFiles

MAIN = "/etc/drbd.conf"
MAIN_TEXT = 'include "drbd.d/global_common.conf";\ninclude "drbd.d/*.res";\n'
GLOBAL_COMMON = "/etc/drbd.d/global_common.conf"
GLOBAL_COMMON_TEXT = "global { usage-count no; }\ncommon { }\n"
_TOKEN = re.compile(r'(?P<blank>[ \t\r]+|#[^\n]*)|(?P<line>\n)|"(?P<string>[^"\n]*)"|(?P<word>[{};]|[^\s{};"#]+)')


class ConfigError(Exception):
    """The configuration is bad: drbdadm prints this and ends with 10, whatever it was asked to do."""


@dataclass(frozen=True)
class HostPart:
    """What an `on` section says, with what it inherits from the resource."""

    device: int = -1
    disk: str = ""
    meta_disk: str = ""
    address: str = ""
    port: int = 0


@dataclass
class ResourceConfig:
    name: str
    path: str
    line: int
    net: dict[str, str] = field(default_factory=dict)
    disk: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    handlers: dict[str, str] = field(default_factory=dict)
    hosts: dict[str, HostPart] = field(default_factory=dict)

    @functools.cached_property
    def claims(self) -> list[tuple[str, str]]:
        """What nothing else may use, as drbdadm names it."""
        claims = [("resource section", self.name)]
        for host, part in self.hosts.items():
            claims += [
                ("device-minor", f"device-minor:{host}:{part.device}"),
                ("disk", f"disk:{host}:{part.disk}"),
                ("IP", f"{part.address}:{part.port}"),
            ]
        return claims

    def peer_of(self, host: str) -> str | None:
        return next((name for name in self.hosts if name != host), None)


Token = tuple[str, int]


def _tokens(path: str, text: str) -> Iterator[Token]:
    line, at = 1, 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ConfigError(f"{path}:{line}: Unterminated double quoted string\n")
        at = match.end()
        if match["line"]:
            line += 1
        elif match["string"] is not None:
            yield f'"{match["string"]}', line  # the quote says that it is no keyword
        elif match["word"]:
            yield match["word"], line


class _Parser:
    """One file."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self._tokens = list(_tokens(path, text))
        self._at = 0

    @property
    def line(self) -> int:
        return self._tokens[min(self._at, len(self._tokens)) - 1][1] if self._tokens else 1

    def more(self) -> bool:
        return self._at < len(self._tokens)

    def next(self) -> str:
        if not self.more():
            raise self.expected("}", "")
        self._at += 1
        return self._tokens[self._at - 1][0]

    def peek(self) -> str:
        return self._tokens[self._at][0] if self.more() else ""

    def word(self) -> str:
        """A word or a quoted string, without its quote."""
        token = self.next()
        if token in {"{", "}", ";"}:
            raise self.expected("TK_STRING", token)
        return token.removeprefix('"')

    def expect(self, token: str) -> None:
        if (got := self.next()) != token:
            raise self.expected(token, got)

    def expected(self, what: str, got: str) -> ConfigError:
        return ConfigError(f"{self.path}:{self.line}: Parse error: '{what}' expected,\n\tbut got '{got}'\n")

    def section(self) -> Iterator[str]:
        """Keywords of a `{ ... }`; the caller consumes the rest of each statement."""
        self.expect("{")
        while (keyword := self.next()) != "}":
            yield keyword

    def skip(self) -> None:
        depth = 0
        while True:
            mark = self.next()
            depth += {"{": 1, "}": -1}.get(mark, 0)
            if mark == "}" and depth == 0:
                return

    def options(self, table: dict[str, options.Option]) -> dict[str, str]:
        found = {}
        for name in self.section():
            if name not in table:
                raise self.expected(" | ".join(table), name)
            text = "yes" if self.peek() == ";" else self.word()  # a flag alone means yes
            try:
                table[name].text(text)
            except ValueError:
                raise ConfigError(f"{self.path}:{self.line}: Parse error: bad value '{text}' for {name}\n") from None
            found[name] = text
            self.expect(";")
        return found


@dataclass(frozen=True)
class FileConfig:
    """What one file says; the same text is read once only, and never changed."""

    resources: tuple[ResourceConfig, ...]
    common: tuple[ResourceConfig, ...]
    includes: tuple[str, ...]


@functools.lru_cache(maxsize=8192)
def parse_file(path: str, text: str) -> FileConfig:
    """Raises ConfigError."""
    parser = _Parser(path, text)
    resources, common, includes = [], [], []
    while parser.more():
        keyword = parser.next()
        if keyword == "include":
            includes.append(parser.word())
            parser.expect(";")
        elif keyword == "resource":
            resources.append(_resource(parser))
        elif keyword == "common":
            common.append(_common(parser))
        elif keyword in {"global", "template-file", "skip"}:
            if keyword == "skip":
                parser.word()
            parser.skip()
        else:
            raise parser.expected("global | common | resource | skip | include", keyword)
    return FileConfig(tuple(resources), tuple(common), tuple(includes))


_whole: weakref.WeakKeyDictionary[VirtualFiles, tuple[int, list[ResourceConfig]]] = weakref.WeakKeyDictionary()


def parse(files: VirtualFiles, main: str = MAIN, *, test: str | None = None) -> list[ResourceConfig]:
    """All resources that `main` and what it includes configure, checked together with the file `test`.

    Raises ConfigError, FileNotFoundError when `main` or `test` is not there.
    """
    plain = main == MAIN and test is None
    if plain and (known := _whole.get(files)) is not None and known[0] == files.revision:
        return known[1]
    resources: list[ResourceConfig] = []
    common = ResourceConfig("common", "", 0)
    waiting = [main, *([test] if test is not None else [])]
    for path in waiting:
        found = parse_file(path, files.read(path))
        resources += found.resources
        for part in found.common:
            common = _with_common(common, part)
        for pattern in found.includes:
            waiting += _matching(files, path, pattern)
    merged = [_with_common(resource, common) for resource in resources]
    _check(merged)
    if plain:
        _whole[files] = (files.revision, merged)
    return merged


def _matching(files: VirtualFiles, path: str, pattern: str) -> list[str]:
    folder, name = posixpath.split(posixpath.normpath(posixpath.join(posixpath.dirname(path), pattern)))
    return [f"{folder}/{entry}" for entry in files.names(folder) if fnmatch.fnmatchcase(entry, name)]


def _with_common(resource: ResourceConfig, common: ResourceConfig) -> ResourceConfig:
    if not (common.net or common.disk or common.options or common.handlers):
        return resource
    return replace(
        resource,
        net=common.net | resource.net,
        disk=common.disk | resource.disk,
        options=common.options | resource.options,
        handlers=common.handlers | resource.handlers,
    )


def _common(parser: _Parser) -> ResourceConfig:
    common = ResourceConfig("common", parser.path, parser.line)
    for keyword in parser.section():
        if not _options_section(parser, keyword, common):
            raise parser.expected("disk | net | syncer | startup | handlers | options", keyword)
    return common


def _options_section(parser: _Parser, keyword: str, into: ResourceConfig) -> bool:
    """A section of options, common to `common` and `resource`; False when it is something else."""
    if keyword == "net":
        into.net |= parser.options(options.NET)
    elif keyword == "disk" and parser.peek() == "{":
        into.disk |= parser.options(options.DISK)
    elif keyword == "options":
        into.options |= parser.options(options.RESOURCE)
    elif keyword == "protocol":
        into.net["protocol"] = parser.word()
        parser.expect(";")
    elif keyword == "syncer":
        names = options.SYNCER_TO_DISK | options.SYNCER_TO_NET
        tables = options.DISK | options.NET
        for name, text in parser.options({old: tables[new] for old, new in names.items()}).items():
            (into.disk if name in options.SYNCER_TO_DISK else into.net)[names[name]] = text
    elif keyword == "handlers":
        into.handlers |= parser.options(dict.fromkeys(options.HANDLERS, options.Option()))
    elif keyword == "startup":
        parser.options(dict.fromkeys(options.STARTUP, options.Option()))
    else:
        return False
    return True


def _resource(parser: _Parser) -> ResourceConfig:
    resource = ResourceConfig(parser.word(), parser.path, parser.line)
    inherited = HostPart()
    hosts: list[tuple[list[str], HostPart]] = []
    for keyword in parser.section():
        if keyword == "on":
            names = [parser.word()]
            while parser.peek() != "{":
                names.append(parser.word())
            part = HostPart()
            for inner in parser.section():
                part = _host_statement(parser, inner, part)
            hosts.append((names, part))
        elif not _options_section(parser, keyword, resource):
            inherited = _host_statement(parser, keyword, inherited)
    for names, part in hosts:
        whole = HostPart(
            part.device if part.device >= 0 else inherited.device,
            part.disk or inherited.disk,
            part.meta_disk or inherited.meta_disk,
            part.address,
            part.port,
        )
        for what, given in (("device", whole.device >= 0), ("disk", whole.disk), ("meta-disk", whole.meta_disk),
                            ("address", whole.address)):  # fmt: skip
            if not given:
                raise ConfigError(
                    f"{parser.path}:{resource.line}: in section on {names[0]}: '{what}' keyword missing.\n"
                )
        for name in names:
            if name in resource.hosts:
                raise ConfigError(f"{parser.path}:{resource.line}: conflicting use of on-host '{name}'\n")
            resource.hosts[name] = whole
    return resource


def _host_statement(parser: _Parser, keyword: str, part: HostPart) -> HostPart:
    """device, disk, meta-disk, address, or `volume 0 { ... }` around them."""
    if keyword == "volume":
        if (number := parser.word()) != "0":
            raise ConfigError(f"{parser.path}:{parser.line}: volume {number}: one volume a resource is simulated\n")
        for inner in parser.section():
            if inner == "disk" and parser.peek() == "{":
                raise parser.expected("device | disk | meta-disk", "disk {")
            part = _host_statement(parser, inner, part)
        return part
    if keyword == "device":
        return replace(part, device=_device(parser))
    if keyword in {"disk", "meta-disk", "flexible-meta-disk"}:
        text = parser.word()
        parser.expect(";")
        return replace(part, disk=text) if keyword == "disk" else replace(part, meta_disk=text)
    if keyword == "address":
        text = parser.word()
        if text in {"ipv4", "ipv6", "sdp", "ssocks"}:
            text = parser.word()
        match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[0-9.]+):([0-9]{1,5})", text)
        if match is None:
            raise parser.expected("IP address:port", text)
        parser.expect(";")
        return replace(part, address=match[1].strip("[]"), port=int(match[2]))
    raise parser.expected("device | disk | address | meta-disk | flexible-meta-disk | volume", keyword)


def _device(parser: _Parser) -> int:
    text = parser.word()
    if text == "minor":
        text = parser.word()
    elif parser.peek() == "minor":
        parser.next()
        text = parser.word()
    text = text.removeprefix("/dev/drbd")
    if not text.isdecimal():
        raise parser.expected("/dev/drbdN | minor N", text)
    parser.expect(";")
    return int(text)


def _check(resources: list[ResourceConfig]) -> None:
    """Each name, minor, address with port and disk once. Raises ConfigError with every conflict."""
    used: dict[str, str] = {}
    complaints = ""
    for resource in resources:
        place = f"{resource.path}:{resource.line}"
        for what, key in resource.claims:
            if key in used:
                complaints += (
                    f"{place}: conflicting use of {what} '{key}' ...\n{used[key]}: {what} '{key}' first used here.\n"
                )
            used.setdefault(key, place)
    if complaints:
        raise ConfigError(complaints)

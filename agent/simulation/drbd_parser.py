"""One file of drbd.conf(5) as DRBD 8.4's drbdadm reads it (drbdadm_parser.c), with its complaints.

What a file says of others' names is not known while it is read: it becomes a list of steps, which `drbd_config` walks.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from agent.simulation import drbd_options as options
from agent.simulation.drbd_scan import OLD, TK, Token, scan
from agent.simulation.drbd_words import ConfigError, HostPart, Include, ResourceConfig, Step, Words

HOST_WORDS = "disk | device | address | meta-disk | flexible-meta-disk"


@dataclass(frozen=True)
class FileConfig:
    """What one file says; the same text is read once only, and never changed. `fatal` ended the reading."""

    steps: Sequence[Step]
    fatal: ConfigError | None
    end: int  # number of its last line


@functools.lru_cache(maxsize=8192)
def parse_file(name: str, text: str, line: int = 1) -> FileConfig:
    """`name` is what complaints call it; `line` the number of its first line."""
    parser = _Parser(name, scan(text, line))
    try:
        parser.file()
    except ConfigError as error:
        return FileConfig(parser.steps, error, parser.end)
    return FileConfig(parser.steps, None, parser.end)


class _Parser(Words):
    # --- files ----------------------------------------------------------------------------------------------------

    def file(self) -> None:
        while (token := self.statement()).kind:
            if token.kind == TK.GLOBAL:
                self._global()
            elif token.kind == TK.COMMON:
                self.expect(ord("{"))
                self._resource("common")
            elif token.kind == TK.RESOURCE:
                name = self.expect(TK.STRING)
                self.expect(ord("{"))
                self._resource(name)
            elif token.kind == TK.SKIP:
                self._skip()
            elif token.kind == TK.INCLUDE:
                pattern = self.expect(TK.STRING)
                self.expect(ord(";"))
                self.steps.append(Include(pattern, f"{self.name}:{self.token.line}"))
            else:
                raise self.expected("global | common | resource | skip | include")

    def _global(self) -> None:
        self.claim("global section", "global")
        self.expect(ord("{"))
        while (kind := self.statement().kind) != ord("}"):
            if kind == TK.USAGE_COUNT:
                if self.next().kind not in {TK.YES, TK.NO, TK.ASK}:
                    raise self.expected("yes | no | ask")
            elif kind in {TK.MINOR_COUNT, TK.DIALOG_REFRESH, TK.CMD_TIMEOUT_SHORT, TK.CMD_TIMEOUT_MEDIUM,
                          TK.CMD_TIMEOUT_LONG}:  # fmt: skip
                self.expect(TK.INTEGER)
            elif kind not in {TK.UDEV_ALWAYS_USE_VNR, TK.DISABLE_IP_VERIFICATION}:
                raise self.expected("dialog-refresh | minor-count | disable-ip-verification")
            self.expect(ord(";"))

    def _skip(self) -> None:
        token = self.next()
        if token.kind == TK.STRING:
            self.expect(ord("{"))
        elif token.kind != ord("{"):
            raise self.expected("[ some_text ] {")
        depth = 1
        while depth:
            kind = self.next().kind
            depth += (kind == ord("{")) - (kind == ord("}"))
            if kind == 0:
                raise ConfigError(f"{self.place()}: reached eof while parsing this skip block.\n")

    # --- resources ------------------------------------------------------------------------------------------------

    def _resource(self, name: str) -> None:
        self.only_once()
        self.claim("resource section", name)
        resource, inherited, hosts = ResourceConfig(name), HostPart(), 0
        while (token := self.statement()).kind not in {ord("}"), 0}:  # the file's end will do
            if token.kind == TK.ON:
                self._on(resource, inherited)
                hosts += 1
            elif token.kind in {TK.DEVICE, TK.META_DISK, TK.FLEX_META_DISK, TK.VOLUME}:
                inherited = self._volume_statement(token.kind, inherited, [])
            elif token.kind == TK.DISK:
                if (given := self.next()).kind == TK.STRING:
                    self.expect(ord(";"))
                    inherited = replace(inherited, disk=given.text)
                elif given.kind == ord("{"):
                    self.once("disk section", f"{name}:disk")
                    resource.disk |= self._options(options.DISK, TK.DISK_FLAG, TK.DISK_NO_FLAG, TK.DISK_OPTION)
                else:
                    raise self.expected("TK_STRING | {", got=True)
            elif not self._section_of(resource, token):
                what = "protocol | on | disk | net | syncer | startup | handlers | ignore-on | stacked-on-top-of"
                raise self.expected(what, got=True)
        if name == "common" and hosts:
            self.complain(
                f"{self.name}:{self.at_section}: in the common section, there are no host sections allowed.\n"
            )
        self.steps.append(resource)

    def _section_of(self, into: ResourceConfig, token: Token) -> bool:
        """Options of a resource; False when it is something else."""
        if token.kind == TK.NET_OPTION and token.text == "protocol":
            self.once("protocol statement", f"{into.name}: protocol")
            into.net["protocol"] = self._checked("protocol", options.NET["protocol"], self.expect(TK.STRING))
            self.expect(ord(";"))
            return True
        known = {
            TK.NET: "net section", TK.SYNCER: "syncer section", TK.STARTUP: "startup section",
            TK.HANDLER: "handlers section", TK.OPTIONS: "resource options section",
        }  # fmt: skip
        if token.kind not in known:
            return False
        kind = TK(token.kind)
        what = {TK.HANDLER: "handlers", TK.OPTIONS: "res_options"}.get(kind, token.text)
        self.once(known[kind], f"{into.name}:{what}")
        self.expect(ord("{"))
        if kind == TK.NET:
            into.net |= self._options(options.NET, TK.NET_FLAG, TK.NET_NO_FLAG, TK.NET_OPTION)
        elif kind == TK.SYNCER:
            self._syncer(into)
        elif kind == TK.STARTUP:
            self._options(options.STARTUP, TK.STARTUP_FLAG, 0, TK.STARTUP_OPTION)
        elif kind == TK.HANDLER:
            into.handlers |= self._options({}, 0, 0, TK.HANDLER_OPTION)
        else:
            into.options |= self._options(options.RESOURCE, 0, 0, TK.RES_OPTION)
        return True

    def _options(self, table: dict[str, options.Option], flag: int, no_flag: int, option: int) -> dict[str, str]:
        found: dict[str, str] = {}
        self.at_section = self.at_statement = self.token.line
        while (token := self.statement()).kind != ord("}"):
            kind = token.kind & ~OLD
            name = options.NOW.get(token.text, token.text)
            if kind == 0:
                raise self.expected("an option")
            if kind == flag:
                if (given := self.next()).kind not in {TK.YES, TK.NO, ord(";")}:
                    raise self.expected("yes | no | ;")
                found[name] = "no" if given.kind == TK.NO else "yes"
                if given.kind == ord(";"):
                    continue
            elif kind == no_flag:
                found[name.removeprefix("no-")] = "no"
            elif kind == option:
                found[name] = self._checked(name, table.get(name, options.Option()), self._value())
            elif kind == TK.DEPRECATED_OPTION:
                self._value()
            elif kind == TK.STARTUP_DELEGATE and option == TK.STARTUP_OPTION:
                while self.next().kind == TK.STRING:
                    pass
                if self.token.kind != ord(";"):
                    raise self.expected("TK_STRING | ';'", got=True)
                continue
            else:
                raise self.expected("an option keyword")
            self.expect(ord(";"))
        return found

    def _syncer(self, into: ResourceConfig) -> None:
        self.at_section = self.at_statement = self.token.line
        groups = {
            TK.DISK_OPTION: into.disk,
            TK.NET_OPTION: into.net,
            TK.NET_FLAG: into.net,
            TK.RES_OPTION: into.options,
        }
        while (token := self.statement()).kind != ord("}"):
            if not token.kind & OLD:
                raise self.expected("a syncer option keyword")
            kind, name = TK(token.kind & ~OLD), options.NOW.get(token.text, token.text)
            if kind == TK.NET_FLAG:
                given = self.next()
                groups[kind][name] = "no" if given.kind == TK.NO else "yes"
                if given.kind in {TK.NO, TK.YES}:
                    self.next()
            else:
                tables = options.NET | options.DISK | options.RESOURCE
                groups[kind][name] = self._checked(name, tables[name], self._value())
                self.next()
            if self.token.kind != ord(";"):
                raise self.expected(";")

    def _value(self) -> str:
        token = self.next()
        if token.kind not in {TK.INTEGER, TK.STRING, TK.ON}:
            raise self.expected("TK_STRING | TK_INTEGER", got=True)
        return token.text

    def _checked(self, name: str, option: options.Option, text: str) -> str:
        """Numbers are looked at here; whether another word is one that DRBD knows, drbdsetup will see."""
        if name == "protocol":
            if text.upper() not in {"A", "B", "C"}:
                self.complain(f"unknown protocol '{text}', should be one of A,B,C\n")
            return text
        if option.limits is not None:
            self.number(name, text, option.scale, *option.limits)
        return text

    # --- hosts ----------------------------------------------------------------------------------------------------

    def _on(self, resource: ResourceConfig, inherited: HostPart) -> None:
        names = []
        while (token := self.next()).kind == TK.STRING:
            names.append(token.text)
        if token.kind != ord("{") or not names:
            raise self.expected("TK_STRING | '{'" if names else "TK_STRING", got=True)
        self.at_section = self.at_statement = token.line
        for name in names:
            self.once("host section", f"{resource.name}: on {name}")
        part = HostPart()
        while (token := self.statement()).kind != ord("}"):
            known = {TK.DISK: "disk", TK.DEVICE: "device", TK.META_DISK: "meta-disk", TK.FLEX_META_DISK: "meta-disk",
                     TK.ADDRESS: "address"}  # fmt: skip
            if token.kind in known:
                what = known[TK(token.kind)]
                for name in names:
                    self.once(f"{what} statement", f"{resource.name}:{name}:{what}")
            if token.kind == TK.ADDRESS:
                part = self._address(part)
            elif token.kind in known or token.kind == TK.VOLUME:
                part = self._volume_statement(token.kind, part, names)
            elif token.kind == TK.OPTIONS:
                self.expect(ord("{"))
                resource.options |= self._options(options.RESOURCE, 0, 0, TK.RES_OPTION)
            else:
                raise self.expected(HOST_WORDS)
        resource.hosts |= dict.fromkeys(names, self._whole(resource.name, names, part, inherited))

    def _whole(self, resource: str, names: list[str], part: HostPart, inherited: HostPart) -> HostPart:
        """With what the resource says for all; what is missing is told."""
        for name in names:
            if not part.disk and inherited.disk:
                self.claim("disk", f"disk:{name}:{inherited.disk}")
            if part.device < 0 <= inherited.device:
                self.claim("device-minor", f"device-minor:{name}:{inherited.device}")
        part = replace(
            part,
            device=part.device if part.device >= 0 else inherited.device,
            disk=part.disk or inherited.disk,
            meta_disk=part.meta_disk or inherited.meta_disk,
        )
        if part.meta_disk not in {"", "internal"}:
            for name in names:
                self.claim("meta-disk", f"{name}:{part.meta_disk}[flexible]")
        missing = [] if part.address else ["address"]
        missing += [] if part.device >= 0 else ["device"]
        missing += [] if part.disk else ["disk"]
        missing += [] if part.meta_disk else ["meta-disk", "meta-index"]
        for what in missing:
            where = f"in resource {resource}, on {' '.join(names)} {{ ... }}"
            self.complain(f"{self.name}:{self.at_section}: {where}: '{what}' keyword missing.\n")
        return part

    def _volume_statement(self, kind: int, part: HostPart, names: list[str]) -> HostPart:
        """device, disk, meta-disk, or `volume 0 { ... }` around them."""
        if kind == TK.VOLUME:
            if (number := self.expect(TK.INTEGER)) != "0":
                raise ConfigError(f"{self.place()}: volume {number}: one volume a resource is simulated\n")
            self.expect(ord("{"))
            while (token := self.next()).kind != ord("}"):
                if token.kind not in {TK.DEVICE, TK.DISK, TK.META_DISK, TK.FLEX_META_DISK}:
                    raise self.expected("device | disk | meta-disk | flex-meta-disk | }", got=True)
                part = self._volume_statement(token.kind, part, names)
            return part
        if kind == TK.DEVICE:
            return replace(part, device=self._device(names))
        text = self.expect(TK.STRING)
        if kind != TK.META_DISK or text == "internal":
            self.expect(ord(";"))
        elif self.next().kind != ord(";"):
            raise self.expected("[ | ;")
        return replace(part, disk=text) if kind == TK.DISK else replace(part, meta_disk=text)

    def _device(self, names: list[str]) -> int:
        token = self.next()
        path = ""
        if token.kind == TK.STRING:
            path = f"/dev/{token.text}" if token.text.startswith("drbd") else token.text
            if not path.startswith("/dev/drbd"):
                where = "device name must start with /dev/drbd\n\t(/dev/ is optional, but drbd is required)"
                self.complain(f"{self.place()}: {where}\n")
            token = self.next()
        if token.kind == TK.MINOR:
            number = self.expect(TK.INTEGER)
            self.expect(ord(";"))
        elif path and token.kind == ord(";"):
            number = path.removeprefix("/dev/drbd")
            if not number.isdecimal():
                self.complain(f"{self.place()}: no minor given nor device name contains a minor number\n")
        else:
            raise self.expected("minor | ;")
        minor = int(number) if number.isdecimal() else -1
        for name in names:
            self.claim("device-minor", f"device-minor:{name}:{minor}")
            if path:
                self.claim("device", f"device:{name}:{path}")
        return minor

    def _address(self, part: HostPart) -> HostPart:
        token = self.next()
        if token.kind in {TK.IPV4, TK.SDP, TK.SSOCKS}:
            address = self.expect(TK.IPADDR)
        elif token.kind == TK.IPV6:
            self.expect(ord("["))
            address = self.expect(TK.IPADDR6)
            self.expect(ord("]"))
        elif token.kind == TK.IPADDR:
            address = token.text
        else:
            raise self.expected("ssocks | sdp | ipv4 | ipv6 | <ipv4 address> ")
        self.expect(ord(":"))
        port = self.expect(TK.INTEGER)
        self.number("port", port, 1, 1, 0xFFFF)
        self.claim("IP", f"{address}:{port}")
        self.expect(ord(";"))
        return replace(part, address=address, port=options.number(port))

"""`xl migrate-receive`: the receiving side, on its standard input and output.

Makes NAME--incoming, paused, whose memory grows with the stream; attaches disks and interfaces; says "ready"; waits for
GO; takes the name; stays paused with -p, runs without; reports. Killed, it leaves --incoming behind.
"""

from __future__ import annotations

import asyncio
import json
import struct
from typing import NoReturn

from agent.simulation import libxl, monitor, save_format
from agent.simulation.hypervisor import Domain, Xen
from agent.simulation.migrate import STATE_PAGE, Move, moves
from agent.simulation.process import Process
from agent.simulation.save_format import GuestState, StreamError
from agent.simulation.xl_json import from_json
from agent.simulation.xl_parse import ConfigError

SOURCE = "<incoming migration stream>"
SUCCESS = "(0 = Success): Internal error\n"
INCOMING = "--incoming"
RECORD_LIMIT = 64 << 20  # a longer record means that the header was misread


class _Fatal(Exception):
    """xl gave up at once; why was said."""


class _Truncated(Exception):
    """The stream ended; the text says in what."""


async def receive(process: Process, *, paused: bool, monitored: bool) -> int:
    """Returns xl's exit status."""
    return await _Receiver(process, paused=paused, monitored=monitored).receive()


class _Receiver:
    def __init__(self, process: Process, *, paused: bool, monitored: bool) -> None:
        self.process = process
        self.xen = Xen.of(process.host)
        self.say = process.stderr.put
        self._paused, self._monitored = paused, monitored
        self._sender = ""
        self._move = Move(process.host.name)

    async def receive(self) -> int:
        self.say("migration target: Ready to receive domain.\n")
        if not await self._write(save_format.BANNER):
            return 1
        try:
            domain, name = await self._create()
        except _Fatal:
            return 1
        except libxl.LibxlError as failure:
            self.say(f"migration target: Domain creation failed (code {failure.code}).\n")
            return 1
        if self._monitored:
            monitor.start(domain)
        self.say("migration target: Transfer complete, requesting permission to start domain.\n")
        if not await self._write(save_format.READY):
            return 1
        status = await self._take_over(domain, name)
        if not await self._write(save_format.REPORT) or not await self._write(bytes([status])):
            return 1
        if status == 0:
            return 0
        self.say("migration target: Failure, destroying our copy.\n")
        if self.process.stdin.closed:
            # As on real hosts: with its transport dead the destruction of the copy never ends, and `--incoming` stays.
            for vbd in domain.vbds.values():
                vbd.start_closing()
            await asyncio.Event().wait()
        await libxl.destroy(domain, self.say)
        self.say("migration target: Cleanup OK, granting sender permission to resume.\n")
        return int(not await self._write(save_format.GO))

    async def _take_over(self, domain: Domain, name: str) -> int:
        """0, or 1 as the code of the report."""
        try:
            permission = await self.process.stdin.read_exactly(len(save_format.GO))
        except EOFError:
            self._truncated("GO message from migration stream")
            return 1
        if permission != save_format.GO:
            self.say("migration stream contained unexpected data instead of GO message\n")
            return 1
        self.say("migration target: Got permission, starting domain.\n")
        if domain.gone or libxl.rename(domain, name, self.say):
            return 1
        if not self._paused:
            domain.unpause()
        self.say("migration target: Domain started successsfully.\n")
        return 0

    # --- the domain -----------------------------------------------------------------------------------------------

    async def _create(self) -> tuple[Domain, str]:
        """The domain as it stands when all has arrived, and the name that it shall have."""
        try:
            header = await self._exactly(48, "")
            mandatory, optional, length = save_format.parse_xl_header(header)
        except _Truncated:
            self._truncated(f"header from {SOURCE}")
            self.say("xl: fatal error: xl_vmcontrol.c:715: Protocol error: libxl_read_exactly\n")
            raise _Fatal from None
        except StreamError as error:
            self.say(f"{error}\n")
            raise libxl.LibxlError(libxl.ERROR_INVAL) from None
        self.say(f"Loading new save file {SOURCE} (new xl fmt info 0x{mandatory:x}/0x{optional:x}/{length})\n")
        try:
            config = await self._exactly(min(length, RECORD_LIMIT), "")
            spec = from_json(json.loads(config[4:].rstrip(b"\0")))
        except _Truncated:
            self._truncated(f"optdata from {SOURCE}")
            self.say("xl: fatal error: xl_vmcontrol.c:744: Protocol error: libxl_read_exactly\n")
            raise _Fatal from None
        except (ConfigError, ValueError) as error:
            self.say(f"{error}\n")
            raise libxl.LibxlError(libxl.ERROR_INVAL) from None
        self.say(" Savefile contains xl domain config in JSON format\nParsing config from <saved>\n")
        self._find_sender(spec.uuid or "")
        name = spec.name
        domain = await libxl.make(self.xen, libxl.renamed(spec, name + INCOMING), self.say)
        try:
            state = await self._restore(domain)
        except _Truncated as cut:
            self.say(f"xc: error: Failed to read {cut} {SUCCESS}xc: error: Restore failed {SUCCESS}")
            await self._cannot_restore(domain, "Success")
        except StreamError as error:
            self.say(f"xc: error: {error} {SUCCESS}xc: error: Restore failed {SUCCESS}")
            await self._cannot_restore(domain, "Success")
        self.say("xc: info: Restore successful\n")
        self.say("xc: info: XenStore: mfn 0x21d79, dom 0, evt 1\nxc: info: Console: mfn 0x21d78, dom 0, evt 2\n")
        libxl.restored(domain, state)
        await libxl.attach(domain, self.say)
        return domain, name

    def _find_sender(self, uuid: str) -> None:
        simulation, here = self.xen.host.simulation, self.xen.host.name
        self._move = moves(simulation)[uuid] = Move(here)
        for name, host in simulation.hosts.items():
            if name != here and host.on and Xen.of(host).by_uuid(uuid) is not None:
                self._sender = name

    async def _cannot_restore(self, domain: Domain, why: str) -> NoReturn:
        self.say(f"libxl: error: libxl_stream_read.c:850:libxl__xc_domain_restore_done: restoring domain: {why}\n")
        await libxl.cannot_build(domain, self.say)

    # --- the stream -----------------------------------------------------------------------------------------------

    async def _restore(self, domain: Domain) -> GuestState:
        header = await self._exactly(16, "Stream Header from stream")
        if header != save_format.libxl_header():
            raise StreamError("Unexpected libxl stream header")
        state = None
        while True:
            kind, body = await self._record()
            if kind == save_format.LIBXL_END:
                if state is None:
                    raise StreamError("the guest's memory did not arrive")
                return state
            if kind == save_format.LIBXL_LIBXC_CONTEXT and not body:
                state = await self._restore_image(domain)

    async def _restore_image(self, domain: Domain) -> GuestState:
        paravirtual, version = save_format.parse_image_header(await self._exactly(40, "Image Header from stream"))
        kind_text = "PV" if paravirtual else "HVM"
        self.say(f"xc: info: Found x86 {kind_text} domain from Xen {version}\nxc: info: Restoring domain\n")
        seen: set[int] = set()
        state: GuestState | None = None
        while True:
            kind, body = await self._record()
            if kind == save_format.END:
                if state is None:
                    raise StreamError("the guest's memory did not arrive")
                return state
            if kind != save_format.PAGE_DATA:
                continue
            pages, contents = save_format.parse_page_data(body)
            self._move.pages += len(pages)
            self.xen.host.simulation.changed.notify()
            before = len(seen)
            seen.update(pages)
            if not self.xen.allocate(domain, (len(seen) - before) * save_format.PAGE // 1024):
                await self._no_memory(domain, len(pages))
            if STATE_PAGE in contents:
                state = GuestState.from_page(contents[STATE_PAGE])

    async def _no_memory(self, domain: Domain, pages: int) -> NoReturn:
        why = "(16 = Device or resource busy): Internal error\n"
        self.say(
            f"xc: error: Failed to populate physmap {why}"
            f"xc: error: Failed to populate pfns for batch of {pages} pages: Internal error\n"
            f"xc: error: Restore failed {why}"
        )
        await self._cannot_restore(domain, "Device or resource busy")

    async def _record(self) -> tuple[int, bytes]:
        kind, length = struct.unpack("<II", await self._exactly(8, "Record Header from stream"))
        if length > RECORD_LIMIT:
            raise StreamError(f"Record (0x{kind:08x}) length 0x{length:x} exceeds max (0x{RECORD_LIMIT:x})")
        name = save_format.RECORD_NAMES.get(kind, "record")
        padded = length + -length % 8
        body = await self._exactly(padded, f"{padded} bytes of data for record (0x{kind:08x}, {name})")
        return kind, body[:length]

    async def _exactly(self, size: int, what: str) -> bytes:
        try:
            return await self.process.stdin.read_exactly(size)
        except EOFError:
            raise _Truncated(what) from None

    def _truncated(self, what: str) -> None:
        self.say(f"libxl: error: libxl_utils.c:505:libxl_read_exactly: file/stream truncated reading {what}\n")

    async def _write(self, data: bytes) -> bool:
        """False when nobody reads any more. A cut cable holds it back, as it does in the other direction."""
        if self._sender:
            await self.xen.host.simulation.transmit(self.xen.host.name, self._sender, len(data))
        try:
            await self.process.stdout.write(data)
        except BrokenPipeError:
            return False
        return True

"""`xl migrate`: the sending side, with the real protocol on the pipes of a transport command (xl_migrate.c, Xen 4.17).

Banner, configuration, precopy in rounds while the guest runs, suspension, the rest of its memory and processors, the
receiver's "ready", the renaming to NAME--migratedaway, GO, the report, the end of the source's copy. What is said on
standard error and what is left behind when it is cut anywhere is what real hosts said and left.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

from agent.simulation import libxl, save_format
from agent.simulation.cluster import Simulation
from agent.simulation.hypervisor import SUSPEND, Domain
from agent.simulation.process import Pipe, Process
from agent.simulation.save_format import BATCH, PAGE, PAGES_PER_MIB
from agent.simulation.xl_json import render_json
from agent.simulation.xl_text import configuration

MAX_ITERATIONS = 5
TARGET_DIRTY = 50
STATE_PAGE = 1  # the page number that carries GuestState; always among the dirty ones
WINDOW = 2 * BATCH  # pages on their way: what pipes and sockets hold while the receiver is busy
CHILD_PATIENCE = 2.0  # seconds that xl waits for its transport to end

FAILED_BADLY = (
    "** Migration failed during final handshake **\n"
    "Domain state is now undefined !\n"
    "Please CHECK AT BOTH ENDS for running instances, before renaming and\n"
    " resuming at most one instance.  Two simultaneous instances of the domain\n"
    " would probably result in SEVERE DATA LOSS and it is now your\n"
    " responsibility to avoid that.  Sorry.\n"
)


class Move:
    """What the receiving side tells of itself within the simulation: in place of the link and of TCP's window."""

    def __init__(self, host: str) -> None:
        self.host = host  # name of the receiving host
        self.pages = 0  # received so far


_moves: weakref.WeakKeyDictionary[Simulation, dict[str, Move]] = weakref.WeakKeyDictionary()


def moves(simulation: Simulation) -> dict[str, Move]:
    """The moves under way, by the domain's uuid."""
    return _moves.setdefault(simulation, {})


class _Cut(Exception):
    """The transport broke while the domain was being saved."""


class _CannotSave(Exception):
    """The domain itself could not be saved: libxl's code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"libxl error {code}")
        self.code = code


async def send(process: Process, domain: Domain, ssh: str, host: str, receiver: Sequence[str]) -> int:
    """`xl migrate -s SSH DOMAIN HOST`: an empty SSH makes HOST the whole command. Returns xl's exit status."""
    rune = host if not ssh else " ".join(["exec", ssh, host, *receiver])
    moves(process.host.simulation).pop(domain.uuid, None)
    child = process.spawn(["sh", "-c", rune], stdin=Pipe(), stdout=Pipe())
    sender = _Sender(process, domain, rune, child)
    try:
        return await sender.migrate()
    finally:
        # xl ended or was killed: its ends of the pipes are closed; the transport ends by itself.
        child.stdin.close_write()
        child.stdout.close_read()


class _Sender:
    def __init__(self, process: Process, domain: Domain, rune: str, child: Process) -> None:
        self.process = process
        self.domain = domain
        self.xen = domain.xen
        self.say = process.stderr.put
        self._rune = rune
        self._child = child
        self._sent = 0  # bytes
        self._sent_pages = 0
        self._fault, self.xen.stream_fault = self.xen.stream_fault, None
        self._pages = max(2, domain.memory_kib * 1024 // PAGE)
        self._round_began = 0.0

    async def migrate(self) -> int:
        if not await self._expect(save_format.BANNER, "banner"):
            return await self._end()
        config = render_json(configuration(self.domain)).encode() + b"\0"
        try:
            await self._write(save_format.xl_header(config))
        except _Cut:
            self.say(
                "libxl: error: libxl_utils.c:538:libxl_write_exactly: failed to write to migration stream header\n"
            )
            return await self._end()
        self.say(f"Saving to migration stream new xl format (info 0x3/0x0/{len(config) + 4})\n")
        try:
            await self._save()
        except _Cut:
            return await self._save_cut()
        except _CannotSave as failure:
            self.say(f"migration sender: libxl_domain_suspend failed (rc={failure.code})\n")
            if failure.code == libxl.ERROR_GUEST_TIMEDOUT:
                await self._report_child()
                self.say("Migration failed, failed to suspend at sender.\n")
                return 1
            return await self._resume()
        if not await self._expect(save_format.READY, "ready message"):
            return await self._resume()
        self.say("migration sender: Target has acknowledged transfer.\n")
        return await self._hand_over()

    async def _hand_over(self) -> int:
        """From here on the target may own the domain: after GO was written nothing here resumes it by itself."""
        name = self.domain.name or ""
        if libxl.rename(self.domain, f"{name}--migratedaway", self.say):
            return await self._resume()
        self.say("migration sender: Giving target permission to start.\n")
        try:
            await self._write(save_format.GO, message="go")
        except _Cut:
            return await self._undefined()
        if not await self._expect(save_format.REPORT, "success/failure report message"):
            return await self._undefined()
        try:
            status = (await self._child.stdout.read_exactly(1))[0]
        except EOFError:
            self._truncated("success/failure status", "migration ack stream")
            return await self._undefined()
        if status:
            return await self._target_failed(name, status)
        self.say("migration sender: Target reports successful startup.\n")
        await libxl.destroy(self.domain, self.say)
        self.say("Migration successful.\n")
        return 0

    async def _target_failed(self, name: str, status: int) -> int:
        self.say(f"migration sender: Target reports startup failure (status code {status}).\n")
        if not await self._expect(save_format.GO, "permission for sender to resume"):
            return await self._undefined()
        self.say("migration sender: Trying to resume at our end.\n")
        libxl.rename(self.domain, name, self.say)
        if libxl.resume(self.domain, self.say) == 0:
            self.say("migration sender: Resumed OK.\n")
        self.say("Migration failed due to problems at target.\n")
        return 1

    # --- the domain's image ---------------------------------------------------------------------------------------

    async def _save(self) -> None:
        domain, paravirtual = self.domain, self.domain.spec.type == "pv"
        await self._write(save_format.libxl_header() + save_format.record(save_format.LIBXL_LIBXC_CONTEXT))
        self.say(f"xc: info: Saving domain {domain.domid}, type x86 {'PV' if paravirtual else 'HVM'}\n")
        head = save_format.image_header(paravirtual, self.xen.settings.version[1])
        head += save_format.static_records(paravirtual)
        await self._write(head + (save_format.p2m_frames(self._pages) if paravirtual else b""))
        caps = self.xen.settings.virt_caps.split()
        if ("shadow" if paravirtual else "hap") not in caps:
            self.say("xc: error: Failed to enable logdirty: 95,22,0 (22 = Invalid argument): Internal error\n")
            raise self._save_failed("Invalid argument", 22, libxl.ERROR_GUEST_TIMEDOUT)
        await self._precopy()
        await self._suspend()
        await self._round(self._dirtied())
        await self._write(save_format.tail_records(paravirtual) + save_format.record(save_format.LIBXL_END))

    async def _precopy(self) -> None:
        """Everything once, then what was written meanwhile, until little is left or five rounds went by."""
        dirty, iteration = range(self._pages), 0
        while True:
            last = len(dirty) < TARGET_DIRTY or iteration >= MAX_ITERATIONS
            await self._round(dirty)
            iteration += 1
            if last or iteration >= MAX_ITERATIONS:
                return
            dirty = self._dirtied()

    def _dirtied(self) -> range:
        """Page numbers that the guest wrote to since the last round began, spread over its memory."""
        clock, guest = self.xen.host.clock, self.domain.guest
        seconds = clock.now() - self._round_began
        rate = guest.dirty_rate if guest is not None else 0.0
        count = max(1, min(self._pages - STATE_PAGE, int(rate * seconds)))
        return range(STATE_PAGE, self._pages, max(1, (self._pages - STATE_PAGE) // count))[:count]

    async def _round(self, pages: range) -> None:
        self._round_began = self.xen.host.clock.now()
        every = PAGES_PER_MIB // max(1, min(PAGES_PER_MIB, self.xen.settings.kept_pages_per_mib))
        for start in range(0, len(pages), BATCH):
            batch = pages[start : start + BATCH]
            contents = {pfn: self._page(pfn) for pfn in batch if pfn % every == STATE_PAGE % every}
            await self._write(save_format.page_data(batch, contents))
            await self._travel(len(batch))
            if self.domain.gone:
                self.say("xc: error: Failed to get types for pfn batch (3 = No such process): Internal error\n")
                raise self._save_failed("No such process", 3, libxl.ERROR_FAIL)

    def _page(self, pfn: int) -> bytes:
        guest = self.domain.guest
        if pfn == STATE_PAGE and guest is not None:
            return guest.state.page()
        return pfn.to_bytes(8, "little") * (PAGE // 8)

    async def _travel(self, pages: int) -> None:
        """The time of so many pages on the link. Waits while the cable is out, or the receiver is behind."""
        simulation, here = self.xen.host.simulation, self.xen.host.name
        known = moves(simulation)
        move = known.get(self.domain.uuid)
        # Until the other end has said its name the pages go where they most likely will.
        there = move.host if move is not None else next((name for name in simulation.hosts if name != here), here)
        if there != here:
            await simulation.transmit(here, there, pages * (PAGE + 8))
        self._sent_pages += pages
        if move is not None:
            window = move
            await simulation.changed.wait_until(
                lambda: self._child.stdin.closed or self._sent_pages - window.pages <= WINDOW
            )

    async def _suspend(self) -> None:
        domain = self.domain
        await self.xen.host.clock.sleep(self.xen.settings.suspend)
        if domain.shutdown is None and not domain.gone and domain.running:
            domain.shut_down(SUSPEND)
        if domain.shutdown == SUSPEND and not domain.gone:
            return
        if domain.shutdown is None and not domain.gone:  # paused by somebody: it cannot answer
            self.say(
                f"libxl: error: libxl_dom_suspend.c:269:domain_suspend_common_pvcontrol_suspending: "
                f"Domain {domain.domid}:guest didn't acknowledge suspend, cancelling request\n"
            )
            raise self._save_failed("Invalid argument", 22, libxl.ERROR_GUEST_TIMEDOUT)
        reason = domain.shutdown if domain.shutdown is not None else 255
        self.say(f"xc: error: Domain has not been suspended: shutdown 1, reason {reason}: Internal error\n")
        raise self._save_failed("Invalid argument", 22, libxl.ERROR_FAIL)

    def _save_failed(self, text: str, number: int, code: int) -> _CannotSave:
        self.say(f"xc: error: Save failed ({number} = {text}): Internal error\n")
        self.say(
            f"libxl: error: libxl_stream_write.c:347:libxl__xc_domain_save_done: Domain {self.domain.domid}:"
            f"saving domain: domain did not respond to suspend request: {text}\n"
        )
        return _CannotSave(code)

    # --- the pipes ------------------------------------------------------------------------------------------------

    async def _write(self, data: bytes, message: str = "") -> None:
        """Raises _Cut when the transport is gone."""
        if self._fault is not None:
            if self._fault.at == "bytes" and self._sent + len(data) >= self._fault.after:
                data = data[: max(0, self._fault.after - self._sent)]
                await self._put(data)
                self._cut(f"mid memory stream after {self._sent} bytes sent")
            elif message and self._fault.at == message:
                self._cut(f"permission to {message} NOT delivered after {self._sent} bytes sent")
                return  # the transport took it, and did not pass it on
        await self._put(data)

    async def _put(self, data: bytes) -> None:
        try:
            await self._child.stdin.write(data)
        except BrokenPipeError:
            raise _Cut from None
        self._sent += len(data)

    def _cut(self, what: str) -> None:
        """The transport dies here: what a cable's end, a full disk or a kill would do to it."""
        self._fault = None
        self.say(f"CUT: {what}\n")
        for process in tuple(self.process.session):
            if process is not self.process:
                process.end(1)
                process.kill()
        self._child.stdin.close_read()
        self._child.stdout.close_write()

    async def _expect(self, message: bytes, what: str) -> bool:
        """xl's fixed messages: True when it came; otherwise says why not."""
        try:
            data = await self._child.stdout.read_exactly(len(message))
        except EOFError:
            self._truncated(what)
            return False
        words = {save_format.READY: "receiver ready", save_format.REPORT: "report"}.get(message, "")
        if self._fault is not None and words.endswith(self._fault.at) and words:
            self._cut(f"{words} NOT delivered after {self._sent} bytes sent")
            self._truncated(what)
            return False
        if data != message:
            self.say(f"migration receiver stream contained unexpected data instead of {what}\n")
            self.say(f"(command run was: {self._rune} )\n")
            return False
        return True

    def _truncated(self, what: str, stream: str = "migration receiver stream") -> None:
        self.say(
            f"libxl: error: libxl_utils.c:505:libxl_read_exactly: file/stream truncated reading {what} from {stream}\n"
        )

    # --- the ends -------------------------------------------------------------------------------------------------

    async def _save_cut(self) -> int:
        helper = f"domain {self.domain.domid} save/restore helper"
        self.say(
            "libxl: error: libxl_utils.c:505:libxl_read_exactly: file/stream truncated reading ipc msg header from "
            f"{helper} stdout pipe\n"
            f"libxl: error: libxl_exec.c:127:libxl_report_child_exitstatus: {helper} [{self.process.pid + 2}] died due "
            "to fatal signal Broken pipe\n"
            f"migration sender: libxl_domain_suspend failed (rc={libxl.ERROR_FAIL})\n"
        )
        return await self._resume()

    async def _end(self) -> int:
        await self._report_child()
        return 1

    async def _resume(self) -> int:
        await self._report_child()
        self.say("Migration failed, resuming at sender.\n")
        if not self.domain.gone:
            libxl.resume(self.domain, self.say)
        return 1

    async def _undefined(self) -> int:
        self.say(FAILED_BADLY)
        await self._report_child()
        return 1

    async def _report_child(self) -> None:
        self._child.stdin.close_write()
        what = f"migration transport process [{self._child.pid}]"
        try:
            status = await self.xen.host.clock.wait_for(self._child.wait(), CHILD_PATIENCE)
        except TimeoutError:
            self.say(
                f"migration child [{self._child.pid}] not exiting, no longer waiting (exit status will be unreported)\n"
            )
            return
        if status > 0:
            said = f"exited with error status {status}"
        elif status < 0:
            said = f"died due to fatal signal {'Killed' if status == -9 else -status}"
        else:
            return
        self.say(f"libxl: info: libxl_exec.c:117:libxl_report_child_exitstatus: {what} {said}\n")

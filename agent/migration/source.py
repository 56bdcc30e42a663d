"""The source's side: sends the guest, and lets go of it, journal first, at the moment the receiver's report passes.

`xl migrate` runs as a job of its own; the relay that it starts writes what passes to a file, and rings. On the report
the release is journalled (this host never runs the VM at that epoch again), the target is told, and the disks are
demoted as soon as blkback lets them go; DRBD's -12 is what says that it still holds them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NoReturn

from agent.core import Context, Refused, within
from agent.drivers.errors import DriverError
from agent.host import CommandTimedOut
from agent.migration.handover import Live, Meter, has_ended, insist, last_errors, own_domains
from agent.migration.lines import Peer
from agent.migration.recovery import Over, Resume, RunsOn, Unclear, judge_source
from agent.migration.relay_files import Passed, RelayFiles
from agent.operations import Cancelled, Operation
from agent.preflight import leaving, look, wrote_alone
from agent.protocol import DomainDesired, DomainState, MigrateSend, OperationCancel, OperationRequest, Refusal
from agent.vm_disks import joined
from agent.vm_effects import volume_uid
from agent.vm_store import VmStore, config_path, domain_lock

if TYPE_CHECKING:
    from agent.migration.relocation import Relocation

FOLLOW_SECONDS = 0.5  # between two looks while the relay does not ring
SILENCE_LIMIT = 300.0  # no byte, no message, and xl still there: given up before the permission to go
XL_END_LIMIT = 120.0  # xl's own clean-up after its last word
STEADY_SECONDS = 1.0
DEMOTE_PATIENCE = 1.0  # DRBD is asked again and again so long, then it is looked for what holds the device
PHASES = ("Starting", "Precopy", "StopAndCopy", "HandOver", "Demoted", "Done")


class Send:
    """The handler of `migrate-send`: Starting, Precopy, StopAndCopy, HandOver, Demoted, Done."""

    first_phase = "Starting"

    def __init__(self, context: Context, relocation: Relocation) -> None:
        self._context = context
        self._relocation = relocation
        self._limit = context.stream_limit
        self._store = VmStore(context)
        self._files = RelayFiles(context.state_dir / "relay")
        self._live: dict[str, Live] = {}

    def subject(self, request: OperationRequest) -> tuple[str, str]:
        body = _body(request)
        return body.domain.name, body.domain.uid

    async def check(self, request: OperationRequest) -> None:
        body = _body(request)
        if body.target == self._context.node:
            raise Refused("SameNode", f"{body.domain.name} cannot move from {body.target} to itself")
        self._files.check(request.id)
        await self._guard(body.domain, own=None)

    async def _guard(self, domain: DomainDesired, *, own: str | None) -> None:
        """Every reason against sending it, except that the operation `own` runs. Raises Refused."""
        refusals = leaving(await look(self._context, domain, recent=True), domain)
        if own is not None:
            refusals = [one for one in refusals if one.reason != "OperationRunning"]
        if refusals:
            raise Refused.of(joined(refusals))

    # --- the handler's calls ------------------------------------------------------------------------------------

    async def run(self, operation: Operation) -> None:
        async with self._moving(operation):
            operation.enter("Starting", cancellable=True, boot_id=self._context.boot_id)
            await self._start(operation)
            await self._follow(operation)

    async def resume(self, operation: Operation) -> None:
        async with self._moving(operation) as live:
            if self._released(operation) or self._files.progress(operation.id).report == 0:
                self._release(operation)  # it may have been cut off in the middle of it
                await self._let_go(operation)
                return
            if operation.notes.get("boot_id", self._context.boot_id) != self._context.boot_id:
                raise Refused("HostRebooted", f"{self._context.node} was rebooted in phase {operation.phase}")
            live.job = await self._context.host.find_job(_scope(operation.id))
            if operation.cancel_requested:
                live.cancelled.set()
            if live.job is None and operation.phase == "Starting":
                await self._start(operation)
            await self._follow(operation)

    @asynccontextmanager
    async def _moving(self, operation: Operation) -> AsyncIterator[Live]:
        """Nothing else changes the VM meanwhile."""
        async with self._context.locks.hold(domain_lock(_body(operation.request).domain.uid)):
            try:
                yield self._of(operation)
            finally:
                self._live.pop(operation.id, None)
                self._relocation.lines.hang_up(operation.id)
                self._context.observer.quiet.end(operation.id)

    async def cancel(self, operation: Operation, request: OperationCancel) -> None:
        """Ends xl with everything that belongs to it, unless the permission to go is out."""
        live = self._of(operation)
        refused = Refused(
            "NotCancellable", f"{operation.state.subject} is being handed over; it can move back afterwards"
        )
        async with live.deciding:
            if self._released(operation) or not operation.running:
                raise refused
            if operation.notes.get("unclear"):
                live.cancelled.set()  # the controller knows that the target's copy is destroyed
                return
            if self._files.progress(operation.id).go:
                raise refused
            if live.job is not None:
                await live.job.kill()
            if self._files.progress(operation.id).go:
                raise refused  # it went out while xl was being ended; what that means is judged in `_ended`
            live.cancelled.set()

    # --- the transfer -------------------------------------------------------------------------------------------

    async def _start(self, operation: Operation) -> None:
        try:
            await self._start_job(operation)
        except (Cancelled, Refused, DriverError, CommandTimedOut):
            await self._clean(operation)
            raise

    async def _start_job(self, operation: Operation) -> None:
        body, live, scope = _body(operation.request), self._of(operation), _scope(operation.id)
        await self._guard(body.domain, own=operation.id)
        self._files.write(
            operation.id,
            {
                "operation": operation.id,
                "address": body.target_address,
                "port": body.target_port,
                "target": body.target,
                "certificate": str(self._context.tls.certificate),
                "key": str(self._context.tls.key),
                "authority": str(self._context.tls.authority),
                "progress": str(self._files.progress_path(operation.id)),
                "limit": self._limit,
            },
        )
        argv = self._context.xen.migrate_argv(body.domain.name, " ".join(self._files.command(operation.id)))
        async with live.deciding:
            if live.cancelled.is_set():
                raise Cancelled
            try:
                live.job = await self._context.host.start_job(scope, argv)
            except FileExistsError:  # an agent before this one started it
                live.job = await self._context.host.find_job(scope)

    async def _follow(self, operation: Operation) -> None:
        """Until the report (then the VM is let go), a failure, or a cancellation."""
        live, meter = self._of(operation), Meter(self._context, operation, _body(operation.request).domain)
        ended = asyncio.ensure_future(live.job.wait()) if live.job is not None else None
        heard: tuple[object, ...] = ()
        heard_at = self._context.host.monotonic()
        try:
            with self._files.bell(operation.id) as rung:
                if ended is not None:
                    ended.add_done_callback(lambda _: rung.set())
                while True:
                    rung.clear()
                    over = ended is None or ended.done()
                    now = self._context.host.monotonic()
                    seen = self._files.progress(operation.id)  # after `over`, so that xl's last word is read, too
                    self._show(operation, meter, seen)
                    if heard != (news := (seen.bytes, seen.stage, seen.ready)):
                        heard, heard_at = news, now
                    silent = now - heard_at > SILENCE_LIMIT and not seen.go
                    if over or silent or live.cancelled.is_set() or seen.report is not None:
                        break
                    with contextlib.suppress(TimeoutError):
                        await within(self._context.host, FOLLOW_SECONDS, rung.wait())
        finally:
            if ended is not None:
                ended.cancel()
        if seen.report == 0:
            self._release(operation)
            await self._let_go(operation)
        else:
            await self._ended(operation, f"nothing moved for {SILENCE_LIMIT:g} s" if silent else None)

    def _show(self, operation: Operation, meter: Meter, seen: Passed) -> None:
        """Phase and progress, as the relay saw them."""
        phase = seen.phase
        if PHASES.index(phase) > PHASES.index(operation.phase):
            operation.enter(phase, cancellable=not seen.go)
            if phase in ("StopAndCopy", "HandOver"):
                self._context.observer.quiet.begin(operation.id)
            if phase == "HandOver":
                self._relocation.lines.dial(operation.id, _target(operation))  # the release is told at once then
        if seen.bytes:
            meter.take(seen, now=seen.go)

    # --- letting go -------------------------------------------------------------------------------------------------

    def _release(self, operation: Operation) -> None:
        """This host never runs the VM at this epoch again: on disk before anything is done about it."""
        if operation.notes.get("released"):
            return
        domain = _body(operation.request).domain
        if not self._released(operation):
            ended = {"started_at": None, "stopping_since": None, "restart_at": None}
            self._store.update(domain.uid, epoch=domain.epoch + 1, granted=False, **ended)
        operation.enter("HandOver", cancellable=False, released=True)

    def _released(self, operation: Operation) -> bool:
        """The journal says that this host gave the VM away: only this operation can have done it while it runs."""
        domain, record = _body(operation.request).domain, self._store.get(operation.state.subject_uid)
        return record is not None and not record.granted and record.epoch > domain.epoch

    async def _let_go(self, operation: Operation) -> None:
        """Demote, tell the target, see every trace of the domain gone. Only forward from here, after a restart too."""
        domain, began = _body(operation.request).domain, self._context.host.monotonic()
        tell = asyncio.ensure_future(self._tell(operation))
        try:
            if operation.phase != "Demoted":
                await insist(self._context, operation, lambda: self._demote(operation, domain, began))
                operation.enter("Demoted")
            for disk in domain.config.disks:
                self._context.volumes.set_role(disk.resource, volume_uid(self._context, disk.resource), "Secondary")
            await self._end_xl(operation)
            self._context.observer.quiet.end(operation.id)  # until here xl needs the processors to clear up
            await asyncio.gather(
                insist(self._context, operation, lambda: self._sweep(operation, domain)), self._show_demoted(domain)
            )
            await tell
        finally:
            tell.cancel()
        operation.enter("Done")
        await self._context.host.remove(config_path(domain.name))
        await self._clean(operation)

    async def _demote(self, operation: Operation, domain: DomainDesired, began: float) -> None:
        """Success proves that blkback wrote its last; while it holds the disk DRBD refuses (-12)."""

        async def one(resource: str, minor: int) -> None:
            async with self._context.locks.hold(f"volume:{resource}"):
                await self._context.drbd.secondary(resource, minor, patience=DEMOTE_PATIENCE)

        disks = domain.config.disks
        results = await asyncio.gather(*(one(disk.resource, disk.minor) for disk in disks), return_exceptions=True)
        for error in results:
            if isinstance(error, BaseException):
                job = await self._context.host.find_job(_scope(operation.id))
                late = self._context.host.monotonic() - began > XL_END_LIMIT
                if job is None or late or await has_ended(self._context, job):
                    await self._end_xl(operation, limit=0.0)
                    await self._sweep(operation, domain)  # xl left the domain behind
                raise error

    async def _sweep(self, operation: Operation, domain: DomainDesired) -> None:
        """Destroy what is left of the domain here: it is the target's now. Raises Refused while anything is left."""
        for one in await own_domains(self._context, domain):
            what = f"domain {one.domid} ({one.name}, {one.flags})"
            if one.kind == "zombie" and (one.state == "dying" or one.uuid is None):
                raise Refused(
                    "ZombieDomain",
                    f"{what} is dead on {self._context.node} and may hold its disk; only the host's reboot clears it",
                )
            if one.state not in ("suspended", "dying"):
                raise Refused("SourceRuns", f"{what} is up on {self._context.node} although the VM was given away")
            self._context.log(operation=operation.id).info("leftover destroyed", domid=one.domid, name=one.name)
            await self._context.xen.destroy(one.domid)
            raise Refused("LeftoverDomain", f"{what} is being destroyed on {self._context.node}")

    async def _show_demoted(self, domain: DomainDesired) -> None:
        """Before the end is told: whoever sees it sees the disks given up, not what was read before."""
        with contextlib.suppress(DriverError, CommandTimedOut, OSError):
            await self._context.observer.read_resources(disk.resource for disk in domain.config.disks)

    async def _tell(self, operation: Operation) -> None:
        """That this host has let go. A target that has no use for it any more has heard, too."""
        body = _body(operation.request)
        question = {"kind": "released", "operation": operation.id, "epoch": body.domain.epoch + 1}
        question["alone"] = wrote_alone(self._context, body.domain)
        await self._relocation.lines.tell(operation.id, _target(operation), question)

    async def _end_xl(self, operation: Operation, *, limit: float = XL_END_LIMIT) -> None:
        """xl ends by itself after its last word; what does not end is ended with everything it started."""
        if (job := await self._context.host.find_job(_scope(operation.id))) is None:
            return
        try:
            await within(self._context.host, limit, job.wait())
        except TimeoutError:
            self._context.log(operation=operation.id).warning("xl migrate ended by force")
            await job.kill()

    # --- without success --------------------------------------------------------------------------------------------

    async def _ended(self, operation: Operation, why: str | None) -> None:
        """xl ended, or shall end, without a good report: the guest goes on here unless it may be the target's."""
        live = self._of(operation)
        if self._files.progress(operation.id).report is not None:
            await self._end_xl(operation)  # the target said that it failed: xl takes the guest back by itself
        elif live.job is not None:
            await live.job.kill()
        seen = self._files.progress(operation.id)
        if seen.report == 0:  # it came in between
            self._release(operation)
            await self._let_go(operation)
            return
        words = [why or seen.ended or "", await last_errors(live.job)]
        message = "; ".join(word for word in words if word and word != "closed") or "xl migrate ended"
        await self._take_back(operation, seen, seen.refused or Refusal(reason="TransferFailed", message=message))

    async def _take_back(self, operation: Operation, seen: Passed, refusal: Refusal) -> None:
        """Until the guest goes on here, seen twice. Raises Cancelled, or Refused with the reason; never returns."""
        live, domain, node, steady = self._of(operation), _body(operation.request).domain, self._context.node, False
        while True:
            decided = bool(operation.notes.get("unclear")) and live.cancelled.is_set()
            try:
                own = await own_domains(self._context, domain)
                match judge_source(own, go=seen.go and not decided, report=seen.report, node=node):
                    case RunsOn(copy):
                        if steady:  # a guest that had been asked to suspend may do so after xl's end
                            where = f"{domain.name} goes on on {node} as domain {copy.domid}"
                            await self._give_up(operation, refusal.reason, f"{refusal.message}. {where}")
                        steady = True
                    case Resume(copy, rename):
                        steady = False
                        if rename:
                            await self._context.xen.rename(copy.domid, domain.name)
                        if copy.state == "suspended":
                            await self._context.xen.resume(copy.domid, look=self._context.observer.read_domain_list)
                    case Unclear(copy):
                        await self._until_decided(operation, domain, copy)
                        continue
                    case Over(over):
                        await self._give_up(operation, over.reason, f"{over.message}. {refusal.message}")
                operation.trouble(None)
            except (DriverError, CommandTimedOut) as error:
                reason = error.reason if isinstance(error, DriverError) else "TimedOut"
                operation.trouble(Refusal(reason=reason, message=str(error)))
            await self._context.host.sleep(STEADY_SECONDS)

    async def _give_up(self, operation: Operation, reason: str, message: str) -> NoReturn:
        live = self._of(operation)
        await self._clean(operation)
        if live.cancelled.is_set():
            raise Cancelled
        raise Refused(reason, message)

    async def _until_decided(self, operation: Operation, domain: DomainDesired, copy: DomainState | None) -> None:
        """The target may have the guest. It is not resumed here before the controller says that it has not."""
        operation.enter("HandOver", cancellable=True, unclear=True)
        here = f"domain {copy.domid} ({copy.name}, {copy.flags})" if copy else "no domain of it"
        operation.trouble(
            Refusal(
                reason="HandOverUnclear",
                message=f"the permission to go went to {_body(operation.request).target} and no report came back;"
                f" {here} is on {self._context.node}. {domain.name} stays so until it is known what the target has:"
                " cancel the operation there, then here",
            )
        )
        await self._of(operation).cancelled.wait()
        operation.trouble(None)

    # --- its files --------------------------------------------------------------------------------------------------

    async def _clean(self, operation: Operation) -> None:
        """Nothing of a migration that is over stays behind, its key's path least of all."""
        await self._context.host.forget_job(_scope(operation.id))
        self._files.remove(operation.id)

    def _of(self, operation: Operation) -> Live:
        return self._live.setdefault(operation.id, Live())


def _target(operation: Operation) -> Peer:
    body = _body(operation.request)
    return Peer(body.target, body.target_address, body.target_port)


def _body(request: OperationRequest) -> MigrateSend:
    assert isinstance(request.body, MigrateSend)
    return request.body


def _scope(operation_id: str) -> str:
    return f"migrate-{operation_id}"

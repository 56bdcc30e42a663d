"""The target's side: takes the stream, waits until the source has let go, then makes the guest run here. By itself.

The copy arrives paused, its disks unopened, because this host is Secondary. It runs only after two things are known:
the source's agent said that it gave the VM away (its journal has it), and this host's own DRBD sees the peer Secondary,
Connected, the disk here UpToDate, and the source's too, or failed with nothing on it that is not here. The word alone
is not enough (the last writes must be here), nor is DRBD alone: a source that lost power and came back is Secondary
too, and its VM may have run again in between.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from agent.core import Context, Refused, within
from agent.drivers import xl_config
from agent.drivers.errors import DriverError
from agent.host import CommandTimedOut, PipedProcess
from agent.migration import transfer
from agent.migration.handover import Meter, against_taking_over, disks_now, insist, own_domains
from agent.migration.recovery import Arrived, Nothing, Remove, judge_target
from agent.operations import Cancelled, Operation
from agent.preflight import arriving, look
from agent.protocol import DomainDesired, MigrateReceive, OperationCancel, OperationRequest, Refusal
from agent.vm_disks import joined, usable
from agent.vm_effects import volume_uid
from agent.vm_records import VmRecord, mine
from agent.vm_store import VmStore, config_path, domain_lock

if TYPE_CHECKING:
    from agent.migration.relocation import Relocation

CONNECT_LIMIT = 120.0  # seconds until the source's stream must be there
ENDING_LIMIT = 15.0  # ... in which the receiver ends after its stream did; one without a transport may hang
SAYING_LIMIT = 60.0  # ... in which its last words reach the source
LOOK_SECONDS, LOOK_SLOWLY_SECONDS, SLOWLY_AFTER = 0.02, 0.25, 30.0
GONE_TWICE_SECONDS = 0.5


class Receive:
    """The handler of `migrate-receive`: Listening, Receiving, Received, Promoting, Attaching, Unpausing, Done."""

    first_phase = "Listening"

    def __init__(self, context: Context, relocation: Relocation) -> None:
        self._context = context
        self._relocation = relocation
        self._store = VmStore(context)
        self._stop: dict[str, asyncio.Event] = {}

    def subject(self, request: OperationRequest) -> tuple[str, str]:
        body = _body(request)
        return body.domain.name, body.domain.uid

    async def check(self, request: OperationRequest) -> None:
        body = _body(request)
        self._context.gone.check(body.domain.uid)
        if body.source == self._context.node:
            raise Refused("SameNode", f"{body.domain.name} cannot move from {body.source} to itself")
        seen = await look(self._context, body.domain, recent=True)
        if refusals := arriving(seen, body.domain, source=body.source):
            raise Refused.of(joined(refusals))
        if seen.record is not None and seen.record.granted and seen.record.epoch >= body.domain.epoch:
            raise Refused("EpochTooOld", f"{self._context.node} has {body.domain.name} at epoch {seen.record.epoch}")

    async def run(self, operation: Operation) -> None:
        async with self._moving(operation):
            place = self._relocation.listeners.place
            operation.enter("Listening", cancellable=True, boot_id=self._context.boot_id, place=place)
            await self._listen(operation)

    async def resume(self, operation: Operation) -> None:
        async with self._moving(operation):
            if operation.notes.get("boot_id", self._context.boot_id) != self._context.boot_id:
                raise Refused("HostRebooted", f"{self._context.node} was rebooted in phase {operation.phase}")
            if operation.phase == "Listening":
                await self._listen(operation)
            elif operation.phase == "Receiving":
                await self._after_stream(operation, "the agent was restarted while it received")
            else:
                await self._finish(operation)

    @contextlib.asynccontextmanager
    async def _moving(self, operation: Operation) -> AsyncIterator[None]:
        """Nothing else changes the VM meanwhile, and its source is heard where it was told to come."""
        async with self._context.locks.hold(domain_lock(_body(operation.request).domain.uid)):
            listeners = self._relocation.listeners
            try:
                with listeners.keep(operation.id, operation.notes.get("place", listeners.place)):
                    yield
            finally:
                self._stop.pop(operation.id, None)
                self._context.observer.quiet.end(operation.id)

    async def cancel(self, operation: Operation, request: OperationCancel) -> None:
        record = self._store.get(operation.state.subject_uid)
        epoch = _body(operation.request).domain.epoch
        owned = record is not None and record.granted and record.epoch >= epoch
        if owned or operation.notes.get("released"):
            raise Refused("NotCancellable", f"{operation.state.subject} belongs to {self._context.node} already")
        if operation.phase == "Received" and not request.source_keeps:
            where = f"the copy of {operation.state.subject} is on {self._context.node}"
            raise Refused("NotCancellable", f"{where}, and {_body(operation.request).source} may have let go of it")
        self._event(operation).set()

    def released(self, operation_id: str, node: str, epoch: int, alone: list[str] | None) -> None:
        """The source gave it away for `epoch`, see against_taking_over: on disk when this returns. Raises Refused."""
        operation = self._context.operations.find(operation_id)
        if operation is None or operation.request.body.kind != "migrate-receive":
            raise Refused("NotExpected", f"{self._context.node} knows no migration {operation_id} to it")
        body = _body(operation.request)
        if body.source != node:
            raise Refused("WrongSource", f"operation {operation_id} comes from {body.source}, not from {node}")
        if epoch < body.domain.epoch:
            raise Refused("EpochTooOld", f"given away for epoch {epoch}, needed is {body.domain.epoch}")
        if not operation.running:
            if operation.state.outcome == "Succeeded":
                return
            raise Refused("OperationEnded", f"operation {operation_id} ended: {operation.state.outcome}")
        if operation.phase == "Received" and (operation.cancel_requested or self._event(operation).is_set()):
            raise Refused("OperationEnded", f"operation {operation_id} is being cancelled")
        operation.note(released=True, alone=alone)
        self._context.log(operation=operation_id, object=body.domain.name).info("source has let go", epoch=epoch)

    # --- the stream ---------------------------------------------------------------------------------------------

    async def _listen(self, operation: Operation) -> None:
        body = _body(operation.request)
        if operation.cancel_requested:
            raise Cancelled
        connected = self._relocation.expect(operation.id, body.source)
        stop: asyncio.Future[bool] = asyncio.ensure_future(self._event(operation).wait())
        both: list[asyncio.Future[Any]] = [connected, stop]
        try:
            first = asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            await within(self._context.host, CONNECT_LIMIT, first)
        except TimeoutError:
            raise Refused(
                "SourceDidNotConnect",
                f"{body.source} did not connect within {CONNECT_LIMIT:g} s; nothing was made here",
            ) from None
        finally:
            stop.cancel()
            if not connected.done():
                self._relocation.expect_no_more(operation.id)
                connected.cancel()
        if not connected.done() or connected.cancelled():
            raise Cancelled
        connection = connected.result()
        try:
            operation.enter("Receiving")
            process = await self._context.host.pipe(self._context.xen.receive_argv())
            try:
                await connection.accept()
                words = await self._carry(operation, connection, process)
            except OSError as error:
                await process.kill()
                words = f"the stream broke: {error}"
        finally:
            self._relocation.expect_no_more(operation.id)
            connection.ended.set()
        await self._after_stream(operation, words)

    async def _carry(self, operation: Operation, connection: transfer.Connection, process: PipedProcess) -> str:
        """Bytes both ways until the receiver has ended; returns its last words."""
        meter = Meter(self._context, operation, _body(operation.request).domain)
        words: deque[str] = deque(maxlen=5)
        quiet = self._context.observer.quiet
        inbound = asyncio.ensure_future(transfer.inbound(connection, process, meter, lambda: quiet.begin(operation.id)))
        outbound = asyncio.ensure_future(transfer.outbound(connection, process))
        hearing = asyncio.ensure_future(transfer.hear(process, words))
        ended = asyncio.ensure_future(process.wait())
        stop = asyncio.ensure_future(self._event(operation).wait())
        try:
            await asyncio.wait({ended, inbound, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done() and not stop.done():  # the stream ended: the receiver fails, or has just said its last
                with contextlib.suppress(TimeoutError):
                    await within(
                        self._context.host,
                        ENDING_LIMIT,
                        asyncio.wait({ended, stop}, return_when=asyncio.FIRST_COMPLETED),
                    )
            if not ended.done():
                await process.kill()
            await ended
            with contextlib.suppress(TimeoutError):  # what it said last; the link may be cut for a moment
                await within(self._context.host, SAYING_LIMIT, asyncio.wait({outbound, hearing}))
            if inbound.done() and (error := inbound.exception()) is not None:
                words.append(f"the stream broke: {error}")
        finally:
            tasks = (inbound, outbound, hearing, ended, stop)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)  # nobody uses the connection any more when it is closed
        return " | ".join(words) or "the receiver said nothing"

    async def _after_stream(self, operation: Operation, words: str) -> None:
        """From what is here now: go on with the arrived copy, or remove what is left and end."""
        domain, quiet = _body(operation.request).domain, 0
        while True:
            verdict = judge_target(await own_domains(self._context, domain), node=self._context.node)
            cancelled = operation.cancel_requested or self._event(operation).is_set()
            match verdict:
                case Arrived(copy):
                    if operation.phase == "Received" and cancelled:
                        await self._remove(operation, copy.domid)
                        continue
                    if cancelled:  # too late: the permission to go was given, and this copy may be the only one
                        operation.void_cancel()
                        self._event(operation).clear()
                    return await self._finish(operation)
                case Remove(copy):
                    await self._remove(operation, copy.domid)
                case Nothing():
                    quiet += 1
                    if quiet == 2:  # a receiver whose agent was killed may still have been at work
                        if cancelled:
                            raise Cancelled
                        raise Refused("ReceiveFailed", f"nothing arrived on {self._context.node}: {words}")
                    await self._context.host.sleep(GONE_TWICE_SECONDS)
                case _:
                    raise Refused(verdict.why.reason, f"{verdict.why.message}; the receiver said: {words}")

    async def _remove(self, operation: Operation, domid: int) -> None:
        self._context.log(operation=operation.id).info("incoming copy destroyed", domid=domid)
        try:
            await self._context.xen.destroy(domid)
        except DriverError as error:  # the receiver may be removing it, too: what is there counts
            self._context.log(operation=operation.id).info("destroy", problem=error.message)
            await self._context.host.sleep(GONE_TWICE_SECONDS)

    # --- the hand-over ------------------------------------------------------------------------------------------

    async def _finish(self, operation: Operation) -> None:
        """From the arrived, paused copy to a running guest. Every step looks first whether it is done."""
        domain = _body(operation.request).domain
        uids = {disk.resource: volume_uid(self._context, disk.resource) for disk in domain.config.disks}
        if operation.phase in ("Listening", "Receiving", "Received"):
            operation.enter("Received", cancellable=True)
            self._context.log(operation=operation.id, object=domain.name).info("the copy is here, paused")
            for resource, uid in uids.items():
                self._context.volumes.mark_used(resource, uid)
            await self._until_mine(operation, domain)
            self._take_over(operation, domain)
            operation.enter("Promoting", cancellable=False)
        await insist(self._context, operation, lambda: self._promote(domain))
        operation.enter("Attaching")
        gone = frozenset({"NoSuchDomain", "DomainGone"})
        await insist(self._context, operation, lambda: self._attach(domain), final=gone)
        operation.enter("Unpausing")
        if domain.state == "Running":
            await insist(self._context, operation, lambda: self._unpause(domain), final=gone)
            self._context.observer.quiet.end(operation.id)
            self._context.domains.wake(domain.uid)  # who sees the end sees the guest run
        for resource, uid in uids.items():
            self._context.volumes.set_role(resource, uid, "Primary")
        operation.enter("Done")
        await self._context.host.write_text(config_path(domain.name), xl_config.render(domain))

    async def _until_mine(self, operation: Operation, domain: DomainDesired) -> None:
        """Wait until the source has let go and every write is here. Raises Cancelled after the copy was removed."""
        began = self._context.host.monotonic()
        while True:
            if operation.cancel_requested or self._event(operation).is_set():
                await self._after_stream(operation, "")
            await self._still_here(domain)
            notes = operation.notes
            against: list[Refusal] = []
            try:
                if notes.get("released"):
                    against = await against_taking_over(self._context, domain, alone=notes.get("alone"))
                else:
                    against = [Refusal(reason="NotReleased", message=f"{_body(operation.request).source} still has it")]
            except (DriverError, CommandTimedOut) as error:
                against = [Refusal(reason="Unreadable", message=str(error))]
            if not against:
                operation.trouble(None)
                return
            slowly = self._context.host.monotonic() - began > SLOWLY_AFTER
            if slowly:
                operation.trouble(joined(against))
            await self._context.host.sleep(LOOK_SLOWLY_SECONDS if slowly else LOOK_SECONDS)

    async def _still_here(self, domain: DomainDesired) -> None:
        """Raises DriverError("DomainGone") when the copy was destroyed from outside."""
        if not mine(domain.uid, domain.name, self._context.observer.state.domains.values()):
            await self._domid(domain)

    def _take_over(self, operation: Operation, domain: DomainDesired) -> None:
        """This host owns the VM from here on: in the journal before the first effect."""
        self._store.put(
            VmRecord(
                desired=domain,
                epoch=domain.epoch,
                granted=True,
                run=domain.run,
                boot_id=self._context.boot_id,
                started=domain.config,
                started_at=self._context.host.now(),
            )
        )
        self._context.domains.wake(domain.uid)

    async def _promote(self, domain: DomainDesired) -> None:
        """DRBD itself refuses while the other side is Primary or this side's data is not good."""

        async def one(resource: str, minor: int) -> None:
            async with self._context.locks.hold(f"volume:{resource}"):
                if (stale := self._context.fence.promotable(resource)) is not None:
                    raise Refused.of(stale)
                await self._context.drbd.primary(resource, minor)

        await asyncio.gather(*(one(disk.resource, disk.minor) for disk in domain.config.disks))

    async def _attach(self, domain: DomainDesired) -> None:
        domid = await self._domid(domain)
        for disk in domain.config.disks:
            await self._context.xen.attach_disk(domid, disk.vdev, disk.minor)
        if refusals := usable(domain.config.disks, await disks_now(self._context, domain), self._context.node):
            raise Refused.of(joined(refusals))

    async def _unpause(self, domain: DomainDesired) -> None:
        await self._context.xen.unpause(await self._domid(domain), look=self._context.observer.read_domain_list)

    async def _domid(self, domain: DomainDesired) -> int:
        """Raises DriverError("DomainGone")."""
        known = mine(domain.uid, domain.name, self._context.observer.state.domains.values())
        for one in known or await own_domains(self._context, domain):
            if one.kind == "main":
                return one.domid
        raise DriverError("DomainGone", f"the copy of {domain.name} is not on {self._context.node} any more")

    def _event(self, operation: Operation) -> asyncio.Event:
        return self._stop.setdefault(operation.id, asyncio.Event())


def _body(request: OperationRequest) -> MigrateReceive:
    assert isinstance(request.body, MigrateReceive)
    return request.body

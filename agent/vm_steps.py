"""The next step of one VM on this host: a pure function of its record and of the domains just seen.

absent --Create--> paused --Unpause--> running --Shutdown--> poweroff --Destroy--> absent
                              \\--guest ended by itself--> End --> Destroy, and perhaps Create again
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.protocol import DomainState, Refusal
from agent.vm_records import ENDED, EndReason, Now, VmRecord, in_the_way, mine


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing to do. `seconds`: until the next look though nothing changes."""

    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Blocked:
    """It shall be otherwise, and something that is not ours to change stands against it."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Create:
    """Make the domain, paused."""


@dataclass(frozen=True, slots=True)
class Confirm:
    """The domain is there and not yet known as started: check its disks, then record that it is up."""

    domain: DomainState


@dataclass(frozen=True, slots=True)
class Settle:
    """No domain is left: what the record says of one is over."""


@dataclass(frozen=True, slots=True)
class Unpause:
    """Let it run, after its disks were checked."""

    domid: int


@dataclass(frozen=True, slots=True)
class Pause:
    domid: int


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Ask the guest to power off; its time is counted from now."""

    domain: DomainState


@dataclass(frozen=True, slots=True)
class Destroy:
    domid: int
    why: str


@dataclass(frozen=True, slots=True)
class End:
    """The guest ended by itself: its on_* setting says what follows. `domid` None: the domain vanished."""

    reason: EndReason
    domid: int | None


@dataclass(frozen=True, slots=True)
class GiveUpStopping:
    """It shall run again, and the guest did not follow the shutdown that was asked for before."""


Step = Rest | Blocked | Create | Confirm | Settle | Unpause | Pause | Shutdown | Destroy | End | GiveUpStopping


def next_step(record: VmRecord, seen: Sequence[DomainState], *, now: Now, may_start: bool, node: str) -> Step:
    """`seen`: every domain of the host, read just now. No operation on the VM may be running.

    `may_start`: the controller asked for it in this boot of the host, and this agent may make a domain.
    """
    uid, name = record.desired.uid, record.desired.name
    own = mine(uid, name, seen)
    main = [domain for domain in own if domain.kind == "main"]
    obstacle = in_the_way(uid, name, own, node)
    if len(main) > 1:
        obstacle = Refusal(
            reason="TwoDomains",
            message=f"{name} has {len(main)} domains on {node}: {', '.join(str(one.domid) for one in main)}",
        )
    if record.desired.state == "Released":
        return Rest()
    if record.desired.state == "Stopped":
        return _stop(record, main[0] if main else None, obstacle, now.clock)
    if not record.granted:
        return _not_granted(record, own, node)
    if obstacle is not None:
        return Blocked(obstacle)
    if not main:
        return _start(record, now.unix, may_start)
    return _keep(record, main[0], now.clock)


def _stop(record: VmRecord, domain: DomainState | None, obstacle: Refusal | None, clock: float) -> Step:
    if obstacle is not None:
        return Blocked(obstacle)
    if domain is None:
        return Settle() if (record.started_at, record.stopping_since) != (None, None) else Rest()
    if domain.state == "dying":
        return Rest()
    if domain.state in ENDED:
        return Destroy(domain.domid, "the guest has powered off")
    if domain.state == "suspended":
        return Destroy(domain.domid, "it is suspended and shall be stopped")
    if domain.state == "paused" and domain.cpu_seconds == 0.0:
        return Destroy(domain.domid, "it never ran")
    if record.stopping_since is None:
        return Shutdown(domain)
    end = record.stopping_since + record.desired.shutdown_grace_seconds
    if clock >= end:
        return Destroy(domain.domid, f"it did not shut down within {record.desired.shutdown_grace_seconds:g} s")
    return Rest(end - clock)


def _not_granted(record: VmRecord, own: Sequence[DomainState], node: str) -> Step:
    if not own:
        return Rest()
    listed = ", ".join(f"{domain.name} (id {domain.domid}, {domain.flags})" for domain in own)
    return Blocked(
        Refusal(
            reason="NotGranted",
            message=f"{listed} is on {node}, which gave the VM away at epoch {record.epoch}; a person must look",
        )
    )


def _start(record: VmRecord, now: float, may_start: bool) -> Step:
    if not may_start or record.halted is not None:
        return Rest()  # after a reboot of the host the controller asks first; after the guest's own end, too
    if record.started_at is not None and record.stopping_since is None:
        return End("crash", None)
    if record.restart_at is not None and now < record.restart_at:
        return Rest(record.restart_at - now)
    return Create()


def _keep(record: VmRecord, domain: DomainState, clock: float) -> Step:
    if domain.state == "dying":
        return Rest()
    if domain.state in ENDED:
        if record.stopping_since is not None:
            return Destroy(domain.domid, "the guest has ended")
        if record.halted is not None:
            return Rest() if record.preserved else Destroy(domain.domid, "the guest has ended")
        return End(ENDED[domain.state], domain.domid)
    if domain.state == "suspended":
        return Blocked(
            Refusal(
                reason="Suspended",
                message=f"domain {domain.domid} is suspended ({domain.flags}) and no migration is under way",
            )
        )
    if record.started_at is None:
        return Confirm(domain)
    if record.stopping_since is not None:
        end = record.stopping_since + record.desired.shutdown_grace_seconds
        return GiveUpStopping() if clock >= end else Rest(end - clock)
    if domain.state == "paused" and record.desired.state == "Running":
        return Unpause(domain.domid)
    if domain.state == "running" and record.desired.state == "Paused":
        return Pause(domain.domid)
    return Rest()

"""What the journal keeps of one VM, which wishes of the controller it accepts, and what VmState shows. Pure.

The promise: `epoch` is the highest number of the VM's placement that this host ever heard; only with `granted` may it
run the VM, and once it gave an epoch away it never takes that epoch back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from agent.core import Refused, time_text
from agent.host import Host
from agent.protocol import DiskConfig, DomainConfig, DomainDesired, DomainState, Refusal, RestartState, VmState

EndReason = Literal["poweroff", "reboot", "crash"]
Status = Literal[
    "absent", "starting", "running", "paused", "stopping", "halted", "crashed", "preserved", "unknown"
]  # fmt: skip
SETTLED_SECONDS = 600.0  # a guest that ran for so long starts its count of restarts anew
BACKOFF_LIMIT = 300.0
QUICK_REBOOTS = 3  # reboots in a row that are followed at once; then they are a loop and wait like crashes


class Removal(BaseModel):
    """A leftover of a migration that is being destroyed: in the journal before the first effect, until it is gone."""

    model_config = ConfigDict(frozen=True)

    domid: int
    boot_id: str  # a number means a domain only within one boot

    def is_of(self, domid: int, boot_id: str) -> bool:
        return (self.domid, self.boot_id) == (domid, boot_id)


class Now(NamedTuple):
    """What waits for the guest is measured by a clock that nobody sets."""

    unix: float  # Host.now
    clock: float  # Host.monotonic: in the same boot also after this process

    @classmethod
    def of(cls, host: Host) -> Now:
        return cls(host.now(), host.monotonic())


class VmRecord(BaseModel):
    """One VM in the journal (section `vms`, key = uid). Every field is on disk before its effect. Times: Unix."""

    model_config = ConfigDict(frozen=True)

    desired: DomainDesired
    epoch: int
    granted: bool
    run: int
    boot_id: str  # the boot of this host in which the controller asked last; in another one nothing is started
    halted: EndReason | None = None  # the guest ended by itself in this run, and that is how it stays
    preserved: bool = False  # ... and its domain was kept for a look at it
    started: DomainConfig | None = None  # what its last domain here was made of; None: an earlier agent made it
    started_at: float | None = None  # its domain got up at; None: this host has not started it, or ended it
    stopping_since: float | None = None  # by Now.clock: a shutdown that we asked for is under way
    restart_count: int = 0
    restart_at: float | None = None
    restart_reason: EndReason | None = None
    removing: Removal | None = None

    @property
    def wants_domain(self) -> bool:
        return self.desired.state in ("Running", "Paused")

    @property
    def disks(self) -> tuple[DiskConfig, ...]:
        """The disks of the domain that is there, whatever was wished for since."""
        return (self.started or self.desired.config).disks


def mine(uid: str, name: str, domains: Iterable[DomainState]) -> list[DomainState]:
    """The domains that are this VM in any form, or that stand in its way: its uuid, or its name with any suffix."""
    forms = {name, f"{name}--incoming", f"{name}--migratedaway"}
    return [domain for domain in domains if domain.name in forms or _same_uuid(domain, uid)]


def _same_uuid(domain: DomainState, uid: str) -> bool:
    if domain.uuid is None:  # of a zombie whose uuid is not told: it may be this one
        return domain.kind == "zombie"
    return domain.uuid.lower() == uid.lower()


def in_the_way(uid: str, name: str, domains: Iterable[DomainState], node: str) -> Refusal | None:
    """Why no domain of this VM may be made on the host, besides the VM's own main domain. None: nothing."""
    for domain in mine(uid, name, domains):
        where = f"domain {domain.domid} ({domain.name}, {domain.flags}) on {node}"
        if domain.kind == "zombie" and domain.state != "dying" and domain.uuid is not None:
            return Refusal(
                reason="LeftoverDomain",
                message=f"{where} has lost its name and is not dead: what made or removed it was killed."
                f" When no xl works on it any more, `xl destroy {domain.domid}` removes it",
            )
        if domain.kind == "zombie":
            return Refusal(
                reason="ZombieDomain",
                message=f"{where} is a dead domain that Xen cannot remove and that may hold the disk;"
                " only a reboot of the host clears it",
            )
        if not _same_uuid(domain, uid):
            return Refusal(
                reason="NameInUse",
                message=f"{where} has that name and the uuid {domain.uuid}, not {uid}; rename or remove it",
            )
        if domain.kind != "main":
            return Refusal(reason="LeftoverDomain", message=f"{where} {_left(domain, name)}")
        if domain.name != name:
            return Refusal(reason="UuidInUse", message=f"{where} has the uuid {uid} under another name")
    return None


def _left(domain: DomainState, name: str) -> str:
    """What a half of a migration that somebody else made is, and what a person does about it."""
    if domain.kind == "incoming" and domain.cpu_seconds == 0.0:
        return (
            "is a copy that never ran, left by a receiver that was killed."
            f" When no xl works on it any more, `xl destroy {domain.domid}` removes it"
        )
    return (
        f"is left from a migration that was not finished. Where {name} runs on another host,"
        f" `xl destroy {domain.domid}` removes it; where it runs nowhere, this may be the only copy of its memory"
    )


# --- what is accepted -------------------------------------------------------------------------------------------------


def accept(record: VmRecord | None, desired: DomainDesired, *, boot_id: str, now: Now) -> VmRecord:
    """The record after this wish. Raises Refused("EpochTooOld" | "EpochReleased")."""
    promised = record.epoch if record else 0
    if desired.epoch < promised:
        raise Refused(
            "EpochTooOld",
            f"epoch {desired.epoch} of {desired.name} is over: this host promised epoch {promised}",
        )
    released = record is not None and desired.epoch == promised and not record.granted
    if released and desired.state in ("Running", "Paused"):
        raise Refused(
            "EpochReleased",
            f"this host gave {desired.name} away at epoch {promised}; to run it here again takes epoch {promised + 1}",
        )
    granted = desired.state != "Released" and not released
    if record is None:
        return VmRecord(desired=desired, epoch=desired.epoch, granted=granted, run=desired.run, boot_id=boot_id)
    update: dict[str, object] = {"desired": desired, "epoch": desired.epoch, "granted": granted}
    if record.boot_id != boot_id:
        update |= _FORGOTTEN_BY_BOOT | {"boot_id": boot_id}
    if desired.run > record.run:
        update |= {"run": desired.run, "halted": None, "preserved": False, "restart_count": 0, "restart_at": None}
        if record.preserved and record.boot_id == boot_id:
            update |= {"stopping_since": now.clock}  # the domain that was kept goes, as if we had shut it down
    if desired.state != record.desired.state and desired.state == "Stopped":
        update |= {"restart_at": None, "restart_count": 0}
    return record.model_copy(update=update)


_FORGOTTEN_BY_BOOT: dict[str, object] = {
    "started_at": None,
    "stopping_since": None,
    "restart_count": 0,
    "restart_at": None,
    "preserved": False,
}


def after_end(record: VmRecord, reason: EndReason, now: Now) -> VmRecord:
    """The record after the guest ended by itself, by its on_poweroff, on_reboot or on_crash."""
    desired = record.desired
    policy = {"poweroff": desired.on_poweroff, "reboot": desired.on_reboot, "crash": desired.on_crash}[reason]
    if policy != "restart":
        return record.model_copy(update={"halted": reason, "preserved": policy == "preserve", "restart_at": None})
    settled = record.started_at is not None and now.unix - record.started_at >= SETTLED_SECONDS
    count = 0 if settled else record.restart_count
    update = {
        "restart_count": count + 1,
        "restart_at": now.unix + restart_delay(reason, count),
        "restart_reason": reason,
        "stopping_since": now.clock,  # the ended domain goes, then a new one comes
    }
    return record.model_copy(update=update)


def restart_delay(reason: EndReason, earlier: int) -> float:
    """Seconds before the next start after `earlier` restarts in a row: 1, 2, 4 ... 300; a reboot is not delayed."""
    if reason != "crash":
        if earlier < QUICK_REBOOTS:
            return 0.0
        earlier -= QUICK_REBOOTS
    return min(BACKOFF_LIMIT, 2.0 ** min(earlier, 10))


# --- what is shown ----------------------------------------------------------------------------------------------------


def status_of(record: VmRecord, domains: Sequence[DomainState] | None, may_start: bool) -> Status:
    """`domains`: this VM's own, None when they could not be read."""
    if domains is None:
        return "unknown"
    main = next((domain for domain in domains if domain.kind == "main"), None)
    if main is None:
        if record.halted is not None:
            return "crashed" if record.halted == "crash" else "halted"
        return "starting" if record.wants_domain and record.granted and may_start else "absent"
    if record.preserved and main.state in ENDED:
        return "preserved"
    if record.stopping_since is not None or main.state == "dying":
        return "stopping"
    if main.state == "running":
        return "running"
    if main.state == "paused":
        return "starting" if record.desired.state == "Running" and record.started_at is None else "paused"
    return "unknown" if main.state == "suspended" else "stopping"


def vm_state(
    record: VmRecord,
    domains: Sequence[DomainState] | None,
    *,
    may_start: bool,
    since: str | None,
    problem: Refusal | None,
) -> VmState:
    """What the controller sees of one VM."""
    main = next((domain for domain in domains or () if domain.kind == "main"), None)
    return VmState(
        uid=record.desired.uid,
        namespace=record.desired.namespace,
        name=record.desired.name,
        epoch=record.epoch,
        granted=record.granted,
        desired=record.desired.state,
        run=record.run,
        status=status_of(record, domains, may_start),
        halted_reason=record.halted,
        domid=main.domid if main else None,
        since=since,
        restart=RestartState(
            count=record.restart_count,
            next_at=time_text(record.restart_at) if record.restart_at is not None else None,
            last_reason=record.restart_reason,
        ),
        started=record.started,
        problem=problem,
    )


ENDED: dict[str, EndReason] = {"poweroff": "poweroff", "reboot": "reboot", "crashed": "crash"}
"""States of a domain whose guest ended, and why (xl list, the reason's column)."""

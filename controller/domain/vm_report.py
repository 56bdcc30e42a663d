"""How a decision about a XenVM is put together: status fields, conditions, events, one place for all branches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from agent.protocol import DiskConfig, DomainConfig, NetworkConfig, Refusal, VmState
from controller.api.common import Condition, OperationRecord
from controller.api.xenvm_status import DomainStatus, XenVMStatus
from controller.domain.actions import (
    FINALIZER,
    PASSING,
    Decision,
    Event,
    Refused,
    Request,
    due,
    refusal_of,
    refused_again,
    told_within,
)
from controller.domain.conditions import Conditions, timestamp
from controller.domain.engine import Plan, Position
from controller.domain.vm_case import VmCase
from controller.domain.wanted import displaced, told

RETRY_SECONDS = 15.0
"""A blocked operation is looked at again after this, though nothing told of a change."""


class Report:
    """Collects what one branch of the decision finds; `decision()` closes it."""

    def __init__(self, case: VmCase, refused: tuple[Refused, ...] = ()) -> None:
        self.case, self.refused = case, refused or case.refused
        vm = case.vm
        self.conditions = Conditions(case.before.conditions, vm.metadata.generation, case.world.now)
        self.status: XenVMStatus = vm.status.model_copy(
            update={"networks": case.networks(), "operation": None, **_domain(case.here)}
        )
        self.events: list[Event] = []
        self.requests: tuple[Request, ...] = ()
        self.look_again: float | None = None
        self._placed: Refusal | None = None

    def set(self, **update: object) -> Report:
        self.status = self.status.model_copy(update=update)
        return self

    def event(self, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        self.events.append(Event(kind, reason, message))

    def ready(self, phase: str, reason: str, message: str) -> Report:
        before = self.case.before.phase
        self.conditions.ready(reason, message)
        if before not in (phase, None, "Unknown"):
            self.event("Normal", reason, message)
        return self.set(phase=phase)

    def progressing(self, phase: str, reason: str, message: str) -> Report:
        self.conditions.progressing(reason, message)
        self.look_again = RETRY_SECONDS
        return self.set(phase=phase)

    def stalled(self, phase: str, refusal: Refusal) -> Report:
        self.conditions.stalled(refusal.reason, refusal.message)
        if self.conditions.changed("Stalled"):
            self.event("Warning", refusal.reason, refusal.message)
        self.look_again = RETRY_SECONDS
        return self.set(phase=phase)

    def unknown(self, refusal: Refusal) -> Report:
        self.conditions.unknown(refusal.reason, refusal.message)
        if self.conditions.changed("Ready"):
            self.event("Warning", refusal.reason, refusal.message)
        return self.set(phase="Unknown")

    def not_placed(self, reason: str, message: str, *, warn: bool = False) -> None:
        """The VM is not where spec.node wants it: why."""
        self._placed = Refusal(reason=reason, message=message)
        self.conditions.set("Placed", "False", reason, message)
        self.conditions.set("Reconciling", "True", reason, message)
        if warn and self.conditions.changed("Placed"):
            self.event("Warning", reason, message)

    def follow(self, plan: Plan[VmCase], at: Position, phase: str, problem: Refusal | None = None) -> Report:
        """A step of a plan: its requests, or the agent's no to them, or the `problem` that it ran into afterwards."""
        self.requests = at.requests
        old = self.case.before.operation
        same = old if old is not None and old.plan == plan.id else None
        no = refusal_of(at.requests, self.refused)
        no = no or problem
        self.set(
            operation=OperationRecord(
                id=same.id if same else f"{plan.id.split('/')[0].replace('.', '-')}-{self.case.uid[:8].lower()}",
                plan=plan.id,
                step=at.step or "Done",
                started_at=same.started_at if same else timestamp(self.case.world.now),
                message=at.message,
            )
        )
        if no is not None and no.reason in PASSING:
            return self.progressing(phase, no.reason, no.message)
        if no is not None:
            return self.stalled(phase, no)
        return self.progressing(phase, at.step or "Done", at.message)

    def decision(self) -> Decision:
        vm, placement = self.case.vm, self.status.placement
        away = displaced(self.case, self.status)
        self.set(displaced=away)
        if self._placed is None and placement is not None and away is not None:
            self.conditions.set("Placed", "False", away.reason, told(self.case, away, placement.node))
        elif self._placed is None and placement is not None:
            self.conditions.set("Placed", "True", "AsDeclared", f"placed on {placement.node}, epoch {placement.epoch}")
        self._restart_needed()
        self._restarted()
        status = self.status.model_copy(
            update={"observed_generation": vm.metadata.generation, "conditions": tuple(self.conditions.result())}
        )
        return Decision(
            status=status,
            finalizer=None if FINALIZER in vm.metadata.finalizers or vm.deleting else "add",
            events=tuple(self.events),
            requests=due(self.requests, self.refused, self.case.world),
            lazy=told_within(status) if _essence(status) == _essence(self.case.before) else 0.0,
            look_again=refused_again(self.refused) if self.refused and self.requests else self.look_again,
        )

    def _restarted(self) -> None:
        """The agent starts a guest that ended by itself again: nothing else would tell that it was gone."""
        here, before = self.case.here, self.case.before
        if here is None or not here.restart.count:
            return
        # The count of one that had run for long begins anew, and may be what it was: its wait for a start tells of it.
        waits, waited = _restarting(self.conditions.result()), _restarting(before.conditions)
        anew = here.restart.count == 1 and waits and not waited
        if here.restart.count > before.restarts or anew:
            self._tell_of_restart(here)

    def _tell_of_restart(self, here: VmState) -> None:
        last = here.restart.last_reason
        said: Literal["Normal", "Warning"] = "Normal" if last in ("reboot", "poweroff") else "Warning"
        reason, policy = _ENDED.get(last or "", _ENDED["crash"])
        self.event(said, reason, f"the guest {ended_how(here)}; {policy}: restart starts it again")

    def _restart_needed(self) -> None:
        """The domain that runs is not made of what the spec says now: what will change with the next start."""
        case, here = self.case, self.case.here
        moving = case.before.migration is not None and case.before.migration.outcome is None
        if here is None or here.status == "unknown" or moving:
            self.conditions.keep("RestartNeeded")
        elif here.status in ("running", "paused") and here.started is not None:
            edited = differences(here.started, case.config)
            if edited:
                self.conditions.set(
                    "RestartNeeded",
                    "True",
                    "SpecEdited",
                    f"edited since the guest was started: {'; '.join(edited)}. It takes effect with the next start: "
                    "set state: Stopped, then Running",
                )


_ENDED = {
    "crash": ("GuestCrashed", "onCrash"),
    "reboot": ("GuestRebooted", "onReboot"),
    "poweroff": ("GuestPoweredOff", "onPoweroff"),
}


def _restarting(conditions: Iterable[Condition]) -> bool:
    return any(condition.reason == "Restarting" for condition in conditions)


def ended_how(here: VmState) -> str:
    """`crashed`, `rebooted (3 restarts lately)`"""
    how = {"reboot": "rebooted", "poweroff": "powered itself off"}.get(here.restart.last_reason or "", "crashed")
    return how + (f" ({here.restart.count} restarts lately)" if here.restart.count > 1 else "")


def differences(started: DomainConfig, wished: DomainConfig) -> list[str]:
    """What of a domain's making differs: `memory 512 MiB -> 1024 MiB`, in the spec's words."""
    found = []
    for field, word, unit in _FIELDS:
        old, new = getattr(started, field), getattr(wished, field)
        if old != new:
            found.append(f"{word} {_told(old)}{unit} -> {_told(new)}{unit}")
    return found


_FIELDS = (
    ("type", "type", ""),
    ("memory_mib", "memory", " MiB"),
    ("max_memory_mib", "maxMemory", " MiB"),
    ("vcpus", "vcpus", ""),
    ("kernel", "kernel", ""),
    ("ramdisk", "ramdisk", ""),
    ("bootloader", "bootloader", ""),
    ("cmdline", "root and extra", ""),
    ("disks", "disks", ""),
    ("networks", "networks", ""),
)


def _told(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(_told(one) for one in value) or "none"
    if isinstance(value, DiskConfig):
        return f"{value.vdev} ({value.resource}, {value.mode})"
    if isinstance(value, NetworkConfig):
        return f"{value.mac} on {value.bridge}"
    return str(value) if value not in (None, "") else "none"


def _essence(status: XenVMStatus) -> object:
    """What may never wait to be written: intents, and what is true of the whole. The rest is for people."""
    migration = status.migration
    truths = tuple((c.type, c.status, c.observed_generation) for c in status.conditions)
    move = (migration.id, migration.outcome, migration.cancel_requested) if migration else None
    intents = (status.placement, status.displaced, status.run, status.last_state, move)
    return intents, status.observed_generation, truths


def _domain(here: VmState | None) -> dict[str, object]:
    """Facts of the home's agent; when it cannot be seen the last ones stay."""
    if here is None:
        return {}
    alive = here.domid is not None
    return {
        "domain": DomainStatus(id=here.domid, since=here.since) if alive else None,
        "restarts": here.restart.count,
    }

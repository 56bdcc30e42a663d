"""What a decision may ask for: a closed set of results, carried out by `controller.reconcile` in this order:
live questions, finalizer, status (compare-and-swap), events, requests to agents, fence agents, the next look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agent.protocol import (
    DomainDesired,
    DomainRemoval,
    HostDesired,
    OperationCancel,
    OperationRequest,
    Refusal,
    VerdictDesired,
    VolumeDesired,
    VolumeRemoval,
)
from controller.api.drbdvolume import DrbdVolumeStatus
from controller.api.xennode import XenNodeStatus
from controller.api.xenvm_status import XenVMStatus
from controller.domain.power import PowerCommand
from controller.domain.world import HostView, Question, World

FINALIZER = "xentandem.io/protect"


@dataclass(frozen=True, slots=True)
class PutHost:
    host: str
    body: HostDesired


@dataclass(frozen=True, slots=True)
class PutVolume:
    host: str
    body: VolumeDesired


@dataclass(frozen=True, slots=True)
class PutVerdict:
    host: str
    body: VerdictDesired


@dataclass(frozen=True, slots=True)
class DeleteVolume:
    host: str
    resource: str
    body: VolumeRemoval


@dataclass(frozen=True, slots=True)
class PutDomain:
    host: str
    body: DomainDesired


@dataclass(frozen=True, slots=True)
class DeleteDomain:
    host: str
    name: str
    body: DomainRemoval


@dataclass(frozen=True, slots=True)
class Operate:
    host: str
    body: OperationRequest


@dataclass(frozen=True, slots=True)
class Cancel:
    host: str
    operation: str
    body: OperationCancel


Request = PutHost | PutVolume | PutVerdict | DeleteVolume | PutDomain | DeleteDomain | Operate | Cancel
"""One idempotent request to one agent. Its reply is only a hint; progress comes from observing again, except that a
Refusal is handed to the next decision of the object as `Refused`."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An agent's no to a request of the object's last committed decision; `at`: Unix time, seconds.

    The shell decides again at once; the same request is then held back for a while (`due`).
    """

    request: Request
    refusal: Refusal
    at: float


REFUSED_SECONDS = 5.0
"""How long a refused request is held back before it is asked again unchanged."""


PASSING = frozenset({"OperationRunning", "DiskNotPrimary"})
"""An agent's no that passes by itself in a moment: the decision was overtaken. Nobody has to act, and it is soon asked
again; what really stands in the way refuses the step before, by a reason of its own."""
PASSING_SECONDS = 0.5


def _held_back(refusal: Refusal) -> float:
    return PASSING_SECONDS if refusal.reason in PASSING else REFUSED_SECONDS


def refused_again(refused: tuple[Refused, ...]) -> float:
    """Seconds until a request that one of these held back may be asked again."""
    return min((_held_back(r.refusal) for r in refused), default=REFUSED_SECONDS)


RECORD_ENDS = "RecordedOff"


def record_ends(host: HostView) -> Refusal | None:
    """Nothing is promoted or started on a host before the record that it is off has ended in its XenNode: should it be
    lost once more, the record would be taken for evidence that what was started there is off, too. It passes by itself.
    """
    if not host.recorded_off:
        return None
    return Refusal(
        reason=RECORD_ENDS, message=f"{host.name} answers, and is recorded as off (status.fenced) until that is ended"
    )


def _promotes(request: Request) -> bool:
    match request:
        case PutVolume(body=volume):
            return volume.role == "Primary"
        case PutDomain(body=domain):
            return domain.state in ("Running", "Paused")
        case _:
            return isinstance(request, Operate)


def due(requests: tuple[Request, ...], refused: tuple[Refused, ...], world: World) -> tuple[Request, ...]:
    """Those that may be sent now: to hosts whose state is current, not refused a moment ago, nothing that promotes or
    starts where a record says that it is off."""
    held = [r.request for r in refused if world.now - r.at < _held_back(r.refusal)]
    return tuple(
        r
        for r in requests
        if r not in held
        and world.objects.host(r.host).live is not None
        and not (_promotes(r) and world.objects.host(r.host).recorded_off)
    )


DEPOSED = "TermTooOld"
"""An agent's no to a leader that is over: it says nothing about the request, and nothing is concluded from it."""


def refusal_of(requests: tuple[Request, ...], refused: tuple[Refused, ...]) -> Refusal | None:
    """The agents' no to what is to be asked (again), with the host that said it."""
    for no in refused:
        if no.request in requests:
            return Refusal(reason=no.refusal.reason, message=f"{no.request.host}: {no.refusal.message}")
    return None


@dataclass(frozen=True, slots=True)
class Event:
    """A Kubernetes Event on the object."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


LAZY_SECONDS = 1.0
"""How long a status that only tells people something may wait for the next one."""
STEP_SECONDS = 2.0
"""The same while an operation is on its way: one that is over sooner shows its beginning and its end, one that lasts
shows its steps and its progress no more often than this."""


def told_within(status: DrbdVolumeStatus | XenVMStatus) -> float:
    """Seconds that a status which only tells people something may wait."""
    return LAZY_SECONDS if status.operation is None else STEP_SECONDS


@dataclass(frozen=True, slots=True)
class Decision:
    """`status` None: leave it. `finalizer` None: leave it. `ask`: answer these and decide again, do nothing else.

    `lazy`: the status differs only in what is told to people; the shell may write it up to so many seconds later, so
    that the quick steps of an operation cost one write together. Intents are never lazy (0.0).
    `look_again`: seconds until the next look though nothing changes; None: only when something changes.
    """

    status: XenNodeStatus | DrbdVolumeStatus | XenVMStatus | None = None
    finalizer: Literal["add", "remove"] | None = None
    lazy: float = 0.0
    events: tuple[Event, ...] = ()
    requests: tuple[Request, ...] = ()
    power: tuple[PowerCommand, ...] = ()
    ask: tuple[Question, ...] = ()
    look_again: float | None = None

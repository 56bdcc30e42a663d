"""Decisions about fencing a host: test its fence agent, switch it off when it is lost, record what is proved.

The order is what makes a record evidence: status.fencing is written before the fence agent is first asked to switch
off; status.fenced only when it did, a second question has confirmed that the host is off, and nothing was heard of the
host since. Killed between any two of these, a controller finds the request and asks again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.protocol import Refusal
from controller.api.fencing import FencedStatus, FencingStatus
from controller.api.xennode import XenNode, XenNodeStatus
from controller.domain.actions import Event
from controller.domain.conditions import Conditions, seconds, timestamp
from controller.domain.fencing_guards import PASSING, boot_of, partners, to_save, why_not
from controller.domain.power import Device, PowerCommand, PowerOff, PowerResult, PowerStatus
from controller.domain.power_on import retry_after, switch_on
from controller.domain.world import HostView, World

TEST_SECONDS = 600.0
"""How often a fence agent is asked whether it can be asked."""
LOOK_SECONDS = 5.0
"""Between two looks while a fencing waits for something that nobody tells."""
HEARD_SECONDS = 20.0
"""A host that was silent for longer when a run began had not answered then: no run of ours silenced it."""
KEPT_TIMES = 8


@dataclass(slots=True)
class Fencing:
    """What is decided about fencing; the decision about the XenNode takes it over."""

    fencing: FencingStatus | None
    fenced: FencedStatus | None
    device: str
    times: tuple[str, ...]
    events: list[Event] = field(default_factory=list)
    power: list[PowerCommand] = field(default_factory=list)
    look_again: float | None = None
    unheard: str = ""  # why a confirmed "off" is not recorded

    def into(self, status: XenNodeStatus) -> XenNodeStatus:
        return status.model_copy(
            update={
                "fencing": self.fencing, "fenced": self.fenced, "fencing_device": self.device, "fencings": self.times,
            }
        )  # fmt: skip

    def again(self, after: float) -> None:
        self.look_again = min(after, self.look_again if self.look_again is not None else after)


def decide_fencing(world: World, node: XenNode, conditions: Conditions) -> Fencing:
    """Sets the conditions FencingReady and Fenced; Stalled when a host lives that was said to be off."""
    status = node.status
    made = Fencing(status.fencing, status.fenced, status.fencing_device, status.fencings)
    view = world.objects.host(node.name)
    _test(world, node, view, conditions, made)
    _recorded(world, node, view, made)
    switch_on(world, node, made)
    refusal = None
    if made.fenced is None:
        refusal = _go_on(world, node, view, made)
    _tell(world, node, view, conditions, made, refusal)
    return made


# --- the test -------------------------------------------------------------------------------------------------------


def _test(world: World, node: XenNode, view: HostView, conditions: Conditions, made: Fencing) -> None:
    """Ask now and then whether the host is on. A device counts as proved when it said "on" of a host that answers."""
    spec = node.spec.fencing
    if spec is None or made.device != spec.device:
        made.device = ""
    if spec is None:
        return
    question = PowerStatus(node.name, Device.of(spec))
    result = world.power.get(question)
    over = result is not None and result.state != "running"
    if result is None or (over and world.now - result.at >= TEST_SECONDS):
        made.power += [question] if made.fencing is None else []
    elif over:
        made.again(result.at + TEST_SECONDS - world.now)
    if result is not None and over:
        _tested(world, node, view, conditions, made, result)
        return
    conditions.keep("FencingReady")
    if conditions.of("FencingReady") is None:
        conditions.set("FencingReady", "Unknown", "Testing", f"{spec.agent} is asked whether the host is on")


def _tested(
    world: World, node: XenNode, view: HostView, conditions: Conditions, made: Fencing, result: PowerResult
) -> None:
    assert node.spec.fencing is not None
    spec, alive = node.spec.fencing, view.live is not None
    if result.state == "failed":
        conditions.set("FencingReady", "False", result.reason, result.said)
    elif result.state == "off" and alive and world.objects.silent(node.name) >= world.now - result.at:
        conditions.keep("FencingReady")  # not heard since: it may just have been switched off
        made.again(LOOK_SECONDS)
    elif result.state == "off" and alive:
        told = f"{spec.agent} says that the host is off, and its agent answers: spec.fencing is about another machine"
        conditions.set("FencingReady", "False", "SaysOff", told)
        made.device = ""
    else:
        made.device = spec.device if result.state == "on" and alive else made.device
        conditions.set("FencingReady", "True", "Answers", f"{spec.agent} says whether the host is on")
    ready = conditions.of("FencingReady")
    if conditions.changed("FencingReady") and ready is not None and ready.status == "False":
        made.events.append(Event("Warning", ready.reason, ready.message))


# --- the record -----------------------------------------------------------------------------------------------------


def _recorded(world: World, node: XenNode, view: HostView, made: Fencing) -> None:
    """A record ends with the boot that it is about, or is contradicted by it."""
    fenced = made.fenced
    if fenced is None:
        return
    if fenced.contradicted_at is not None and _device(node) != fenced.device:
        made.fenced = None  # a person has changed what was wrong
    elif view.state is not None and (view.live is not None or view.heard_since_fenced):
        if view.state.boot_id != fenced.boot_id:
            made.fenced = None
            made.events.append(Event("Normal", "CameBack", "the host that was fenced answers again, in another boot"))
        elif fenced.contradicted_at is None:
            made.fenced = fenced.model_copy(update={"contradicted_at": timestamp(world.now)})
            made.events.append(Event("Warning", "FencedButAlive", _contradiction(fenced)))
    made.fencing = None


def _device(node: XenNode) -> str:
    return node.spec.fencing.device if node.spec.fencing else ""


def _contradiction(fenced: FencedStatus) -> str:
    return (
        f"the host was said to be off ({fenced.evidence}), and its agent answers in the same boot: it was never off. "
        "Find out which machine spec.fencing switches off and correct it; look at the VMs that were started elsewhere"
    )


# --- the fencing ----------------------------------------------------------------------------------------------------


def _go_on(world: World, node: XenNode, view: HostView, made: Fencing) -> Refusal | None:
    """Begin, go on with, or give up a fencing. Returns what stands in its way."""
    refusal = why_not(world, node)
    if made.fencing is None:
        if refusal is None:
            _begin(world, node, view, made)
        elif refusal.reason in PASSING:
            made.again(LOOK_SECONDS)
        return refusal
    now, command = made.fencing, _command(world, node, made.fencing)
    result = world.power.get(command) if command else None
    if result is not None and result.state == "running":
        made.again(LOOK_SECONDS)
        return None
    if result is not None and result.state == "off" and _record(world, node, view, made, result):
        return None
    if refusal is not None and (refusal.reason not in PASSING or command is None):
        made.fencing = None
        made.events.append(Event("Normal", "FencingGivenUp", f"{now.operation}: {refusal.message}"))
    elif result is not None:
        _failed(world, made, now, result)
    elif refusal is None and command is not None and world.now >= seconds(now.not_before):
        made.power.append(command)
        made.again(LOOK_SECONDS)
    else:
        made.again(LOOK_SECONDS)
    return refusal


def _begin(world: World, node: XenNode, view: HostView, made: Fencing) -> None:
    assert node.spec.fencing is not None
    at = timestamp(world.now)
    names = sorted(vm.name for vm in to_save(world, node.name))
    told = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
    made.fencing = FencingStatus(
        operation=f"fence-{int(world.now)}-{node.name}"[:63],
        requested_at=at,
        reason=f"silent for {world.objects.silent(node.name):.0f} s, and missed by DRBD's peers; VMs to save: {told}",
        boot_id=boot_of(view),
        device=node.spec.fencing.device,
        not_before=at,
        answering=tuple(name for name in sorted(world.objects.hosts()) if world.objects.silent(name) <= HEARD_SECONDS),
    )
    made.times = (*made.times, at)[-KEPT_TIMES:]
    told = f"{node.spec.fencing.agent} is to switch it off: {made.fencing.reason}"
    made.events.append(Event("Warning", "Fencing", told))
    command = _command(world, node, made.fencing)
    made.power += [command] if command else []
    made.again(LOOK_SECONDS)


def _command(world: World, node: XenNode, now: FencingStatus) -> PowerOff | None:
    """None: spec.fencing is another one since."""
    if node.spec.fencing is None or _device(node) != now.device:
        return None
    return PowerOff(node.name, Device.of(node.spec.fencing), now.operation, now.attempt, partners(world, node.name))


def _record(world: World, node: XenNode, view: HostView, made: Fencing, result: PowerResult) -> bool:
    """The host was switched off, and that was confirmed. Whether that settles it."""
    now = made.fencing
    assert now is not None
    silent = world.objects.silent(node.name)
    fenced = FencedStatus(
        at=timestamp(result.at), boot_id=now.boot_id, operation=now.operation, device=now.device, evidence=result.said
    )
    if view.live is None and silent >= world.now - result.began and boot_of(view) == now.boot_id:
        if unheard := _fell_silent(world, node, now, result):
            made.unheard = (
                f"{node.spec.fencing.agent if node.spec.fencing else 'the fence agent'} says that it is off, but"
                f" {', '.join(unheard)} fell silent in that very run: it may be what was switched off. It is recorded"
                f" when {', '.join(unheard)} is heard. Check which machine spec.fencing switches; if both are off, set"
                " outOfService: true on both"
            )
            made.again(1.0)
            return True
        made.fenced, made.fencing = fenced, None
        made.events.append(Event("Warning", "Fenced", f"the host is off: {result.said}"))
        return True
    if view.live is None or view.live.boot_id != now.boot_id:
        return False  # it said something meanwhile: whether it was before the end is not known; once more
    if silent < world.now - result.at:
        made.fenced = fenced.model_copy(update={"contradicted_at": timestamp(world.now)})
        made.fencing = None
        made.events.append(Event("Warning", "FencedButAlive", _contradiction(fenced)))
        return True
    made.again(1.0)  # not heard since, but not yet taken for lost either
    return True


def _fell_silent(world: World, node: XenNode, now: FencingStatus, result: PowerResult) -> list[str]:
    """Hosts that answered when it was decided, or may have when the run began, and were not heard since it ended."""

    def answered(name: str) -> bool:
        return name in now.answering or world.objects.silent(name) <= world.now - result.began + HEARD_SECONDS

    return [
        name
        for name, host in sorted(world.objects.hosts().items())
        if name != node.name
        and host.node is not None
        and not host.node.spec.out_of_service
        and world.objects.silent(name) > world.now - result.at
        and answered(name)
    ]


def _failed(world: World, made: Fencing, now: FencingStatus, result: PowerResult) -> None:
    said = result.said if result.state == "failed" else "the host's agent was heard in the meantime"
    wait = retry_after(now.attempt)
    made.fencing = now.model_copy(
        update={"attempt": now.attempt + 1, "not_before": timestamp(world.now + wait), "result": said}
    )
    told = f"attempt {now.attempt}: {said}. It is not taken for off; again in {wait:.0f} s"
    made.events.append(Event("Warning", "FencingFailed", told))
    made.again(wait)


# --- what is told ---------------------------------------------------------------------------------------------------


def _tell(
    world: World, node: XenNode, view: HostView, conditions: Conditions, made: Fencing, refusal: Refusal | None
) -> None:
    if made.fenced is not None and made.fenced.contradicted_at is not None:
        message = _contradiction(made.fenced)
        conditions.set("Fenced", "False", "FencedButAlive", message)
        conditions.stalled("FencedButAlive", message)
    elif made.fenced is not None and made.fenced.power_on is not None:
        told = made.fenced.power_on.result or "its fence agent is asked to switch it on"
        reason = "SwitchedOn" if made.fenced.power_on.done_at else "SwitchingOn"
        conditions.set("Fenced", "False", reason, f"it was off ({made.fenced.evidence}), and is on again: {told}")
    elif made.fenced is not None:
        conditions.set("Fenced", "True", "SwitchedOff", made.fenced.evidence)
    elif made.unheard:
        conditions.set("Fenced", "False", "AnotherFellSilent", made.unheard)
    elif made.fencing is not None and made.fencing.result:
        told = f"attempt {made.fencing.attempt - 1} failed: {made.fencing.result}. The host is not taken for off"
        conditions.set("Fenced", "False", "FencingFailed", told)
    elif made.fencing is not None:
        conditions.set("Fenced", "False", "Fencing", made.fencing.reason)
    elif refusal is not None and view.live is None and refusal.reason not in ("TakenOut", "NothingToSave"):
        told = f"not switched off: {refusal.message}"
        conditions.set("Fenced", "False", refusal.reason, told)
        if conditions.changed("Fenced") and refusal.reason not in ("Silent", "AgentDown"):
            made.events.append(Event("Warning", refusal.reason, told))

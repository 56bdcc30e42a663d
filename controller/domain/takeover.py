"""A VM whose host is known to be off: whether another host may take it over, by evidence and facts, never by time."""

from __future__ import annotations

from agent.protocol import Refusal
from controller.api.xenvm_status import Placement
from controller.domain import grants
from controller.domain.engine import blocked, refusals
from controller.domain.plans.fail_over import FAIL_OVER, TakeOver
from controller.domain.vm_case import VmCase
from controller.domain.wanted import WORDS, Wanted, trouble


def take_over(case: VmCase, want: Wanted) -> VmCase | Refusal:
    """The case with the placement on the host that takes it over, written before anything is asked; or why not."""
    assert case.placement is not None
    if want.nowhere is not None:
        return want.nowhere
    why_not = refusals(FAIL_OVER, TakeOver(case, want.node))
    if why_not:
        reason = blocked(f"{FAIL_OVER.title} to {want.node}", why_not)
        return Refusal(reason=reason.reason, message=f"{host_off(case)}. {reason.message}")
    return case.planned(
        placement=Placement(node=want.node, epoch=grants.highest_epoch(case) + 1),
        # A run that another host ended must not hold this one back.
        run=case.vm.status.run + (1 if case.vm.status.run and case.vm.spec.state != "Stopped" else 0),
    )


def host_off(case: VmCase) -> str:
    """`mk1 is off, by a person's word (outOfService)`"""
    assert case.home is not None
    cause = trouble(case.home)
    return f"{case.home.name} is {WORDS[cause] if cause else 'off'}"


def waits_for_host(case: VmCase) -> Refusal:
    """onNodeFailure: Stay, and the host is off: what a person may do."""
    others = [node for node in case.candidates if case.placement is None or node != case.placement.node]
    start = f" To start it on {others[0]} now: set spec.node: {others[0]}, or onNodeFailure: FailOver" if others else ""
    return Refusal(
        reason="HostOff",
        message=f"{host_off(case)}; with onNodeFailure: Stay the VM waits until it is back.{start}",
    )

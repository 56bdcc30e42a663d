"""The plans as text and diagrams: docs/plans.md is made from the same data that the engine runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from controller.domain.engine import Plan
from controller.domain.plans.create_volume import CREATE_VOLUME
from controller.domain.plans.delete_volume import DELETE_VOLUME
from controller.domain.plans.fail_over import FAIL_OVER
from controller.domain.plans.migrate_vm import MIGRATE_VM
from controller.domain.plans.start_vm import START_VM, STOP_VM

PLANS: tuple[Plan[Any], ...] = (CREATE_VOLUME, DELETE_VOLUME, START_VM, STOP_VM, MIGRATE_VM, FAIL_OVER)

HEAD = """\
<!-- Made by hack/generate from controller/domain/plans. Do not edit. -->
# Operations, step by step

An operation is a plan: guards that must all agree before it begins, then steps. Where it stands is never stored: it is
the first step that the observations of the hosts do not confirm. So a controller that is killed anywhere, a lost reply
or a second controller only means that somebody observes again. `status.operation` names the plan and the step.
"""


def markdown() -> str:
    """docs/plans.md: for each plan a diagram (Mermaid), its guards and its steps."""
    return "\n".join([HEAD, *(line for plan in PLANS for line in _plan(plan))])


def _plan(plan: Plan[Any]) -> Iterator[str]:
    yield f"## {plan.title}: `{plan.id}`\n"
    yield "```mermaid"
    yield from _diagram(plan)
    yield "```\n"
    yield "| guard | it begins only if |"
    yield "|---|---|"
    for guard in plan.guards:
        yield f"| {guard.name} | {guard.says} |"
    yield ""
    yield "| step | what happens | written before | if everything stops here |"
    yield "|---|---|---|---|"
    for step in plan.steps:
        yield f"| {step.name} | {step.does} | {step.record or '-'} | {step.interrupted} |"
    yield ""


def _diagram(plan: Plan[Any]) -> Iterator[str]:
    yield "stateDiagram-v2"
    first = plan.steps[0].name
    yield "    [*] --> Guards"
    yield f"    Guards --> {first}: all agree"
    yield "    Guards --> Guards: blocked, with every reason"
    for step, after in zip(plan.steps, [*plan.steps[1:], None], strict=True):
        yield f"    {step.name} --> {after.name if after else '[*]'}: observed"

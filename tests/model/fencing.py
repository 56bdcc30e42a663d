"""Fencing at one agent: it keeps verdicts and does what follows from them. What that is decides agent.fence_records."""

from __future__ import annotations

import observe
import storage
import verdicts
from states import NAMES, Verdict, World, with_host

from agent import fence_records
from agent.fence_records import FAILED, Answer, FenceFacts, GiveBack, Outdate, Resume, Step
from agent.protocol import VerdictDesired


def put(world: World, host: int, verdict: Verdict) -> World:
    """agent.fence.Fence.put. Raises agent.core.Refused."""
    one = world.hosts[host]
    wanted = VerdictDesired(
        term=1, uid=verdicts.VOLUME_UID, resource=observe.RESOURCE, verdict=verdicts.told(verdict)
    )  # fmt: skip
    after = fence_records.accept(verdicts.record(one.fence), wanted)
    continued = after.continued_at is not None
    fence = one.fence._replace(verdict=verdict, given_back=after.given_back, continued=continued)
    return with_host(world, host, fence=fence)


def work(world: World, host: int) -> tuple[str, World] | None:
    """agent.fence.Fence._do: one step, from a fresh reading."""
    one, name = world.hosts[host], NAMES[host]
    match _next(world, host):
        case GiveBack():
            held = fence_records.holds(verdicts.record(one.fence), name)
            given = one.fence._replace(given_back=one.fence.given_back or held, continued=False)
            return f"{name}'s agent gives its verdict back", with_host(world, host, fence=given)
        case Resume():
            return f"{name}'s agent resumes its disk", storage.resume(world, host)
        case Outdate():
            return f"{name}'s agent outdates its disk", storage.outdate(world, host)
        case Answer(exit=exit):
            return f"{name}'s handler hears {exit}", storage.handler_heard(world, host, good=exit != FAILED)
    return None  # Wait, Rest


def unheard(world: World, host: int) -> tuple[str, World] | None:
    """The same when no controller was heard of for as long as the volume's policy Continue says."""
    one, name = world.hosts[host], NAMES[host]
    if not world.api.continues or one.heard:
        return None
    step = _next(world, host, unheard=True)
    if step == _next(world, host):
        return None
    if isinstance(step, Answer):
        return f"{name}'s handler hears that no controller is heard of", storage.handler_heard(world, host, good=False)
    assert step == Resume(by_policy=True)
    going = with_host(world, host, fence=one.fence._replace(continued=True))
    return f"{name}'s agent goes on by its policy", storage.resume(going, host)


def _next(world: World, host: int, *, unheard: bool = False) -> Step:
    one = world.hosts[host]
    kernel = observe.kernel(observe.disk_of(world, host)).get(observe.RESOURCE)
    known = verdicts.record(one.fence)
    return fence_records.next_step(
        FenceFacts(NAMES[host], known, kernel, asked=bool(one.fence.asked), continue_now=unheard)
    )

"""Fencing at one agent: it keeps verdicts and does what follows from them. What that is decides agent.fence_records."""

from __future__ import annotations

import observe
import storage
import verdicts
from states import NAMES, Verdict, World, with_host

from agent import fence_records
from agent.fence_records import FAILED, Answer, FenceFacts, GiveBack, Outdate, Resume
from agent.protocol import VerdictDesired


def put(world: World, host: int, verdict: Verdict) -> World:
    """agent.fence.Fence.put. Raises agent.core.Refused."""
    one = world.hosts[host]
    wanted = VerdictDesired(
        term=1, uid=verdicts.VOLUME_UID, resource=observe.RESOURCE, verdict=verdicts.told(verdict)
    )  # fmt: skip
    after = fence_records.accept(verdicts.record(one.fence), wanted)
    return with_host(world, host, fence=one.fence._replace(verdict=verdict, given_back=after.given_back))


def work(world: World, host: int) -> tuple[str, World] | None:
    """agent.fence.Fence._do: one step, from a fresh reading."""
    one, name = world.hosts[host], NAMES[host]
    kernel = observe.kernel(observe.disk_of(world, host)).get(observe.RESOURCE)
    step = fence_records.next_step(FenceFacts(name, verdicts.record(one.fence), kernel, asked=bool(one.fence.asked)))
    match step:
        case GiveBack():
            given = one.fence._replace(given_back=fence_records.holds(verdicts.record(one.fence), name))
            return f"{name}'s agent gives its verdict back", with_host(world, host, fence=given)
        case Resume():
            return f"{name}'s agent resumes its disk", storage.resume(world, host)
        case Outdate():
            return f"{name}'s agent outdates its disk", storage.outdate(world, host)
        case Answer(exit=exit):
            return f"{name}'s handler hears {exit}", storage.handler_heard(world, host, good=exit != FAILED)
    return None  # Wait, Rest

"""`decide_vm`, `decide_volume` and `decide_node` are total: no exception, always a decision, none that breaks a rule
that can be read off the decision itself; in worlds that nobody would build, and in good ones that were spoilt."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache

import objects
import observe
import pytest
import rules
import scenarios
import verdicts
from arbitrary import ANSWERS, REFUSALS, Arbitrary, Told, decide, spoilt, worlds
from explorer import successors
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from states import HOSTS, NAMES, World

from agent.protocol import InitialSync, OperationRequest, VolumeRemoval
from controller.domain.actions import Decision, DeleteVolume, Operate, PutDomain, Refused

pytestmark = pytest.mark.timeout(900)  # seconds on the clock, of a machine that may have much else to do
LIMITS = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],  # to make such a world smaller takes minutes
)
STARTS = (scenarios.running, scenarios.moving, scenarios.new, scenarios.stopped, scenarios.fenced, scenarios.known_off)


def as_objects(world: World) -> Arbitrary:
    """An explored world as the API server and the agents would tell of it."""
    api = world.api
    made = [objects.node(NAMES[host], api.out_of_service[host], api.power[host]) for host in HOSTS]
    found = (*made, objects.volume(api.verdict), *((objects.vm(api),) if api.exists else ()))
    views = {NAMES[host]: observe.view_key(world, host) for host in HOSTS}
    told = {
        name: Told(None if key is None else observe.host_state(key), key is not None) for name, key in views.items()
    }
    return Arbitrary(found, told, observe.NOW, world.leader.term)


@cache
def walked() -> tuple[Arbitrary, ...]:
    """Worlds on a few long ways through what can happen."""
    return tuple(as_objects(world) for seed in range(24) for world in _walk(seed))


def _walk(seed: int) -> Iterator[World]:
    chance = random.Random(seed)
    world = STARTS[seed % len(STARTS)](2, 2)
    for _ in range(60):
        yield world
        after = list(successors(world))
        if not after:
            return
        world = chance.choice(after)[1]


def _hold(made: Arbitrary, data: st.DataObject) -> None:
    cached = made.cache()
    world = made.world(cached)
    for one in made.objects:
        meta = one.metadata
        found = cached.get((type(one).__name__, meta.namespace, meta.name))
        assert found is not None
        decision = decide(world, found)
        if decision.ask:
            answers = {question: data.draw(ANSWERS) for question in decision.ask}
            world = made.world(cached, answers)
            decision = decide(world, found)
            assert not decision.ask
        assert rules.broken(world, found, decision) == []
        if data.draw(st.booleans()):
            no = tuple(Refused(request, data.draw(REFUSALS), made.now) for request in decision.requests)
            assert rules.broken(world, found, decide(world, found, no)) == []


@given(worlds(), st.data())
@LIMITS
def test_any_world_has_a_decision_within_the_rules(made: Arbitrary, data: st.DataObject) -> None:
    _hold(made, data)


@given(spoilt(st.deferred(lambda: st.sampled_from(walked()))), st.data())
@settings(LIMITS, max_examples=700)
def test_a_good_world_that_was_spoilt_has_a_decision_within_the_rules(made: Arbitrary, data: st.DataObject) -> None:
    _hold(made, data)


def test_a_decision_that_breaks_a_rule_is_seen() -> None:
    made = as_objects(scenarios.running(0, 0))
    cached = made.cache()
    world, vm, volume = made.world(cached), cached.vm(objects.VM_KEY), cached.volume(objects.VOLUME_KEY)
    assert vm is not None
    assert volume is not None
    both = tuple(PutDomain(name, observe.desired("Running", 1, 1)) for name in NAMES)
    removal = DeleteVolume("mk1", observe.RESOURCE, VolumeRemoval(term=1, uid=verdicts.VOLUME_UID, policy="Delete"))
    force = Operate("mk2", OperationRequest(id="x", term=1, body=InitialSync(resource="r", uid=verdicts.VOLUME_UID)))

    assert rules.broken(world, vm, decide(world, vm)) == []
    assert "it shall run on two hosts" in rules.broken(world, vm, Decision(requests=both))
    assert "a volume is removed that nobody deleted" in rules.broken(world, volume, Decision(requests=(removal,)))
    assert "force, and mk1 is not seen to be new" in rules.broken(world, volume, Decision(requests=(force,)))

"""Random walks through what can happen to two hosts, their links, their fence agents and the controllers: a host that
counts as off is off, and never are both of a pair switched off."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from controller.api.xennode import XenNodeStatus
from controller.domain.node import decide_node
from controller.domain.power import PowerOff, PowerResult
from controller.domain.world import World
from controller.reconcile.view import View
from tests.unit.domain.lost_host import PEER_LOST, SPEC, node, proved
from tests.unit.domain.worlds import VM_UID, Worlds, host_state, howto, peer, volume_state

HOSTS = ("mk1", "mk2")
WALKS, STEPS = 120, 60


class Walk:
    """The hosts as they are (`on`, `boots`, `agents`, `reached`), beside what the controller knows of them (`worlds`).

    An honest fence agent: what it confirms was so. Runs of it outlive the controller that began them.
    """

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.story: list[str] = []
        self.fenced = 0
        self.worlds = howto(running=True)
        self.on = dict.fromkeys(HOSTS, True)
        self.boots = dict.fromkeys(HOSTS, 1)
        self.agents = dict.fromkeys(HOSTS, True)
        self.reached = dict.fromkeys(HOSTS, True)
        self.link = True
        self.shot: set[str] = set()
        self.heard = 0
        self.runs: list[tuple[PowerOff, float, Worlds | None]] = []
        worlds = self.worlds
        worlds.edit("XenVM", "shaolin", onNodeFailure="FailOver")
        second = {**worlds._raw["XenVM", "shaolin"]["spec"], "node": "mk2", "onNodeFailure": "FailOver", "networks": []}
        worlds.apply("XenVM", "second", {**second, "disks": []}, uid=VM_UID.replace("b", "e"))
        placed = {"observedGeneration": 1, "placement": {"node": "mk2", "epoch": 1}, "run": 1, "lastState": "Running"}
        worlds.set_status("XenVM", "second", placed)
        for name in HOSTS:
            worlds.edit("XenNode", name, fencing={**SPEC, "parameters": {"plug": name}})
            proved(worlds, name)
        self._new_controller()
        self._observe()

    # --- the hosts

    def power_is_lost(self, name: str) -> None:
        self.on[name] = False
        self._observe()

    def power_is_back(self, name: str) -> None:
        if not self.on[name]:
            self.on[name] = True
            self.boots[name] += 1
            self.shot.discard(name)
            self._observe()

    def agent(self, name: str, running: bool) -> None:
        self.agents[name] = running
        self._observe()

    def network(self, name: str, reached: bool) -> None:
        self.reached[name] = reached
        self._observe()

    def replication(self, link: bool) -> None:
        self.link = link
        self._observe()

    def cut_off(self, name: str) -> None:
        """What fencing is for: it lives, and nobody reaches it."""
        self.reached[name] = self.link = False
        self._observe()
        self.time_passes(61.0)
        self.look(name)

    def all_is_well(self, name: str) -> None:
        self.power_is_back(name)
        self.agents[name] = self.reached[name] = self.link = True
        self._observe()

    def time_passes(self, seconds: float) -> None:
        self.worlds.now += seconds
        for told in self.worlds.hosts.values():
            told.silent = 0.0 if told.connected else told.silent + seconds
        self._observe()

    # --- controllers and people

    def look(self, name: str) -> None:
        decision = decide_node(self._world(), node(self.worlds, name))
        if not isinstance(decision.status, XenNodeStatus):
            return
        self.worlds.commit("XenNode", name, decision)
        for command in decision.power:
            if isinstance(command, PowerOff):
                request = decision.status.fencing
                assert request is not None, "asked without a request"
                assert (request.operation, request.attempt) == (command.operation, command.attempt)
                self.worlds.power[command] = PowerResult("running", self.worlds.now)
                self.runs.append((command, self.worlds.now, self.worlds))
            else:
                self.worlds.power[command] = PowerResult(
                    "on" if self.on[name] else "off", self.worlds.now, self.worlds.now
                )

    def another_controller(self) -> None:
        """It remembers nothing, and hears from now on. What the first one began goes on."""
        self.runs = [(command, began, None) for command, began, _ in self.runs]
        self._new_controller()
        self._observe()

    def out_of_service(self, name: str, off: bool) -> None:
        if off and self.on[name]:
            return  # a person's word is true
        self.worlds.edit("XenNode", name, outOfService=off)

    # --- fence agents

    def fence_agent(self, well: bool, lag: float) -> None:
        """One of the runs ends, whoever began it."""
        if not self.runs:
            return
        command, began, asker = self.runs.pop(self.random.randrange(len(self.runs)))
        if self._overtaken(command):
            result = PowerResult("failed", began, self.worlds.now, "Overtaken", "overtaken")
        elif well:
            self.on[command.host] = False
            self.shot.add(command.host)
            self.fenced += 1
            assert self.shot != set(HOSTS), "both hosts of a pair were switched off"
            self._observe()
            result = PowerResult("off", began, self.worlds.now, said="off")
        else:
            result = PowerResult("failed", began, self.worlds.now, "TimedOut", "timed out")
        self.time_passes(lag)
        if asker is not None and command in self.worlds.power:
            self.worlds.power[command] = result

    def _overtaken(self, command: PowerOff) -> bool:
        """As controller.reconcile.power reads it from the API server just before."""
        mine = node(self.worlds, command.host).status.fencing
        if mine is None or (mine.operation, mine.attempt) != (command.operation, command.attempt):
            return True
        others = [node(self.worlds, name).status for name in command.partners]
        return any(one.fencing is not None or one.fenced is not None for one in others)

    # --- what must hold

    def what_counts_as_off_is_off(self) -> None:
        world = self._world()
        for name in HOSTS:
            found = node(self.worlds, name)
            fenced = found.status.fenced
            view = world.objects.host(name)
            assert not (view.off and view.live), f"{name} counts as off and answers"
            if not view.off or found.spec.out_of_service:
                continue
            assert fenced is not None
            lives = self.on[name] and fenced.boot_id == f"boot-{name}-{self.boots[name]}"
            assert not lives, f"{name} counts as off and runs in the boot that was fenced"

    # --- inside

    def _new_controller(self) -> None:
        self.worlds.power.clear()
        self.heard += 1
        for name in HOSTS:
            self.worlds.hosts[name].silent, self.worlds.hosts[name].heard = 0.0, 0
            if not self._answers(name):
                self.worlds.hosts[name].state = None
        self.view = View(self.worlds.cache, self.worlds)  # type: ignore[arg-type]

    def _world(self) -> World:
        worlds = self.worlds
        return World(self.view, worlds.now, worlds.term, worlds.answers, worlds.limits, worlds.power)

    def _answers(self, name: str) -> bool:
        return self.on[name] and self.agents[name] and self.reached[name]

    def _observe(self) -> None:
        """What the agents that answer say now."""
        connected = self.link and all(self.on.values())
        for name in HOSTS:
            told = self.worlds.hosts[name]
            told.connected = self._answers(name)
            if not told.connected:
                continue
            self.heard += 1
            told.silent, told.heard = 0.0, self.heard
            sections: dict[str, Any] = {
                "volumes": {"vm_shaolin": volume_state(peer=peer() if connected else PEER_LOST)},
            }
            told.state = host_state(name, **sections).model_copy(update={"boot_id": f"boot-{name}-{self.boots[name]}"})

    def step(self) -> None:
        """Anything may happen; most often what a fencing is made of."""
        pick, name = self.random.choice, self.random.choice(HOSTS)
        coin = pick((True, False))
        weights: dict[Callable[[], None], int] = {
            lambda: self.look(name): 8,
            lambda: self.fence_agent(coin, pick((0.0, 1.0, 20.0))): 6,
            lambda: self.cut_off(name): 4,
            lambda: self.all_is_well(name): 3,
            lambda: self.time_passes(pick((1.0, 5.0, 61.0, 601.0))): 3,
            self.another_controller: 2,
            lambda: self.power_is_lost(name): 1,
            lambda: self.power_is_back(name): 1,
            lambda: self.agent(name, coin): 2,
            lambda: self.network(name, coin): 2,
            lambda: self.replication(coin): 2,
            lambda: self.out_of_service(name, coin): 1,
        }
        (does,) = self.random.choices(list(weights), list(weights.values()))
        self.story.append(f"{' '.join(does.__code__.co_names[:1])} {name} {coin}")
        does()
        self.what_counts_as_off_is_off()


def test_walks():
    fenced = 0
    for seed in range(WALKS):
        walk = Walk(seed)
        for _ in range(STEPS):
            try:
                walk.step()
            except AssertionError as error:
                pytest.fail(f"seed {seed}: {error}\n" + "\n".join(walk.story))
        fenced += walk.fenced
    assert fenced >= WALKS // 2, "these walks see too few fencings to prove anything"


def test_the_walk_can_reach_a_fencing():
    """By hand, so that a walk that proves nothing is noticed."""
    walk = Walk()
    for name in HOSTS:
        walk.look(name)
    walk.time_passes(1.0)
    for name in HOSTS:
        walk.look(name)
    walk.cut_off("mk1")
    assert [command.host for command, _, _ in walk.runs] == ["mk1"]
    command, began, _ = walk.runs.pop()
    assert not walk._overtaken(command)
    walk.on["mk1"] = False
    walk.worlds.power[command] = PowerResult("off", began, walk.worlds.now, said="off")
    walk.look("mk1")
    assert walk._world().objects.host("mk1").off
    walk.what_counts_as_off_is_off()

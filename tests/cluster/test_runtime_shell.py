"""The shell with scripted decisions on the real API server: what is written when, what is sent when, and what never."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import devcluster
import pytest
from api_objects import Objects, howto

from agent.protocol import DomainDesired, PreflightReport, PreflightRequest, Refusal, VolumeRemoval
from controller.agents.client import Refused as AgentRefused
from controller.api.drbdvolume import DeviceStatus, DrbdVolume, DrbdVolumeStatus
from controller.domain.actions import FINALIZER, Decision, DeleteVolume, Event, Refused, Request
from controller.domain.world import Question, World
from controller.reconcile.power import Fencer
from controller.reconcile.shell import DEPOSED_SECONDS, Shell
from controller.runtime.api_server import ApiServer
from controller.runtime.cache import Cache, Change
from controller.runtime.events import Recorder
from controller.runtime.metrics import Metrics
from controller.runtime.queue import ObjectKey, WorkQueue


def remove(host: str, term: int = 1) -> Request:
    return DeleteVolume(host, "vm_shaolin", VolumeRemoval(term=term, uid="11111111", policy="Retain"))


class Client:
    """An agent that answers as the test wants."""

    def __init__(self, story: list[str]) -> None:
        self.story = story
        self.hangs = False
        self.go_on = asyncio.Event()
        self.no: Refusal | None = None
        self.preflights = 0

    async def send(self, request: Request) -> None:
        self.story.append(f"sent {request.host}")
        if self.hangs:
            await self.go_on.wait()
        if self.no is not None:
            raise AgentRefused(self.no)

    async def preflight(self, body: PreflightRequest) -> PreflightReport:
        self.preflights += 1
        return PreflightReport()


class Connection:
    def __init__(self, client: Client) -> None:
        self.client, self.connected, self.state, self.error = client, True, None, ""


class Connections:
    """Stands for Supervisors: only who answers."""

    def __init__(self, *hosts: str) -> None:
        self.story: list[str] = []
        self.clients = {host: Client(self.story) for host in hosts}

    def get(self, node: str) -> Connection | None:
        return Connection(self.clients[node]) if node in self.clients else None


class Leader:
    term = 7
    leading = True


class Setting:
    def __init__(self, server: ApiServer, namespace: str) -> None:
        self.server = server
        self.cache, self.queue, self.leader = Cache(), WorkQueue(), Leader()
        self.connections = Connections("mk1", "mk2")
        self.story = self.connections.story
        self.key: ObjectKey = ("DrbdVolume", namespace, "vm-shaolin")
        self.changes: list[Change] = []
        self.worlds: list[tuple[World, tuple[Refused, ...]]] = []
        self.decide: Callable[[World, DrbdVolume, tuple[Refused, ...]], Decision] = lambda *_: Decision()
        self.recorder = Recorder(server, "test")
        self.now = 1000.0
        self.shell = Shell(
            api=server,
            cache=self.cache,
            queue=self.queue,
            supervisors=self.connections,  # type: ignore[arg-type]
            leadership=self.leader,
            recorder=self.recorder,
            metrics=Metrics(),
            fencer=Fencer(server, Path("/usr/sbin"), "xentandem-fencing"),
            changed=self.changes.append,
            on_step=self._step,
            decide={"DrbdVolume": self._decide},
            now=lambda: self.now,
        )

    async def _step(self, name: str, key: ObjectKey) -> None:
        self.story.append(name)

    def _decide(self, world: World, found: Any, refused: tuple[Refused, ...]) -> Decision:
        self.worlds.append((world, refused))
        return self.decide(world, found, refused)

    @property
    def volume(self) -> DrbdVolume:
        found = self.cache.get(self.key)
        assert isinstance(found, DrbdVolume)
        return found

    async def look(self) -> None:
        await self.shell.reconcile(self.key)
        for _ in range(50):
            if not self.shell.lanes.busy or any(client.hangs for client in self.connections.clients.values()):
                return
            await asyncio.sleep(0.001)


@pytest.fixture
async def setting(cluster: devcluster.Cluster, namespace: str, objects: Objects) -> AsyncIterator[Setting]:
    server = ApiServer(str(cluster.kubeconfig))
    made = Setting(server, namespace)
    made.cache.upsert(objects.create(howto("DrbdVolume")))
    yield made
    made.shell.lanes.cancel()
    await server.close()


def status(minor: int) -> DrbdVolumeStatus:
    return DrbdVolumeStatus(observed_generation=1, phase="Creating", device=DeviceStatus(minor=minor, port=7789))


async def test_the_finalizer_comes_before_the_status_and_the_status_before_any_request(setting: Setting) -> None:
    setting.decide = lambda world, found, refused: Decision(
        finalizer=None if FINALIZER in found.metadata.finalizers else "add", status=status(5), requests=(remove("mk1"),)
    )
    await setting.look()
    assert setting.story == ["before finalizer", "after finalizer"]
    await setting.look()
    assert setting.story[2:] == [
        "before status", "after status", "before DeleteVolume mk1", "sent mk1", "after DeleteVolume mk1",
    ]  # fmt: skip
    assert setting.volume.metadata.finalizers == (FINALIZER,)
    assert setting.volume.status.device == DeviceStatus(minor=5, port=7789)
    assert setting.worlds[0][0].term == 7


async def test_a_decision_about_an_old_version_is_dropped_whole(setting: Setting) -> None:
    path = f"/apis/xentandem.io/v1alpha1/namespaces/{setting.key[1]}/drbdvolumes/vm-shaolin"
    await setting.server.request(
        "PATCH", path, {"metadata": {"labels": {"touched": "yes"}}}, content_type="application/merge-patch+json"
    )
    setting.decide = lambda *_: Decision(
        status=status(5), events=(Event("Normal", "Placed", "here"),), requests=(remove("mk1"),)
    )
    await setting.look()
    assert setting.story == ["before status"]
    assert setting.recorder._queue.empty()
    assert setting.volume.metadata.labels == {"touched": "yes"}, "and the next decision sees the new version"
    assert setting.queue.delayed + len(setting.queue) == 1
    await setting.look()
    assert setting.volume.status.device is not None


async def test_an_unchanged_status_is_not_written(setting: Setting) -> None:
    setting.decide = lambda *_: Decision(status=status(5))
    await setting.look()
    before = dict(setting.server.writes)
    await setting.look()
    await setting.look()
    assert dict(setting.server.writes) == before


async def test_a_lazy_status_waits_for_the_next_ones_but_requests_do_not(setting: Setting) -> None:
    setting.decide = lambda *_: Decision(status=status(5), lazy=1.0, requests=(remove("mk1"),))
    await setting.look()
    assert not setting.server.writes
    assert "sent mk1" in setting.story
    setting.now += 0.6
    setting.decide = lambda *_: Decision(status=status(6), lazy=1.0)
    await setting.look()
    assert not setting.server.writes
    setting.now += 0.5
    await setting.look()
    assert setting.volume.status.device == DeviceStatus(minor=6, port=7789)
    assert setting.server.writes == {("put", "drbdvolumes/status"): 1}


async def test_who_does_not_lead_writes_nothing_and_asks_nothing(setting: Setting) -> None:
    setting.leader.leading = False
    setting.decide = lambda *_: Decision(status=status(5), requests=(remove("mk1"),))
    await setting.look()
    assert setting.story == []
    assert setting.worlds == []


async def test_what_was_left_out_without_the_lease_is_looked_at_again_when_it_is_renewed_late(setting: Setting) -> None:
    setting.leader.leading = False
    setting.decide = lambda *_: Decision()
    await setting.look()
    assert setting.queue.delayed == 1
    setting.leader.leading = True
    assert await asyncio.wait_for(setting.queue.get(), DEPOSED_SECONDS + 5) == setting.key


async def test_leadership_is_looked_at_right_before_each_write_and_each_request(setting: Setting) -> None:
    lost_at = ""

    async def step(name: str, key: ObjectKey) -> None:
        setting.story.append(name)
        setting.leader.leading = name != lost_at

    setting.shell._on_step = step
    setting.decide = lambda *_: Decision(status=status(5), requests=(remove("mk1"),))
    lost_at = "before status"
    await setting.look()
    assert setting.story == ["before status"]
    assert not setting.server.writes
    setting.leader.leading = True
    lost_at = "before DeleteVolume mk1"
    await setting.look()
    assert setting.story[-1] == "before DeleteVolume mk1"
    assert "sent mk1" not in setting.story


async def test_a_host_that_hangs_holds_up_no_other_host_and_no_other_decision(setting: Setting) -> None:
    setting.connections.clients["mk1"].hangs = True
    setting.decide = lambda *_: Decision(requests=(remove("mk1"), remove("mk2")))
    await asyncio.wait_for(setting.look(), 10)
    async with asyncio.timeout(10):
        while "after DeleteVolume mk2" not in setting.story:  # noqa: ASYNC110 - the shell's own task
            await asyncio.sleep(0.001)
    setting.decide = lambda *_: Decision(status=status(5), requests=(remove("mk2", term=8),))
    await asyncio.wait_for(setting.look(), 10)
    assert setting.volume.status.device is not None
    assert setting.story.count("sent mk1") == 1


async def test_an_object_is_let_go_only_when_nothing_is_asked_for_it_any_more(setting: Setting) -> None:
    """What is under way could leave something on the host that nobody looks after."""
    setting.decide = lambda *_: Decision(finalizer="add")
    await setting.look()
    client = setting.connections.clients["mk1"]
    client.hangs = True
    setting.decide = lambda *_: Decision(requests=(remove("mk1"),))
    await asyncio.wait_for(setting.look(), 10)
    setting.decide = lambda *_: Decision(finalizer="remove")
    await asyncio.wait_for(setting.look(), 10)
    assert setting.volume.metadata.finalizers == (FINALIZER,)
    client.hangs = False
    client.go_on.set()
    assert await asyncio.wait_for(setting.queue.get(), 10) == setting.key
    setting.queue.done(setting.key)
    await setting.look()
    assert list(setting.volume.metadata.finalizers) == []


async def test_a_refusal_is_told_to_the_next_decision(setting: Setting) -> None:
    no = Refusal(reason="InUse", message="domain shaolin has it")
    setting.connections.clients["mk1"].no = no
    setting.decide = lambda *_: Decision(requests=(remove("mk1"),))
    await setting.look()
    assert await asyncio.wait_for(setting.queue.get(), 10) == setting.key
    await setting.look()
    assert [(one.request, one.refusal) for one in setting.worlds[-1][1]] == [(remove("mk1"), no)]


async def test_a_host_without_a_node_is_an_unknown_outcome(setting: Setting) -> None:
    setting.decide = lambda *_: Decision(requests=(remove("mk9"),))
    await setting.look()
    assert "after DeleteVolume mk9" not in setting.story
    assert setting.shell.lanes.refused(setting.key) == ()


async def test_questions_are_asked_before_anything_is_done(setting: Setting) -> None:
    config = {"memory_mib": 64, "max_memory_mib": 64}
    domain = DomainDesired.model_validate(
        {"term": 7, "epoch": 1, "uid": "11111111", "namespace": "default", "name": "a", "state": "Running"}
        | {"config": config}
    )
    asked = tuple(Question(host, PreflightRequest(side="target", domain=domain)) for host in ("mk1", "mk9"))

    def decide(world: World, found: DrbdVolume, refused: tuple[Refused, ...]) -> Decision:
        if not all(question in world.answers for question in asked):
            return Decision(ask=asked, status=status(9), requests=(remove("mk1"),))
        return Decision(status=status(5))

    setting.decide = decide
    await setting.look()
    assert setting.story == []
    assert await asyncio.wait_for(setting.queue.get(), 10) == setting.key
    await setting.look()
    answers = setting.worlds[-1][0].answers
    assert answers[asked[0]] == PreflightReport()
    assert isinstance(answers[asked[1]], str)
    assert setting.volume.status.device == DeviceStatus(minor=5, port=7789)


async def test_a_status_that_the_schema_refuses_is_said_loudly_and_nothing_is_sent(
    setting: Setting, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = status(5).model_copy(update={"phase": "Nonsense"})
    setting.decide = lambda *_: Decision(status=wrong, requests=(remove("mk1"),))
    await setting.look()
    assert "sent mk1" not in setting.story
    assert setting.queue.delayed == 1
    assert "refused our status" in capsys.readouterr().out


async def test_a_decision_that_fails_is_tried_again_later_and_holds_up_nobody(setting: Setting) -> None:
    def decide(*_: object) -> Decision:
        raise RuntimeError("a defect")

    setting.decide = decide
    await setting.look()
    assert setting.queue.delayed == 1


async def test_what_is_gone_is_forgotten(setting: Setting) -> None:
    setting.cache.remove_key(setting.key, setting.volume.metadata.uid)
    await setting.look()
    assert setting.worlds == []


async def test_a_write_without_an_answer_is_found_out_before_the_next_decision(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API server took it, the answer was lost: the next decision is made from what was written."""
    from controller.runtime.api_server import Unanswered

    real = setting.server.request

    async def lossy(method: str, path: str, *args: Any, **options: Any) -> Any:
        answer = await real(method, path, *args, **options)
        if method == "PUT":
            raise Unanswered("the connection broke")
        return answer

    monkeypatch.setattr(setting.server, "request", lossy)
    setting.decide = lambda *_: Decision(status=status(5), requests=(remove("mk1"),))
    await setting.look()
    assert "sent mk1" not in setting.story
    assert setting.volume.status.device == DeviceStatus(minor=5, port=7789)
    await setting.look()
    assert "sent mk1" in setting.story
    assert setting.story.count("before status") == 1

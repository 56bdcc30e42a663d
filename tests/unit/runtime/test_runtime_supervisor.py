"""Following one agent: snapshot, changes, gaps, silence, and a stream that comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from raw_objects import until

from agent.protocol import HostFacts, HostState, Refusal, VmState, VolumeState, WatchEvent
from controller.agents.client import SILENCE_SECONDS, AgentClient, Unreachable
from controller.agents.supervisor import GRACE_SECONDS, Gap, HostChange, Supervisor
from controller.domain.world import NO_ANSWER_YET


class Script(AgentClient):
    """A client whose streams are scripted; each `watch` is the next stream."""

    def __init__(self) -> None:
        self.lines: asyncio.Queue[WatchEvent | Exception] = asyncio.Queue()
        self.watches = 0

    async def watch(self) -> AsyncIterator[WatchEvent]:
        self.watches += 1
        while True:
            line = await self.lines.get()
            if isinstance(line, Exception):
                raise line
            yield line

    async def close(self) -> None:
        pass


def host(revision: int = 1, boot: str = "b1", node: str = "mk1", **values: object) -> HostState:
    made = HostState(
        node=node, boot_id=boot, revision=revision, agent_version="1", agent_started_at="2031-02-01T10:00:00Z", term=1
    )
    return made.model_copy(update=values)


def snapshot(state: HostState) -> WatchEvent:
    return WatchEvent(type="snapshot", boot_id=state.boot_id, revision=state.revision, state=state)


def changed(revision: int, boot: str = "b1", **values: object) -> WatchEvent:
    return WatchEvent.model_validate({"type": "changed", "boot_id": boot, "revision": revision, **values})


def beat(revision: int, boot: str = "b1") -> WatchEvent:
    return WatchEvent(type="heartbeat", boot_id=boot, revision=revision)


class Setting:
    def __init__(self) -> None:
        self.now = 0.0
        self.seen: list[HostChange] = []
        self.client = Script()
        self.supervisor = Supervisor("mk1", self.client, self.seen.append, clock=lambda: self.now, first_retry=0.001)


@pytest.fixture
async def setting() -> AsyncIterator[Setting]:
    made = Setting()
    yield made
    await made.supervisor.stop()


VOLUME = VolumeState(resource="r", uid="11111111", namespace="default", name="v")
VM = VmState(
    uid="22222222", namespace="default", name="a", epoch=1, granted=True, desired="Running", run=1, status="running"
)


def test_changes_are_taken_in_their_order_and_told_with_what_was_before() -> None:
    setting = Setting()
    setting.supervisor.take(snapshot(host(volumes={"r": VOLUME})))
    setting.supervisor.take(changed(2, volumes={"r": None}, vms={VM.uid: VM}, term=7))
    state = setting.supervisor.state
    assert state is not None
    assert (state.revision, state.term, state.volumes, state.vms) == (2, 7, {}, {VM.uid: VM})
    told = {(section, key): (old, new) for section, key, old, new in setting.seen[-1].entries}
    assert told["volumes", "r"] == (VOLUME, None)
    assert told["vms", VM.uid] == (None, VM)
    assert ("host", "") in told


def test_problems_that_are_over_are_told_too() -> None:
    setting = Setting()
    setting.supervisor.take(snapshot(host(problems=(Refusal(reason="LvmUnreadable", message="lvs hangs"),))))
    setting.supervisor.take(changed(2, problems=(), facts=HostFacts(xen_version="4.17.5")))
    state = setting.supervisor.state
    assert state is not None
    assert state.problems == ()
    assert state.facts.xen_version == "4.17.5"


@pytest.mark.parametrize("line", [changed(3), changed(1), changed(2, boot="b2"), beat(2), beat(1, boot="b2")])
def test_a_line_that_does_not_follow_is_a_gap(line: WatchEvent) -> None:
    setting = Setting()
    setting.supervisor.take(snapshot(host()))
    with pytest.raises(Gap):
        setting.supervisor.take(line)


def test_a_change_before_the_snapshot_is_a_gap() -> None:
    with pytest.raises(Gap):
        Setting().supervisor.take(changed(2))


def test_another_hosts_agent_at_the_address_is_not_believed() -> None:
    setting = Setting()
    with pytest.raises(Gap, match="mk2"):
        setting.supervisor.take(snapshot(host(node="mk2")))
    assert not setting.supervisor.connected


def test_silence_is_no_connection_though_nobody_noticed() -> None:
    setting = Setting()
    setting.supervisor.take(snapshot(host()))
    setting.now = SILENCE_SECONDS - 0.1
    assert setting.supervisor.connected
    setting.supervisor.take(beat(1))
    setting.now += SILENCE_SECONDS - 0.1
    assert setting.supervisor.connected
    setting.now += 0.2
    assert not setting.supervisor.connected


def test_a_second_snapshot_tells_only_what_differs() -> None:
    setting = Setting()
    setting.supervisor.take(snapshot(host(volumes={"r": VOLUME}, vms={VM.uid: VM})))
    assert setting.seen[-1].connection
    other = VOLUME.model_copy(update={"disk": "UpToDate"})
    setting.supervisor.take(snapshot(host(revision=9, volumes={"r": other}, vms={VM.uid: VM})))
    assert not setting.seen[-1].connection
    assert [(section, key) for section, key, _, _ in setting.seen[-1].entries if section != "host"] == [
        ("volumes", "r")
    ]


async def test_a_broken_stream_that_comes_back_within_its_grace_is_nobodys_trouble(setting: Setting) -> None:
    setting.supervisor.start()
    setting.client.lines.put_nowait(snapshot(host()))
    await setting.supervisor.tried.wait()
    setting.client.lines.put_nowait(Unreachable("broken"))
    setting.client.lines.put_nowait(snapshot(host(revision=2, vms={VM.uid: VM})))
    await until(lambda: len(setting.seen) == 2)
    assert [change.connection for change in setting.seen] == [True, False]
    assert setting.supervisor.connected


async def test_a_stream_that_stays_away_is_told_once_and_so_is_its_return(setting: Setting) -> None:
    setting.supervisor.start()
    setting.client.lines.put_nowait(snapshot(host()))
    await setting.supervisor.tried.wait()
    setting.client.lines.put_nowait(Unreachable("broken"))
    await until(lambda: setting.client.watches == 2)
    assert setting.supervisor.connected
    setting.now = GRACE_SECONDS
    assert not setting.supervisor.connected
    for _ in range(3):
        setting.client.lines.put_nowait(Unreachable("still broken"))
    await until(lambda: setting.client.watches == 5)
    assert [change.connection for change in setting.seen] == [True, True]
    assert setting.supervisor.error == "still broken"
    setting.client.lines.put_nowait(snapshot(host(revision=2)))
    await until(lambda: len(setting.seen) == 3)
    assert setting.seen[-1].connection
    assert setting.supervisor.connected


async def test_after_a_gap_a_new_snapshot_is_asked_for(setting: Setting) -> None:
    setting.supervisor.start()
    for line in (
        snapshot(host()),
        changed(5, volumes={"r": VOLUME}),
        snapshot(host(revision=6, volumes={"r": VOLUME})),
    ):
        setting.client.lines.put_nowait(line)
    await until(lambda: setting.supervisor.state is not None and setting.supervisor.state.revision == 6)
    assert setting.client.watches == 2


async def test_an_agent_that_never_answered_is_told_once_with_the_reason(setting: Setting) -> None:
    assert setting.supervisor.error == NO_ANSWER_YET
    for _ in range(3):
        setting.client.lines.put_nowait(Unreachable("mk1: no connection to 10.0.0.81:8003: Connection refused"))
    setting.supervisor.start()
    await until(lambda: setting.client.watches == 4)
    assert [change.connection for change in setting.seen] == [True]
    assert setting.supervisor.error == "no connection to 10.0.0.81:8003: Connection refused"

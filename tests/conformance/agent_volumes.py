"""Volumes over the agents' API: their life, deletion, and what is refused."""

from __future__ import annotations

from typing import Any

from agent.protocol import InitialSync, Member, VolumeRemoval
from tests.conformance.agents import Agents, volume_words
from tests.conformance.scenario import scenario
from tests.lab.hosts import RESOURCE, VOLUME_UID, peer_of

OTHER = "88888888-8888-4888-8888-888888888888"
MIB = 1 << 20
PRIMARY_WORDS = "Primary/Secondary UpToDate/UpToDate Connected Established"
SECONDARY_WORDS = "Secondary/Primary UpToDate/UpToDate Connected Established"


@scenario("agents", "A volume made level by level, synced, promoted; one replica retained, one deleted", start="clean")
async def agent_volume(agents: Agents) -> None:
    hosts = agents.hosts
    await hosts.put_volume("mk1", level="Reserved")
    await agents.see("mk1", where="reserved")
    await hosts.put_volume("mk1", level="Provisioned")
    await hosts.becomes("mk1", "metadata", lambda state: state.volumes[RESOURCE].metadata == "present")
    await agents.see("mk1", where="provisioned")
    what = "states of the volume"
    async with agents.watching("mk1", what, volume_words), agents.watching("mk2", what, volume_words):
        for name in ("mk1", "mk2"):
            await hosts.put_volume(name)
        for name in ("mk1", "mk2"):
            await hosts.becomes(name, "Connected", lambda state: peer_of(state) == ("Connected", "Inconsistent"))
        await agents.see(where="connected")
        await agents.ask("mk1: Primary before the first sync", hosts.put_volume("mk1", role="Primary"))
        await hosts.put_volume("mk1", role="Secondary")
        await hosts.operate("mk1", "sync", InitialSync(resource=RESOURCE, uid=VOLUME_UID))
        await hosts.ended("mk1", "sync")
        await hosts.synced()
        await hosts.put_volume("mk1", role="Primary")
        await hosts.becomes("mk1", "Primary", lambda state: volume_words(state) == PRIMARY_WORDS)
        await hosts.becomes("mk2", "Secondary", lambda state: volume_words(state) == SECONDARY_WORDS)
    await agents.see_operation("mk1", "sync")
    await agents.see(where="synced")
    again = InitialSync(resource=RESOURCE, uid=VOLUME_UID)
    await agents.ask("mk1: a second first sync", hosts.operate("mk1", "again", again))
    await agents.ask("mk2: a second first sync", hosts.operate("mk2", "again", again))
    retain = VolumeRemoval(term=1, uid=VOLUME_UID, policy="Retain")
    delete = VolumeRemoval(term=1, uid=VOLUME_UID, policy="Delete")
    await agents.ask("mk1: delete while Primary", hosts.clients["mk1"].delete_volume(RESOURCE, delete))
    await agents.ask("mk2: delete, Retain", hosts.clients["mk2"].delete_volume(RESOURCE, retain))
    await agents.ask("mk1: delete, Delete", hosts.clients["mk1"].delete_volume(RESOURCE, delete))
    for name in ("mk1", "mk2"):
        await hosts.becomes(name, "gone", lambda state: not state.volumes)
    await hosts.becomes("mk1", "no logical volume", lambda state: not state.logical_volumes)
    await agents.see(where="gone")
    await agents.ask("mk1: made again after its deletion", hosts.put_volume("mk1"))
    await agents.ask("mk1: deleted twice", hosts.clients["mk1"].delete_volume(RESOURCE, delete))


@scenario("agents", "Requests about volumes that an agent refuses, with reason and words", start="synced")
async def agent_volume_refusals(agents: Agents) -> None:
    hosts = agents.hosts
    new: dict[str, Any] = {"resource": "other", "logical_volume": "other", "uid": OTHER, "minor": 5, "port": 7795}
    await agents.ask("mk2: Primary while the peer is", hosts.put_volume("mk2", role="Primary"))
    await hosts.put_volume("mk2", role="Secondary")
    await agents.ask("mk1: its owner is another", hosts.put_volume("mk1", uid=OTHER))
    taken: dict[str, dict[str, Any]] = {
        "a minor that is taken": {"minor": 1},
        "a port that is taken": {"port": 7789},
        "a logical volume that is taken": {"logical_volume": RESOURCE},
        "a group that is not there": {"group": "vg9"},
        "more than the group has": {"size": 1 << 40},
        "members elsewhere": {
            "members": (Member(node="mk8", address="10.0.0.88"), Member(node="mk9", address="10.0.0.89"))
        },
    }
    for number, (what, changes) in enumerate(taken.items()):
        mine = {"uid": f"{number}{OTHER[1:]}"}  # what was deleted is not taken again
        await agents.ask(f"mk1: a new volume with {what}", hosts.put_volume("mk1", **(new | changes | mine)))
        removal = VolumeRemoval(term=1, uid=mine["uid"], policy="Delete")
        await agents.ask(f"mk1: after {what}, deleted", hosts.clients["mk1"].delete_volume("other", removal))
    for what, change in {"minor": 9, "size": 32 * MIB, "group": "vg9"}.items():
        await agents.ask(f"mk1: another {what}", hosts.put_volume("mk1", role="Primary", **{what: change}))
    await agents.place.run("mk1", [["lvcreate", "-y", "-n", "foreign", "-L", "8M", "vg0"]])
    await agents.place.run(
        "mk1", [["lvcreate", "-y", "-n", "wrong", "-L", "8M", "--addtag", f"xentandem.uid={OTHER}", "vg0"]]
    )
    third = new | {"uid": "77777777-7777-4777-8777-777777777777"}
    await agents.ask(
        "mk1: a foreign logical volume", hosts.put_volume("mk1", **(third | {"logical_volume": "foreign"}))
    )
    wrong = new | {"logical_volume": "wrong", "resource": "wrong"}
    await agents.ask("mk1: its own logical volume of another size", hosts.put_volume("mk1", **wrong))
    await hosts.becomes("mk1", "both volumes seen", lambda state: len(state.logical_volumes) == 3)
    await agents.see(where="after all refusals")
    removal = VolumeRemoval(term=1, uid=OTHER, policy="Delete")
    await agents.ask("mk1: deleted by another owner", hosts.clients["mk1"].delete_volume(RESOURCE, removal))
    await hosts.put_volume("mk1", role="Primary", term=3)
    await agents.ask("mk1: a lower term", hosts.put_volume("mk1", role="Primary", term=2))

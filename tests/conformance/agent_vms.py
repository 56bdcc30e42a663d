"""VMs over the agents' API: their life, what is refused, preflight, and moves."""

from __future__ import annotations

from agent.protocol import DomainRemoval, HostDesired, PreflightRequest, VolumeRemoval
from tests.conformance.agents import Agents, ownership_words, vm_words
from tests.conformance.scenario import scenario
from tests.lab.hosts import NAME, RESOURCE, UID, VOLUME_UID

OTHER = "22222222-2222-4222-8222-222222222222"


@scenario("agents", "A VM runs, pauses, reboots, crashes, powers off, is stopped and deleted", start="synced")
async def agent_vm(agents: Agents) -> None:
    hosts = agents.hosts
    async with agents.watching("mk1", "states of the VM", vm_words):
        await hosts.run_vm()
        await agents.see(where="running")
        await hosts.put_domain("mk1", state="Paused")
        await hosts.vm_becomes("mk1", "paused")
        await agents.see("mk1", where="paused")
        await hosts.put_domain("mk1")
        await hosts.vm_becomes("mk1", "running")
        for does, count in (("reboot", 0), ("crash", 1)):
            before = (await hosts.state("mk1")).vms[UID].domid
            await agents.place.guest("mk1", NAME, does)
            await hosts.becomes(
                "mk1",
                f"a new domain after {does}",
                lambda state, before=before: state.vms[UID].status == "running" and state.vms[UID].domid != before,  # type: ignore[misc]
            )
            await hosts.writes("mk1")
            await agents.see("mk1", where=f"after {does}, restarted once more than {count}")
        await agents.place.guest("mk1", NAME, "poweroff")
        await hosts.vm_becomes("mk1", "halted")
        await agents.see("mk1", where="powered off by itself")
        await hosts.put_domain("mk1", run=2)
        await hosts.vm_becomes("mk1", "running")
        await hosts.writes("mk1")
        await hosts.put_domain("mk1", run=2, state="Stopped")
        await hosts.vm_becomes("mk1", "absent")
    await agents.see("mk1", where="stopped")
    await hosts.clients["mk1"].delete_domain(NAME, DomainRemoval(term=1, uid=UID, epoch=1))
    await hosts.becomes("mk1", "forgotten", lambda state: UID not in state.vms)
    await agents.see("mk1", where="deleted")
    await agents.ask("mk1: after its deletion", hosts.put_domain("mk1"))


@scenario("agents", "Requests about VMs that an agent refuses, and every reason of a preflight", start="running")
async def agent_vm_refusals(agents: Agents) -> None:
    hosts = agents.hosts
    one, two = hosts.clients["mk1"], hosts.clients["mk2"]
    await agents.ask("mk1: released while it runs", hosts.put_domain("mk1", state="Released", epoch=2))
    await agents.ask("mk1: deleted while it runs", one.delete_domain(NAME, DomainRemoval(term=1, uid=UID, epoch=1)))
    await agents.ask("mk1: another VM of the same name", hosts.put_domain("mk1", uid=OTHER, epoch=1))
    removal = VolumeRemoval(term=1, uid=VOLUME_UID, policy="Delete")
    await agents.ask("mk1: its disk deleted", one.delete_volume(RESOURCE, removal))
    await agents.ask("mk1: its disk demoted", hosts.put_volume("mk1", role="Secondary"))
    await hosts.put_volume("mk1", role="Primary")
    await agents.ask("mk2: started on a Secondary disk", hosts.put_domain("mk2", epoch=2))
    await agents.see(where="after all refusals")

    async def preflight(label: str, name: str, side: str, **changes: object) -> None:
        request = PreflightRequest(side=side, domain=hosts.wish(**changes))
        report = await hosts.clients[name].preflight(request)
        agents.note(
            f"{name}: preflight, {side}, {label}", "\n".join(f"{r.reason}: {r.message}" for r in report.refusals)
        )

    big = {"memory_mib": 3000, "max_memory_mib": 3000}
    await preflight("nothing against it", "mk2", "target", epoch=3)
    await preflight("nothing against it", "mk1", "source")
    await preflight("too much memory", "mk2", "target", epoch=3, config=big)
    bridge = [{"bridge": "br9", "mac": "00:16:3e:00:00:91"}]
    await preflight("no such bridge", "mk2", "target", epoch=3, config={"networks": bridge})
    await preflight("no such kernel", "mk2", "target", epoch=3, config={"kernel": "/boot/no_such"})
    await preflight("an epoch that is over", "mk2", "target", epoch=1)
    await preflight("another epoch", "mk1", "source", epoch=7)
    await preflight("on the other host", "mk2", "source")
    await preflight("where it runs", "mk1", "start")
    await preflight("on the other host", "mk2", "start", epoch=3)
    everything = {**big, "networks": bridge, "kernel": "/boot/no_such"}
    closed = HostDesired(term=1, volume_groups=("vg0",), replication_address="10.0.0.82", relocation_enabled=False)
    await two.put_host(closed)
    await preflight("relocation disabled and all the rest", "mk2", "target", epoch=3, config=everything)
    await agents.ask("mk2: a move to it", hosts.move(epoch=2))
    await hosts.put_domain("mk1", term=4)
    await agents.ask("mk1: a lower term", hosts.put_domain("mk1", term=2))
    await hosts.put_domain("mk1", term=4, epoch=5)
    await agents.ask("mk1: a lower epoch", hosts.put_domain("mk1", term=4, epoch=4))


@scenario("agents", "A move that is cancelled while memory is copied: it goes on where it is", start="running")
async def agent_cancelled_move(agents: Agents) -> None:
    hosts = agents.hosts
    agents.slow(True)
    async with (
        agents.watching("mk1", "ownership", ownership_words),
        agents.watching("mk2", "ownership", ownership_words),
    ):
        await hosts.move()
        await hosts.phase("mk1", "Precopy")
        await hosts.phase("mk2", "Receiving")
        await agents.ask("mk1: stopped meanwhile", hosts.put_domain("mk1", state="Stopped"))
        await agents.ask("mk2: its disk promoted meanwhile", hosts.put_volume("mk2", role="Primary"))
        await hosts.cancel("mk1")
        await agents.see_operation("mk1", "move")
        received = await hosts.over("mk2", "move")
        await hosts.writes("mk1")
    # Which of the two it is, and in which words, depends on who notices first
    agents.note("mk2: move ended", "moved" if received.outcome == "Succeeded" else "Cancelled or Failed")
    await hosts.becomes("mk2", "no copy", lambda state: not state.domains)
    await agents.see(where="cancelled")


@scenario("agents", "A live move: steps of both sides, epochs, grants and roles in their order", start="running")
async def agent_move(agents: Agents) -> None:
    hosts = agents.hosts
    async with (
        agents.watching("mk1", "ownership", ownership_words),
        agents.watching("mk2", "ownership", ownership_words),
        agents.watching("mk1", "states of the VM", vm_words),
    ):
        await hosts.move()
        await agents.see_operation("mk1", "move")
        await agents.see_operation("mk2", "move")
        await hosts.vm_becomes("mk2", "running")
        await hosts.vm_becomes("mk1", "absent")
        await hosts.writes("mk2")
        await hosts.becomes("mk1", "Secondary", lambda state: state.volumes[RESOURCE].role == "Secondary")
    await hosts.synced()
    await agents.see(where="moved")
    await agents.ask("mk1: started where it was", hosts.put_domain("mk1", epoch=1))
    await agents.ask("mk1: started where it was, at the new epoch", hosts.put_domain("mk1", epoch=2))

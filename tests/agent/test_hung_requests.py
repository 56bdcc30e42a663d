"""The controller's client of a real agent on whose host a tool hangs: what else it asks is answered."""

from __future__ import annotations

import asyncio

from agent_facts import desired
from fleet import Fleet, until

from agent.protocol import HostDesired
from controller.agents.client import OTHERS, READS, VOLUMES, AgentClient, ClientTls


async def test_volumes_that_hang_hold_up_nothing_but_volumes(fleet: Fleet) -> None:
    """More of them than may be under way: reads, the watch and requests about anything else still pass."""
    files = fleet.controller
    tls = ClientTls(files.certificate, files.key, files.authority)
    fleet.simulation.hang("mk1", "drbdadm")
    count = READS + VOLUMES + OTHERS
    async with AgentClient("mk1", "127.0.0.1", fleet.agents["mk1"].api_port, tls) as client:
        wishes = [
            desired(
                resource=f"many_{n}", logical_volume=f"many_{n}", minor=n, port=7788 + n, uid=f"{n:08d}", size=8 << 20
            )
            for n in range(1, count + 1)
        ]
        hung = [asyncio.create_task(client.put_volume(wish)) for wish in wishes]

        async def all_hang() -> bool:
            return len((await client.state()).logical_volumes) >= VOLUMES

        async with asyncio.timeout(30):
            await until(all_hang, "as many as may be under way hang")
        async with asyncio.timeout(10):
            host = HostDesired(term=1, volume_groups=("vg0",), replication_address="10.0.0.81")
            await asyncio.gather(*(client.put_host(host) for _ in range(OTHERS)))
            await asyncio.gather(*(client.state() for _ in range(READS)))
            async for event in client.watch():
                assert event.type == "snapshot"
                break
        assert not any(task.done() for task in hung)
        fleet.simulation.unhang("mk1", "drbdadm")
        async with asyncio.timeout(60):
            states = await asyncio.gather(*hung)
        assert {state.metadata for state in states} == {"present"}

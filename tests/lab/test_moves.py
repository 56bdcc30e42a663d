"""Live migration between real hosts with one Primary: by the agents' own relay, mutual TLS, the deferred attach.

PV guests move on hypervisors with shadow paging alone, PVH guests on those with hardware-assisted paging: on Debian's
security build (`hack/lab up --xen security`), which has no shadow paging, too.
"""

from __future__ import annotations

from typing import Any

import pytest

from agent.protocol import PreflightRequest
from tests.lab.hosts import Hosts


async def there_and_back(hosts: Hosts, **changes: Any) -> None:
    for number, (source, to, epoch) in enumerate([("mk1", "mk2", 1), ("mk2", "mk1", 2)]):
        operation = f"move-{number}"
        await hosts.move(operation, to=to, epoch=epoch, **changes)
        sent = await hosts.ended(source, operation)
        received = await hosts.ended(to, operation)
        print([(step.name, step.at[14:]) for step in sent.steps])
        print([(step.name, step.at[14:]) for step in received.steps])
        assert [step.name for step in sent.steps][-3:] == ["HandOver", "Demoted", "Done"]
        assert [step.name for step in received.steps][-3:] == ["Attaching", "Unpausing", "Done"]
        assert sent.transfer is not None
        assert sent.transfer.pages_total == 32768
        assert sent.transfer.pages_sent > 30000
        assert sent.transfer.percent == 100.0
        await hosts.runs_only_on(to)
        assert hosts.answers_ping(to)
        for name, granted, status in ((to, True, "running"), (source, False, "absent")):
            vm = await hosts.vm_becomes(name, status)
            assert (vm.epoch, vm.granted) == (epoch + 1, granted)
    hosts.nothing_lost("mk1", "mk2")


@pytest.mark.brief
async def test_pv_there_and_back(running: Hosts) -> None:
    if running.lab.plan.xen == "security":
        request = PreflightRequest(side="source", domain=running.wish())
        (refusal,) = (await running.clients["mk1"].preflight(request)).refusals
        assert refusal.reason == "NoLogDirty"
        assert "or type: pvh" in refusal.message
        pytest.skip("this hypervisor has no shadow paging: refused before anything began")
    await there_and_back(running)


async def test_pvh_there_and_back(synced: Hosts) -> None:
    config = {"type": "pvh"}
    await synced.run_vm(config=config)
    await there_and_back(synced, config=config)

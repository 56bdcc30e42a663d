"""What a XenNode says of its host: is its agent or all of it gone, what would not fit elsewhere, maintenance."""

from __future__ import annotations

from tests.unit.domain.failed_host import crowded, node_of, silent
from tests.unit.domain.test_wanted import away, crowd
from tests.unit.domain.worlds import (
    conditions,
    domain_state,
    host_state,
    howto,
    volume_state,
)


def test_an_agent_that_is_down_is_told_from_a_host_that_is_gone() -> None:
    worlds = howto(running=True)
    worlds.hosts["mk1"].connected = False
    worlds.hosts["mk1"].error = "connection refused"
    ready = conditions(node_of(worlds))["Ready"]
    assert (ready.status, ready.reason) == ("Unknown", "AgentDown")
    assert "vm_shaolin on mk2" in ready.message
    silent(worlds)
    ready = conditions(node_of(worlds))["Ready"]
    assert (ready.status, ready.reason) == ("Unknown", "HostUnreachable")


def test_what_would_not_fit_elsewhere_is_told_before_it_happens() -> None:
    worlds = crowded()
    told = conditions(node_of(worlds))["FailoverReady"]
    assert (told.status, told.reason) == ("True", "Fits")
    worlds.tell("mk2", facts=host_state("mk2").facts.model_copy(update={"memory_free_mib": 1100}))
    told = conditions(node_of(worlds))["FailoverReady"]
    assert (told.status, told.reason) == ("False", "InsufficientMemory")
    assert "3 of 5 VMs" in told.message
    assert "default/c (mk2: 68 MiB free, 516 MiB needed)" in told.message


def test_hosts_without_such_vms_say_nothing_of_it() -> None:
    assert "FailoverReady" not in conditions(node_of(howto(running=True)))


def test_a_maintained_host_says_what_is_left_and_when_it_may_be_rebooted() -> None:
    worlds = crowd()
    told = conditions(node_of(worlds))["Drained"]
    assert (told.status, told.reason) == ("False", "Moving")
    assert "5 VMs are left" in told.message
    worlds = away()
    worlds.edit("XenNode", "mk1", maintenance=True)
    assert conditions(node_of(worlds))["Drained"].reason == "SafeToReboot"
    assert node_of(worlds).status.phase == "Maintenance"
    worlds.tell("mk2", volumes={"vm_shaolin": volume_state(role="Primary", disk="Inconsistent")})
    told = conditions(node_of(worlds))["Drained"]
    assert (told.status, told.reason) == ("True", "Drained")
    assert "vm-shaolin is Inconsistent on mk2" in told.message
    worlds.tell("mk1", volumes={"vm_shaolin": volume_state(role="Primary")})
    assert "Primary here" in conditions(node_of(worlds))["Drained"].message


def test_a_maintained_host_names_what_is_in_the_way() -> None:
    worlds = crowd()
    worlds.edit("XenNode", "mk2", schedulable=False)
    worlds.commit("XenVM", "a", worlds.decide_vm("a"))
    told = worlds.hosts["mk1"].state
    assert told is not None
    worlds.tell("mk1", domains={**told.domains, "77": domain_state(domid=77, name="byhand", uuid="x")})
    found = conditions(node_of(worlds))["Drained"]
    assert (found.status, found.reason) == ("False", "Blocked")
    assert "XenVM default/a: mk1 is in maintenance" in found.message
    assert "mk2: not schedulable" in found.message
    assert "domain byhand (id 77)" in found.message


def test_while_it_reboots_it_stays_as_it_was_seen() -> None:
    worlds = away()
    worlds.edit("XenNode", "mk1", maintenance=True)
    worlds.commit("XenNode", "mk1", node_of(worlds))
    silent(worlds)
    assert conditions(node_of(worlds))["Drained"].reason == "SafeToReboot"

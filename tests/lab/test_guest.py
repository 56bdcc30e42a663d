"""The life of a guest on real Xen: what it does by itself, what xl hides, what a host refuses."""

from __future__ import annotations

from agent.protocol import HostState, PreflightRequest
from tests.lab.faults import Faults
from tests.lab.hosts import NAME, RESOURCE, UID, Hosts

# Maps a page of the domain into dom0 as a device model would: until it ends, Xen cannot remove the domain
HOLDER = """
import ctypes, glob, sys, time
library = ctypes.CDLL(sorted(glob.glob("/usr/lib/*/libxenforeignmemory.so.*"))[-1])
library.xenforeignmemory_open.restype = library.xenforeignmemory_map.restype = ctypes.c_void_p
handle = library.xenforeignmemory_open(None, 0)
pages, errors = (ctypes.c_uint64 * 1)(int(sys.argv[2])), (ctypes.c_int * 1)()
mapped = library.xenforeignmemory_map(
    ctypes.c_void_p(handle), ctypes.c_uint32(int(sys.argv[1])), 1, ctypes.c_size_t(1), pages, errors
)
print("mapped" if mapped else "not mapped", flush=True)
time.sleep(600)
"""


async def domid(hosts: Hosts, name: str = "mk1") -> int:
    (domain,) = hosts.domains(name)
    return domain.domid


async def restarted(hosts: Hosts, reason: str, before: int) -> None:
    """Another domain of the same VM, at the same epoch, told why."""

    def again(state: HostState) -> bool:
        vm = state.vms[UID]
        return vm.status == "running" and vm.domid not in (None, before) and vm.restart.last_reason == reason

    state = await hosts.becomes("mk1", f"restarted after {reason}", again)
    assert state.vms[UID].epoch == 1
    await hosts.writes("mk1")


async def test_paused_rebooted_crashed_and_powered_off_by_itself(running: Hosts) -> None:
    await running.put_domain("mk1", state="Paused")
    await running.vm_becomes("mk1", "paused")
    assert [one.state for one in running.domains("mk1")] == ["paused"]
    stands = running.ticks("mk1")
    await running.put_domain("mk1", state="Running")
    await running.vm_becomes("mk1", "running")
    await running.writes("mk1")
    assert running.ticks("mk1")[: len(stands)] == stands

    first = await domid(running)
    running.type("mk1", "reboot")
    await restarted(running, "reboot", first)
    second = await domid(running)
    running.type("mk1", "crash")
    await restarted(running, "crash", second)
    running.type("mk1", "poweroff")
    vm = await running.vm_becomes("mk1", "halted")
    assert vm.halted_reason == "poweroff"
    assert running.domains("mk1") == []
    last = max(tick.number for tick in running.ticks("mk1"))
    await running.put_domain("mk1", run=2)
    await running.vm_becomes("mk1", "running")
    await running.writes("mk1")
    assert running.last_record_found("mk1") >= last
    assert "LOST" not in running.console("mk1")


async def test_a_deaf_guest_is_destroyed_when_its_time_is_over(running: Hosts) -> None:
    """... and the agent that was killed while it ran found it again as it was."""
    before = await domid(running)
    Faults(running).kill_agent("mk1")
    vm = await running.vm_becomes("mk1", "running")
    assert (vm.domid, vm.granted, vm.epoch) == (before, True, 1)
    running.type("mk1", "deaf")
    await running.put_domain("mk1", state="Stopped", shutdown_grace_seconds=5.0)
    await running.vm_becomes("mk1", "stopping")
    await running.vm_becomes("mk1", "absent")
    assert running.domains("mk1") == []
    assert "powers off" not in running.console("mk1")
    assert running.record_on_disk("mk1") >= max(tick.number for tick in running.ticks("mk1"))


async def test_a_dead_disk_after_a_start_that_succeeded(synced: Hosts) -> None:
    """xl exits 0 although blkback opened nothing: the domain goes before it ran, and the next start is whole."""
    Faults(synced).trap("mk1", "xl", "create", "/usr/sbin/drbdsetup secondary 1")
    await synced.put_domain("mk1")
    await synced.becomes("mk1", "a problem told", lambda state: state.vms[UID].problem is not None)
    told = synced.on("mk1", "journalctl -u xentandem-agent -o cat | grep DiskNotAttached")
    assert "xvda (/dev/drbd1)" in told
    assert synced.domains("mk1") == []
    assert synced.ticks("mk1") == []
    await synced.put_volume("mk1", role="Primary")
    await synced.run_vm()


async def test_row_36_a_dead_domain_that_xen_cannot_remove(running: Hosts) -> None:
    """`(null)`: it may hold the disk, so nothing is started beside it, and it is said what helps."""
    before = await domid(running)
    running.lab.shell("mk1").send(HOLDER.encode(), "cat >/run/holder.py")
    page = f"$(xenstore-read /local/domain/{before}/console/ring-ref)"
    running.on("mk1", f"(setsid python3 /run/holder.py {before} {page} >/run/holder.log 2>&1 </dev/null &)")

    async def mapped() -> bool:
        return running.on("mk1", "cat /run/holder.log").startswith("mapped")

    await running.until(mapped, "a page of the domain mapped")
    await running.put_domain("mk1", state="Stopped")

    def told(state: HostState) -> bool:
        problem = state.vms[UID].problem
        return problem is not None and problem.reason == "ZombieDomain"

    state = await running.becomes("mk1", "the zombie told", told)
    assert [one.kind for one in state.domains.values()] == ["zombie"]
    assert [one.name for one in running.domains("mk1")] == ["(null)"]
    running.on("mk1", "kill $(pgrep -f '^python3 /run/holder.py')")
    await running.vm_becomes("mk1", "absent")
    await running.put_domain("mk1")
    await running.vm_becomes("mk1", "running")
    await running.writes("mk1")


async def reasons(hosts: Hosts, name: str, side: str, **config: object) -> dict[str, str]:
    request = PreflightRequest(side=side, domain=hosts.wish(epoch=2 if side == "target" else 1, config=config))  # type: ignore[arg-type]
    report = await hosts.clients[name].preflight(request)
    return {refusal.reason: refusal.message for refusal in report.refusals}


async def test_what_stands_against_a_move_is_said_at_once(running: Hosts) -> None:
    assert await reasons(running, "mk2", "target") == {}
    assert await reasons(running, "mk1", "source") == {}
    running.on("mk2", "mv /boot/xenU/initrd.img /boot/xenU/initrd.moved")
    network = ({"bridge": "xenbr9", "mac": "00:16:3e:00:00:91"},)
    against = await reasons(running, "mk2", "target", memory_mib=4000, max_memory_mib=4000, networks=network)
    assert set(against) == {"NotEnoughMemory", "NoSuchBridge", "NoSuchFile"}
    assert "/boot/xenU/initrd.img is not on mk2" in against["NoSuchFile"]
    assert "no bridge xenbr9 on mk2; there are: xenbr0" in against["NoSuchBridge"]
    running.lab.set_link("mk1", "mk2", up=False)

    async def seen() -> bool:
        return "DiskNotConnected" in await reasons(running, "mk1", "source")

    await running.until(seen, "the lost peer as a reason")
    running.on("mk1", "echo N >/sys/module/drbd/parameters/disable_sendpage")
    assert {"DiskNotConnected", "SendpageEnabled"} <= set(await reasons(running, "mk1", "source"))
    assert (await running.volume("mk1")).resource == RESOURCE
    assert [one.name for one in running.domains("mk1")] == [NAME]

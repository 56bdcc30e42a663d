"""xl of a simulated host: words, columns, exit codes and effects, held to the output of real hosts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from xen_helpers import (
    NAME,
    UUID,
    SharedDisk,
    config,
    create,
    domain,
    lines_of,
    sample,
    states,
    until,
    until_records,
    words,
    xl,
)

from agent.drivers.xen_parse import parse_info, parse_list
from agent.simulation.cluster import Simulation
from agent.simulation.host import SimulatedHost
from agent.simulation.hypervisor import SUSPEND, Xen

# --- create and list ------------------------------------------------------------------------------------------------


async def test_a_created_domain_is_listed_as_on_a_real_host(simulation: Simulation, mk1: SimulatedHost) -> None:
    created = await create(mk1)
    assert (created.exit, created.stderr) == (0, "Parsing config from /etc/xen/shaolin.cfg\n")
    await until_records(simulation)
    listed = (await xl(mk1, "list")).stdout.splitlines()
    real = [line for line in sample("err-xl-create-already-running-here.txt").splitlines() if line][-3:]
    assert listed[0] == real[0]
    number = re.compile(r"[rb-]{6} +[0-9.]+$")
    assert [len(line) for line in listed] == [len(line) for line in real]
    assert number.sub("", listed[2]) == number.sub("", real[2]).replace("   2   128", "   1   128")
    running = parse_list((await xl(mk1, "list", "-v")).stdout)
    assert [(state.name, state.uuid, state.state, state.memory_mib) for state in running] == [
        (NAME, UUID, "running", 128)
    ]
    assert running[0].cpu_seconds > 0
    assert simulation.truth.running(UUID) == ("mk1",)


async def test_paused_at_birth_it_never_ran(simulation: Simulation, mk1: SimulatedHost) -> None:
    await create(mk1, config(), "-p")
    line = (await xl(mk1, "list", "-v", NAME)).stdout.splitlines()[1]
    real = sample("handover/01-first-migrate-p.txt").splitlines()
    assert words(line).split()[1:6] == words(next(text for text in real if "--p---" in text)).split()[1:6]
    assert line.endswith(f"--p---       0.0 {UUID}        -                -")
    assert simulation.truth.running(UUID) == ()
    assert simulation.truth.records(UUID).issued == 0


async def test_a_name_that_is_taken(mk1: SimulatedHost) -> None:
    await create(mk1)
    again = await create(mk1, config(uuid="00000000-0000-4000-8000-000000000001"))
    assert again.exit == 3
    real = sample("err-xl-create-already-running-here.txt")
    assert [words(line) for line in again.stderr.splitlines()] == lines_of(real, "Parsing", "libxl")
    assert list(await states(mk1)) == [NAME]


async def test_too_little_memory(mk1: SimulatedHost) -> None:
    created = await create(mk1, config(memory=600))
    assert created.exit == 3
    real = lines_of(sample("err-xl-create-too-little-memory.txt"), "Parsing", "xc:", "libxl")
    assert [words(line).replace("/etc/xen/shaolin", "/root/hog") for line in created.stderr.splitlines()] == real
    assert await states(mk1) == {}
    assert parse_info((await xl(mk1, "info")).stdout).memory_free_mib == 498


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        (config(kernel="/boot/none"), 3, "failed to open file '/boot/none': No such file or directory"),
        (config(bridge="xenbr7"), 3, "script: Could not find bridge device xenbr7"),
        (config(bridge="xenbr7"), 3, "unable to add vif devices"),
        (config(disk="format=raw,vdev=xvda,target=/dev/drbd9"), 3, "failed to stat: /dev/drbd9"),
        (config(disk="format=raw,vdev=xvda,script=block-xentandem,target=/dev/sda"), 3, "unable to add disk devices"),
        (
            config(disk="vdev=xvda,script=block-none,target=/dev/drbd1"),
            3,
            "libxl: cannot execute /etc/xen/scripts/block-n",
        ),
        (config(kind="xen"), 1, "Invalid domain type xen."),
        ("memory = 3", 1, "Domain name must be specified."),
        ("name = [", 1, "config parsing error near"),
    ],
)
async def test_a_creation_that_fails_leaves_nothing(mk1: SimulatedHost, text: str, status: int, said: str) -> None:
    created = await create(mk1, text)
    assert created.exit == status
    assert said in created.stderr
    assert await states(mk1) == {}
    assert await mk1.list_dir("/sys/bus/xen-backend/devices") == []
    assert parse_info((await xl(mk1, "info")).stdout).memory_free_mib == 498


async def test_no_such_file(mk1: SimulatedHost) -> None:
    created = await xl(mk1, "create", "-e", "/etc/xen/none.cfg")
    assert (created.exit, created.stderr) == (
        3,
        "Failed to read config file: /etc/xen/none.cfg: No such file or directory\n",
    )


@pytest.mark.parametrize("kind", ["pv", "pvh"])
async def test_kernel_and_ramdisk_must_be_there(mk1: SimulatedHost, kind: str) -> None:
    for text in (config(kind=kind, kernel="/boot/none"), config(kind=kind) + 'ramdisk = "/boot/none"\n'):
        created = await create(mk1, text)
        assert created.exit == 3
        assert created.stderr.splitlines()[1] == (
            "xc: error: panic: xg_dom_core.c:205: failed to open file '/boot/none': "
            "No such file or directory: Internal error"
        )
        assert "cannot (re-)build domain: -3" in created.stderr
        assert await states(mk1) == {}


async def test_the_configuration_as_json(mk1: SimulatedHost) -> None:
    text = config(disk="format=raw,vdev=xvda,access=rw,target=/dev/drbd1", kernel="/lab/vmlinuz")
    text = text.replace('vif = ["mac=a0:00:00:01:00:01,bridge=xenbr0"]\n', "")
    text += 'ramdisk = "/lab/domu-initrd.img"\ncmdline = "console=hvc0 root=/dev/ram0 mitigations=off quiet"\n'
    for path in ("/lab/vmlinuz", "/lab/domu-initrd.img"):
        await mk1.write_text(path, "kernel")
    assert (await create(mk1, text)).exit == 0
    shown = (await xl(mk1, "list", "-l")).stdout
    assert shown == sample("xl-list-l.running-on-mk1.mk1.json").replace('"domid": 7', '"domid": 1')
    assert [entry["domid"] for entry in json.loads(shown)] == [0, 1]


async def test_info_has_every_line_of_a_real_one(mk1: SimulatedHost) -> None:
    await create(mk1)
    shown = (await xl(mk1, "info")).stdout
    real = sample("xl-info.running-on-mk1.mk1.txt").split("Name ")[0]
    assert [line[:25] for line in shown.splitlines()] == [line[:25] for line in real.splitlines()]
    read = parse_info(shown)
    assert (read.memory_total_mib, read.memory_free_mib, read.version) == (1023, 370, "4.17.5")
    assert (await xl(mk1, "info", "free_memory")).stdout == "370\n"


async def test_nobody_by_that_name(mk1: SimulatedHost) -> None:
    wrong = "nosuch is an invalid domain identifier (rc=-6)\n"
    for command in ("list", "destroy", "pause", "unpause", "shutdown", "reboot"):
        answer = await xl(mk1, command, "nosuch")
        assert (answer.exit, answer.stderr) == (1, wrong), command
    assert wrong.rstrip() in sample("err-xl-no-such-domain.txt")
    listed = await xl(mk1, "block-list", "nosuch")
    assert (listed.exit, listed.stderr) == (0, "nosuch is an invalid domain identifier\n")
    assert (await xl(mk1, "list", "9")).stderr == "Error: Domain '9' does not exist.\n"
    assert (await xl(mk1, "destroy", "9")).stderr.endswith("destroy failed (rc=-21)\n")
    assert (await xl(mk1, "domid", "nosuch")).exit == 1
    assert (await xl(mk1, "nonsense")).stderr == "command not implemented\n"


# --- what runs ------------------------------------------------------------------------------------------------------


async def test_pause_and_unpause_count_and_never_fail(simulation: Simulation, mk1: SimulatedHost) -> None:
    await create(mk1)
    await xl(mk1, "pause", NAME)
    await xl(mk1, "pause", NAME)
    assert (await states(mk1))[NAME] == "--p---"
    await xl(mk1, "unpause", NAME)
    assert simulation.truth.running(UUID) == ()
    await xl(mk1, "unpause", NAME)
    assert simulation.truth.running(UUID) == ("mk1",)
    for number in ("1", "9"):
        answer = await xl(mk1, "unpause", number)
        assert answer.exit == 0
        assert answer.stderr.startswith("libxl: error: ")
    assert (await xl(mk1, "pause", "9")).exit == 0


async def test_a_suspended_domain_is_not_unpaused_but_resumed(simulation: Simulation, mk1: SimulatedHost) -> None:
    await create(mk1)
    domain(mk1).shut_down(SUSPEND)
    assert (await states(mk1))[NAME] == "---ss-"
    answer = await xl(mk1, "unpause", NAME)
    real = lines_of(sample("interrupt-go.recovery.txt"), "libxl: error: libxl_domain.c:688")
    assert (answer.exit, [words(answer.stderr.rstrip())]) == (0, real)
    assert simulation.truth.running(UUID) == ()
    resumed = await mk1.run(["/opt/xentandem/agent/scripts/xentandem-resume", "1"])
    assert resumed.exit == 0
    assert simulation.truth.running(UUID) == ("mk1",)
    assert (await mk1.run(["xentandem-resume", "1"])).exit == 1
    assert (await xl(mk1, "resume", NAME)).stderr == "command not implemented\n"
    await until_records(simulation)


@pytest.mark.parametrize(
    ("act", "flags", "reason", "heading"),
    [
        ("shutdown", "---s--", "0", "## poweroff on source"),
        ("reboot", "---sr-", "1", "## reboot on source"),
        ("crash", "---sc-", "3", "## crash on source"),
    ],
)
async def test_a_guest_that_stops_stays_visible(
    simulation: Simulation, mk1: SimulatedHost, act: str, flags: str, reason: str, heading: str
) -> None:
    await create(mk1)
    await until_records(simulation)
    asked = await xl(mk1, *(("sysrq", NAME, "c") if act == "crash" else (act, NAME)))
    assert asked.exit == 0
    await until(simulation, lambda: domain(mk1).shutdown is not None)
    real = sample("handover/07-states-no-monitor.txt").split(heading)[1].split("##")[0]
    if asked.stderr:
        assert words(asked.stderr.strip()) in words(real)
    assert (await states(mk1))[NAME] == flags in real
    assert (await xl(mk1, "list", "-v")).stdout.splitlines()[2].split()[-2] == reason
    last = simulation.truth.records(UUID).acknowledged
    assert (await xl(mk1, "destroy", NAME)).exit == 0
    assert (await create(mk1)).exit == 0
    await until_records(simulation)
    started = domain(mk1).guest
    assert started is not None
    assert started.found == last


async def test_names(mk1: SimulatedHost) -> None:
    await create(mk1)
    assert (await xl(mk1, "domid", NAME)).stdout == "1\n"
    assert (await xl(mk1, "domname", "1")).stdout == f"{NAME}\n"
    assert (await xl(mk1, "rename", NAME, "temple")).exit == 0
    assert (await xl(mk1, "list", NAME)).exit == 1
    other = "00000000-0000-4000-8000-000000000001"
    await create(mk1, config("other", uuid=other, disk="vdev=xvda,script=block-xentandem,target=/dev/drbd2"), "-p")
    taken = await xl(mk1, "rename", "other", "temple")
    assert taken.exit == 1
    assert taken.stderr.splitlines() == [
        'libxl: error: libxl_domain.c:81:libxl__domain_rename: Domain 2:Domain with name "temple" already exists.',
        "Can't rename domain 'other'.",
    ]


async def test_destroying_gives_disk_and_memory_back(
    simulation: Simulation, mk1: SimulatedHost, disk: SharedDisk
) -> None:
    await create(mk1)
    await until_records(simulation)
    assert not disk.demote()
    destroyed = await xl(mk1, "destroy", NAME)
    assert (destroyed.exit, destroyed.stderr) == (0, "")
    assert disk.demote()
    assert await states(mk1) == {}
    assert parse_info((await xl(mk1, "info")).stdout).memory_free_mib == 498
    assert await mk1.list_dir("/sys/bus/xen-backend/devices") == []
    gone = await mk1.run(["xenstore-ls", "/local/domain/1"])
    assert (gone.exit, gone.stderr) == (1, "xenstore-ls: xs_directory (/local/domain/1): No such file or directory\n")


# --- without -e -----------------------------------------------------------------------------------------------------


async def monitored(host: SimulatedHost, text: str) -> None:
    await host.write_text("/etc/xen/shaolin.cfg", text)
    assert (await xl(host, "create", "/etc/xen/shaolin.cfg")).exit == 0


async def test_xls_own_monitor_acts_on_the_end(simulation: Simulation, mk1: SimulatedHost) -> None:
    await monitored(mk1, config())
    await until_records(simulation)
    await xl(mk1, "reboot", NAME)
    await until(simulation, lambda: [found.domid for found in Xen.of(mk1)] == [2])
    await until_records(simulation)
    await xl(mk1, "shutdown", NAME)
    await until(simulation, lambda: not Xen.of(mk1).domains)


async def test_preserve(simulation: Simulation, mk1: SimulatedHost) -> None:
    await monitored(mk1, config() + 'on_crash = "preserve"\n')
    await until_records(simulation)
    await xl(mk1, "sysrq", NAME, "c")
    await until(simulation, lambda: domain(mk1).flags == "---sc-")
    await xl(mk1, "destroy", NAME)
    assert await states(mk1) == {}


# --- the clock ------------------------------------------------------------------------------------------------------


async def test_the_same_seed_gives_the_same_story_on_the_virtual_clock(tmp_path: Path) -> None:
    stories = []
    for turn in range(2):
        async with Simulation(tmp_path / str(turn), clock="virtual", seed=7) as simulation:
            disk, mk1, mk2 = SharedDisk(simulation), simulation.hosts["mk1"], simulation.hosts["mk2"]
            await create(mk1)
            await simulation.clock.sleep(30)
            assert (await xl(mk1, "migrate", "-p", "-e", NAME, "mk2")).exit == 0
            assert disk.demote()
            disk.primary = "mk2"
            await mk2.run(["xenstore-write", "/local/domain/0/backend/vbd/1/51712/physical-device", "93:1"])
            await xl(mk2, "unpause", NAME)
            await simulation.clock.sleep(30)
            simulation.truth.check()
            records = simulation.truth.records(UUID)
            assert records.count > 200
            stories.append((records.acknowledged, records.longest_pause, simulation.truth.story(1000)))
    assert stories[0] == stories[1]

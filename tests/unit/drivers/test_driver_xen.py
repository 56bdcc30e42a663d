"""Xen's driver and the domain's configuration."""

from __future__ import annotations

import pytest
from recorded import SAMPLES
from scripted import Answer, ScriptedHost

from agent.drivers import xl_config
from agent.drivers.errors import DriverError, Unreadable
from agent.drivers.xen import RESUME_SCRIPT, Xen, device_number
from agent.drivers.xen_parse import parse_backends, physical_device
from agent.protocol import DiskConfig, DomainConfig, DomainDesired, NetworkConfig

OK: Answer = (0, "", "")
HEADER = "Name                                        ID   Mem VCPUs\tState\tTime(s)   UUID                            Reason-Code\tSecurity Label\n"  # noqa: E501
DOM0 = "Domain-0                                     0   320     1     r-----      43.0 00000000-0000-0000-0000-000000000000        -                -\n"  # noqa: E501
UID = "d8299091-f859-4ff4-8a69-56b9e0638acb"
SYSFS = "/sys/bus/xen-backend/devices/vbd-7-769/physical_device"


def listing(*domains: tuple[str, int, str]) -> Answer:
    rows = [
        f"{name:<40} {domid:5} {128:5} {1:5}     {flags}  {1.5:8.1f} {UID}        -                -\n"
        for name, domid, flags in domains
    ]
    return 0, HEADER + DOM0 + "".join(rows), ""


# --- configuration --------------------------------------------------------------------------------------------------

SHAOLIN = DomainDesired(
    term=1,
    epoch=1,
    uid=UID,
    namespace="default",
    name="shaolin",
    state="Running",
    config=DomainConfig(
        memory_mib=512,
        max_memory_mib=4096,
        kernel="/boot/xenU/vmlinuz-2.6.16.49-xenU-r1",
        cmdline="root=/dev/hda1 ro",
        disks=(DiskConfig(resource="vm_shaolin", minor=1, vdev="hda1"),),
        networks=(NetworkConfig(bridge="xenbr0", mac="a0:00:00:01:00:01"),),
    ),
)


def test_the_howtos_domain() -> None:
    assert xl_config.render(SHAOLIN) == (
        "# XenVM default/shaolin: written by xentandem-agent\n"
        'name = "shaolin"\n'
        f'uuid = "{UID}"\n'
        'type = "pv"\n'
        "memory = 512\n"
        "maxmem = 4096\n"
        "vcpus = 1\n"
        'kernel = "/boot/xenU/vmlinuz-2.6.16.49-xenU-r1"\n'
        'cmdline = "root=/dev/hda1 ro"\n'
        'disk = ["format=raw,vdev=hda1,access=rw,script=block-xentandem,target=/dev/drbd1"]\n'
        'vif = ["mac=a0:00:00:01:00:01,bridge=xenbr0,script=vif-xentandem"]\n'
        'on_poweroff = "preserve"\n'
        'on_reboot = "preserve"\n'
        'on_crash = "preserve"\n'
        'on_watchdog = "preserve"\n'
    )


def test_a_read_only_disk_and_nothing_optional() -> None:
    config = DomainConfig(
        type="pvh",
        memory_mib=64,
        max_memory_mib=64,
        disks=(DiskConfig(resource="r", minor=300, vdev="xvdb", mode="r"),),
    )
    text = xl_config.render(SHAOLIN.model_copy(update={"config": config}))
    assert "access=ro" in text
    assert "target=/dev/drbd300" in text
    assert "vif = []\n" in text
    assert "kernel" not in text
    assert "cmdline" not in text


@pytest.mark.parametrize("field", ["kernel", "ramdisk", "bootloader", "cmdline"])
@pytest.mark.parametrize("value", ['a"b', "a'b", "a\nb", "a\\b", "a\x00b", "a\x1bb", "a\u2028b"])
def test_text_that_could_leave_its_quotes_is_refused(field: str, value: str) -> None:
    config = SHAOLIN.config.model_copy(update={field: value})
    with pytest.raises(DriverError, match=f"{field} has .*: write it on one line without quotes") as caught:
        xl_config.render(SHAOLIN.model_copy(update={"config": config}))
    assert caught.value.reason == "InvalidConfiguration"


# --- disks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vdev", "number"),
    [
        ("xvda", 51712), ("xvda1", 51713), ("xvdp15", 51967), ("xvdq", 268439552), ("xvda16", 268435472),
        ("xvdaa", 268442112), ("hda", 768), ("hda1", 769), ("hdb", 832), ("hdc", 5632), ("hdd1", 5697),
        ("sda", 2048), ("sda1", 2049), ("sdp15", 2303),
    ],
)  # fmt: skip
def test_disks_are_numbered_as_libxl_does(vdev: str, number: int) -> None:
    assert device_number(vdev) == number


@pytest.mark.parametrize(
    "vdev", ["", "xvd", "xvda01", "xvda0", "hde", "hda64", "sdq", "sda16", "vda", "xvda256", "xvda/"]
)
def test_disks_that_xen_does_not_number_are_refused(vdev: str) -> None:
    with pytest.raises(DriverError) as caught:
        device_number(vdev)
    assert caught.value.reason == "InvalidDevice"


def test_drbds_major_is_hexadecimal() -> None:
    assert physical_device(1) == "93:1"
    assert physical_device(300) == "93:12c"


BACKENDS = """\
/local/domain/0/backend/vbd/7 = ""
/local/domain/0/backend/vbd/7/769 = ""
/local/domain/0/backend/vbd/7/769/params = "/dev/drbd1"
/local/domain/0/backend/vbd/7/769/dev = "hda1"
/local/domain/0/backend/vbd/9/51712/state = "5"
"""


def test_a_backend_on_its_way_out_is_no_disk() -> None:
    (disk,) = parse_backends(BACKENDS)
    assert (disk.domid, disk.devid, disk.vdev, disk.device) == (7, 769, "hda1", "/dev/drbd1")
    with pytest.raises(Unreadable):
        parse_backends("what is this")


@pytest.mark.parametrize(("files", "attached"), [({}, False), ({SYSFS: ""}, False), ({SYSFS: "93:1\n"}, True)])
async def test_domains_with_their_disks(files: dict[str, str], attached: bool) -> None:
    host = ScriptedHost({"xl list -v": listing(("shaolin", 7, "-b----")), "xenstore-ls": (0, BACKENDS, "")}, files)
    (domain,) = await Xen(host).domains()
    assert domain.disks is not None
    assert [(disk.vdev, disk.device, disk.attached) for disk in domain.disks] == [("hda1", "/dev/drbd1", attached)]
    assert host.commands[1] == "xenstore-ls -f /local/domain/0/backend/vbd"
    assert await Xen(host).disk_attached(7, "hda1") is attached
    assert await Xen(host).disk_attached(7, "hda1", 1) is attached
    assert await Xen(host).disk_attached(7, "hda1", 2) is False, "another device is not this one"


@pytest.mark.parametrize(
    ("answer", "disks"),
    [
        ((1, "", "xenstore-ls: xs_directory (/local/domain/0/backend/vbd): No such file or directory\n"), ()),
        ((1, "", "xenstore-ls: xs_daemon_open: Connection refused\n"), None),
        ((0, "garbage", ""), None),
    ],
)
async def test_disks_that_could_not_be_read_are_unknown_and_not_absent(
    answer: Answer, disks: tuple[object, ...] | None
) -> None:
    host = ScriptedHost({"xl list -v": listing(("shaolin", 7, "-b----")), "xenstore-ls": answer})
    (domain,) = await Xen(host).domains()
    assert domain.disks == disks


async def test_attaching_writes_both_keys_and_waits_for_blkback() -> None:
    host = ScriptedHost({"xenstore-write": OK})
    host.on_sleep = lambda: host.files.update({SYSFS: "93:1\n"}) if host.time > 0.5 else None
    await Xen(host).attach_disk(7, "hda1", 1)
    node = "/local/domain/0/backend/vbd/7/769"
    assert host.commands == [
        f"xenstore-write {node}/physical-device-path /dev/drbd1 {node}/physical-device 93:1",
    ]
    await Xen(host).attach_disk(7, "hda1", 1)
    assert len(host.commands) == 1, "attached already: nothing to do"


async def test_a_disk_that_blkback_does_not_open_is_a_failure() -> None:
    """The kernel only logs it; xl would report success."""
    host = ScriptedHost({"xenstore-write": OK})
    with pytest.raises(DriverError, match="did not open /dev/drbd1 as hda1 of domain 7") as caught:
        await Xen(host).attach_disk(7, "hda1", 1, limit=2)
    assert caught.value.reason == "AttachFailed"


# --- domains --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "state"),
    [
        ("------", "running"), ("r-----", "running"), ("-b----", "running"), ("--p---", "paused"),
        ("---s--", "poweroff"), ("---sr-", "reboot"), ("---ss-", "suspended"), ("--pss-", "suspended"),
        ("---sc-", "crashed"), ("---sw-", "crashed"), ("---s?-", "crashed"),
        ("--pssd", "dying"), ("-----d", "dying"),
    ],
)  # fmt: skip
async def test_states(flags: str, state: str) -> None:
    (domain,) = await Xen(ScriptedHost({"xl list": listing(("a", 7, flags)), "xenstore-ls": (0, "", "")})).domains()
    assert (domain.state, domain.flags) == (state, flags)


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEADER,
        HEADER + DOM0 + "shaolin 7 128\n",
        HEADER + DOM0 + DOM0,
        "xl: libxl_list_domain failed\n",
        HEADER + DOM0.replace("r-----", "zzzzzz"),
    ],
)
async def test_a_list_that_is_cut_or_strange_is_unreadable(text: str) -> None:
    with pytest.raises(Unreadable):
        await Xen(ScriptedHost({"xl list": (0, text, "")})).domains()


async def test_unpause_is_believed_only_when_seen() -> None:
    """xl exits 0 whether it worked or not."""
    host = ScriptedHost({"xl unpause": OK, "xl list": listing(("shaolin", 7, "--p---"))})
    with pytest.raises(DriverError) as caught:
        await Xen(host).unpause(7)
    assert caught.value.reason == "UnpauseFailed"
    host.on_sleep = lambda: host.answers.update({"xl list": listing(("shaolin", 7, "-b----"))})
    await Xen(host).unpause(7)


async def test_pause_is_believed_only_when_seen() -> None:
    host = ScriptedHost({"xl pause": OK, "xl list": listing(("shaolin", 7, "-b----"))})
    with pytest.raises(DriverError) as caught:
        await Xen(host).pause(7)
    assert caught.value.reason == "PauseFailed"
    host.answers["xl list"] = listing(("shaolin", 7, "--p---"))
    await Xen(host).pause(7)


async def test_a_domain_that_is_gone_is_said_so() -> None:
    host = ScriptedHost({"xl pause": OK, "xl list": listing(("other", 8, "-b----"))})
    with pytest.raises(DriverError) as caught:
        await Xen(host).pause(7)
    assert caught.value.reason == "NoSuchDomain"


def info(version: str) -> Answer:
    text = (SAMPLES / "xl-info.running-on-mk1.mk2.txt").read_text()
    return 0, text.replace("xen_version            : 4.17.7", f"xen_version            : {version}"), ""


@pytest.mark.parametrize(
    ("version", "command"), [("4.17.5", f"{RESUME_SCRIPT} 7"), ("4.20.0", "xl resume 7"), ("5.0", "xl resume 7")]
)
async def test_resume_by_what_this_xen_has(version: str, command: str) -> None:
    answers: dict[str, Answer] = {"xl info": info(version), command: OK, "xl list": listing(("a--x", 7, "---ss-"))}
    host = ScriptedHost(answers)
    with pytest.raises(DriverError) as caught:
        await Xen(host).resume(7)
    assert caught.value.reason == "ResumeFailed"
    assert command in host.commands
    host.answers["xl list"] = listing(("a", 7, "-b----"))
    await Xen(host).resume(7)


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        ("err-xl-create-already-running-here.txt", "NameTaken"),
        ("err-xl-create-name-exists-paused-leftover.txt", "NameTaken"),
        ("err-xl-create-too-little-memory.txt", "OutOfMemory"),
    ],
)
async def test_a_refused_creation_says_why(sample: str, reason: str) -> None:
    words = (SAMPLES / sample).read_text().split("[exit")[0]
    with pytest.raises(DriverError) as caught:
        await Xen(ScriptedHost({"xl create": (3, "", words)})).create("/etc/xen/x.cfg")
    assert caught.value.reason == reason


async def test_a_failed_creation_is_told_by_its_causes_and_each_time_alike() -> None:
    """Another domain number in each attempt would be another message, event and status each time."""
    words = (SAMPLES / "err-xl-create-too-little-memory.txt").read_text().split("[exit")[0]
    told = set()
    for number in (6, 7):
        scripted = ScriptedHost({"xl create": (3, "", words.replace("Domain 6", f"Domain {number}"))})
        with pytest.raises(DriverError) as caught:
            await Xen(scripted).create("/etc/xen/x.cfg")
        told.add(caught.value.message)
    assert told == {
        "xl create /etc/xen/x.cfg: can't allocate low memory for domain: Out of memory; "
        "xc_dom_boot_mem_init failed: Cannot allocate memory; cannot (re-)build domain: -3"
    }


async def test_commands() -> None:
    host = ScriptedHost(dict.fromkeys(("xl create", "xl destroy", "xl shutdown", "xl rename"), OK))
    xen = Xen(host)
    await xen.create("/var/lib/x.cfg")
    await xen.create("/var/lib/x.cfg", paused=True)
    await xen.shutdown("shaolin")
    await xen.rename(7, "shaolin")
    await xen.destroy(7)
    assert host.commands == [
        "xl create -e /var/lib/x.cfg",
        "xl create -e -p /var/lib/x.cfg",
        "xl shutdown shaolin",
        "xl rename 7 shaolin",
        "xl destroy 7",
    ]


def test_a_migration_leaves_the_copy_paused_and_has_no_monitor() -> None:
    assert xl_argv() == ["xl", "migrate", "-s", "", "-p", "-e", "shaolin", "relay op-1"]
    assert Xen.receive_argv() == ["xl", "migrate-receive", "-p", "-e"]


def xl_argv() -> list[str]:
    return Xen.migrate_argv("shaolin", "relay op-1")


async def test_facts_that_can_be_read() -> None:
    host = ScriptedHost(
        {"xl info": info("4.17.7")},
        {
            "/proc/cpuinfo": "processor\t: 0\nvendor_id\t: AuthenticAMD\n",
            "/sys/class/net/xenbr0/bridge/bridge_id": "8000",
            "/sys/class/net/eth0/address": "",
            "/sys/module/drbd/parameters/disable_sendpage": "Y\n",
        },
    )
    facts = await Xen(host).host_facts()
    assert (facts.xen_version, facts.cpus, facts.memory_total_mib) == ("4.17.7", 1, 1023)
    assert (facts.cpu_vendor, facts.bridges, facts.drbd_disable_sendpage) == ("AuthenticAMD", ("xenbr0",), True)
    assert facts.virt_caps is not None
    assert "pv" in facts.virt_caps


async def test_facts_that_can_not_be_read_are_none() -> None:
    facts = await Xen(ScriptedHost({"xl info": (1, "", "xencall: error: Could not obtain handle")})).host_facts()
    assert (facts.xen_version, facts.memory_free_mib, facts.cpu_vendor, facts.drbd_disable_sendpage) == (None,) * 4

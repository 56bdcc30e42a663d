"""drbdadm's reading of its configuration: the howto's, the driver's, and what it must refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
from drbd_helpers import CONFIG, RESOURCE, config, pair
from hypothesis import given
from hypothesis import strategies as st

from agent.drivers import drbd_config as driver
from agent.protocol import Member, VolumeDesired
from agent.simulation import drbd_options
from agent.simulation.drbd_config import GLOBAL_COMMON, MAIN, MAIN_TEXT, ConfigError, HostPart, parse
from agent.simulation.files import VirtualFiles

HOWTO = """#/etc/drbd.conf
common { protocol C; }
resource vm_shaolin {
  disk /dev/vg0/vm_shaolin;
  device /dev/drbd1;
  meta-disk internal;
  syncer { rate 500M; verify-alg sha1; }
  on mk1 { address 10.0.0.81:7789; }
  on mk2 { address 10.0.0.82:7789; }
}
"""


def files(**texts: str) -> VirtualFiles:
    """/etc/drbd.conf and files of /etc/drbd.d by name."""
    made = VirtualFiles()
    made.write(MAIN, MAIN_TEXT)
    made.write(GLOBAL_COMMON, "global { usage-count no; }\ncommon { net { after-sb-0pri discard-zero-changes; } }\n")
    for name, text in texts.items():
        made.write(f"/etc/drbd.d/{name}.res", text)
    return made


def desired() -> VolumeDesired:
    members = (Member(node="mk1", address="10.0.0.81"), Member(node="mk2", address="10.0.0.82"))
    return VolumeDesired(
        term=1, uid="11111111-2222-3333-4444-555555555555", namespace="default", name="vm-shaolin",
        resource="vm_shaolin", minor=1, port=7789, group="vg0", logical_volume="vm_shaolin", size=512 << 20,
        members=members,
    )  # fmt: skip


def test_the_howtos_configuration() -> None:
    made = VirtualFiles()
    made.write(MAIN, HOWTO)
    (found,) = parse(made)
    assert found.name == "vm_shaolin"
    assert found.net == {"protocol": "C", "verify-alg": "sha1"}
    assert found.disk == {"resync-rate": "500M"}
    part = HostPart(1, "/dev/vg0/vm_shaolin", "internal", "10.0.0.81", 7789)
    assert found.hosts["mk1"] == part
    assert found.peer_of("mk1") == "mk2"


def test_what_the_driver_renders() -> None:
    (found,) = parse(files(vm_shaolin=driver.render(desired(), "8.4")))
    assert found.hosts["mk2"] == HostPart(1, "/dev/vg0/vm_shaolin", "internal", "10.0.0.82", 7789)
    assert found.disk["fencing"] == "resource-only"
    assert found.net["allow-two-primaries"] == "no"
    assert found.net["after-sb-0pri"] == "discard-zero-changes"


def test_drbd_9s_syntax_is_refused() -> None:
    with pytest.raises(ConfigError, match="Parse error"):
        parse(files(vm_shaolin=driver.render(desired(), "9")))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("resource a { net { fencing resource-only; } }", "but got 'fencing'"),
        ("resource a { disk { c-max-rate 200k; } }", "c-max-rate 200k => 200k out of range [250..4194304]k"),
        ("resource a { net { allow-two-primaries maybe; } }", "yes | no | ;"),
        ("resource a { on mk1 { node-id 1; } }", "but got 'node-id'"),
        ("resource a { on mk1 { device minor 1; disk /dev/x; meta-disk internal; } }", "'address' keyword missing"),
        ("resource a { on mk1 { address 10.0.0.81; } }", "':' expected,\n\tbut got ';' (TK 59)"),
        ("resource a { on mk1 { address 10.0.0.81:70000; } }", "port 70000 => 70000 out of range [1..65535]"),
        ("resource a { on mk1 { device /dev/sda; } }", "device name must start with /dev/drbd"),
        ("resource a { on mk1 { disk /dev/x; disk /dev/y; } }", "conflicting use of disk statement 'a:mk1:disk'"),
        ("resource a { options { quorum majority; } }", "but got 'quorum'"),
        ("resource a { frobnicate yes; }", "but got 'frobnicate'"),
        ("resource a { net { protocol C }", "';' expected"),
        ("resource a { net { protocol C;", "'an option' expected"),
        ("resource {", "'TK_STRING' expected"),
        ("frobnicate a { }", "global | common | resource"),
        ('resource "a { }\n', "Unterminated double quoted string"),
        (config().replace("volume 0", "volume 1"), "volume 1: one volume a resource"),
    ],
)
def test_mistakes_are_named_with_file_and_line(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(files(a="\n" + text))
    assert complaint in str(raised.value)
    assert str(raised.value).startswith("drbd.d/a.res:")


@pytest.mark.parametrize(
    ("text", "exit", "said"),
    [
        ("resource a { disk { resync-rate fast; } }", 20, "fast is not a valid number\n"),
        ("resource a { net { protocol D; } }", 10, "unknown protocol 'D', should be one of A,B,C\n"),
    ],
)
def test_a_bad_value_is_named_without_a_place(text: str, exit: int, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(files(a=text))
    assert (raised.value.exit, str(raised.value)) == (exit, said)


def test_what_drbdadm_lets_pass() -> None:
    """Words that drbdsetup refuses later, a resource without its end, a disk that two resources use."""
    assert parse(files(a="resource a { net { after-sb-0pri surely; } disk { fencing maybe; }"))
    other = config().replace("vm_shaolin {", "b {").replace("minor 1", "minor 2").replace(":7791", ":7792")
    assert len(parse(files(a=config(), b=other))) == 2


@pytest.mark.parametrize(
    ("changed", "conflict"),
    [
        ({"vm_shaolin {": "b {"}, "device-minor 'device-minor:mk1:1'"),
        ({"minor 1": "minor 2"}, "resource section 'vm_shaolin'"),
        ({"vm_shaolin": "b", "minor 1": "minor 2"}, "IP '10.0.0.81:7791'"),
    ],
)
def test_nothing_is_used_twice(changed: dict[str, str], conflict: str) -> None:
    other = config()
    for old, new in changed.items():
        other = other.replace(old, new)
    with pytest.raises(ConfigError) as raised:
        parse(files(a=config(), b=other))
    assert f"conflicting use of {conflict}" in str(raised.value)
    assert "first used here" in str(raised.value)


async def test_a_new_version_is_tested_in_place_of_the_old_one(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        await one.configure(config())
        new = f"{CONFIG}.new"
        await one.mk1.write_text(new, config(rate="5M"))
        assert (await one.run(one.mk1, "drbdadm", "-t", new, "sh-nop")).exit == 10  # it is there twice
        refused = await one.run(one.mk1, "drbdadm", "--config-to-test", new, "--config-to-exclude", CONFIG, "sh-nop")
        assert refused.exit == 1
        assert refused.stderr.startswith("drbdadm: unrecognized option '--config-to-exclude'\n")
        others = f"{CONFIG}.others"
        await one.mk1.write_text(others, 'include "/etc/drbd.d/global_common.conf";\n')
        instead = ("-c", others, "--config-to-test", new, "sh-nop")
        assert (await one.run(one.mk1, "drbdadm", *instead)).exit == 0
        assert (await one.run(one.mk1, "drbdadm", "-c", new, "sh-nop")).exit == 0
        await one.mk1.write_text(new, config(rate="5 parsecs"))
        assert (await one.run(one.mk1, "drbdadm", *instead)).exit == 10
        missing = await one.run(one.mk1, "drbdadm", "-t", "/etc/none", "sh-nop")
        assert (missing.exit, missing.stderr) == (20, "Can not open '/etc/none'.\n.")


async def test_who_is_meant(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        await one.configure(config())
        for name in (RESOURCE, f"{RESOURCE}/0", "minor-1"):
            assert await one.ok(one.mk1, "drbdadm", "sh-dev", name) == "/dev/drbd1\n"
        unknown = await one.run(one.mk1, "drbdadm", "up", "vm_x")
        assert (unknown.exit, unknown.stderr) == (1, "'vm_x' not defined in your config (for this host).\n")
        await one.mk1.write_text(CONFIG, config().replace("on mk1", "on mk7"))
        ignored = await one.run(one.mk1, "drbdadm", "up", RESOURCE)
        assert (ignored.exit, ignored.stderr) == (1, f"'{RESOURCE}' not defined in your config (for this host).\n")
        assert (await one.run(one.mk1, "drbdadm", "frobnicate", RESOURCE)).exit == 1


async def test_adjust_changes_what_differs(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        await one.in_sync()
        await one.mk1.write_text(CONFIG, config(rate="7M", net="verify-alg sha1;"))
        await one.ok(one.mk1, "drbdadm", "adjust", RESOURCE)
        shown = await one.ok(one.mk1, "drbdsetup", "show")
        assert "resync-rate     \t7168k; # bytes/second\n" in shown
        assert 'verify-alg      \t"sha1";\n' in shown
        assert await one.word(one.mk1) == "Connected Secondary/Secondary UpToDate/UpToDate"
        await one.ok(one.mk1, "drbdadm", "disconnect", RESOURCE)
        await one.ok(one.mk1, "drbdadm", "adjust", RESOURCE)
        await one.settled()


def test_numbers_with_units() -> None:
    assert [drbd_options.number(text, 1024) for text in ("500M", "250", "1G", "3k", "8s")] == [
        500 << 20, 250 << 10, 1 << 30, 3 << 10, 4096,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="fast"):
        drbd_options.number("fast")


WORDS = [*"{};", '"', "resource", "on", "a", "mk1", "net", "disk", "volume", "0", "device", "minor", "1", "address",
         "10.0.0.1:7", "include", "\n", "#"]  # fmt: skip


@given(st.lists(st.sampled_from(WORDS), max_size=40))
def test_whatever_the_text_it_is_read_or_refused(words: list[str]) -> None:
    """Nothing but ConfigError comes out, and it names a place."""
    try:
        found = parse(files(a=" ".join(words)))
    except ConfigError as error:
        said = str(error)
    else:
        said = "" if all(resource.name for resource in found) else "a resource without a name"
    assert not said or said.startswith("drbd.d/a.res:")

"""What is said about real hosts from what they told: held to real output, and able to see what may not be."""

from __future__ import annotations

from pathlib import Path

import pytest
from demo_lib.witness import Roles, Tick, Witness, _roles_of
from lab_lib.image import Image
from lab_lib.lab import Lab
from lab_lib.machines import Machine, Plan

PROJECT = Path(__file__).resolve().parents[3]


def witness(tmp_path: Path) -> Witness:
    lab = Lab(tmp_path, Plan(Image(tmp_path), "main", tmp_path, []), [Machine(1, 1, 2), Machine(2, 3, 4)])
    return Witness(lab, "shaolin", "vm_shaolin")


HANDED_OVER = """\
exists resource name:vm_shaolin role:Primary suspended:no
exists connection name:vm_shaolin peer-node-id:0 conn-name:peer connection:Connected role:Secondary
exists device name:vm_shaolin volume:0 minor:1 disk:UpToDate
exists -
change resource name:vm_shaolin role:Secondary
change connection name:vm_shaolin peer-node-id:0 conn-name:peer role:Primary
"""
TWO = """\
exists resource name:vm_shaolin role:Secondary suspended:no
exists connection name:vm_shaolin peer-node-id:0 conn-name:peer connection:Connected role:Primary
exists -
change resource name:vm_shaolin role:Primary
change connection name:vm_shaolin peer-node-id:0 conn-name:peer role:Secondary
"""


def told(text: str, host: str = "mk1") -> tuple[list[Roles], set[str]]:
    """A line each second."""
    roles: list[Roles] = []
    dumped: set[str] = set()
    take = _roles_of(host, roles, dumped)
    for at, line in enumerate(text.splitlines()):
        take(line + "\n", float(at))
    return roles, dumped


def test_a_hand_over_has_no_two_primaries(tmp_path: Path) -> None:
    seen = witness(tmp_path)
    roles, dumped = told(HANDED_OVER)
    seen.roles += roles
    assert dumped == {"mk1"}
    assert seen.two_primaries(100.0) == 0.0
    assert not any(one.both_primary for one in seen.roles)
    assert seen.changed("mk1", "Secondary") == 4.0
    assert seen.changed("mk2", "Primary") is None


def test_two_primaries_are_seen_with_their_time(tmp_path: Path) -> None:
    seen = witness(tmp_path)
    seen.roles += told(TWO, "mk2")[0]
    assert any(one.both_primary for one in seen.roles)
    assert seen.two_primaries(100.0) == 1.0
    assert seen.changed("mk2", "Primary") == 3.0
    assert seen.changed("mk2", "Primary", after=3.0) is None


def test_two_primaries_that_last_are_counted_until_now(tmp_path: Path) -> None:
    seen = witness(tmp_path)
    seen.roles += told("\n".join(TWO.splitlines()[:4]), "mk2")[0]
    assert seen.two_primaries(10.0) == 7.0


def test_a_lost_peer_is_no_primary(tmp_path: Path) -> None:
    seen = witness(tmp_path)
    seen.roles += told(TWO.replace("change resource", "destroy connection name:vm_shaolin\nchange resource", 1), "mk2")[
        0
    ]
    assert seen.two_primaries(10.0) == 0.0


def test_records_and_complaints_of_the_console(tmp_path: Path) -> None:
    seen = witness(tmp_path)
    for at, (host, line) in enumerate(
        [
            ("mk1", "guest: last record found 0"),
            ("mk1", "tick 1 disk=ok up 1.000\r\n"),
            ("mk1", "tick 2 disk=ok up 1.200\r\n"),
            ("mk2", "guest: LOST record 2\r\n"),
            ("mk2", "tick 3 disk=FAIL up 6.100 Input/output error\r\n"),
        ]
    ):
        seen._console(host, line, float(at * at))
    assert seen.ticks == [Tick("mk1", 1, True, 1.0), Tick("mk1", 2, True, 4.0), Tick("mk2", 3, False, 16.0)]
    assert seen.complaints == ["mk2: guest: LOST record 2"]
    assert seen.pause() == (12.0, 4.0, 16.0)
    assert (seen.last("mk1"), seen.last("mk2")) == (2, 0)


@pytest.mark.parametrize("name", ["run1.mk1", "run1.mk2", "run2.mk1", "run2.mk2", "run3.mk1"])
def test_real_streams_are_read(name: str) -> None:
    host = name.partition(".")[2]
    roles, dumped = told((PROJECT / f"tests/samples/events2-stream.{name}.txt").read_text(), host)
    assert dumped == {host}
    assert {one.own for one in roles} & {"Primary", "Secondary"}
    assert {one.peer for one in roles} & {"Primary", "Secondary"}
    assert all(one.host == host for one in roles)

"""Which resources allow two Primaries, and what the peer has sent: as real hosts and both versions of DRBD tell it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.drivers.drbd_parse import parse_received, parse_two_primaries
from agent.drivers.errors import Unreadable

SAMPLES = Path(__file__).parents[2] / "samples"
PLAIN = "resource vm_a {\n    net {\n        max-buffers     \t8000;\n    }\n}\n"
NINE = """resource "vm_b" {
    _this_host {
        node-id                 0;
    }
    connection {
        _peer_node_id 1;
        net {
            allow-two-primaries yes;
            _name               "mk2";
        }
    }
}
"""


def show(name: str) -> str:
    """What `drbdsetup show` said."""
    return (SAMPLES / name).read_text().split("$ drbdsetup show\n")[1].split("[exit")[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", set()),
        (PLAIN, set()),
        (NINE, {"vm_b"}),
        (PLAIN + NINE, {"vm_b"}),
        (NINE + PLAIN, {"vm_b"}),
        (NINE.replace("yes", "no"), set()),
        (NINE.replace("allow-two-primaries yes;", "allow-two-primaries;"), {"vm_b"}),
        (NINE.replace("allow-two-primaries yes;", "# allow-two-primaries yes;"), set()),
    ],
)
def test_who_allows_two_primaries(text: str, expected: set[str]) -> None:
    assert parse_two_primaries(text) == expected


def test_real_hosts() -> None:
    assert parse_two_primaries(show("06-dual-primary-before-migration.mk1.txt")) == {"vm_shaolin"}
    assert parse_two_primaries(show("08-after-demote-domU-on-mk2-Secondary-Primary.mk1.txt")) == frozenset()
    assert parse_two_primaries(show("00-drbd-unconfigured-no-lv.mk1.txt")) == frozenset()


@pytest.mark.parametrize("text", [NINE[:-3], "no such thing\n", "resource vm_a\n"])
def test_what_is_cut_off_or_unknown_is_unreadable(text: str) -> None:
    with pytest.raises(Unreadable):
        parse_two_primaries(text)


def test_received() -> None:
    line = (
        "exists peer-device name:vm_a peer-node-id:0 conn-name:peer volume:0 replication:Established"
        " peer-disk:UpToDate resync-suspended:no received:65496 sent:0 out-of-sync:0 pending:0 unacked:0\n"
    )
    assert parse_received(f"{line}exists -\n", "vm_a") == 65496
    assert parse_received(f"{line}exists -\n", "vm_b") is None
    assert parse_received("exists -\n", "vm_a") is None
    assert parse_received(line.replace("received:65496 ", ""), "vm_a") is None
    with pytest.raises(Unreadable):
        parse_received("Failure\n", "vm_a")

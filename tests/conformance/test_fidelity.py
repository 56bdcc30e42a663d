"""The comparison itself can fail, and docs/fidelity.md lists what there is."""

from __future__ import annotations

import re

import pytest

from tests.conformance.answers import Answer, Plain
from tests.conformance.every import in_order
from tests.conformance.fidelity import DOCUMENT, row
from tests.conformance.scenario import RECORDED, Recording, Seen, differences


def test_every_scenario_is_in_the_document() -> None:
    """hack/fidelity writes it."""
    text = DOCUMENT.read_text()
    assert re.findall(r"^\| (?!scenario)([a-z][a-z-]+) \| .*$", text, re.M) == in_order()
    for name in in_order():
        assert re.search(re.escape(row(name, Recording.load(name), "@")).replace("@", "[^|]+"), text), name


def test_nothing_is_recorded_that_nobody_plays() -> None:
    assert {path.stem for path in RECORDED.iterdir()} <= set(in_order())


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        ([Seen("a", "1"), Seen("b", "2")], 0),
        ([Seen("a", "1"), Seen("b", "3")], 1),
        ([Seen("a", "1"), Seen("b", "3", differs="why")], 0),
        ([Seen("a", "1"), Seen("b", "2", differs="why")], 1),
        ([Seen("a", "1")], 1),
        ([Seen("a", "1"), Seen("b", "2"), Seen("c", "3")], 1),
        ([Seen("b", "2"), Seen("a", "1")], 1),
    ],
)
def test_what_differs_is_told(seen: list[Seen], told: int) -> None:
    recorded = [Seen("a", "1"), Seen("b", "2")]
    assert len(differences(seen, recorded, simulated=True)) == told


def test_a_known_difference_is_none_on_real_hosts() -> None:
    assert differences([Seen("a", "2", differs="why")], [Seen("a", "1")], simulated=False)


def test_a_recording_is_read_as_it_was_written() -> None:
    names = [path.stem for path in RECORDED.iterdir()]
    assert names
    for name in names:
        recording = Recording.load(name)
        assert recording is not None
        assert recording.seen
        assert all(one.label for one in recording.seen), name
        assert any(one.text for one in recording.seen), name  # of a preflight nothing may be said


def test_equal_identifiers_keep_being_equal() -> None:
    plain = Plain()
    first = plain("8AC59A95F6E1C4F7:0000000000000000:8AC59A95F6E1C4F6:0000000000000004:1:1:1:1:0:0:0")
    assert first == "uuid-1+1:0000000000000000:uuid-1:0000000000000004:1:1:1:1:0:0:0"
    assert plain("8AC59A95F6E1C4F6:1111111111111110:") == "uuid-1:uuid-2:"


def test_an_answer_as_text() -> None:
    assert str(Answer(5, "out\n", "one\ntwo\n")) == "out\n[stderr] one\n[stderr] two\n[exit 5]"

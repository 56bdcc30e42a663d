"""hack/bench --lab: what is said about moves, by numbers that are known here."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from bench_lib import lab_main, lab_moves, lab_stream, report
from bench_lib.lab_moves import OURS, Moment, Move, Rounds
from bench_lib.lab_stream import Carried
from bench_lib.main import main
from bench_lib.report import Row
from bench_lib.timeline import Span, lane


def move(way: str, *, whole: float, pause: float, two: float = 0.0, cpu: float = 10.0) -> Move:
    moments = [
        Moment("status", "edit", 1000.0),
        Moment("status", "over", 1000.0 + whole),
        Moment("migrate-send", "Precopy", 1001.0),
        Moment("migrate-send", "HandOver", 1000.0 + whole - 2),
        Moment("migrate-receive", "Receiving", 1000.9),
        Moment("migrate-receive", "Done", 1000.0 + whole - 0.5),
    ]
    left = 1000.0 + whole - 4
    return Move(way, "mk1", "mk2", 1000.0, 1000.0 + whole, left, left + pause, two, cpu, tuple(moments))


def rows(rounds: Rounds) -> dict[str, Row]:
    return {row.measure: row for row in lab_moves.result(rounds).rows}


def test_moves_of_the_same_round_are_compared() -> None:
    rounds = Rounds(
        [
            move(OURS, whole=10.0, pause=2.0),
            move("tcp", whole=20.0, pause=2.0, two=15.0),
            move("tcp", whole=10.0, pause=4.0, two=8.0),
            move(OURS, whole=12.0, pause=2.0),
            move(OURS, whole=9.0, pause=3.0),
            move("tcp", whole=10.0, pause=2.0, two=8.0),
        ]
    )
    found = rows(rounds)
    whole = found["whole move, of script, plain TCP: median (0.50 to 1.20)"]
    assert whole.value == pytest.approx(0.9)
    assert not whole.missed
    pause = found["pause of the guest, of script, plain TCP: median (0.50 to 1.50)"]
    assert (pause.value, pause.missed) == (1.0, False)
    assert not found["moves by spec.node: both hosts Primary, in all"].missed
    assert not any("ssh" in measure for measure in found)


def test_two_primaries_and_slowness_are_told() -> None:
    found = rows(Rounds([move(OURS, whole=11.0, pause=3.0, two=0.25), move("ssh", whole=10.0, pause=2.0)]))
    assert found["moves by spec.node: both hosts Primary, in all"].missed
    assert found["whole move, of script, ssh: median (1.10 to 1.10)"].missed
    assert found["pause of the guest, of script, ssh: median (1.50 to 1.50)"].missed


def test_a_run_that_ended_early_says_so() -> None:
    rounds = Rounds([move(OURS, whole=10.0, pause=2.0), move("tcp", whole=10.0, pause=2.0)], "round 2: the cable broke")
    told = lab_moves.result(rounds)
    assert told.how.startswith("1 round,")
    assert told.how.endswith("ENDED EARLY: round 2: the cable broke")
    assert "the cable broke" in report.markdown(told, "hack/bench --lab moves")


def test_tls_may_cost_a_fifth() -> None:
    def one(mode: str, seconds: float) -> Carried:
        return Carried(mode, seconds, 50_000_000, 1.0, 2.0)

    (row,) = lab_stream.result([one("tls", 1.2), one("plain", 1.0)]).rows
    assert (round(row.value, 2), row.goal_text, row.verdict) == (0.83, "≥ 0.80 times", "met")
    (row,) = lab_stream.result([one("tls", 2.0), one("plain", 1.0)]).rows
    assert row.missed
    assert row.verdict == "missed by 0.30 times (0.6 times the goal)"


def test_each_step_lasts_until_the_next() -> None:
    told = lane("agent", [("b", 2.0), ("a", 1.0), ("c", 2.0)], 5.0)
    assert told.spans == (Span("a", 1.0, 2.0), Span("c", 2.0, 5.0))


def test_the_picture_is_svg_with_every_step() -> None:
    text = lab_main.drawn([move(OURS, whole=20.0, pause=2.5), move(OURS, whole=5.0, pause=1.0)])
    tree = ET.fromstring(text)
    titles = [one.text or "" for one in tree.iter("{http://www.w3.org/2000/svg}title")]
    for step in ("Precopy: 1.00 to", "HandOver", "Receiving", "stands still: 1.00 to 2.00 s (1.00 s)"):
        assert any(step in title for title in titles), step
    assert len(text) < 20_000


def test_the_page_has_a_place_for_everything() -> None:
    text = report.DOCUMENT.read_text()
    for name in ("lab-moves", "lab-stream", "lab-life"):
        assert text.count(f"<!-- bench: {name} -->\n") == text.count(f"<!-- end: {name} -->") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--lab", "--moves", "3"], "--rounds times"),
        (["--lab", "latency"], "there are life, stream, moves"),
        (["moves"], "there are writes"),
        (["--rounds", "3"], "with --lab"),
        (["--lab", "--rounds", "0"], "write a number from 1"),
        (["--lab", "--quick", "--write"], "leave out --write"),
    ],
)
def test_wrong_options_are_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err

"""Which replica is newer: the same answer as the simulated kernel gives at the handshake, for any identifiers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.protocol import GenerationIds
from agent.simulation import drbd_generation as kernel
from controller.domain.generations import relation

# Few values, so that identifiers of the two sides meet
IDS = st.sampled_from((0, 4, 0x10, 0x11, 0x20, 0x21, 0x30, 0x40))
GENERATIONS = st.builds(
    kernel.Generation, current=IDS.filter(bool), bitmap=IDS, history=st.tuples(IDS, IDS)
)  # fmt: skip
SAID = {
    kernel.SAME: "Same",
    kernel.SOURCE: "FirstNewer",
    kernel.FULL_SOURCE: "FirstNewer",
    kernel.TARGET: "SecondNewer",
    kernel.FULL_TARGET: "SecondNewer",
    kernel.SPLIT_BRAIN: "SplitBrain",
    kernel.SPLIT_BRAIN_FULL: "SplitBrain",
    kernel.UNRELATED: "Unrelated",
}


def ids(generation: kernel.Generation) -> GenerationIds:
    return GenerationIds(
        current=f"{generation.current:016X}",
        bitmap=f"{generation.bitmap:016X}",
        history=tuple(f"{number:016X}" for number in generation.history),
    )


@given(GENERATIONS, GENERATIONS)
def test_as_the_kernel_finds(first: kernel.Generation, second: kernel.Generation) -> None:
    if first.masked.current == second.masked.current:
        assert relation(ids(first), ids(second)) == "Same"  # who of them missed the end of a resync is DRBD's business
        return
    assert relation(ids(first), ids(second)) == SAID[kernel.compare(first, second)]


@pytest.mark.parametrize("bad", [None, GenerationIds(current="", bitmap="0"), GenerationIds(current="4", bitmap="zz")])
def test_what_cannot_be_read_is_unknown(bad: GenerationIds | None) -> None:
    good = GenerationIds(current="10", bitmap="0")
    assert relation(bad, good) == relation(good, bad) == "Unknown"

"""Every scenario on simulated hosts: they answer what real hosts answered, as far as that was recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.every import in_order
from tests.conformance.play import on_simulated
from tests.conformance.scenario import SCENARIOS, Recording, differences


@pytest.mark.parametrize("name", in_order())
async def test_as_real_hosts(tmp_path: Path, name: str) -> None:
    """One that was never played on real hosts, which docs/fidelity.md says of it, has to come to its end."""
    seen = await on_simulated(SCENARIOS[name], tmp_path)
    assert seen
    recorded = Recording.load(name)
    told = differences(seen, recorded.seen, simulated=True) if recorded is not None else []
    assert not told, "\n\n".join(told)

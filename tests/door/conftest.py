"""One pair of hosts for all tests of a process: each leaves them as they were, or says so by failing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rig import Rig


@pytest.fixture(scope="session")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    made = Rig(tmp_path_factory.mktemp("door"))
    made.start()
    yield made
    made.stop()

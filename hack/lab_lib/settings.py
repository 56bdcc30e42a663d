"""Names, addresses and folders of the lab."""

from __future__ import annotations

import os
from pathlib import Path

from devcluster.build import cache_folder

LIBRARY = Path(__file__).resolve().parent
PROJECT = LIBRARY.parents[1]
MOST_HOSTS = 4


def cache() -> Path:
    """What is built, kept by content."""
    folder = cache_folder() / "lab"
    folder.mkdir(exist_ok=True)
    return folder


def run_folder() -> Path:
    """Of the lab that runs: disks, sockets, consoles. XENTANDEM_LAB names another, for a second lab beside it."""
    return Path(os.environ.get("XENTANDEM_LAB") or cache() / "run")


def name(index: int) -> str:
    """Of the host with that number, from 1."""
    return f"mk{index}"


def address(index: int) -> str:
    """On xenbr0: replication, relocation and the guests."""
    return f"10.0.0.{80 + index}"

"""Objects as the API server gives them, for tests of the cache and of what is built on it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

_VERSIONS = itertools.count(100)
Raw = dict[str, Any]


def _meta(name: str, namespace: str, extra: Raw) -> Raw:
    made = {
        "name": name,
        "uid": f"00000000-0000-0000-0000-{sum(f'{namespace}/{name}'.encode()):012d}",
        "resourceVersion": str(next(_VERSIONS)),
        "generation": 1,
        "creationTimestamp": "2031-02-01T10:00:00Z",
        **extra,
    }
    return {**made, "namespace": namespace} if namespace else made


def node(name: str = "mk1", status: Raw | None = None, **meta: Any) -> Raw:
    spec = {
        "agent": {"address": "127.0.0.1", "port": 8003},
        "replication": {"address": "10.0.0.81"},
        "volumeGroups": ["vg0"],
    }
    return {"kind": "XenNode", "metadata": _meta(name, "", meta), "spec": spec, "status": status or {}}


def volume(name: str = "v", status: Raw | None = None, device: Raw | None = None, **meta: Any) -> Raw:
    spec = {"size": "512Mi", "logicalVolume": {"group": "vg0"}, "nodes": ["mk1", "mk2"], "device": device or {}}
    namespace = meta.pop("namespace", "default")
    return {"kind": "DrbdVolume", "metadata": _meta(name, namespace, meta), "spec": spec, "status": status or {}}


def vm(name: str = "a", *disks: str, node: str | None = "mk1", status: Raw | None = None, **meta: Any) -> Raw:
    spec = {
        "node": node,
        "memory": "512Mi",
        "kernel": "/boot/vmlinuz",
        "disks": [{"volume": disk, "device": f"xvd{chr(97 + n)}"} for n, disk in enumerate(disks)],
    }
    namespace = meta.pop("namespace", "default")
    return {"kind": "XenVM", "metadata": _meta(name, namespace, meta), "spec": spec, "status": status or {}}


def again(raw: Raw, **changes: Any) -> Raw:
    """The same object, changed later."""
    return {**raw, **changes, "metadata": {**raw["metadata"], "resourceVersion": str(next(_VERSIONS))}}


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for what the test's own task brings about; nothing signals it."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)

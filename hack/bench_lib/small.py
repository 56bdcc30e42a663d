"""One VM: how soon an edit of spec.node moves memory, and what is written for a new VM and for a move."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from itertools import pairwise

from demo_lib.cast import Guest, guests

from bench_lib.audit import Write, tally, without_leases
from bench_lib.process import Watched
from bench_lib.report import Listing, Result, Row
from bench_lib.stage import NAMESPACE, Failed, Stage
from controller.api.common import condition
from controller.api.drbdvolume import DrbdVolume
from controller.api.xenvm import XenVM

QUIET_SECONDS = 3.0  # three times as long as a status that only tells people something may wait
COUNTED_SECONDS = 30.0  # an agent reads its host's free memory every 10 s, and its XenNode shows it up to 15 s later
NEW_VM_WRITES, MOVE_WRITES, LATENCY_MS = 12.0, 8.0, 250.0


async def ready(stage: Stage, watched: Watched) -> None:
    """The controller leads and has taken in the hosts."""

    async def all_ready() -> bool:
        metrics = await watched.metrics()
        nodes = await stage.listed("XenNode")
        return metrics is not None and metrics.value("xentandem_leader") == 1 and all(map(is_ready, nodes))

    await stage.until(all_ready, 60, "the hosts are Ready")
    await stage.until_quiet(QUIET_SECONDS, 60)


async def writes(stage: Stage, watched: Watched, guest: Guest) -> Result:
    """The howto's VM with its volume, new; then its first move. What the API server counted for each."""
    made = await _counted(stage, watched, lambda: stage.create(guest.documents), guest, guest.first)
    moved = await _counted(stage, watched, lambda: _edit(stage, guest, guest.second), guest, guest.second)
    return Result(
        "writes",
        "API writes by the controller, Events too, its Lease not: the howto's VM (512 MiB volume with ext4, 512 MiB of"
        " memory), as the API server's audit log has them",
        (
            Row("new VM with volume", len(made), "writes", NEW_VM_WRITES),
            Row("of these, Events", _of(made, "events"), "writes"),
            Row("of these, the hosts' free memory and space", _of(made, "xennodes/status"), "writes"),
            Row("live migration", len(moved), "writes", MOVE_WRITES),
            Row("of these, Events", _of(moved, "events"), "writes"),
            Row("of these, the hosts' free memory", _of(moved, "xennodes/status"), "writes"),
        ),
        (
            _listing("New VM with volume, write by write", made),
            _listing("Live migration, write by write", moved),
        ),
    )


async def latency(stage: Stage, guest: Guest, moves: int) -> Result:
    """Moves of one VM to and fro on an idle cluster."""
    from_sent, from_answered, parts = [], [], []
    for number in range(1, moves + 1):
        vm = await _vm(stage, guest)
        source = vm.status.placement.node if vm.status.placement else guest.first
        target = guest.first if source == guest.second else guest.second
        stage.screen.progress(f"move {number} of {moves}")
        mark, sent = stage.audit.mark(), time.time()
        await _edit(stage, guest, target)
        answered = time.time()
        await _settled(stage, guest, target)
        received = await _steps(stage, "migrate-receive", vm.metadata.uid, target, sent)
        steps = await _steps(stage, "migrate-send", vm.metadata.uid, source, sent)
        begun = steps["Precopy"]
        committed = next(one.at for one in stage.audit.since(mark) if one.resource == "xenvms/status")
        parts.append((sent, answered, _unix(committed), received["Listening"], steps["Starting"], begun))
        from_sent.append(1000 * (begun - sent))
        from_answered.append(1000 * (begun - answered))
    return Result(
        "latency",
        f"spec.node edited until the source agent records Precopy (the first page has passed its relay): {moves} moves"
        " of one VM with 512 MiB, one after the other, idle cluster; one clock, the machine's",
        (
            Row("median, from sending the patch", percentile(from_sent, 50), "ms"),
            Row("p95, from sending the patch", percentile(from_sent, 95), "ms", LATENCY_MS),
            Row("longest, from sending the patch", max(from_sent), "ms"),
            Row("median, from the patch's answer", percentile(from_answered, 50), "ms"),
            Row("p95, from the patch's answer", percentile(from_answered, 95), "ms"),
        ),
        (Listing("What it is made of", ("part", "median"), _medians(parts)),),
    )


def the_guest(stage: Stage) -> Guest:
    """shaolin, as in the sample."""
    return guests(1, stage.names)[0]


def percentile(values: Sequence[float], percent: int) -> float:
    """With linear interpolation between the two nearest (statistics.quantiles, inclusive)."""
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def is_ready(found: DrbdVolume | XenVM) -> bool:
    """Ready, and for the present generation."""
    said = condition(found.status.conditions, "Ready")
    current = found.status.observed_generation == found.metadata.generation
    return said is not None and said.status == "True" and current


async def _edit(stage: Stage, guest: Guest, node: str) -> None:
    await stage.patch(("XenVM", NAMESPACE, guest.name), {"spec": {"node": node}})


async def _vm(stage: Stage, guest: Guest) -> XenVM:
    found = await stage.get(("XenVM", NAMESPACE, guest.name))
    assert isinstance(found, XenVM)
    return found


async def _settled(stage: Stage, guest: Guest, node: str, quiet: float = QUIET_SECONDS) -> None:
    """The VM runs there, its volume is whole, and the controller has nothing more to write."""

    async def runs() -> bool:
        vm = await _vm(stage, guest)
        volume = await stage.get(("DrbdVolume", NAMESPACE, guest.volume))
        placed = vm.status.placement is not None and vm.status.placement.node == node
        return placed and vm.status.phase == "Running" and is_ready(vm) and is_ready(volume)

    await stage.until(runs, 120, f"{guest.name} runs on {node}")
    await stage.until_quiet(quiet, 120)


async def _counted(
    stage: Stage, watched: Watched, act: Callable[[], Awaitable[None]], guest: Guest, node: str
) -> list[Write]:
    """Every write until all is settled. The controller's own count must agree with the API server's."""
    mark, before = stage.audit.mark(), await _own_count(watched)
    await act()
    await _settled(stage, guest, node, COUNTED_SECONDS)
    found, own = without_leases(stage.audit.since(mark)), await _own_count(watched) - before
    if own != len(found):
        raise Failed(f"the controller counts {own:.0f} writes, the API server's audit log has {len(found)}")
    return found


async def _own_count(watched: Watched) -> float:
    metrics = await watched.metrics()
    if metrics is None:
        raise Failed("the controller's metrics cannot be read")
    name = "xentandem_api_writes_total"
    return metrics.value(name) - metrics.value(name, resource="leases")


async def _steps(stage: Stage, kind: str, uid: str, host: str, after: float) -> dict[str, float]:
    """Unix times of the steps of that VM's newest operation of the kind, as its agent recorded them. Raises Failed."""
    state = await stage.agent(host).state()
    found = [one for one in state.operations.values() if one.kind == kind and one.subject_uid == uid]
    newest = max(found, key=lambda one: one.started_at, default=None)
    times = {step.name: _unix(step.at) for step in newest.steps} if newest else {}
    if not times or min(times.values()) < after:
        raise Failed(f"{host} has no record of the {kind}: {times}")
    return times


def _unix(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


PARTS = (
    "the API server takes the edit",
    "the controller sees it, both agents' preflight, the move committed to status",
    "the target's agent listens",
    "the source's agent starts `xl migrate`",
    "the first page passes the relay",
)


def _medians(parts: Sequence[Sequence[float]]) -> tuple[tuple[str, str], ...]:
    """Of the times between neighbouring moments of each move."""
    spans = zip(*([1000 * (b - a) for a, b in pairwise(moments)] for moments in parts), strict=True)
    return tuple((name, f"{statistics.median(span):.0f} ms") for name, span in zip(PARTS, spans, strict=True))


def _of(found: list[Write], resource: str) -> int:
    return sum(write.resource == resource for write in found)


def _listing(title: str, found: list[Write]) -> Listing:
    rows = [(write.verb, write.resource, write.name.partition(".")[0], write.says) for write in found]
    total = ", ".join(f"{count} {verb} {resource}" for (verb, resource), count in sorted(tally(found).items()))
    return Listing(f"{title} ({total})", ("verb", "resource", "object", "what it says"), tuple(rows))

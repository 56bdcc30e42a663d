"""Many VMs: a hundred at once, a thousand settled, and a start with five thousand. Each goes on from the one before."""

from __future__ import annotations

import asyncio
import time

from bench_lib.audit import tally, without_leases
from bench_lib.objects import machines
from bench_lib.process import Watched
from bench_lib.report import Listing, Result, Row
from bench_lib.small import is_ready
from bench_lib.stage import Failed, Stage

SETTLED_CPU, SETTLED_RSS, START_SECONDS = 2.0, 250.0, 60.0
SAMPLE_SECONDS = 1.0
BATCH = 500  # VMs that are applied at a time to grow the population
QUIET_SECONDS = 10.0  # nothing but the Lease is written for so long before what is settled is measured
START_LIMIT = 900.0
OBJECTS_PER_VM = 2


async def hundred(stage: Stage, watched: Watched, count: int) -> Result:
    """That many VMs with their volumes, applied at once to hosts that have none."""
    cpu, mark = watched.cpu_seconds(), stage.audit.mark()
    begun = time.monotonic()
    await stage.create(machines(1, count, stage.names))
    applied = time.monotonic() - begun

    async def all_run() -> bool:
        vms = await stage.listed("XenVM")
        return len(vms) == count and all(vm.status.phase == "Running" for vm in vms)

    await stage.until(all_run, 60 + 5.0 * count, f"{count} VMs run", step=0.25)
    running = time.monotonic() - begun
    await stage.until_quiet(QUIET_SECONDS, 300)
    found = without_leases(stage.audit.since(mark))
    by_kind = sorted(tally(found).items(), key=lambda item: -item[1])
    return Result(
        "hundred",
        f"{count} VMs with a volume of 8 MiB each, applied at once to {len(stage.names)} simulated hosts that are one"
        " process",
        (
            Row("all applied after", applied, "s"),
            Row("all Running after", running, "s"),
            Row("API writes for each VM with its volume", len(found) / count, "writes", 12.0),
            Row("CPU time of the controller in all", watched.cpu_seconds() - cpu, "s"),
            Row("CPU time of the controller for each", 1000 * (watched.cpu_seconds() - cpu) / count, "ms"),
            Row("peak memory of the controller", watched.peak_rss_mb(), "MB"),
        ),
        (
            Listing(
                "API writes",
                ("verb", "resource", "in all", "for each VM"),
                tuple((verb, what, str(n), f"{n / count:.2f}") for (verb, what), n in by_kind),
            ),
        ),
    )


async def settled(stage: Stage, watched: Watched, count: int, seconds: float) -> Result:
    """Nothing changes. What does the controller do?"""
    await grow(stage, watched, count)
    mark, cpu, peak = stage.audit.mark(), watched.cpu_seconds(), watched.rss_mb()
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        await asyncio.sleep(SAMPLE_SECONDS)
        peak = max(peak, watched.rss_mb())
    took = time.monotonic() - begun
    percent = 100 * (watched.cpu_seconds() - cpu) / took
    written = stage.audit.since(mark)
    found = without_leases(written)
    rows = tuple((verb, resource, str(n)) for (verb, resource), n in sorted(tally(found).items()))
    return Result(
        "settled",
        f"{count:,} VMs that run and {count:,} volumes that are UpToDate on {len(stage.names)} simulated hosts, for"
        f" {seconds:.0f} s after {QUIET_SECONDS:.0f} s without a write",
        (
            Row("API writes", len(found), "", 0.0),
            Row("renewals of the Lease", len(written) - len(found), ""),
            Row("CPU of the controller", percent, "% of a core", SETTLED_CPU, below=True),
            Row("memory of the controller (RSS), the most", peak, "MB", SETTLED_RSS, below=True),
        ),
        (Listing("API writes", ("verb", "resource", "count"), rows),) if rows else (),
    )


async def start(stage: Stage, watched: Watched, count: int) -> tuple[Result, Watched]:
    """A new controller process, before objects that all are as they shall be."""
    await grow(stage, watched, count)
    await stage.stop_controller()
    mark, begun = stage.audit.mark(), time.monotonic()
    watched = await stage.start_controller()
    leading: list[float] = []

    async def reconciled() -> bool:
        metrics = await watched.metrics()
        if metrics is None or metrics.value("xentandem_leader") != 1:
            return False
        if not leading:
            leading.append(time.monotonic() - begun)
        looks = metrics.value("xentandem_reconciles_total", result="unchanged")
        return looks >= OBJECTS_PER_VM * count and metrics.quiet

    await stage.until(reconciled, START_LIMIT, "every object was looked at", step=0.25)
    took, cpu = time.monotonic() - begun, watched.cpu_seconds()
    await _all_ready(stage, count)
    found = without_leases(stage.audit.since(mark))
    result = Result(
        "start",
        f"{count:,} VMs and {count:,} volumes, all as they shall be, on {len(stage.names)} simulated hosts; from the"
        " start of the process until every object was looked at and none waits",
        (
            Row("all reconciled after", took, "s", START_SECONDS),
            Row("leader after", leading[0], "s"),
            Row("CPU time until then", cpu, "s"),
            Row("API writes", len(found), ""),
            Row("peak memory", watched.peak_rss_mb(), "MB"),
        ),
    )
    return result, watched


async def grow(stage: Stage, watched: Watched, count: int) -> None:
    """Until there are that many VMs, all Ready, and the controller rests."""
    have = len(await stage.listed("XenVM"))
    begun = time.monotonic()
    for first in range(have + 1, count + 1, BATCH):
        last = min(first + BATCH - 1, count)
        await stage.create(machines(first, last, stage.names))
        await stage.until(lambda wanted=last: _running(watched, wanted), 1800, f"{last} VMs run", step=3.0)  # type: ignore[misc]
        stage.screen.progress(f"{last} of {count} VMs run ({time.monotonic() - begun:.0f} s)")
    await stage.until_quiet(QUIET_SECONDS, 600)
    await _all_ready(stage, count)


async def _running(watched: Watched, count: int) -> bool:
    """By the controller's metrics: a list of thousands of objects would hold up what it waits for."""
    metrics = await watched.metrics()
    if metrics is None:
        return False
    running = metrics.value("xentandem_objects", kind="XenVM", phase="Running")
    return running == count and metrics.value("xentandem_objects_not_ready") == 0


async def _all_ready(stage: Stage, count: int) -> None:
    for kind in ("DrbdVolume", "XenVM"):
        found = await stage.listed(kind)
        bad = [one.metadata.name for one in found if not is_ready(one)]
        if len(found) != count or bad:
            raise Failed(f"{len(found)} {kind}s, {len(bad)} of them not Ready ({', '.join(bad[:5])})")

"""hack/bench: measures what the design promises in numbers, with the real controller, API server and agents."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import devcluster
from demo_lib.screen import DemoFailed
from lab_lib.tools import LabFailed

from bench_lib import lab_main, report, scale, small
from bench_lib.report import Result
from bench_lib.stage import BenchScreen, Stage
from bench_lib.timeline import PICTURE
from kubectl_xen.cluster import Problem

SCENARIOS = ("writes", "latency", "hundred", "settled", "start")
SMALL = {"writes", "latency"}


@dataclass(frozen=True)
class Sizes:
    """`small_hosts` for one VM. `hosts` for many: a hundred to two hundred replicas a host."""

    moves: int
    hundred: int
    settled: int
    settled_seconds: float
    start: int
    hosts: int
    start_hosts: int


FULL = Sizes(moves=40, hundred=100, settled=1_000, settled_seconds=60.0, start=5_000, hosts=20, start_hosts=20)
QUICK = Sizes(moves=5, hundred=10, settled=20, settled_seconds=10.0, start=30, hosts=4, start_hosts=4)


def main(arguments: Sequence[str]) -> int:
    """0 when everything could be measured, whether or not a goal is missed."""
    options = _options(arguments)
    screen = BenchScreen()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="xentandem-bench-"))
    keep_logs = True
    problems: list[str] = []
    try:
        if options.lab:
            results, problems = lab_main.run(options, screen, folder)
        else:
            results = asyncio.run(_run(options, screen, folder))
        keep_logs = options.keep_logs or bool(problems)
    except (DemoFailed, LabFailed, Problem, devcluster.BuildFailed, devcluster.NotStarted) as error:
        screen.console.print("\n[bold red]This could not be measured.[/]")
        screen.line(str(error))
        return 1
    except KeyboardInterrupt:
        keep_logs = False
        return 130
    finally:
        if keep_logs:
            screen.line(f"Logs are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    _tell(options, screen, results)
    for problem in problems:
        screen.line(f"Not measured: {problem}")
    return 1 if problems else 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="hack/bench", description=__doc__)
    here, lab = ", ".join(SCENARIOS), ", ".join(lab_main.SCENARIOS)
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help=f"which ones (default: all): {here}; with --lab {lab}"
    )
    parser.add_argument("--lab", action="store_true", help="on two real Xen hosts in QEMU (docs/lab.md); needs root")
    parser.add_argument("--rounds", type=int, metavar="N", help="--lab: how often each is measured (default 5)")
    parser.add_argument("--quick", action="store_true", help="small versions: that it works, not what it reaches")
    parser.add_argument("--moves", type=int, metavar="N", help="latency: how many moves (default 40)")
    parser.add_argument("--vms", type=int, metavar="N", help="hundred, settled, start: another number of VMs")
    parser.add_argument("--markdown", action="store_true", help="print Markdown instead of tables")
    parser.add_argument("--write", action="store_true", help="update docs/benchmarks.md")
    parser.add_argument("--keep-logs", action="store_true", help="leave logs and audit log behind")
    options = parser.parse_args(list(arguments))
    known = lab_main.SCENARIOS if options.lab else SCENARIOS
    options.scenarios = options.scenarios or list(known)
    unknown = [name for name in options.scenarios if name not in known]
    if unknown:
        parser.error(f"{', '.join(unknown)}: no such scenario; there are {', '.join(known)}")
    if options.lab and (options.moves is not None or options.vms is not None):
        parser.error("--lab measures one VM, --rounds times: leave out --moves and --vms")
    if options.rounds is not None and not (options.lab and options.rounds > 0):
        parser.error(f"--rounds {options.rounds}: write a number from 1, with --lab")
    if options.write and (options.quick or options.vms):
        parser.error("--quick and --vms have no numbers for docs/benchmarks.md; leave out --write")
    if options.vms is not None and options.vms < 1:
        parser.error(f"--vms {options.vms}: write a number from 1")
    return options


async def _run(options: argparse.Namespace, screen: BenchScreen, folder: Path) -> list[Result]:
    sizes = QUICK if options.quick else FULL
    if options.vms:
        sizes = replace(sizes, hundred=options.vms, settled=options.vms, start=options.vms)
    wanted = set(options.scenarios)
    results: list[Result] = []
    if wanted & SMALL:
        results += await _small(wanted, options.moves or sizes.moves, screen, folder / "small")
    if wanted & {"hundred", "settled"}:
        results += await _many(wanted, sizes, screen, folder / "many")
    if "start" in wanted:
        results += await _start(sizes, screen, folder / "start")
    return results


async def _small(wanted: set[str], moves: int, screen: BenchScreen, folder: Path) -> list[Result]:
    results = []
    async with Stage(folder, screen, hosts=2, bodies=True) as stage:
        watched = await stage.start_controller()
        await small.ready(stage, watched)
        guest = small.the_guest(stage)
        screen.heading("writes: a new VM with its volume, and its move")
        written = await small.writes(stage, watched, guest)
        if "writes" in wanted:
            results.append(written)
        if "latency" in wanted:
            screen.heading("latency: from the edit to the transfer")
            results.append(await small.latency(stage, guest, moves))
    return results


async def _many(wanted: set[str], sizes: Sizes, screen: BenchScreen, folder: Path) -> list[Result]:
    results = []
    async with Stage(folder, screen, hosts=sizes.hosts) as stage:
        watched = await stage.start_controller()
        await small.ready(stage, watched)
        if "hundred" in wanted:
            screen.heading(f"hundred: {sizes.hundred} VMs at once")
            results.append(await scale.hundred(stage, watched, sizes.hundred))
        if "settled" in wanted:
            screen.heading(f"settled: {sizes.settled} VMs and as many volumes at rest")
            results.append(await scale.settled(stage, watched, sizes.settled, sizes.settled_seconds))
    return results


async def _start(sizes: Sizes, screen: BenchScreen, folder: Path) -> list[Result]:
    async with Stage(folder, screen, hosts=sizes.start_hosts, records_per_second=5.0) as stage:
        watched = await stage.start_controller()
        await small.ready(stage, watched)
        screen.heading(f"start: with {sizes.start} VMs and as many volumes")
        result, _ = await scale.start(stage, watched, sizes.start)
        return [result]


def _command(result: Result) -> str:
    lab, scenario = ("--lab ", result.scenario[4:]) if result.scenario.startswith("lab-") else ("", result.scenario)
    return f"hack/bench {lab}{scenario}"


def _tell(options: argparse.Namespace, screen: BenchScreen, results: list[Result]) -> None:
    parts = {result.scenario: report.markdown(result, _command(result)) for result in results}
    if options.markdown:
        print("\n".join(f"## {name}\n\n{part}" for name, part in parts.items()))
    else:
        screen.line()
        report.show(screen.console, results)
        screen.line(report.machine())
    if options.write:
        if "lab-moves" in parts:
            parts["lab-moves"] += f"\n![One move, step by step]({PICTURE.name})\n"
        report.write({"machine": f"{report.machine()}.\n", **parts})
        screen.line(f"Wrote {report.DOCUMENT.name}")

"""Rounds of random stories until the time is over, or until one ends badly: then the shortest that does is told."""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import bootstrap
import devcluster
import structlog
from api_objects import kubectl
from harness import Scene

from burnin_lib.keeper import Keeper
from burnin_lib.proxy import Proxy
from burnin_lib.story import RESYNC_SECONDS, Player, Step, story

SEEDS = bootstrap.PROJECT / "tests" / "faults" / "seeds"


class Burnin:
    """Rounds on one API server; each has hosts and a namespace of its own."""

    def __init__(self, cluster: devcluster.Cluster, hosts: int, vms: int, steps: int) -> None:
        self._cluster, self._vms, self._steps = cluster, vms, steps
        self._names = tuple(f"mk{number}" for number in range(1, hosts + 1))
        self._rounds = 0

    def story(self, seed: int) -> list[Step]:
        return story(seed, self._names, self._vms, self._steps)

    async def round(self, seed: int, steps: list[Step]) -> str:
        """What went wrong, or ""."""
        self._rounds += 1
        namespace = f"burnin-{self._rounds}-{seed}"
        kubectl(self._cluster, "create", "namespace", namespace)
        folder = Path(tempfile.mkdtemp(prefix="xentandem-burnin-"))
        try:
            async with (
                Scene(self._cluster, folder, namespace, names=self._names, seed=seed) as scene,
                Proxy(self._cluster.kubeconfig, seed) as proxy,
            ):
                keeper = Keeper(scene, kubeconfig=str(proxy.kubeconfig), resync_seconds=RESYNC_SECONDS)
                try:
                    player = Player(scene, proxy, keeper, self._vms)
                    await player.create(random.Random(seed))  # noqa: S311  # repeatable, not secret
                    for step in steps:
                        await player.play(step)
                        scene.simulation.truth.check()
                    await player.mend()
                    await player.settle()
                finally:
                    await keeper.stop()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return ""

    async def shortest(self, seed: int, steps: list[Step], deadline: float) -> list[Step]:
        """Fewer steps that still end badly: parts are left out, halves first, as long as there is time."""
        size = len(steps) // 2
        while size:
            at = 0
            while at < len(steps):
                if time.monotonic() > deadline:
                    return steps
                fewer = steps[:at] + steps[at + size :]
                if await self.round(seed, fewer):
                    steps = fewer
                else:
                    at += size
            size //= 2
        return steps


async def run(options: argparse.Namespace) -> int:
    """0 when every round ended well."""
    logging.disable(logging.CRITICAL)
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())  # the story is told, not the logs
    end, seed = time.monotonic() + 60 * options.minutes, options.seed
    with devcluster.start() as cluster:
        kubectl(cluster, "apply", "--server-side", "-f", str(bootstrap.PROJECT / "crds"))
        kubectl(cluster, "wait", "--for=condition=Established", "--timeout=60s", "-f", str(bootstrap.PROJECT / "crds"))
        burnin = Burnin(cluster, options.hosts, options.vms, options.steps)
        while True:
            steps, begun = burnin.story(seed), time.monotonic()
            wrong = await burnin.round(seed, steps)
            print(
                f"seed {seed}: {len(steps)} steps, {time.monotonic() - begun:.0f} s, {'FAILED' if wrong else 'ok'}",
                flush=True,
            )
            if wrong:
                print(f"\n{wrong}\n\nshortening the story ...", flush=True)
                steps = await burnin.shortest(seed, steps, time.monotonic() + 60 * options.shorten)
                told = "\n".join(f"  {step}" for step in steps) or "  (nothing: the objects are made)"
                print(f"\nseed {seed} ends badly. The shortest story that was found:\n{told}")
                keep = f"{seed} {options.hosts} {options.vms} {options.steps}"
                print(f"\nAgain: hack/burnin --seed {seed} --minutes 0. Keep it: a line `{keep}` in {SEEDS}")
                return 1
            seed += 1
            if time.monotonic() >= end:
                break
    print(f"{seed - options.seed} stories, seeds {options.seed} to {seed - 1}: every one ended well, nothing ran twice")
    return 0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="hack/burnin", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="rounds begin for so long; 0: one round")
    parser.add_argument("--seed", type=int, default=1, help="of the first round; the next one has the next number")
    parser.add_argument("--hosts", type=int, default=3)
    parser.add_argument("--vms", type=int, default=6)
    parser.add_argument("--steps", type=int, default=30, help="of each round's story")
    parser.add_argument(
        "--shorten", type=float, default=5.0, help="minutes to look for a shorter story that ends badly"
    )
    return asyncio.run(run(parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

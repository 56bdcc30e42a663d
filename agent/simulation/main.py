"""`python -m agent.simulation`: simulated hosts with their real agents, in one process, until it is told to end.

It writes `simulation.json` into its directory when everything serves: ports, certificates and XenNode manifests.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from agent import logs
from agent.daemon import StartError
from agent.simulation.agents import LOOPBACK, Agents, Place
from agent.simulation.cluster import MIB, REAL, Hardware, Simulation, Timing
from agent.simulation.control import Control


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m agent.simulation", description="Simulated Xen hosts with DRBD and LVM, each with its agent."
    )
    parser.add_argument("--hosts", default="mk1,mk2", help="names, separated by commas (default mk1,mk2)")
    parser.add_argument(
        "--directory", type=Path, required=True, help="new or empty: volumes, certificates, agents' state"
    )
    parser.add_argument(
        "--control", type=int, default=0, metavar="PORT", help="of the control interface (0: a free one)"
    )
    parser.add_argument(
        "--ports",
        default="",
        metavar="HOST=API:RELOCATION,...",
        help="ports on 127.0.0.1 of the agents (default: free ones)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    parser.add_argument("--link-rate", type=float, default=1000, metavar="MB/S", help="of each link (default 1000)")
    parser.add_argument("--memory-mib", type=int, default=8192, help="memory of each host (default 8192)")
    parser.add_argument("--cpus", type=int, default=4, help="processors of each host (default 4)")
    parser.add_argument("--volume-group", default="vg0:100", metavar="NAME:GIB", help="of each host (default vg0:100)")
    parser.add_argument("--bridges", default="xenbr0", help="names, separated by commas (default xenbr0)")
    parser.add_argument("--real-times", action="store_true", help="DRBD's default time-outs instead of short ones")
    parser.add_argument("--log-format", choices=("json", "console"), default="console")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    return parser.parse_args(argv)


def _places(text: str) -> dict[str, Place]:
    """Of "mk1=8003:8002,mk2=0:0". Raises ValueError."""
    places = {}
    for part in filter(None, text.split(",")):
        name, _, ports = part.partition("=")
        api, _, relocation = ports.partition(":")
        places[name] = Place(int(api), int(relocation or 0))
    return places


def main(argv: list[str] | None = None) -> int:
    options = _options(sys.argv[1:] if argv is None else argv)
    logs.configure(options.log_format, options.log_level)
    os.umask(0o077)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        asyncio.run(_serve(options))
    except (StartError, OSError, ValueError) as error:
        print(f"The simulation cannot start: {error}", file=sys.stderr)
        return 1
    return 0


async def _serve(options: argparse.Namespace) -> None:
    names = [name.strip() for name in options.hosts.split(",") if name.strip()]
    group, _, gib = options.volume_group.partition(":")
    hardware = Hardware(
        memory_mib=options.memory_mib,
        cpus=options.cpus,
        volume_groups=((group, int(gib) << 30),),
        bridges=tuple(options.bridges.split(",")),
    )
    ended = asyncio.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(one, ended.set)
    simulation = Simulation(
        _claimed(options.directory),
        names,
        seed=options.seed,
        link_rate=options.link_rate * MIB,
        timing=REAL if options.real_times else Timing(),
        hardware=hardware,
    )
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(simulation.close)
        agents = Agents(simulation, options.directory, _places(options.ports))
        stack.push_async_callback(agents.close)
        for name in names:
            await agents.start(name)
            place = agents.places[name]
            _say(f"{name}: agent on {LOOPBACK}:{place.api_port}, replication {simulation.hosts[name].address}")
        control = Control(agents)
        port = await control.start(options.control)
        stack.push_async_callback(control.stop)
        path = options.directory / "simulation.json"
        _write(path, _description(agents, port))
        _say(f"control on http://{LOOPBACK}:{port}")
        _say(f"ready: {path}")
        await ended.wait()
        _say("ending")


def _claimed(directory: Path) -> Path:
    """The folder of the hosts' disks, made now. Raises StartError: what another run left there is not the hosts' state.

    Disks are files, but what LVM, DRBD and Xen know of them was in that run's memory; the agents' journals would speak
    of volumes that nobody has.
    """
    hosts = directory / "hosts"
    if (directory / "state").exists():
        raise _used(directory)
    try:
        hosts.mkdir(parents=True)
    except FileExistsError:
        raise _used(directory) from None
    return hosts


def _used(directory: Path) -> StartError:
    return StartError(
        f"{directory} belongs to another run, which may still go on; simulated hosts end with their process."
        " Name another directory, or remove this one"
    )


def _description(agents: Agents, control_port: int) -> dict[str, Any]:
    """simulation.json: everything that another process needs to use this one."""
    tls = agents.controller_tls
    hosts = {}
    for name, host in agents.simulation.hosts.items():
        place = agents.places[name]
        hosts[name] = {
            "apiPort": place.api_port,
            "relocationPort": place.relocation_port,
            "replicationAddress": host.address,
            "directory": str(host.directory),
        }
    return {
        "pid": os.getpid(),
        "control": f"http://{LOOPBACK}:{control_port}",
        "controllerTls": {
            "directory": str(tls.certificate.parent),
            "certificate": str(tls.certificate),
            "key": str(tls.key),
            "authority": str(tls.authority),
        },
        "hosts": hosts,
        "nodes": [agents.manifest(name) for name in agents.simulation.hosts],
    }


def _write(path: Path, value: dict[str, Any]) -> None:
    """At once as a whole: who waits for the file never reads half of it."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(value, indent=2) + "\n")
    new.rename(path)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""What a dom0 has installed: each part of the simulation adds its programs, files and power hooks."""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING

from agent.host import Completed
from agent.simulation import drbd_config, drbdadm, drbdsetup, fence_peer, filesystems, lvm_commands
from agent.simulation.drbd_kernel import Kernel
from agent.simulation.process import Process, done, failed

if TYPE_CHECKING:
    from agent.simulation.host import SimulatedHost


async def uname(host: SimulatedHost, argv: list[str], stdin: bytes) -> Completed:
    if argv[1:] in (["-n"], ["--nodename"]):
        return done(argv, host.name + "\n")
    if argv[1:] in (["-r"], ["--kernel-release"]):
        return done(argv, "6.1.0-37-amd64\n")
    return failed(argv, 1, f"uname: invalid option -- '{argv[-1]}'\n")


async def cat(host: SimulatedHost, argv: list[str], stdin: bytes) -> Completed:
    output = ""
    for path in argv[1:]:
        try:
            output += host.files.read(path)
        except OSError as error:
            return failed(argv, 1, f"cat: {path}: {error.strerror}\n", output)
    return done(argv, output)


async def dmesg(host: SimulatedHost, argv: list[str], stdin: bytes) -> Completed:
    return done(argv, "".join(line + "\n" for line in host.dmesg))


async def sleep(process: Process) -> int:
    await process.host.clock.sleep(float(process.argv[1]))
    return 0


async def true(host: SimulatedHost, argv: list[str], stdin: bytes) -> Completed:
    return done(argv)


def install(host: SimulatedHost) -> None:
    host.add_command("uname", uname)
    host.add_command("cat", cat)
    host.add_command("dmesg", dmesg)
    host.add_command("true", true)
    host.add_program("sleep", sleep)
    filesystems.install(host)
    host.volume_groups = lvm_commands.install(host)
    host.drbd = Kernel(host, host.simulation.drbd)
    host.files.write(drbd_config.MAIN, drbd_config.MAIN_TEXT)
    host.files.write(drbd_config.GLOBAL_COMMON, drbd_config.GLOBAL_COMMON_TEXT)
    host.add_program("drbdsetup", drbdsetup.program)
    host.add_command("drbdadm", drbdadm.run)
    fence_peer.install(host)
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module("agent.simulation.xl").install(host)

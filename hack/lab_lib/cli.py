"""hack/lab: real Xen hosts on this machine, each a dom0 in QEMU's software emulation, with the project's agent."""

from __future__ import annotations

import argparse
import re
import signal
import sys

from lab_lib import settings
from lab_lib.lab import Lab
from lab_lib.tools import LabFailed, prepare, say, step

CLEAN = "clean"


def main(arguments: list[str]) -> int:
    """0 when it was done; `ssh` gives the command's exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = _parser().parse_args(arguments)
    try:
        return int(options.do(options) or 0)
    except LabFailed as error:
        say(f"hack/lab: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hack/lab", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="power on new hosts mk1, mk2 ... with empty disks, each with its agent")
    up.add_argument(
        "--hosts", type=int, default=2, choices=range(2, settings.MOST_HOSTS + 1), help="how many (default 2)"
    )
    up.add_argument(
        "--xen",
        choices=("main", "security"),
        default="main",
        help="Debian's hypervisor: main (4.17.5: PV and PVH guests move) or security (what people run: PVH alone)",
    )
    up.set_defaults(do=_up)

    prepared = commands.add_parser("prepare", help="install the Debian packages that the lab is made with, and no more")
    prepared.set_defaults(do=lambda _: prepare())

    commands.add_parser("down", help="power off, and forget the disks").set_defaults(do=lambda _: _lab().down())
    commands.add_parser("status", help="hosts, ports, cables").set_defaults(do=_status)

    push = commands.add_parser("push", help="clean hosts with the agent's code as it is in this tree now: seconds")
    push.set_defaults(do=_push)

    ssh = commands.add_parser("ssh", help="a shell on a host, or one command")
    ssh.add_argument("host")
    ssh.add_argument("command", nargs=argparse.REMAINDER)
    ssh.set_defaults(do=_ssh)

    console = commands.add_parser("console", help="a guest's console, where it runs (Ctrl-] ends it)")
    console.add_argument("domain")
    console.set_defaults(do=_console)

    for name, text in (("snapshot", "keep all hosts as they are now"), ("restore", "all hosts as they were kept")):
        one = commands.add_parser(name, help=text)
        one.add_argument("tag", nargs="?", default=CLEAN, type=_tag, help=f"(default {CLEAN}, which `up` keeps)")
        one.set_defaults(do=_snapshot if name == "snapshot" else _restore)

    for name, up_ in (("cut-link", False), ("mend-link", True)):
        one = commands.add_parser(name, help="pull the cable between two hosts" if not up_ else "plug it in again")
        one.add_argument("one", nargs="?", default="mk1")
        one.add_argument("other", nargs="?", default="mk2")
        one.set_defaults(do=lambda o, up=up_: _lab().set_link(o.one, o.other, up=up))

    kill = commands.add_parser("kill-host", help="pull a host's plug")
    kill.add_argument("host")
    kill.set_defaults(do=_kill_host)
    start = commands.add_parser("start-host", help="power a host on again")
    start.add_argument("host")
    start.set_defaults(do=_start_host)
    return parser


def _tag(text: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,40}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no tag: write lower-case letters, digits and -")
    return text


def _lab() -> Lab:
    return Lab.load(settings.run_folder())


def _up(options: argparse.Namespace) -> None:
    lab = Lab.make(settings.run_folder(), hosts=options.hosts, xen=options.xen)
    say(f"Powering on {', '.join(lab.names)} (Xen {options.xen}, software emulation):")
    lab.boot()
    with step(f"Keeping them as they are: hack/lab restore {CLEAN}"):
        lab.snapshot(CLEAN)
    _status(options)


def _status(_: argparse.Namespace) -> None:
    lab = _lab()
    print(f"folder  {lab.folder}  (agents' CA and the controller's certificate in pki/)")
    for machine in lab.machines:
        print(
            f"{machine.name}     {'on ' if machine.on() else 'off'}  xenbr0 {settings.address(machine.index)}"
            f"  agent https://127.0.0.1:{machine.api_port}  ssh 127.0.0.1:{machine.ssh_port}"
        )
    for pair in lab.cut:
        print(f"pulled  the cable {pair}")


def _on(name: str) -> Lab:
    """The lab, in which that host is on. Raises LabFailed."""
    lab = _lab()
    if not lab.machine(name).on():
        raise LabFailed(f"{name} is off: hack/lab start-host {name}")
    return lab


def _ssh(options: argparse.Namespace) -> int:
    return _on(options.host).shell(options.host).interactive(options.command)


def _kill_host(options: argparse.Namespace) -> None:
    _on(options.host).kill(options.host)


def _console(options: argparse.Namespace) -> int:
    lab = _lab()
    for machine in lab.machines:
        if machine.on() and lab.shell(machine.name).run(f"xl domid {options.domain}").exit == 0:
            return lab.shell(machine.name).interactive(["-t", "xl", "console", options.domain])
    raise LabFailed(f"no host runs {options.domain}")


def _push(_: argparse.Namespace) -> None:
    with step("The agents' code of this tree on clean hosts"):
        _lab().push()


def _snapshot(options: argparse.Namespace) -> None:
    lab = _lab()
    with step(f"Keeping {', '.join(lab.names)} as {options.tag}"):
        lab.snapshot(options.tag)


def _restore(options: argparse.Namespace) -> None:
    lab = _lab()
    with step(f"{', '.join(lab.names)} as they were at {options.tag}"):
        lab.restore(options.tag)


def _start_host(options: argparse.Namespace) -> None:
    lab = _lab()
    with step(f"Booting {options.host}"):
        lab.start(options.host)

"""xl and the xenstore commands of a simulated host. `install(host)` adds them, with the hypervisor behind them.

Words, columns and exit codes are those of Xen 4.17 (xl(1), and the output of real hosts that tests/samples holds).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from agent.host import Completed
from agent.simulation import libxl, migrate, monitor, receive, xl_text
from agent.simulation.hypervisor import Domain, Xen
from agent.simulation.process import Process, done, failed
from agent.simulation.transport import shell
from agent.simulation.xenstore import client, watch_lines
from agent.simulation.xl_parse import ConfigError, parse_config

if TYPE_CHECKING:
    from agent.simulation.host import SimulatedHost

KERNELS = ("/boot/xenU/vmlinuz-2.6.16.49-xenU-r1", "/boot/vmlinuz", "/boot/initrd.img")
SCRIPTS = ("block", "block-xentandem", "vif-bridge", "vif-xentandem")
XENSTORE_COMMANDS = ("read", "write", "ls", "list", "exists", "rm")


class Exit(Exception):
    """xl ends with this status; its words were said."""

    def __init__(self, status: int) -> None:
        super().__init__(f"exit {status}")
        self.status = status


def install(host: SimulatedHost) -> None:
    """Xen on that host: hypervisor, programs, and the files that Debian's packages and the howto put there."""
    Xen(host)
    host.add_program("xl", xl)
    host.add_program("sh", shell)
    host.add_command("xentandem-resume", xentandem_resume)
    for mode in XENSTORE_COMMANDS:
        host.add_command(f"xenstore-{mode}", xenstore)
    host.add_program("xenstore-watch", xenstore_watch)
    for path in KERNELS:
        host.files.write(path, "\x7fELF a kernel of the simulation\n")
    for name in SCRIPTS:
        host.files.write(f"/etc/xen/scripts/{name}", "#!/bin/sh\n")
    host.files.write("/etc/xen/xl.conf", "autoballoon=0\n")


async def xenstore(host: SimulatedHost, argv: list[str], stdin: bytes) -> Completed:
    return Completed(tuple(argv), *client(Xen.of(host).store, argv))


async def xenstore_watch(process: Process) -> int:
    paths = [word for word in process.argv[1:] if not word.startswith("-")]
    async for path in watch_lines(Xen.of(process.host).store, paths):
        await process.stdout.write(path + "\n")
    return 0


async def xentandem_resume(host: SimulatedHost, argv: list[str], stdin: bytes) -> Completed:
    """agent/scripts/xentandem-resume: libxl_domain_resume, called directly."""
    domain = Xen.of(host).domains.get(int(argv[1])) if len(argv) == 2 and argv[1].isdigit() else None
    said: list[str] = []
    status = libxl.ERROR_FAIL if domain is None else libxl.resume(domain, said.append)
    if status == 0:
        return done(argv)
    said.append(f"libxl_domain_resume of domain {argv[-1]}: {status}\n")
    return failed(argv, 1, "".join(said))


# --- xl -----------------------------------------------------------------------------------------------------------


async def xl(process: Process) -> int:
    """xl with any of its global options (-v, -f, -N, -t, -T), then the command."""
    words = process.argv[1:]
    while words and words[0].startswith("-"):
        words = words[1:]
    if not words:
        process.stderr.put("Usage xl [-vfNtT] <subcommand> [args]\n")
        return 1
    command = COMMANDS.get(words[0])
    if words[0] == "resume" and Xen.of(process.host).settings.version < (4, 20):
        command = None
    if command is None:
        process.stderr.put("command not implemented\n")
        return 1
    try:
        return await command(process, words[1:])
    except Exit as end:
        return end.status


def find(process: Process, word: str) -> Domain | None:
    """xl's find_domain: a number is taken as it is, also if no such domain exists (None); an unknown name exits 1."""
    xen = Xen.of(process.host)
    if word.isdigit():
        return xen.domains.get(int(word))
    domain = xen.find(word)
    if domain is None:
        process.stderr.put(f"{word} is an invalid domain identifier (rc=-6)\n")
        raise Exit(1)
    return domain


def options(words: Sequence[str], flags: str, with_value: str = "", long: Sequence[str] = ()) -> dict[str, str]:
    """getopt(3) as far as xl needs it: letters (and long names) to values, "" for a flag; "" -> the other words,
    joined by NUL. Raises Exit(2), xl's answer to what it does not know."""
    found: dict[str, str] = {}
    rest: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if name not in long:
                raise Exit(2)
            found[name] = value if equals else ""
        elif word.startswith("-") and len(word) > 1:
            for index, letter in enumerate(word[1:], 1):
                if letter in with_value:
                    found[letter] = word[index + 1 :] or (queue.pop(0) if queue else "")
                    break
                if letter not in flags:
                    raise Exit(2)
                found[letter] = ""
        else:
            rest.append(word)
    found[""] = "\0".join(rest)
    return found


def arguments(found: dict[str, str], process: Process, command: str, at_least: int) -> list[str]:
    words = found[""].split("\0") if found[""] else []
    if len(words) < at_least:
        process.stderr.put(f"'xl {command}' requires at least {at_least} argument{'s' if at_least > 1 else ''}.\n\n")
        process.stderr.put(f"Usage: xl [-v] {command} ...\n")
        raise Exit(2)
    return words


async def list_(process: Process, words: Sequence[str]) -> int:
    found = options(words, "lvhZcn", long=("long", "verbose", "context", "cpupool", "numa"))
    xen, names = Xen.of(process.host), arguments(found, process, "list", 0)
    dom0 = not names or names[0] in ("0", "Domain-0")
    domains = list(xen)
    if names and not dom0:
        domain = find(process, names[0])
        if domain is None:
            process.stderr.put(f"Error: Domain '{names[0]}' does not exist.\n")
            return 1
        domains = [domain]
    elif names:
        domains = []
    if "l" in found or "long" in found:
        process.stdout.put(xl_text.list_long(xen, domains, dom0=dom0))
    else:
        verbose = "v" in found or "verbose" in found
        process.stdout.put(xl_text.list_domains(xen, domains, dom0=dom0, verbose=verbose))
    return 0


async def info(process: Process, words: Sequence[str]) -> int:
    xen = Xen.of(process.host)
    names = arguments(options(words, "n", long=("numa",)), process, "info", 0)
    process.stdout.put(xl_text.info(xen).get(names[0], "") + "\n" if names else xl_text.info_text(xen))
    return 0


async def create(process: Process, words: Sequence[str]) -> int:
    """Exit status: 0, 1 for a configuration that xl cannot read, else libxl's code without its sign."""
    found = options(words, "AFVcdeinpq", "f", long=("defconfig", "dryrun", "quiet"))
    names = arguments(found, process, "create", 0)
    path = found.get("f") or (names[0] if names else "")
    say, xen = process.stderr.put, Xen.of(process.host)
    try:
        text = process.host.files.read(path)
    except OSError as error:
        say(f"Failed to read config file: {path}: {error.strerror}\n")
        return -libxl.ERROR_FAIL
    say(f"Parsing config from {path}\n")
    try:
        spec = parse_config(path, text)
    except ConfigError as error:
        say(f"{error}\n")
        return 1
    try:
        domain = await libxl.create(xen, spec, say)
    except libxl.LibxlError as error:
        return -error.code
    if "p" not in found:
        domain.unpause()
    if "e" not in found:
        monitor.start(domain)
    return 0


async def destroy(process: Process, words: Sequence[str]) -> int:
    word = arguments(options(words, "f"), process, "destroy", 1)[0]
    if word in ("0", "Domain-0"):
        process.stderr.put(
            "Not destroying domain 0; use -f to force.\n"
            "This can only be done when using a disaggregated hardware domain and toolstack.\n\n"
        )
        return 1
    domain = find(process, word)
    if domain is None:
        libxl.say_gone(process.stderr.put, int(word))
        process.stderr.put(f"destroy failed (rc={libxl.ERROR_NOTFOUND})\n")
        return 1
    await libxl.destroy(domain, process.stderr.put)
    return 0


async def pause(process: Process, words: Sequence[str]) -> int:
    """Always 0, whatever happened."""
    word = arguments(options(words, ""), process, "pause", 1)[0]
    domain = find(process, word)
    if domain is None or domain.dying:
        process.stderr.put(
            f"libxl: error: libxl_domain.c:587:libxl_domain_pause: Domain {word}:Pausing domain: No such process\n"
        )
    else:
        domain.pause()
    return 0


async def unpause(process: Process, words: Sequence[str]) -> int:
    """Always 0, whatever happened."""
    word = arguments(options(words, ""), process, "unpause", 1)[0]
    domain = find(process, word)
    if domain is None:
        process.stderr.put(
            f"libxl: error: libxl_dom.c:37:libxl__domain_type: unable to get domain type for domid={word}\n"
        )
    elif not domain.unpause():
        process.stderr.put(
            f"libxl: error: libxl_domain.c:688:domain_unpause_done: Domain {domain.domid}:"
            "Unpausing domain: Invalid argument\n"
        )
    return 0


async def shutdown(process: Process, words: Sequence[str]) -> int:
    return await _ask(process, words, "shutdown", "Shutting down", "poweroff")


async def reboot(process: Process, words: Sequence[str]) -> int:
    return await _ask(process, words, "reboot", "Rebooting", "reboot")


async def _ask(process: Process, words: Sequence[str], command: str, doing: str, order: str) -> int:
    found = options(words, "awF", long=("all", "wait"))
    word = arguments(found, process, command, 1)[0]
    domain = find(process, word)
    process.stderr.put(f"{doing} domain {word if domain is None else domain.domid}\n")
    if domain is None:
        process.stderr.put(
            f"libxl: error: libxl_dom.c:37:libxl__domain_type: unable to get domain type for domid={word}\n"
            f"{command} failed (rc={libxl.ERROR_FAIL})\n"
        )
        return 1
    xen = Xen.of(process.host)
    if domain.spec.type == "hvm" and (domain.guest is None or domain.guest.state.ticks == 0) and "F" not in found:
        name = "shutdown" if command == "shutdown" else "reboot"
        event = "power" if command == "shutdown" else "reset"
        process.stderr.put(
            f"PV control interface not available: external graceful {name} not possible.\n"
            f'Use "-F" to fallback to ACPI {event} event.\n{command} failed (rc=-9)\n'
        )
        return 1
    xen.store.write(f"{domain.path}/control/shutdown", order)
    if domain.guest is not None:
        domain.guest.ask(order)
    if "w" in found or "wait" in found:
        await process.host.simulation.changed.wait_until(lambda: domain.gone or domain.shutdown is not None)
    return 0


async def rename(process: Process, words: Sequence[str]) -> int:
    old, new = arguments(options(words, ""), process, "rename", 2)[:2]
    domain = find(process, old)
    if domain is None or domain.dying or libxl.rename(domain, new, process.stderr.put):
        process.stderr.put(f"Can't rename domain '{old}'.\n")
        return 1
    return 0


async def domid(process: Process, words: Sequence[str]) -> int:
    name = arguments(options(words, ""), process, "domid", 1)[0]
    domain = Xen.of(process.host).find(name)
    if domain is None and name != "Domain-0":
        process.stderr.put(f"Can't get domid of domain name '{name}', maybe this domain does not exist.\n")
        return 1
    process.stdout.put(f"{0 if domain is None else domain.domid}\n")
    return 0


async def domname(process: Process, words: Sequence[str]) -> int:
    word = arguments(options(words, ""), process, "domname", 1)[0]
    if not word.isdigit():
        process.stderr.put("Invalid domain id.\n\n")
        return 1
    domain = Xen.of(process.host).domains.get(int(word))
    name = "Domain-0" if word == "0" else domain.name if domain is not None else None
    if name is None:
        process.stderr.put(f"Can't get domain name of domain id '{word}', maybe this domain does not exist.\n")
        return 1
    process.stdout.put(f"{name}\n")
    return 0


async def block_list(process: Process, words: Sequence[str]) -> int:
    """Exit 0 also for a domain that is not there."""
    process.stdout.put(xl_text.BLOCK_HEADER)
    xen = Xen.of(process.host)
    for word in arguments(options(words, ""), process, "block-list", 1):
        domain = xen.domains.get(int(word)) if word.isdigit() else xen.find(word)
        if domain is not None:
            process.stdout.put(xl_text.block_list(domain))
        elif not word.isdigit():
            process.stderr.put(f"{word} is an invalid domain identifier\n")
    return 0


async def resume(process: Process, words: Sequence[str]) -> int:
    """xl resume, from Xen 4.20 on: 0, whatever happened."""
    domain = find(process, arguments(options(words, ""), process, "resume", 1)[0])
    if domain is not None:
        libxl.resume(domain, process.stderr.put)
    return 0


async def sysrq(process: Process, words: Sequence[str]) -> int:
    """`xl sysrq DOM c`: the guest's kernel crashes."""
    name, key = arguments(options(words, ""), process, "sysrq", 2)[:2]
    domain = find(process, name)
    if domain is not None and domain.guest is not None and key == "c":
        domain.guest.crash()
    return 0


async def migrate_(process: Process, words: Sequence[str]) -> int:
    found = options(words, "FepD", "Cs", long=("debug", "live"))
    name, host = arguments(found, process, "migrate", 2)[:2]
    domain = find(process, name)
    if domain is None:
        process.stderr.put("unable to retrieve domain configuration\n")
        return 1
    receiver = ["xl", "migrate-receive", *(f"-{letter}" for letter in "ep" if letter in found)]
    return await migrate.send(process, domain, found.get("s", "ssh"), host, receiver)


async def migrate_receive(process: Process, words: Sequence[str]) -> int:
    found = options(words, "Fedrp")
    return await receive.receive(process, paused="p" in found, monitored="e" not in found)


COMMANDS: dict[str, Callable[[Process, Sequence[str]], Awaitable[int]]] = {
    "list": list_,
    "info": info,
    "create": create,
    "destroy": destroy,
    "pause": pause,
    "unpause": unpause,
    "shutdown": shutdown,
    "reboot": reboot,
    "rename": rename,
    "domid": domid,
    "domname": domname,
    "block-list": block_list,
    "resume": resume,
    "sysrq": sysrq,
    "migrate": migrate_,
    "migrate-receive": migrate_receive,
}

"""What Xentandem is measured against: the bare commands in a script, on a VM of its own that nobody else manages.

The script promotes the target, runs `xl migrate`, demotes the source: two Primaries for as long as memory is copied. It
is made as quick as a script can be: its consoles are open, and for `tcp` the target listens before it begins.
"""

from __future__ import annotations

from dataclasses import dataclass

from lab_lib import settings
from lab_lib.image import ssh_key
from lab_lib.lab import Lab

from bench_lib.consoles import Console, Typed

GUEST, RESOURCE, MINOR = "plain", "vm_plain", 2
PORT = 9000
TRANSPORTS = ("tcp", "ssh")
FOLDER = "/var/lib/by-hand"  # on the hosts
CONFIGURATION = f"{FOLDER}/{GUEST}.cfg"
_RESOURCE = """\
resource vm_plain {{
  net {{ protocol C; }}
  on mk1 {{ device /dev/drbd2 minor 2; disk /dev/vg0/vm_plain; meta-disk internal; address {0}:7799; }}
  on mk2 {{ device /dev/drbd2 minor 2; disk /dev/vg0/vm_plain; meta-disk internal; address {1}:7799; }}
}}
"""
_DOMAIN = """\
name = "plain"
uuid = "22222222-2222-4222-8222-222222222222"
type = "pv"
memory = 128
vcpus = 1
kernel = "/boot/xenU/vmlinux"
ramdisk = "/boot/xenU/initrd.img"
cmdline = "console=hvc0 mitigations=off quiet guest.ip=10.0.0.92"
disk = ["format=raw,vdev=xvda,access=rw,target=/dev/drbd2"]
vif = ["mac=00:16:3e:00:00:92,bridge=xenbr0"]
"""
# The stream's two ends without encryption: the socket itself is the receiver's standard input and output
_LISTEN = (
    "import os,socket;s=socket.create_server(('',{port}));c=s.accept()[0];c.setsockopt(6,1,1);"
    "[os.dup2(c.fileno(),n) for n in (0,1)];os.execvp('xl',['xl','migrate-receive'])"
)
_SEND = """\
import select, socket, os
s = socket.create_connection((os.sys.argv[1], int(os.sys.argv[2])))
s.setsockopt(6, 1, 1)
poll = select.poll()
poll.register(0, 1), poll.register(s, 1)
while True:
    for fd, _ in poll.poll():
        data = os.read(fd, 262144)
        if not data:
            raise SystemExit
        s.sendall(data) if fd == 0 else os.write(1, data)
"""
_SSH = """\
IdentityFile {}/id_ed25519
StrictHostKeyChecking no
UserKnownHostsFile /dev/null
LogLevel ERROR
"""


@dataclass(frozen=True)
class HandMove:
    """One run of the script: its steps in their order, its whole time by this machine's clock."""

    source: str
    target: str
    transport: str
    steps: tuple[Typed, ...]

    @property
    def begun(self) -> float:
        return self.steps[0].begun

    @property
    def ended(self) -> float:
        return self.steps[-1].ended


class ByHand:
    """The VM `plain` with its volume, as the old howto makes them."""

    def __init__(self, lab: Lab, consoles: dict[str, Console]) -> None:
        self._lab, self._consoles = lab, consoles
        self.on = "mk1"

    def make(self) -> None:
        """Both hosts in sync, the VM runs on mk1. Raises Failed."""
        one, other = (settings.address(machine.index) for machine in self._lab.machines[:2])
        files = {
            f"/etc/drbd.d/{RESOURCE}.res": _RESOURCE.format(one, other),
            CONFIGURATION: _DOMAIN,
            f"{FOLDER}/send.py": _SEND,
            f"{FOLDER}/id_ed25519": ssh_key().read_text(),
            "/etc/ssh/ssh_config.d/by-hand.conf": _SSH.format(FOLDER),
        }
        for name, console in self._consoles.items():
            for path, text in files.items():
                self._lab.shell(name).send(text.encode(), f"umask 077; mkdir -p $(dirname {path}); cat > {path}")
            console.ok(f"lvcreate -y -q -W y -Z y -L 64M -n {RESOURCE} vg0")
            console.ok(f"drbdadm create-md --force {RESOURCE} && drbdadm up {RESOURCE}")
        self._until("mk1", "ds:Inconsistent/Inconsistent")
        self._consoles["mk1"].ok(f"drbdadm new-current-uuid --clear-bitmap {RESOURCE}/0")  # both are all zero
        self._until("mk1", "ds:UpToDate/UpToDate")
        self._consoles["mk1"].ok(f"drbdadm primary {RESOURCE}")
        self._consoles["mk1"].ok(f"xl create {CONFIGURATION}")

    def move(self, transport: str) -> HandMove:
        """To the other host. Raises Failed."""
        source, target = self.on, "mk2" if self.on == "mk1" else "mk1"
        here, there = self._consoles[source], self._consoles[target]
        address = settings.address(self._lab.machine(target).index)
        migrate = f"xl migrate {GUEST} {target}"
        if transport == "tcp":
            listen = _LISTEN.format(port=PORT)
            there.ok(f'(setsid python3 -c "{listen}" >{FOLDER}/receive.log 2>&1 </dev/null &)')
            there.ok(f"until ss -Hltn 'sport = {PORT}' | grep -q .; do sleep 0.1; done")
            migrate = f"xl migrate -s '' {GUEST} 'python3 -S {FOLDER}/send.py {address} {PORT}'"
        two = "drbdadm net-options --allow-two-primaries={} " + RESOURCE
        steps = [
            there.ok(two.format("yes")),
            here.ok(two.format("yes")),
            there.ok(f"drbdadm primary {RESOURCE}"),
            here.ok(migrate),
            here.ok(f"drbdadm secondary {RESOURCE}"),
            there.ok(two.format("no")),
            here.ok(two.format("no")),
        ]
        self.on = target
        return HandMove(source, target, transport, tuple(steps))

    def stand_still(self, *, still: bool) -> None:
        """Pause the VM, or let it go on: only one of the two that are compared runs at a time."""
        self._consoles[self.on].ok(f"xl {'pause' if still else 'unpause'} {GUEST}")

    def _until(self, host: str, state: str) -> None:
        self._consoles[host].ok(f"until grep '^ *{MINOR}:' /proc/drbd | grep -q {state}; do sleep 0.1; done", limit=60)

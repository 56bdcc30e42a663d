"""The lab's hosts as a place: many commands in one call of ssh, for that costs most under emulation."""

from __future__ import annotations

import asyncio
import re
import shlex
import time
from asyncio.subprocess import PIPE
from collections.abc import Sequence

from lab_lib.lab import Lab

from tests.conformance.answers import Answer
from tests.conformance.tools import BOTH

_MARK, _END = "@@conformance", "@@conformance-end"
# What agent.real_host gives its commands: no translations, nothing on standard input
_RUN = r"""
export LC_ALL=C
one() { "$@" 2>/run/conformance.err </dev/null; s=$?; printf '\n%s %s\n' "$MARK" $s; e=$(</run/conformance.err)
  printf '%s\n%s\n' "$e" "$MARK"; }
"""
_QUIET = "udevadm settle -t 20; "
_TIDY = """
pkill -x drbdsetup; kill $(cat /run/held.* 2>/dev/null) 2>/dev/null; rm -f /run/held.*
for id in $(xl list | awk 'NR > 2 {print $2}'); do xl destroy $id; done
for name in $(ls /sys/block | grep '^drbd'); do drbdsetup secondary ${name#drbd}; done
for name in $(drbdsetup status | awk '/^[^ ]/ {print $1}'); do drbdsetup down $name; done
rm -f /etc/drbd.d/*.res* /etc/drbd.d/conformance* /run/conformance*
for path in $(lvs --noheadings -o vg_name,lv_name -S 'origin!=""' --separator /); do lvremove -qy $path; done
for path in $(lvs --noheadings -o vg_name,lv_name --separator /); do lvremove -qy $path; done
blkdiscard -f -o 1048576 /dev/vdb  # all but LVM's own metadata: no volume begins with what another left
"""


class LabPlace:
    """Of one scenario. Hosts are clean, and their agents are stopped."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._shells: dict[str, asyncio.subprocess.Process] = {}

    async def _shell(self, host: str, script: str, *, limit: float = 300.0) -> str:
        """In the one shell on that host: a session of its own for each call would cost a second."""
        if host not in self._shells:
            argv = [*self.lab.shell(host).argv(), "bash"]
            self._shells[host] = await asyncio.create_subprocess_exec(*argv, stdin=PIPE, stdout=PIPE, limit=1 << 24)
        process = self._shells[host]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"( {script}\n) </dev/null\nprintf '\\n{_END} %s\\n' $?\n".encode())
        await process.stdin.drain()
        async with asyncio.timeout(limit):
            said = (await process.stdout.readuntil(f"\n{_END} ".encode())).decode()
            status = int(await process.stdout.readline())
        assert status == 0, f"{host}: {script}\n{said}"
        return said.removesuffix(f"\n{_END} ")

    async def close(self) -> None:
        for process in self._shells.values():
            process.kill()
            await process.wait()

    async def prepare(self) -> None:
        """No agents beside us, and nothing of an earlier scenario."""
        await asyncio.gather(*(self._shell(host, f"systemctl stop xentandem-agent\n{_TIDY}\ntrue\n") for host in BOTH))
        await self.set_link(up=True)

    async def run(self, host: str, commands: Sequence[Sequence[str]]) -> list[Answer]:
        # udev looks into a device after each change of it: not to be taken for somebody who has it open
        calls = [f"{_QUIET * bool({'secondary', 'down'} & set(argv))}one {shlex.join(argv)}" for argv in commands]
        lines = [f"MARK={_MARK}", _RUN, *calls, "true\n"]
        said = await self._shell(host, "\n".join(lines))
        found = re.findall(rf"(.*?)\n{_MARK} (\d+)\n(.*?)\n{_MARK}\n", said, re.S)
        assert len(found) == len(commands), said
        return [Answer(int(status), out, err and err + "\n") for out, status, err in found]

    async def write(self, host: str, path: str, text: str) -> None:
        """As the agent does: it is there after a loss of power, too."""
        name = shlex.quote(path)
        await asyncio.to_thread(
            self.lab.shell(host).send, text.encode(), f"cat > {name} && sync {name} $(dirname {name})"
        )

    async def remove(self, host: str, path: str) -> None:
        await self._shell(host, f"rm -f {shlex.quote(path)}")

    async def handler(self, host: str, path: str, status: int) -> None:
        text = f"#!/bin/sh\nenv | grep ^DRBD_ | sort > {path}.env\nexit {status}\n"
        await self.write(host, path, text)
        await self._shell(host, f"chmod 755 {shlex.quote(path)}")

    async def hold(self, host: str, device: str) -> None:
        name = device.replace("/", "_")
        await self._shell(host, f"exec 3<>{device}; (exec sleep 3600 >/dev/null 2>&1 <&3) & echo $! > /run/held.{name}")

    async def release(self, host: str, device: str) -> None:
        file = f"/run/held.{device.replace('/', '_')}"
        await self._shell(
            host, f"p=$(cat {file}); kill $p; rm {file}; while kill -0 $p 2>/dev/null; do sleep 0.1; done"
        )

    async def fill(self, host: str, device: str, block: int, blocks: int, letter: str) -> None:
        write = (
            f"dd of={device} bs=4096 seek={block} count={blocks} oflag=direct conv=notrunc iflag=fullblock status=none"
        )
        await self._shell(host, f"tr '\\0' {letter} < /dev/zero 2>/dev/null | {write}")

    async def follow(self, host: str, argv: Sequence[str]) -> None:
        line = shlex.join(argv)
        await self._shell(host, f"LC_ALL=C setsid {line} >/run/followed 2>&1 </dev/null & echo $! >/run/held.followed")
        await asyncio.sleep(1)

    async def followed(self, host: str) -> str:
        return await self._shell(
            host, "sleep 0.5; kill $(cat /run/held.followed); rm /run/held.followed; cat /run/followed"
        )

    async def guest(self, host: str, name: str, does: str) -> None:
        await self._shell(
            host, f"tty=$(xenstore-read /local/domain/$(xl domid {name})/console/tty) && echo {does} > $tty"
        )

    async def set_link(self, *, up: bool) -> None:
        await asyncio.to_thread(self.lab.set_link, "mk1", "mk2", up=up)

    async def power_off(self, host: str) -> None:
        if (shell := self._shells.pop(host, None)) is not None:
            shell.kill()
            await shell.wait()
        await asyncio.to_thread(self.lab.kill, host)

    async def power_on(self, host: str) -> None:
        await asyncio.to_thread(self.lab.start, host)
        await self._shell(host, "systemctl stop xentandem-agent")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def now(self) -> float:
        return time.monotonic()

    async def versions(self) -> str:
        """Of the tools, for a recording."""
        commands = ("xl info xen_version", "cat /proc/drbd", "drbdadm --version", "lvs --version", "uname -r")
        said = await self._shell("mk1", "; ".join(commands))
        patterns = (
            r"^([\d.]+)$",
            r"^version: ([\d.]+)",
            r"^DRBDADM_VERSION=(\S+)",
            r"LVM version: +([\d.]+)",
            r"^(\S+-amd64)$",
        )
        found = [re.search(pattern, said, re.M) for pattern in patterns]
        xen, drbd, utils, lvm, kernel = (one[1] if one else "unknown" for one in found)
        return f"Xen {xen}, DRBD {drbd}, drbd-utils {utils}, LVM {lvm}, Linux {kernel}"

"""Accidents on a host at an exact point of a move, made from outside of the agents.

A program that the agent or Xen calls is stood in for, on that host, by a script that does something once and then is
the program. Words between two hosts' relocation ports are lost by a routing rule, while DRBD's pass.
"""

from __future__ import annotations

import shlex

from lab_lib.image import BLOCK_SCRIPT

from agent.migration.stream import BANNER, READY
from tests.lab.hosts import Hosts

AGENT_DIES = "kill -9 $(systemctl show -p MainPID --value xentandem-agent)"
BEFORE = f"{AGENT_DIES}; exit 1"
AFTER = f'"$real" "$@"; {AGENT_DIES}; exit 0'
HOLD = 'until [ -e "$trap/go" ]; do sleep 0.1; done'
_REPORT = 'if [ -e "$trap/lose" ]; then cat >/dev/null; else cat; fi'
# Of the receiver: its banner and "ready" pass; its report, too, unless it shall be lost
RECEIVES = f'"$real" "$@" | {{ dd bs=1 count={len(BANNER) + len(READY)} status=none; {_REPORT}; }}; exit'
HOTPLUG = "/etc/xen/scripts/block-xentandem"
TRAPS = "/run/lab-traps"
# Our own addresses are looked up first, and what is found there is not lost: that lookup gets its turn later
_LOSE = (
    "ip rule add pref 100 lookup local; ip rule del pref 0; "
    "ip rule add pref 1 {which} blackhole; ip -s rule | grep -q blackhole"
)
_FOUND = "ip rule del pref 1; ip rule add pref 0 lookup local; ip rule del pref 100"
TO_ME_IS_LOST = _LOSE.format(which="iif xenbr0 ipproto 6 dport 8002")
FROM_ME_IS_LOST = _LOSE.format(which="ipproto 6 sport 8002")


class Faults:
    """Of one set of hosts. Traps that were set before a snapshot are there after it."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._set: dict[tuple[str, str], list[tuple[str, str, str]]] = {}

    def trap(self, host: str, program: str, words: str, script: str, *, name: str = "") -> None:
        """Once, when `program` is called with arguments that begin with `words`: `script`, in which `$real` is it.

        The program runs afterwards, unless the script exits. `program` is a name, or HOTPLUG.
        """
        traps = self._set.setdefault((host, program), [])
        traps.append((name or f"{program.rpartition('/')[2]}-{len(traps)}", words, script))
        real = BLOCK_SCRIPT if program == HOTPLUG else f"$(PATH=/usr/sbin:/usr/bin; command -v {program})"
        lines = ["#!/bin/sh", f"real={real}"]
        for one, beginning, what in traps:
            lines += [
                f"trap={TRAPS}/{one}",
                f'case "$*" in {shlex.quote(beginning)}*) if mkdir "$trap" 2>/dev/null; then',
                what,
                "fi ;; esac",
            ]
        lines += ['exec "$real" "$@"', ""]
        path = program if program == HOTPLUG else f"/usr/local/sbin/{program}"
        self._hosts.lab.shell(host).send(
            "\n".join(lines).encode(),
            f"mkdir -p {TRAPS} && rm -f {path} && cat >{path}.new && chmod 755 {path}.new && mv {path}.new {path}",
        )

    async def sprung(self, host: str, name: str) -> None:
        """Until that trap's script has begun."""

        async def seen() -> bool:
            return self._hosts.lab.shell(host).run(f"test -d {TRAPS}/{name}").exit == 0

        await self._hosts.until(seen, f"trap {name} on {host}")

    def let_go(self, host: str, name: str) -> None:
        """Of a trap with HOLD."""
        self._hosts.on(host, f"touch {TRAPS}/{name}/go")

    def lose_report(self, host: str) -> None:
        """Of the receiver behind the trap RECEIVES."""
        self._hosts.on(host, f"touch {TRAPS}/receives/lose")

    def find_again(self, host: str) -> None:
        """Words between the relocation ports pass again."""
        self._hosts.on(host, _FOUND)

    def kill(self, host: str, words: str) -> None:
        """SIGKILL to the processes whose command line begins with these words, and to none of their helpers."""
        self._hosts.on(host, f"kill -9 $(pgrep -f '^[^ ]*{words}')")

    def kill_agent(self, host: str) -> None:
        self._hosts.on(host, AGENT_DIES)

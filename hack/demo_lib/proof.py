"""The end of the demo: what the hosts themselves show, and whether what was promised is true."""

from __future__ import annotations

import time
from dataclasses import dataclass

from demo_lib.cast import Guest
from demo_lib.hosts import Answer, Hosts
from demo_lib.screen import DemoFailed, Screen
from demo_lib.story import Story
from kubectl_xen import view

HOSTS_SHOWN = 4
ENOUGH_RECORDS = 10
PATIENCE = 30.0


@dataclass(frozen=True)
class Evidence:
    """By guest: its uid, and how many records it had written before the move."""

    uids: dict[str, str]
    written: dict[str, int]


def before(hosts: Hosts, story: Story) -> Evidence:
    """Wait until each guest has written some records on its first host."""
    uids = {view.name_of(vm): str(vm["metadata"]["uid"]) for vm in story.cluster.vms()}
    uids = {guest.name: uids[guest.name] for guest in story.guests}
    written = _until_written(hosts, story, uids, dict.fromkeys(uids, 0))
    return Evidence(uids, written)


def show_hosts(screen: Screen, hosts: Hosts, guests: list[Guest]) -> None:
    """`xl list` and /proc/drbd, as the hosts' own tools print them."""
    seen = hosts.seen()
    names = [place.name for place in hosts.places]
    for name in names[:HOSTS_SHOWN]:
        screen.heading(f"On {name}")
        screen.command("xl list")
        screen.block(str(seen[name]["xlList"]))
        screen.command("cat /proc/drbd")
        screen.block(str(seen[name]["procDrbd"]))
    if len(names) > HOSTS_SHOWN:
        screen.line(f"  (and {len(names) - HOSTS_SHOWN} more hosts)")


def judge(screen: Screen, hosts: Hosts, story: Story, evidence: Evidence) -> None:
    """Every promise, with its numbers. Raises DemoFailed when one was broken."""
    screen.heading("The proof, from a monitor that sees all hosts at once")
    after = _until_written(hosts, story, evidence.uids, evidence.written)
    truth = hosts.truth()
    broken = [*truth["violations"], *truth["defects"]]
    two = sum(truth["twoPrimariesSeconds"].values())
    if two:
        broken.append(f"two Primaries for {two:.3f} s")
    lines = ["at no instant did a VM run on two hosts", "at no instant was a volume Primary on two hosts"]
    for guest in story.guests:
        records = truth["records"][evidence.uids[guest.name]]
        broken += _broken(guest, records, truth["running"].get(evidence.uids[guest.name], []))
        if len(story.guests) <= HOSTS_SHOWN:
            lines.append(_told(guest, evidence.written[guest.name], after[guest.name], records))
    if len(story.guests) > HOSTS_SHOWN:
        longest = max(truth["records"][uid]["longestPause"] for uid in evidence.uids.values())
        total = sum(after.values())
        lines.append(f"{len(after)} guests wrote {total} records, none lost, none twice; longest pause {longest:.2f} s")
    different = [text for guest in story.guests if (text := _difference(hosts, guest.resource))]
    if not different:
        lines.append(f"both replicas are identical, byte for byte ({_named(story.guests)})")
    if broken or different:
        raise DemoFailed("a promise was broken:\n" + "\n".join(f"- {one}" for one in [*broken, *different]))
    for line in lines:
        screen.proved(line)


def _until_written(hosts: Hosts, story: Story, uids: dict[str, str], than: dict[str, int]) -> dict[str, int]:
    """Records that each guest has written, once each has written some more than before."""
    deadline = time.monotonic() + PATIENCE
    while True:
        story.alive()
        records = hosts.truth()["records"]
        now = {name: int(records.get(uid, {}).get("acknowledged", 0)) for name, uid in uids.items()}
        behind = [name for name in uids if now[name] < than[name] + ENOUGH_RECORDS]
        if not behind:
            return now
        if time.monotonic() > deadline:
            raise DemoFailed(f"no new records of {', '.join(behind)} for {PATIENCE:.0f} s: the guest stands still")
        time.sleep(0.1)


def _broken(guest: Guest, records: Answer, running: list[str]) -> list[str]:
    wrong = []
    if records["hosts"] != [guest.first, guest.second]:
        wrong.append(
            f"{guest.name} wrote on {', '.join(records['hosts'])}; expected {guest.first}, then {guest.second}"
        )
    if list(running) != [guest.second]:
        wrong.append(f"{guest.name} runs on {', '.join(running) or 'no host'}; expected {guest.second}")
    return wrong


def _told(guest: Guest, written: int, after: int, records: Answer) -> str:
    return (
        f"{guest.name} wrote records 1 to {after} without a gap or a repetition, the first {written} of them on"
        f" {guest.first}; its longest pause was {records['longestPause']:.2f} s"
    )


def _difference(hosts: Hosts, resource: str) -> str:
    """Why two replicas differ; empty when they are identical. A write of the guest that is under way doesn't count."""
    deadline = time.monotonic() + PATIENCE
    while True:
        answer = hosts.replicas(resource)
        if answer["identical"]:
            return ""
        if time.monotonic() > deadline:
            return str(answer["difference"])
        time.sleep(0.05)


def _named(guests: list[Guest]) -> str:
    names = [guest.resource for guest in guests]
    return ", ".join(names) if len(names) <= HOSTS_SHOWN else f"{len(names)} volumes"

"""What half of somebody else's migration may be removed from a host: only what is proved to be no VM's only copy. Pure.

An operation of ours that is open judges what it left behind by what it knows (`agent.migration.recovery`); this is for
what nobody here knows about. Two things prove that a copy is of no use to anybody:

- it has no processor: the receiver gives a copy its processors when all of its memory is here (xl list, VCPUs), so that
  one without never was a whole guest, and can never run;
- the other host wrote to this copy's disk, again and again, long after it stood still: the guest went on there, and
  this memory with the disk as it is now would destroy its filesystem.

The second counts only where the journal says, in this boot, that the VM was given away. Everything else stays as it is
and is told: silence, time, and a record that is missing prove nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from agent.foreign import told, working
from agent.host import HostProcess
from agent.protocol import DomainState, Refusal
from agent.vm_records import VmRecord

if TYPE_CHECKING:
    from agent.drivers.drbd_parse import DrbdResource

STEADY_SECONDS = 60.0
"""So long a leftover was the same, at every look, before it is removed."""
SETTLE_SECONDS = 30.0
"""So long after a copy stood still (or its disks saw each other again) a write may be an old one that was under way."""
WRITES_SEEN = 2
"""Looks at which the other host had written since the one before: more than one, for a burst may be a late one."""


@dataclass(frozen=True, slots=True)
class Sight:
    """One leftover as it was seen again and again. Times: `Host.monotonic`, seconds."""

    domain: DomainState
    since: float
    whole_since: float  # its disks see each other, without a resync, since then
    received: Mapping[str, int] = field(
        default_factory=dict
    )  # KiB that the peer has sent, by resource, at the last look
    writes: int = 0  # looks at which that was more than before


def seen(before: Sight | None, domain: DomainState, now: float) -> Sight:
    """After a look at the domains. Anything about it that changed begins its time anew."""
    if before is None or before.domain != domain:
        return Sight(domain, since=now, whole_since=now)
    return before


def counted(before: Sight, received: Mapping[str, int | None], now: float) -> Sight:
    """After a look at its disks: what the peer sent for each, None where that says nothing (see `from_peer`)."""
    known = {name: value for name, value in received.items() if value is not None}
    fell = any(value < before.received.get(name, 0) for name, value in known.items())
    if not known or len(known) < len(received) or fell:
        return replace(before, whole_since=now, received={}, writes=0)
    if now - before.whole_since < SETTLE_SECONDS:
        return replace(before, received={}, writes=0)
    grew = any(name in before.received and value > before.received[name] for name, value in known.items())
    return replace(before, received=known, writes=before.writes + grew)


def from_peer(disk: DrbdResource | None, received: int | None) -> int | None:
    """KiB that the peer wrote to this disk, None unless they are certainly a guest's, or some program's, writes there:
    it is Primary, connected, and nothing is resynchronised."""
    if disk is None or disk.peer is None or received is None:
        return None
    peer = disk.peer
    living = (peer.connection, peer.role, peer.replication) == ("Connected", "Primary", "Established")
    return received if living and (disk.disk, disk.suspended) == ("UpToDate", "no") else None


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a removal rests on, read just now."""

    node: str
    boot_id: str
    record: VmRecord | None
    domain: DomainState
    sight: Sight
    now: float  # Host.monotonic
    busy: str | None  # an operation of the VM that is open here
    processes: Sequence[HostProcess] | None  # None: could not be read


@dataclass(frozen=True, slots=True)
class Remove:
    """It may go. `why` is for the log."""

    domid: int
    why: str


@dataclass(frozen=True, slots=True)
class Keep:
    """It stays, and a person is told. The message says nothing that changes from look to look."""

    why: Refusal


def incomplete(domain: DomainState) -> bool:
    """A copy that was never a whole guest: it has no processor, never ran, and is paused."""
    return domain.kind != "main" and _never_ran(domain) and domain.vcpus == 0


def judge(facts: Facts) -> Remove | Keep:
    """Total: every world has an answer, and what is not proved is kept."""
    domain, record = facts.domain, facts.record
    where = f"domain {domain.domid} ({domain.name}, {domain.flags}) on {facts.node}"

    def keep(message: str) -> Keep:
        return Keep(Refusal(reason="LeftoverDomain", message=f"{where} {message}"))

    if record is None or domain.uuid is None or domain.uuid.lower() != record.desired.uid.lower():
        return keep("is of no VM that this host's journal knows: it is left alone")
    if domain.kind == "main":
        return keep("is no leftover")
    if facts.busy is not None:
        return keep(f"belongs to operation {facts.busy}")
    if not _stands_still(domain):
        return keep("is not as a migration leaves it; a person must look")
    if facts.sight.domain != domain or facts.now - facts.sight.since < STEADY_SECONDS:
        return keep(f"is looked at for {STEADY_SECONDS:g} s before anything is done about it")
    if facts.processes is None:
        return keep("is left alone: the processes of the host could not be read, so one may be at work on it")
    if workers := working(facts.processes):
        return keep(f"is left alone while {told(workers)} may be at work on it")
    if incomplete(domain):
        return Remove(domain.domid, "it never had all of its memory, and nothing works on it any more")
    if record.granted:
        return keep("is left alone: the VM is this host's, and it may be the only copy of its memory")
    if record.boot_id != facts.boot_id:
        return keep("is left alone: the VM was given away before this host's boot, so it came by another way")
    if record.removing is not None and record.removing.is_of(domain.domid, facts.boot_id):
        return Remove(domain.domid, "its removal was begun")
    if facts.sight.writes < WRITES_SEEN:
        return keep(
            "may be the only copy of the VM's memory: it is removed by itself only after the guest was seen to write"
            f" on the other host. If it runs there, `xl destroy {domain.domid}` removes it"
        )
    return Remove(domain.domid, "the guest goes on on the other host, which has written to its disk since")


def _stands_still(domain: DomainState) -> bool:
    match domain.kind:
        case "incoming":
            return _never_ran(domain)
        case "migratedaway":
            return _suspended(domain)
        case "zombie":  # either one, taken down half-way
            return _never_ran(domain) or _suspended(domain)
    return False


def _never_ran(domain: DomainState) -> bool:
    return domain.state == "paused" and domain.flags == "--p---" and domain.cpu_seconds == 0.0


def _suspended(domain: DomainState) -> bool:
    return domain.state == "suspended" and domain.flags[:2] == "--"

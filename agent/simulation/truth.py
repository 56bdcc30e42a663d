"""The monitor that sees every host at once. Called synchronously at each change, it keeps the story and the verdict.

What must hold at every instant: no domain runs unpaused on two hosts; no resource is Primary on two hosts; a guest's
records go on without a gap, none twice, and none that was acknowledged is ever lost.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agent.simulation.drbd_config import parse
from agent.simulation.drbd_metadata import Metadata, NoMetadata
from agent.simulation.sparse import SparseFile, first_difference

if TYPE_CHECKING:
    from agent.simulation.cluster import Simulation

STORY_LENGTH = 400
STORY_SHOWN = 40


@dataclass
class Records:
    """What one guest (by uuid) wrote: sequence numbers, each issued before and acknowledged after its write."""

    issued: int = 0
    acknowledged: int = 0
    count: int = 0  # acknowledged ones
    last_at: float = 0.0
    longest_pause: float = 0.0  # seconds between two acknowledgements
    hosts: list[str] = field(default_factory=list)  # where it ran, in order


class Truth:
    """Facts and violations of a whole simulation."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self.violations: list[str] = []
        self._story: deque[tuple[float, str, str]] = deque(maxlen=STORY_LENGTH)
        self._running: dict[str, set[tuple[str, int]]] = {}  # uuid -> (host, domid) that run unpaused
        self._primaries: dict[str, set[str]] = {}  # resource -> hosts
        self._records: dict[str, Records] = {}
        self.two_primaries_seconds: dict[str, float] = {}  # by resource: how long both were Primary in all
        self._two_since: dict[str, float] = {}
        self.allow_two_primaries = False  # only for tests of two Primaries themselves

    # --- told by the parts ----------------------------------------------------------------------------------------

    def note(self, who: str, what: str) -> None:
        """A line of the story; tells nothing about right or wrong."""
        self._story.append((self._simulation.clock.now(), who, what))

    def violation(self, what: str) -> None:
        self.note("VIOLATION", what)
        self.violations.append(what)

    def domain_runs(self, uuid: str, host: str, domid: int, name: str = "") -> None:
        """A domain's virtual CPUs may run from now on (created unpaused, unpaused, resumed)."""
        places = self._running.setdefault(uuid, set())
        places.add((host, domid))
        self.note(host, f"domain {domid} {name} runs")
        if len(places) > 1:
            self.violation(f"domain {name or uuid} runs on {', '.join(f'{h} (id {d})' for h, d in sorted(places))}")

    def domain_stops(self, uuid: str, host: str, domid: int, name: str = "") -> None:
        """Paused, suspended, shut down, destroyed, or the host lost power."""
        places = self._running.get(uuid, set())
        if (host, domid) in places:
            places.discard((host, domid))
            self.note(host, f"domain {domid} {name} no longer runs")

    def role(self, resource: str, host: str, primary: bool) -> None:
        hosts = self._primaries.setdefault(resource, set())
        if primary == (host in hosts):
            return
        (hosts.add if primary else hosts.discard)(host)
        self.note(host, f"{resource} is {'Primary' if primary else 'no longer Primary'}")
        now = self._simulation.clock.now()
        if len(hosts) > 1:
            self._two_since.setdefault(resource, now)
            if not self.allow_two_primaries:
                self.violation(f"{resource} is Primary on {', '.join(sorted(hosts))}")
        elif resource in self._two_since:
            lasted = now - self._two_since.pop(resource)
            self.two_primaries_seconds[resource] = self.two_primaries_seconds.get(resource, 0.0) + lasted

    def record_issued(self, uuid: str, host: str, sequence: int) -> None:
        """A guest is about to write record `sequence`; its predecessor is on its disk or was acknowledged."""
        records = self._records.setdefault(uuid, Records())
        if sequence <= records.acknowledged:
            self.violation(
                f"guest {uuid} on {host} writes record {sequence} again: {records.acknowledged} was acknowledged"
            )
        elif sequence > records.issued + 1:
            self.violation(f"guest {uuid} on {host} writes record {sequence} after {records.issued}: a gap")
        records.issued = max(records.issued, sequence)
        if not records.hosts or records.hosts[-1] != host:
            records.hosts.append(host)

    def record_acknowledged(self, uuid: str, host: str, sequence: int) -> None:
        records = self._records[uuid]
        now = self._simulation.clock.now()
        if records.last_at:
            records.longest_pause = max(records.longest_pause, now - records.last_at)
        records.acknowledged, records.last_at = max(records.acknowledged, sequence), now
        records.count += 1

    def record_found(self, uuid: str, host: str, sequence: int) -> None:
        """The last valid record that a guest, or a check, reads on a disk that is the current one (UpToDate)."""
        records = self._records.setdefault(uuid, Records())
        if sequence < records.acknowledged:
            self.violation(
                f"guest {uuid}: record {records.acknowledged} was acknowledged, but {host}'s disk ends with {sequence}"
            )
        elif sequence > records.issued:
            self.violation(f"guest {uuid}: record {sequence} on {host}'s disk was never written ({records.issued} was)")

    # --- asked by tests and the demo ------------------------------------------------------------------------------

    def running(self, uuid: str) -> tuple[str, ...]:
        """Hosts on which the domain runs now."""
        return tuple(sorted(host for host, _ in self._running.get(uuid, ())))

    def primaries(self, resource: str) -> tuple[str, ...]:
        return tuple(sorted(self._primaries.get(resource, ())))

    def records(self, uuid: str) -> Records:
        return self._records.get(uuid, Records())

    def replicas(self, resource: str) -> dict[str, SparseFile]:
        """The backing disks of a resource by host, wherever a host that is on configures it; `size` is what is usable.

        Without metadata a disk holds no replica.
        """
        found = {}
        for name, host in self._simulation.hosts.items():
            for config in parse(host.files):
                part = config.hosts.get(name)
                if config.name != resource or part is None:
                    continue
                backing = host.volume_groups.find(part.disk)
                internal = part.meta_disk == "internal"
                holder = backing if internal else host.volume_groups.find(part.meta_disk)
                if backing is None or holder is None:
                    continue
                metadata = Metadata(holder, backing.size, internal=internal)
                try:
                    agreed = metadata.read().agreed_size
                except (NoMetadata, OSError):
                    continue
                found[name] = SparseFile(backing.file.path, min(metadata.usable, agreed or metadata.usable))
        return found

    def difference(self, resource: str) -> str | None:
        """Why the replicas are not identical, byte for byte; None when they are."""
        replicas = self.replicas(resource)
        if len(replicas) < 2:
            return f"{resource} has {len(replicas)} replica(s): {', '.join(replicas) or 'none'}"
        volumes = [host.drbd.resources.get(resource) for host in self._simulation.hosts.values()]
        under_way = [part for volume in volumes if volume is not None for part in volume.writing]
        (first, one), *others = replicas.items()
        for name, other in others:
            if one.size != other.size:
                return f"{resource} has {one.size} bytes on {first}, {other.size} on {name}"
            if (at := first_difference(one, other, one.size, under_way)) is not None:
                return f"{resource} differs at byte {at} between {first} and {name}"
        return None

    def replicas_identical(self, resource: str) -> bool:
        """Every byte, on at least two hosts; but for what is being written now and is not acknowledged."""
        return self.difference(resource) is None

    def summary(self) -> dict[str, Any]:
        """Everything that is known, as JSON (GET /truth)."""
        return {
            "ok": not self.violations and not self._simulation.defects and not self._simulation.tasks.failures,
            "violations": list(self.violations),
            "defects": [repr(one) for one in (*self._simulation.defects, *self._simulation.tasks.failures)],
            "running": {uuid: self.running(uuid) for uuid, places in self._running.items() if places},
            "primaries": {resource: self.primaries(resource) for resource, hosts in self._primaries.items() if hosts},
            "twoPrimariesSeconds": dict(self.two_primaries_seconds),
            "records": {
                uuid: {
                    "issued": records.issued,
                    "acknowledged": records.acknowledged,
                    "lastAt": records.last_at,
                    "longestPause": records.longest_pause,
                    "hosts": records.hosts,
                }
                for uuid, records in self._records.items()
            },
            "now": self._simulation.clock.now(),
        }

    def story(self, lines: int = STORY_SHOWN) -> str:
        return "\n".join(
            f"{time.strftime('%H:%M:%S', time.gmtime(at))}.{int(at % 1 * 1000):03d} {who:8} {what}"
            for at, who, what in list(self._story)[-lines:]
        )

    def check(self) -> None:
        """Raises AssertionError with all violations and the last events."""
        if defects := [*self._simulation.defects, *self._simulation.tasks.failures]:
            raise AssertionError(f"the simulation itself failed: {defects[0]!r}") from defects[0]
        if self.violations:
            listed = "\n".join(f"- {violation}" for violation in self.violations)
            raise AssertionError(f"{listed}\nThe last events:\n{self.story()}")

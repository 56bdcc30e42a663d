"""Prometheus metrics. What is a count of objects is counted when it is asked for, not kept up to date."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from controller.api.common import condition
from controller.api.xenvm import XenVM
from controller.runtime.api_server import ApiServer
from controller.runtime.cache import Cache, Change
from controller.runtime.queue import WorkQueue

_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0)


Hosts = Callable[[], Mapping[str, bool]]
"""Connected or not, by name."""


class Metrics:
    """One registry a controller, so that two in one process don't mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        to = self.registry
        self.reconciles = Counter("xentandem_reconciles", "Looks at an object.", ["kind", "result"], registry=to)
        self.deciding = Histogram(
            "xentandem_decision_seconds", "Time to decide about one object.", ["kind"], buckets=_SECONDS, registry=to
        )
        self.requests = Counter(
            "xentandem_agent_requests", "Requests to agents.", ["host", "request", "outcome"], registry=to
        )
        self.answering = Histogram(
            "xentandem_agent_request_seconds", "Time to an agent's answer.", ["request"], buckets=_SECONDS, registry=to
        )
        self.fencing = Counter(
            "xentandem_fence_agent_runs", "Runs of fence agents: off, or status as a test.",
            ["host", "action", "outcome"], registry=to,
        )  # fmt: skip
        self.migrations = Counter("xentandem_migrations", "Live migrations that ended.", ["outcome"], registry=to)
        self.leading = Gauge("xentandem_leader", "1 while this process may act.", registry=to)
        self.term = Gauge("xentandem_leader_term", "Number of the leadership.", registry=to)

    def watch(
        self,
        cache: Cache,
        queue: WorkQueue,
        api: ApiServer,
        hosts: Callable[[], dict[str, bool]],
        dropped: Callable[[], int],
        certificates: Callable[[], dict[str, datetime]] = dict,
    ) -> None:
        """Show these at each scrape. `hosts`: connected or not by name; `dropped`: Events that were not posted;
        `certificates`: when they expire, by whose they are.
        """
        self.registry.register(_Observed(cache, queue, api, hosts, dropped, certificates))

    def changed(self, change: Change) -> None:
        """Count what an object's change tells."""
        old, new = change.old, change.new
        if isinstance(old, XenVM) and isinstance(new, XenVM):
            before, after = old.status.last_migration, new.status.last_migration
            if after is not None and (before is None or before.id != after.id):
                self.migrations.labels(after.outcome).inc()

    def render(self) -> bytes:
        return generate_latest(self.registry)


class _Observed:
    def __init__(
        self,
        cache: Cache,
        queue: WorkQueue,
        api: ApiServer,
        hosts: Callable[[], dict[str, bool]],
        dropped: Callable[[], int],
        certificates: Callable[[], dict[str, datetime]],
    ) -> None:
        self._certificates = certificates
        self._cache, self._queue, self._api, self._hosts, self._dropped = cache, queue, api, hosts, dropped

    def collect(self) -> Iterator[Metric]:
        queue = self._queue
        yield GaugeMetricFamily("xentandem_queue_depth", "Objects that wait for a look.", len(queue))
        yield GaugeMetricFamily("xentandem_queue_active", "Objects being looked at.", queue.active)
        yield GaugeMetricFamily("xentandem_queue_delayed", "Objects to be looked at later.", queue.delayed)
        yield GaugeMetricFamily("xentandem_queue_oldest_seconds", "Longest wait for a look now.", queue.oldest())
        yield CounterMetricFamily("xentandem_queue_added", "Objects that were put on the queue.", queue.added)
        writes = CounterMetricFamily("xentandem_api_writes", "Writes to the API server.", labels=["verb", "resource"])
        for (verb, resource), count in self._api.writes.items():
            writes.add_metric([verb, resource], count)
        yield writes
        yield CounterMetricFamily("xentandem_api_reads", "Reads from the API server.", self._api.reads)
        yield CounterMetricFamily("xentandem_events_dropped", "Events that were not posted.", self._dropped())
        yield GaugeMetricFamily("xentandem_unreadable_objects", "Objects not understood.", self._cache.unreadable)
        connected = GaugeMetricFamily("xentandem_agent_connected", "1 while the agent talks.", labels=["host"])
        for host, is_connected in self._hosts().items():
            connected.add_metric([host], float(is_connected))
        yield connected
        expiry = GaugeMetricFamily(
            "xentandem_certificate_expiry_seconds", "Time until the certificate expires.", labels=["of"]
        )
        now = datetime.now(UTC)
        for whose, expires in self._certificates().items():
            expiry.add_metric([whose], (expires - now).total_seconds())
        yield expiry
        yield from self._objects()

    def _objects(self) -> Iterator[Metric]:
        phases: Tally[tuple[str, str]] = Tally()
        unready: Tally[tuple[str, str]] = Tally()
        sync = GaugeMetricFamily(
            "xentandem_volume_sync_percent", "Progress of the running synchronisation.", labels=["namespace", "name"]
        )
        for kind, found in (
            ("XenNode", self._cache.nodes.values()),
            ("DrbdVolume", self._cache.volumes.values()),
            ("XenVM", self._cache.vms.values()),
        ):
            for one in found:
                phases[kind, one.status.phase or "Pending"] += 1
                ready = condition(one.status.conditions, "Ready")
                if ready is None or ready.status != "True":
                    unready[kind, ready.reason if ready else "NotLookedAt"] += 1
        frozen, standing = 0, 0
        for (namespace, name), volume in self._cache.volumes.items():
            frozen += volume.status.frozen != ""
            standing += volume.status.verdict is not None and volume.status.verdict.survivor != ""
            if volume.status.sync is not None:
                sync.add_metric([namespace, name], volume.status.sync.percent)
        ready_to_fail = GaugeMetricFamily(
            "xentandem_node_failover_ready",
            "1 while every VM of the host with onNodeFailure: FailOver would fit elsewhere.",
            labels=["host"],
        )
        for name, node in self._cache.nodes.items():
            fits = condition(node.status.conditions, "FailoverReady")
            if fits is not None:
                ready_to_fail.add_metric([name], float(fits.status == "True"))
        yield ready_to_fail
        away = Tally(vm.status.displaced.reason for vm in self._cache.vms.values() if vm.status.displaced)
        displaced = GaugeMetricFamily("xentandem_vms_displaced", "VMs away from spec.node's host.", labels=["reason"])
        for reason, count in sorted(away.items()):
            displaced.add_metric([reason], count)
        yield displaced
        yield _family("xentandem_objects", "Objects by phase.", "phase", phases)
        yield _family("xentandem_objects_not_ready", "Objects that are not Ready, by reason.", "reason", unready)
        yield sync
        yield GaugeMetricFamily("xentandem_volumes_frozen", "Volumes whose IO is frozen: a peer was lost.", frozen)
        yield GaugeMetricFamily("xentandem_volume_verdicts", "Volumes of which one side goes on alone.", standing)


def _family(name: str, says: str, label: str, counts: Tally[tuple[str, str]]) -> Metric:
    family = GaugeMetricFamily(name, says, labels=["kind", label])
    for (kind, value), count in sorted(counts.items()):
        family.add_metric([kind, value], count)
    return family

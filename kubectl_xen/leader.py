"""Whether a controller leads: without one, statuses are old and nothing is done."""

from __future__ import annotations

from datetime import datetime

from kubectl_xen.cluster import Cluster
from kubectl_xen.view import Object

LATE_SECONDS = 5.0  # clocks of the controller and of the API server may differ, and renewals come late


def silence_in(cluster: Cluster) -> str | None:
    """One line when no controller leads there; None also where who asks may not see it."""
    seen = cluster.leases()
    return silence(*seen) if seen else None


def silence(leases: list[Object], now: datetime) -> str | None:
    """One line when no controller holds its Lease any more; `now` by the API server's clock."""
    ends = []
    for lease in leases:
        spec = lease.get("spec") or {}
        if not spec.get("renewTime"):
            continue
        renewed = datetime.fromisoformat(spec["renewTime"])
        if spec.get("holderIdentity") and (now - renewed).total_seconds() <= _duration(spec) + LATE_SECONDS:
            return None
        ends.append(renewed)
    if not ends:
        return "no controller has led yet: nothing is done until one does (kubectl get pods -n xentandem-system)"
    return f"no controller has led since {_moment(max(ends), now)}: what follows is what it last wrote"


def _duration(spec: Object) -> float:
    return float(spec.get("leaseDurationSeconds") or 15.0)


def _moment(at: datetime, now: datetime) -> str:
    """The time of day here; with the date when it was not today."""
    local, today = at.astimezone(), now.astimezone().date()
    return f"{local:%H:%M:%S}" if local.date() == today else f"{local:%Y-%m-%d %H:%M:%S}"

"""The controller seen from outside: CPU time and memory as the kernel counts them, and its own metrics."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import aiohttp
import psutil
from prometheus_client.parser import text_string_to_metric_families

MB = 1_000_000


class Watched:
    """One process by its pid."""

    def __init__(self, pid: int, metrics_port: int) -> None:
        self._process = psutil.Process(pid)
        self._metrics = f"http://127.0.0.1:{metrics_port}/metrics"
        self.pid = pid

    def cpu_seconds(self) -> float:
        """User and system time of all its threads so far."""
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def rss_mb(self) -> float:
        return float(self._process.memory_info().rss / MB)

    def peak_rss_mb(self) -> float:
        """The most that was resident at any time (VmHWM of proc(5))."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / MB

    async def metrics(self) -> Metrics | None:
        """What it says of itself now; None while it does not serve."""
        try:
            async with aiohttp.ClientSession() as session, session.get(self._metrics) as response:
                return Metrics(await response.text())
        except (TimeoutError, aiohttp.ClientError, OSError):
            return None


class Metrics:
    """One scrape. `value(name, **labels)` sums all samples that have these labels."""

    def __init__(self, text: str) -> None:
        self._samples: dict[str, list[tuple[dict[str, str], float]]] = defaultdict(list)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._samples[sample.name].append((sample.labels, sample.value))

    def value(self, name: str, **labels: str) -> float:
        return sum(value for has, value in self._samples[name] if labels.items() <= has.items())

    def by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """The samples that have these labels, by the value of another label."""
        return {has[label]: value for has, value in self._samples[name] if labels.items() <= has.items()}

    @property
    def quiet(self) -> bool:
        """Nothing waits for a look and nothing is being looked at."""
        return self.value("xentandem_queue_depth") == 0 and self.value("xentandem_queue_active") == 0

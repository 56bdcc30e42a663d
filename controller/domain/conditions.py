"""Conditions in kstatus' meaning: Ready always there; Reconciling and Stalled only while True.

An object is in progress while Reconciling, failed while Stalled (a person must act), current when Ready.
https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal

from controller.api.common import Condition

Truth = Literal["True", "False", "Unknown"]


def timestamp(now: float) -> str:
    """Unix seconds to RFC 3339 as metav1.Time writes it (whole seconds, Z)."""
    return datetime.fromtimestamp(int(now), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(text: str) -> float:
    """RFC 3339 to Unix seconds."""
    return datetime.fromisoformat(text).timestamp()


class Conditions:
    """The conditions of one decision, built on the ones that stand.

    `lastTransitionTime` moves only with the status' truth value; an unchanged condition stays equal, so that an
    unchanged status is not written.
    """

    def __init__(self, old: Iterable[Condition], generation: int, now: float) -> None:
        self._old = {c.type: c for c in old}
        self._new: dict[str, Condition] = {}
        self._generation, self._now = generation, now

    def set(self, kind: str, status: Truth, reason: str, message: str) -> None:
        before = self._old.get(kind)
        since = before.last_transition_time if before and before.status == status else timestamp(self._now)
        self._new[kind] = Condition(
            type=kind,
            status=status,
            observed_generation=self._generation,
            last_transition_time=since,
            reason=reason,
            message=message[:32768],
        )

    def ready(self, reason: str, message: str) -> None:
        self.set("Ready", "True", reason, message)

    def progressing(self, reason: str, message: str) -> None:
        """On its way without anybody's help."""
        self.set("Ready", "False", reason, message)
        self.set("Reconciling", "True", reason, message)

    def stalled(self, reason: str, message: str) -> None:
        """A person must act; the message says how."""
        self.set("Ready", "False", reason, message)
        self.set("Stalled", "True", reason, message)

    def unknown(self, reason: str, message: str) -> None:
        """What is true cannot be seen now."""
        self.set("Ready", "Unknown", reason, message)

    def keep(self, kind: str) -> None:
        """As it stands: whether it is still true cannot be seen now."""
        if kind in self._old:
            self._new[kind] = self._old[kind]

    def of(self, kind: str) -> Condition | None:
        """As this decision says it."""
        return self._new.get(kind)

    def changed(self, kind: str) -> bool:
        """Did the truth or the reason of this condition change in this decision?"""
        old, new = self._old.get(kind), self._new.get(kind)
        return (old.status, old.reason) != (new.status, new.reason) if old and new else old is not new

    def result(self) -> list[Condition]:
        """Sorted by type, which keeps the written list stable."""
        return [self._new[kind] for kind in sorted(self._new)]

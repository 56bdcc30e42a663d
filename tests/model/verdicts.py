"""Verdicts of the explored world, as the API server, the wire and an agent's journal have them."""

from __future__ import annotations

from functools import cache
from typing import Any

from states import NAMES, Fence, Key, Verdict

from agent import fence_records
from agent.protocol import Verdict as Told
from controller.api.volume_fencing import VerdictStatus

LONG_AGO = "2020-01-01T00:00:00Z"
VOLUME_UID = "aaaaaaaa-0000-4000-8000-000000000001"


def _sides(verdict: Verdict) -> tuple[str, str]:
    return ("", "") if verdict.survivor is None else (NAMES[verdict.survivor], NAMES[1 - verdict.survivor])


def recorded(verdict: Verdict) -> dict[str, Any]:
    """status.verdict."""
    survivor, stale = _sides(verdict)
    return {"number": verdict.number, "survivor": survivor, "stale": stale, "reason": verdict.reason, "at": LONG_AGO}


def verdict_of(status: VerdictStatus | None) -> Verdict | None:
    if status is None:
        return None
    return Verdict(status.number, NAMES.index(status.survivor) if status.survivor else None, status.reason)


@cache
def told(verdict: Verdict) -> Told:
    """As an agent is told."""
    survivor, stale = _sides(verdict)
    return Told(number=verdict.number, survivor=survivor or None, stale=stale or None, reason=verdict.reason)


def key_of(verdict: Told) -> Key:
    """The request that tells it."""
    return ("verdict", verdict.number, NAMES.index(verdict.survivor) if verdict.survivor else -1, verdict.reason)


def of_key(number: int, survivor: int, reason: str) -> Verdict:
    return Verdict(number, None if survivor < 0 else survivor, reason)


@cache
def record(fence: Fence) -> fence_records.FenceRecord | None:
    """The agent's journal."""
    if fence.verdict is None and not fence.continued:
        return None
    return fence_records.FenceRecord(
        uid=VOLUME_UID,
        verdict=told(fence.verdict) if fence.verdict is not None else None,
        given_back=fence.given_back,
        continued_at=LONG_AGO if fence.continued else None,
    )


def view(fence: Fence) -> fence_records.FenceView:
    return fence_records.FenceView(record(fence), asked=bool(fence.asked))

"""What the tests of verdicts tell: hosts that ask, wait or are silent, journals, and what was given."""

from __future__ import annotations

from typing import Any

from agent.protocol import FenceQuestion, FenceState, Verdict
from controller.domain.actions import Decision, PutVerdict
from tests.unit.domain.worlds import (
    Worlds,
    asked,
    conditions,
    peer,
    volume_state,
)

LOST = peer(connection="Connecting", role="Unknown", disk="DUnknown", replication="Off")
OTHER = {"mk1": "mk2", "mk2": "mk1"}


def question(node: str, wants: str) -> FenceQuestion:
    return FenceQuestion.model_validate({"peer": OTHER[node], "wants": wants, "since": "2027-01-15T08:00:00Z"})


def tell(worlds: Worlds, node: str, **update: Any) -> None:
    worlds.tell(node, volumes={"vm_shaolin": volume_state(**update)})


def frozen(worlds: Worlds, node: str = "mk1", **update: Any) -> None:
    """A Primary whose IO is frozen; it asks."""
    values = {"role": "Primary", "peer": LOST, "suspended": "fencing", "fence_question": question(node, "io")}
    tell(worlds, node, **(values | update))


def waiting(worlds: Worlds, node: str, **update: Any) -> None:
    """A Secondary that shall be promoted without its peer; it asks."""
    tell(worlds, node, **({"peer": LOST, "fence_question": question(node, "promotion")} | update))


def silent(worlds: Worlds, node: str) -> None:
    worlds.hosts[node].connected = False


def fenced(worlds: Worlds, **status: Any) -> None:
    before = worlds.status("DrbdVolume", "vm-shaolin")
    worlds.set_status("DrbdVolume", "vm-shaolin", {**before, "fenced": True, **status})


def standing(number: int, survivor: str, stale: str, reason: str = "PeerLost") -> dict[str, Any]:
    return {"verdict": {"number": number, "survivor": survivor, "stale": stale, "reason": reason}}


def journal(number: int, survivor: str | None, stale: str | None, reason: str = "PeerLost", **more: Any) -> FenceState:
    return FenceState(verdict=Verdict(number=number, survivor=survivor, stale=stale, reason=reason), **more)


def given(decision: Decision) -> tuple[int, str, str, str] | None:
    verdict = decision.status.verdict
    return None if verdict is None else (verdict.number, verdict.survivor, verdict.stale, verdict.reason)


def told(decision: Decision) -> dict[str, int]:
    return {request.host: request.body.verdict.number for request in asked(decision, PutVerdict)}


def why(decision: Decision) -> str:
    return str(conditions(decision)["Degraded"].message)

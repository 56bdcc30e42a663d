"""Whether a controller leads, by its Lease and the API server's clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from kubectl_xen.leader import silence

NOW = datetime(2031, 2, 1, 10, 0, 0, tzinfo=UTC)


def lease(renewed: float, holder: str = "pod-1") -> dict[str, Any]:
    at = (NOW - timedelta(seconds=renewed)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {"spec": {"holderIdentity": holder, "renewTime": at, "leaseDurationSeconds": 15}}


def test_a_lease_that_is_renewed_says_nothing() -> None:
    assert silence([lease(3)], NOW) is None
    assert silence([lease(19)], NOW) is None, "a renewal that comes late is no alarm"
    assert silence([lease(9000), lease(3)], NOW) is None, "one of them leads"


def test_a_lease_that_ran_out_or_was_given_up_says_since_when() -> None:
    since = (NOW - timedelta(seconds=40)).astimezone().strftime("%H:%M:%S")
    told = f"no controller has led since {since}: what follows is what it last wrote"
    assert silence([lease(40)], NOW) == told
    assert silence([lease(9000), lease(40)], NOW) == told
    assert silence([lease(40, holder="")], NOW) == told
    assert silence([lease(1, holder="")], NOW) is not None


def test_the_day_is_said_when_it_was_not_today() -> None:
    told = silence([lease(3 * 86_400)], NOW)
    assert told is not None
    assert (NOW - timedelta(days=3)).astimezone().strftime("%Y-%m-%d %H:%M:%S") in told


def test_none_has_led_yet() -> None:
    told = silence([], NOW)
    assert told is not None
    assert "no controller has led yet" in told

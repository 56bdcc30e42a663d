"""DrbdVolume's fields about hosts that lose each other: what a frozen disk waits for, and the recorded verdict."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from controller.api.common import COUNT_LIMIT, ApiModel, Message, Time
from controller.api.rules import Rule, checked, text
from controller.api.volume_rules import AFTER_LIMIT, AFTER_SAY, FENCING_RULES

AFTER = "[1-9][0-9]{0,5}[smh]"
NODE_OR_NONE = "^([a-z0-9]([a-z0-9.-]*[a-z0-9])?)?$"
"""The name of a XenNode, or nothing: whoever writes a verdict by hand cannot write what no agent takes."""


class FencingPolicy(ApiModel):
    """What becomes of the disk when the hosts lose each other and nobody can say which one may go on."""

    model_config = ConfigDict(json_schema_extra=FENCING_RULES)

    when_controller_unreachable: Literal["Freeze", "Continue"] = "Freeze"
    """Freeze: the disk of the VM stands still until a controller, or the other host, is back; no acknowledged write can
    be lost. Continue: it goes on by itself once its agent has heard of no controller for the time in after; if that
    host is then lost for good before the controller hears of it, what was written alone is lost with it."""
    after: Annotated[
        str | None,
        checked(
            text(AFTER, AFTER_SAY),
            Rule(AFTER_LIMIT, AFTER_SAY),
            max_length=16,
        ),
    ] = None
    """How long no controller must have been heard of before Continue applies, such as 5m (the default)."""

    @property
    def continue_after(self) -> float | None:
        """Seconds; None: never, also if it is written as the API server does not take it."""
        after = self.after or "5m"
        if self.when_controller_unreachable == "Freeze" or re.fullmatch(AFTER, after) is None:
            return None
        return float(int(after[:-1]) * {"s": 1, "m": 60, "h": 3600}[after[-1]])


class VerdictStatus(ApiModel):
    """Which side may go on without the other. Written before anybody is told; numbers only grow."""

    number: Annotated[int, Field(ge=1, le=COUNT_LIMIT)]
    """Number of the verdict; agents refuse a lower one than they know."""
    survivor: Annotated[str, Field(max_length=63, pattern=NODE_OR_NONE)] = ""
    """The host that may go on alone; empty: the verdict before has ended, and nobody may."""
    stale: Annotated[str, Field(max_length=63, pattern=NODE_OR_NONE)] = ""
    """The host whose copy lacks what the survivor wrote, and which is never promoted while this stands."""
    reason: Annotated[str, Field(max_length=63, pattern="^[A-Za-z]+$")]
    """PeerLost, WroteAlone, Fenced, Identical, HandedOver, PeerDiskless, or Redundant when it ended."""
    message: Message = ""
    """The evidence."""
    at: Time | None = None
    """When it was decided."""

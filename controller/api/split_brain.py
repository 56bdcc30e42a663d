"""DrbdVolume's fields about a split brain: what was found, with evidence for each side, and a person's choice."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from controller.api.common import ApiModel, Message, NodeName, Quantity, Time
from controller.api.rules import checked, text


class SplitBrainChoice(ApiModel):
    """Which side's data stays after a split brain. kubectl xen resolve writes it."""

    id: Annotated[
        str,
        checked(
            text(
                "[0-9a-f]{8}", "write the id that status.splitBrain shows, such as 3f09c2aa: it is for that one alone"
            ),
            max_length=16,
        ),
    ]
    """The id in status.splitBrain that the choice is for: it is not applied to another split brain, nor once a side has
    begun a new generation."""
    survivor: NodeName
    """The host whose data stays. The other one's is replaced by it; a snapshot is taken of it before."""


class SplitBrainSide(ApiModel):
    """What speaks for one side."""

    node: NodeName
    """Name of the XenNode."""
    generation: Annotated[str, Field(max_length=16)]
    """DRBD's current generation identifier there (drbdadm get-gi), without the bit that says Primary."""
    role: Annotated[str, Field(max_length=32)] = "Unknown"
    """DRBD's role there."""
    written_alone: Quantity | None = None
    """How much was written there without the other, as DRBD counts it; unknown if it is not said."""
    evidence: Message = ""
    """What else is known: the VM that runs there, a verdict, IO that went on by policy."""
    snapshot: Annotated[str, Field(max_length=255)] = ""
    """Logical volume, group/name, that keeps what the side held when the split was found or, once it gave up, what it
    gave up; empty while there is none."""


class SplitBrainStatus(ApiModel):
    """Both sides were written without the other, or hold data that have nothing in common."""

    id: Annotated[str, Field(max_length=16)]
    """Made of both sides' generations: another one is another decision."""
    kind: Literal["SplitBrain", "Unrelated"]
    """SplitBrain: one history that parted. Unrelated: no common history, as when a wrong volume was put in place."""
    detected_at: Time | None = None
    """When it was found."""
    sides: Annotated[
        tuple[SplitBrainSide, ...],
        Field(
            max_length=2, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["node"]}
        ),
    ]
    """The evidence for each side."""
    survivor: Annotated[str, Field(max_length=63)] = ""
    """The side whose data stays, once that is decided; empty: a person has to choose."""

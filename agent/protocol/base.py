"""What all messages share: constants, names, the base class, the refusal."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

API_PORT = 8003
RELOCATION_PORT = 8002
CONTROLLER_URI = "xentandem:controller"
AGENT_URI_PREFIX = "xentandem:agent:"
HEARTBEAT_SECONDS = 10.0
DOMAIN_OVERHEAD_MIB = 4  # page tables and the hypervisor's own structures (xl needs 1-2 MiB; rounded up)

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,126}$")]
"""A name that ends up in argv or a path: never an option (`-f`), never a path (`../`)."""
Uid = Annotated[str, Field(pattern=r"^[0-9a-fA-F-]{8,64}$")]
OperationId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]

Role = Literal["Primary", "Secondary", "Unknown"]
Disk = Literal[
    "Diskless", "Attaching", "Detaching", "Failed", "Negotiating", "Inconsistent", "Outdated", "DUnknown",
    "Consistent", "UpToDate",
]  # fmt: skip
Connection = Literal[
    "StandAlone", "Disconnecting", "Unconnected", "Timeout", "BrokenPipe", "NetworkFailure", "ProtocolError",
    "TearDown", "Connecting", "Connected",
]  # fmt: skip
"""DRBD 9's words (drbdsetup(8), events2); 8.4's WFConnection is Connecting."""


class Wire(BaseModel):
    """Base: unknown fields are refused, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Refusal(Wire):
    """Why a request was refused, or why something cannot be.

    `reason` is CamelCase and stable; `message` has the numbers and says what to do.
    """

    reason: str
    message: str

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
Uid = Annotated[str, Field(pattern=r"^[0-9a-fA-F][0-9a-fA-F-]{7,63}$")]
OperationId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Address = Annotated[str, Field(pattern=r"^[0-9A-Za-z:][0-9A-Za-z:._-]{0,252}$")]
"""An IP address or a host name."""
IpAddress = Annotated[str, Field(pattern=r"^([0-9]{1,3}(\.[0-9]{1,3}){3}|[0-9A-Fa-f.]*:[0-9A-Fa-f:.]{1,40})$")]
Text = Annotated[str, Field(max_length=4096, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""One line."""
Path = Annotated[str, Field(max_length=4096, pattern=r"^/[^\x00-\x1f\x7f]*$")]
"""Of a file on the dom0, absolute."""
Number = Annotated[int, Field(ge=0, lt=1 << 53)]
"""Terms, epochs, counts, MiB: what JSON's readers agree on (RFC 8259, 6)."""
Port = Annotated[int, Field(ge=1, le=65535)]
Minor = Annotated[int, Field(ge=0, le=1048575)]

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
    """Base: unknown fields, NaN and infinity are refused, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Refusal(Wire):
    """Why a request was refused, or why something cannot be.

    `reason` is CamelCase and stable; `message` has the numbers and says what to do.
    """

    reason: str
    message: str

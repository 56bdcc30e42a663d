"""The status of a XenVM: where it is placed, its domain, its moves."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, computed_field

from controller.api.common import COUNT_LIMIT, ApiModel, Message, NodeName, OperationRecord, Status, Time

VmState = Literal["Running", "Stopped", "Paused"]


class Placement(ApiModel):
    """The one host that may run the VM. It changes only with a new epoch."""

    node: NodeName
    """Name of the XenNode."""
    epoch: Annotated[int, Field(ge=1, le=COUNT_LIMIT)]
    """Number of the placement; each change of host makes a higher one, and agents refuse a lower one."""


class Displaced(ApiModel):
    """Why the VM is not on the host that spec.node names, though nobody edited spec.node."""

    from_node: Annotated[NodeName, Field(alias="from")]
    """The host that spec.node names."""
    reason: Literal["Maintenance", "OutOfService", "Fenced"]
    """Maintenance: it was moved away live, or started elsewhere; OutOfService: the host was off by a person's word;
    Fenced: the host was off by a fence agent's."""
    since: Time
    """When it was moved or started elsewhere."""

    @computed_field(  # type: ignore[prop-decorator]
        description="In one text, for the DISPLACED column: from mk1, Maintenance.",
        json_schema_extra={"maxLength": 96},
    )
    @property
    def summary(self) -> str:
        return f"from {self.from_node}, {self.reason}"


class DomainStatus(ApiModel):
    """The Xen domain."""

    id: Annotated[int | None, Field(ge=1)] = None
    """Domain number on its host, as xl list shows it."""
    since: Time | None = None
    """When the domain came into its present state."""


class NetworkStatus(ApiModel):
    """A network card as it was given to the domain."""

    bridge: Annotated[str, Field(max_length=63)]
    """Bridge of the host."""
    mac: Annotated[str, Field(max_length=17)]
    """MAC address, given or made from the VM's uid."""


MigrationPhase = Literal["Preflight", "Transfer", "HandOver", "Done", "Cancelling"]
MigrationOutcome = Literal["Succeeded", "Failed", "Cancelled"]


class Migration(ApiModel):
    """A live migration: the running one, or the last one with its outcome."""

    id: Annotated[str, Field(max_length=63)]
    """Identifier of the operation, the same on both hosts."""
    source: NodeName
    """The host that the VM leaves."""
    target: NodeName
    """The host that the VM goes to."""
    epoch: Annotated[int, Field(ge=1, le=COUNT_LIMIT)]
    """Number of the placement on the target."""
    phase: MigrationPhase = "Preflight"
    """Preflight: nothing is changed yet; Transfer: memory is copied while the VM runs; HandOver: the disk changes sides
    and the VM goes on at the target; Done; Cancelling."""
    percent: Annotated[float | None, Field(ge=0, le=100)] = None
    """How much of the memory was sent; never runs backwards."""
    round: Annotated[int | None, Field(ge=0)] = None
    """Round of the copying: pages that were changed meanwhile are sent again in the next."""
    rate: Annotated[str, Field(max_length=32)] = ""
    """Speed of the copying, such as 110 MiB/s."""
    started_at: Time | None = None
    """When the move began."""
    observed_at: Time | None = None
    """When percent, round and rate were taken."""
    cancel_requested: bool = False
    """true once spec.node was changed back before the hand-over."""
    message: Message = ""
    """How it stands, or why it did not happen."""
    outcome: MigrationOutcome | None = None
    """Succeeded, Failed or Cancelled; not there while the move is on its way."""

    @computed_field(  # type: ignore[prop-decorator]
        description="The move on its way in one text, for the MIGRATION column: mk1 -> mk2 45%.",
        json_schema_extra={"maxLength": 160},
    )
    @property
    def summary(self) -> str | None:
        if self.outcome is not None:
            return None
        arrow = f"{self.source} -> {self.target}"
        if self.phase == "Transfer" and self.percent is not None:
            return f"{arrow} {self.percent:.0f}%"
        return f"{arrow} {self.phase}"


class LastMigration(ApiModel):
    """How the last live migration ended."""

    id: Annotated[str, Field(max_length=63)]
    """Identifier of the operation."""
    source: NodeName
    """The host that the VM was to leave."""
    target: NodeName
    """The host that it was to go to."""
    outcome: MigrationOutcome
    """Succeeded, Failed or Cancelled."""
    started_at: Time | None = None
    """When the move began."""
    finished_at: Time | None = None
    """When the move ended."""
    message: Message = ""
    """Why it failed, or what was measured."""
    failures: Annotated[int, Field(ge=0)] = 0
    """How many moves failed one after the other; the next try waits longer each time."""


XenVMPhase = Literal[
    "Pending", "Starting", "Running", "Paused", "Stopping", "Stopped", "Migrating", "Halted", "Crashed", "Stalled",
    "Deleting", "Unknown",
]  # fmt: skip


class XenVMStatus(Status):
    """What the controller decided for the VM, and what its host says of it."""

    phase: XenVMPhase | None = None
    """One word for people; conditions hold the truth."""
    placement: Placement | None = None
    """The one host that may run the VM."""
    displaced: Displaced | None = None
    """Why the VM is not on the host that spec.node names: its host is, or was, in maintenance or off."""
    run: Annotated[int, Field(ge=0, le=COUNT_LIMIT)] = 0
    """Counts the starts that were asked for, so that a guest that powered itself off isn't started again by mistake."""
    last_state: VmState | None = None
    """The spec.state that was last acted on."""
    domain: DomainStatus | None = None
    """The Xen domain, if there is one."""
    networks: Annotated[tuple[NetworkStatus, ...], Field(max_length=8)] = ()
    """Network cards with their MAC addresses."""
    migration: Migration | None = None
    """The live migration that is on its way, or the last one."""
    last_migration: LastMigration | None = None
    """How the last live migration ended."""
    restarts: Annotated[int, Field(ge=0)] = 0
    """How often the guest was restarted since it last ran for ten minutes."""
    operation: OperationRecord | None = None
    """The running operation, if there is one."""

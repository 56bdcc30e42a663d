"""XenVM: a virtual machine. Its name is the domain's name; editing spec.node moves it live."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, computed_field

from controller.api.common import (
    MIB,
    ApiModel,
    ApiObject,
    NodeName,
    OperationRecord,
    Quantity,
    Status,
    Time,
    ToolName,
    quantity_bytes,
)  # fmt: skip

VmState = Literal["Running", "Stopped", "Paused"]
OnEvent = Literal["destroy", "restart", "preserve"]
# What ends up between quotes in xl.cfg(5): printable, no quote and no backslash.
_TEXT = r"^[^\x00-\x1f\x7f\"'\\]*$"
_PATH = r"^/[^\x00-\x1f\x7f\"'\\]*$"


class Disk(ApiModel):
    """A volume as a disk of the VM."""

    volume: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]
    """Name of a DrbdVolume in the same namespace."""
    device: Annotated[str, Field(pattern=r"^(xvd|hd|sd)[a-z]{1,2}[0-9]{0,3}$", max_length=8)]
    """Name of the disk in the guest, such as xvda or hda1 (xl-disk-configuration(5), vdev)."""
    mode: Literal["r", "w"] = "w"
    """w: the guest may write; r: read-only."""


class Network(ApiModel):
    """A network card of the VM."""

    bridge: Annotated[str, Field(min_length=1, max_length=15, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
    """Bridge of the host that the card is plugged into, such as xenbr0; it must exist on each host that runs the VM."""
    mac: Annotated[str | None, Field(max_length=17, pattern=r"^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$")] = None
    """MAC address, such as a0:00:00:01:00:01; omitted: one is made from the VM's uid, which never changes."""


class XenVMSpec(ApiModel):
    """What the VM shall be."""

    node: NodeName | None = None
    """The XenNode that shall run the VM. Changing it moves a running VM live; changing it back before the hand-over
    cancels the move. Omitted: the controller chooses a host."""
    state: VmState = "Running"
    """Running, Stopped (shut down cleanly) or Paused (in memory, but gets no CPU time)."""
    type: Literal["pv", "pvh", "hvm"] = "pv"
    """Kind of guest, xl.cfg(5): pv, pvh or hvm."""
    memory: Quantity
    """Memory that the VM starts with, such as 512Mi."""
    max_memory: Quantity | None = None
    """Memory that the VM can be given while it runs, such as 4Gi; omitted: as memory."""
    vcpus: Annotated[int, Field(ge=1, le=128)] = 1
    """Virtual CPUs."""
    kernel: Annotated[str | None, Field(max_length=1024, pattern=_PATH)] = None
    """Absolute path of the guest's kernel on the host, such as /boot/xenU/vmlinuz-2.6.16.49-xenU-r1; it must be there
    on each host that runs the VM."""
    ramdisk: Annotated[str | None, Field(max_length=1024, pattern=_PATH)] = None
    """Absolute path of the guest's initial RAM disk on the host."""
    root: Annotated[str | None, Field(max_length=256, pattern=_TEXT)] = None
    """Root device and options for the kernel's command line, such as "/dev/hda1 ro"."""
    extra: Annotated[str | None, Field(max_length=1024, pattern=_TEXT)] = None
    """More of the kernel's command line, such as "console=hvc0"."""
    bootloader: Annotated[str | None, Field(max_length=1024, pattern=r"^(pygrub|/[^\x00-\x1f\x7f\"'\\]*)$")] = None
    """Program that finds the kernel on the VM's own disk, instead of kernel: pygrub or an absolute path."""
    disks: Annotated[
        tuple[Disk, ...],
        Field(
            max_length=16, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["device"]}
        ),
    ] = ()
    """Disks, each a DrbdVolume."""
    networks: Annotated[tuple[Network, ...], Field(max_length=8)] = ()
    """Network cards."""
    on_poweroff: OnEvent = "destroy"
    """What happens when the guest powers itself off, xl.cfg(5): destroy (it stays off), restart, or preserve."""
    on_reboot: OnEvent = "restart"
    """What happens when the guest reboots, xl.cfg(5): restart, destroy, or preserve."""
    on_crash: OnEvent = "restart"
    """What happens when the guest crashes, xl.cfg(5): restart, destroy, or preserve (kept, to be examined)."""
    shutdown_grace_seconds: Annotated[int, Field(ge=0, le=3600)] = 60
    """Seconds that the guest gets to shut down when the VM is stopped or deleted, before it is destroyed."""
    on_node_failure: Literal["Stay"] = "Stay"
    """What happens when the host fails. Stay: the VM waits for its host; nothing is started elsewhere by itself."""

    @property
    def memory_mib(self) -> int:
        return quantity_bytes(self.memory) // MIB

    @property
    def max_memory_mib(self) -> int:
        """maxMemory, or memory when it is omitted."""
        return quantity_bytes(self.max_memory or self.memory) // MIB


class Placement(ApiModel):
    """The one host that may run the VM. It changes only with a new epoch."""

    node: NodeName
    """Name of the XenNode."""
    epoch: Annotated[int, Field(ge=1)]
    """Number of the placement; each change of host makes a higher one, and agents refuse a lower one."""


class DomainStatus(ApiModel):
    """The Xen domain."""

    id: Annotated[int | None, Field(ge=1)] = None
    """Domain number on its host, as xl list shows it."""
    since: Time | None = None
    """When the domain came into its present state."""


class NetworkStatus(ApiModel):
    """A network card as it was given to the domain."""

    bridge: ToolName
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
    epoch: Annotated[int, Field(ge=1)]
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
    cancel_requested: bool = False
    """true once spec.node was changed back before the hand-over."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """How it stands, or why it did not happen."""
    outcome: MigrationOutcome | None = None
    """Succeeded, Failed or Cancelled; not there while the move is on its way."""

    @computed_field(description="The move on its way in one text, for the MIGRATION column: mk1 -> mk2 45%.")  # type: ignore[prop-decorator]
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
    message: Annotated[str, Field(max_length=1024)] = ""
    """Why it failed, or what was measured."""


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
    run: Annotated[int, Field(ge=0)] = 0
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


class XenVM(ApiObject):
    """A virtual machine on disks that two hosts hold identical. Change spec.node to move it to the other one, live."""

    kind: Literal["XenVM"] = "XenVM"
    spec: XenVMSpec
    status: XenVMStatus = XenVMStatus()

    @property
    def name(self) -> str:
        return self.metadata.name

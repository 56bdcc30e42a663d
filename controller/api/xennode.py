"""XenNode: a dom0 with its agent. Cluster-scoped; its name is the host's `uname -n`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from controller.api.common import ApiModel, ApiObject, NodeName, Quantity, Status, ToolName

Port = Annotated[int, Field(ge=1, le=65535)]
Address = Annotated[str, Field(min_length=1, max_length=253)]


class AgentEndpoint(ApiModel):
    """Where the controller reaches the host's xentandem-agent."""

    address: Address
    """IP address or host name of the agent, such as 10.0.0.81."""
    port: Port = 8003
    """TCP port of the agent's HTTPS server."""


class Replication(ApiModel):
    """The network that DRBD replicates over."""

    address: Address
    """IPv4 address that DRBD listens on and connects to, such as 10.0.0.81; each volume adds its own port."""


class Relocation(ApiModel):
    """Whether and where live migrations come in: the settings that xend-config.sxp called xend-relocation-*."""

    enabled: bool = True
    """false: no VM can be moved to this host (xend-relocation-server no)."""
    address: Annotated[str, Field(max_length=253)] = ""
    """IP address or host name that moves to this host arrive at and where the agent listens; empty: agent.address."""
    port: Port = 8002
    """TCP port for moves to this host (xend-relocation-port)."""
    allow_from: Annotated[tuple[NodeName, ...], Field(max_length=64)] = ()
    """Names of the XenNodes that may move VMs to this host; empty: every one (xend-relocation-hosts-allow)."""


class XenNodeSpec(ApiModel):
    """What the host is and may be used for."""

    agent: AgentEndpoint
    """Where the controller reaches the host's xentandem-agent."""
    replication: Replication
    """The network that DRBD replicates over."""
    relocation: Relocation = Relocation()
    """Whether and where live migrations come in."""
    volume_groups: Annotated[tuple[ToolName, ...], Field(min_length=1, max_length=16)]
    """LVM volume groups of the host in which logical volumes may be made, such as vg0. Nothing else is touched."""
    schedulable: bool = True
    """false: no new volume and no VM without spec.node is placed here. What is here stays."""
    out_of_service: bool = False
    """true is your word that the host is off and stays off: its VMs may then be started elsewhere. Say it only when you
    know, for a host that still runs would write to the same disks."""


class NodeMemory(ApiModel):
    """Memory of the host."""

    total: Quantity
    """All memory that Xen manages."""
    free: Quantity
    """Memory that no domain has: what a VM that starts or moves here may take."""


class NodeVolumeGroup(ApiModel):
    """An LVM volume group as vgs(8) shows it."""

    name: Annotated[str, Field(max_length=127)]
    """Name of the volume group."""
    size: Quantity
    """Size of the volume group."""
    free: Quantity
    """Free space of the volume group."""


XenNodePhase = Literal["Pending", "Ready", "NotReady", "Cordoned", "OutOfService", "Deleting"]


class XenNodeStatus(Status):
    """What the controller and the host's agent say of it."""

    phase: XenNodePhase | None = None
    """One word for people; conditions hold the truth."""
    boot_id: Annotated[str | None, Field(alias="bootID", max_length=64)] = None
    """Identifier of the dom0's current boot (/proc/sys/kernel/random/boot_id)."""
    agent_version: Annotated[str | None, Field(max_length=63)] = None
    """Version of xentandem-agent."""
    xen_version: Annotated[str | None, Field(max_length=63)] = None
    """Version of the hypervisor, as xl info says."""
    drbd_version: Annotated[str | None, Field(max_length=63)] = None
    """Version of the DRBD kernel module."""
    cpus: Annotated[int | None, Field(ge=0)] = None
    """Physical CPUs, as xl info says."""
    memory: NodeMemory | None = None
    """Memory of the host; rounded, so that it doesn't change with every page."""
    volume_groups: Annotated[tuple[NodeVolumeGroup, ...], Field(max_length=64)] = ()
    """The volume groups that spec.volumeGroups names, as they are found on the host."""
    running_vms: Annotated[int | None, Field(alias="runningVMs", ge=0)] = None
    """Number of domains of XenVMs on the host."""


class XenNode(ApiObject):
    """A dom0: a host that runs Xen, DRBD and LVM and its agent, xentandem-agent."""

    kind: Literal["XenNode"] = "XenNode"
    spec: XenNodeSpec
    status: XenNodeStatus = XenNodeStatus()

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def relocation_address(self) -> str:
        """Where moves to this host arrive."""
        return self.spec.relocation.address or self.spec.agent.address

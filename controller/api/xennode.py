"""XenNode: a dom0 with its agent. Cluster-scoped; its name is the host's `uname -n`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from controller.api.common import ApiModel, ApiObject, GroupName, NodeName, Quantity, Status, Time
from controller.api.fencing import FencedStatus, FencingSpec, FencingStatus
from controller.api.rules import Rule, checked, validations

Port = Annotated[int, Field(ge=1, le=65535)]

_UNSET = "['0.0.0.0', '255.255.255.255']"
_HOST = (
    "isIP(self) ? ip(self).family() == 4 && !(self in " + _UNSET + ") : "
    "(self.matches('^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$') && !self.matches('^[0-9.]+$'))"
)
Address = Annotated[
    str,
    checked(
        Rule(_HOST, "write an IPv4 address such as 10.0.0.81, or a host name, without a scheme and without a port"),
        max_length=253,
    ),
]


class AgentEndpoint(ApiModel):
    """Where the controller reaches the host's xentandem-agent."""

    address: Address
    """IP address or host name of the agent, such as 10.0.0.81."""
    port: Port = 8003
    """TCP port of the agent's HTTPS server."""


class Replication(ApiModel):
    """The network that DRBD replicates over."""

    address: Annotated[
        str,
        checked(
            Rule(
                "isIP(self) && ip(self).family() == 4 && (ip(self).isGlobalUnicast() || ip(self).isLoopback())",
                "write the IPv4 address that DRBD uses on this host, such as 10.0.0.81: it takes no host name"
                " (drbd.conf(5)), and each volume adds its own port",
            ),
            max_length=63,
        ),
    ]
    """IPv4 address that DRBD listens on and connects to, such as 10.0.0.81; each volume adds its own port."""


class Relocation(ApiModel):
    """Whether and where live migrations come in: the settings that xend-config.sxp called xend-relocation-*."""

    enabled: bool = True
    """false: no VM can be moved to this host (xend-relocation-server no)."""
    address: Annotated[
        str,
        checked(
            Rule(
                f"self == '' || ({_HOST})",
                "write an IPv4 address such as 10.0.0.81, or a host name, without a port; or leave it out",
            ),
            max_length=253,
        ),
    ] = ""
    """IP address or host name that moves to this host arrive at and where the agent listens; empty: agent.address."""
    port: Port = 8002
    """TCP port for moves to this host (xend-relocation-port)."""
    allow_from: Annotated[tuple[NodeName, ...], checked(extra={"x-kubernetes-list-type": "set"}, max_length=64)] = ()
    """Names of the XenNodes that may move VMs to this host; empty: every one (xend-relocation-hosts-allow)."""


class XenNodeSpec(ApiModel):
    """What the host is and may be used for."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            Rule(
                "!has(self.relocation) || self.relocation.port != self.agent.port",
                "relocation.port and agent.port are the same: give each its own, such as 8002 and 8003",
                path=".relocation.port",
            ),
        )
    )

    agent: AgentEndpoint
    """Where the controller reaches the host's xentandem-agent."""
    replication: Replication
    """The network that DRBD replicates over."""
    relocation: Relocation = Relocation()
    """Whether and where live migrations come in."""
    volume_groups: Annotated[
        tuple[GroupName, ...],
        checked(
            Rule("size(self) > 0", "name at least one LVM volume group of the host, such as [vg0] (see vgs(8))"),
            extra={"x-kubernetes-list-type": "set"},
            max_length=16,
        ),
    ]
    """LVM volume groups of the host in which logical volumes may be made, such as vg0. Nothing else is touched."""
    schedulable: bool = True
    """false: no new volume and no VM without spec.node is placed here. What is here stays."""
    maintenance: bool = False
    """true: every VM that runs here is moved away live, and nothing is placed or started here. The condition Drained
    says what is left, what stands in its way, and when the host may be rebooted (reason SafeToReboot). false again: a
    move that is not in its hand-over is cancelled, and what was moved away comes back (spec.failback of the XenVM)."""
    out_of_service: bool = False
    """true is your word that the host is off and stays off: nothing is placed on it or asked of it, and what it holds
    no longer holds up the deletion of a VM or a volume. Its VMs with onNodeFailure: FailOver are started elsewhere."""
    fencing: FencingSpec | None = None
    """How the host is switched off when it seems lost, so that VMs with onNodeFailure: FailOver can be started
    elsewhere. Omitted: only a person's outOfService says that it is off."""


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


XenNodePhase = Literal["Pending", "Ready", "NotReady", "Cordoned", "Maintenance", "OutOfService", "Fenced", "Deleting"]


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
    domains: Annotated[int | None, Field(ge=0)] = None
    """Number of domains on the host that are XenVMs, running or paused; dom0 and other domains don't count."""
    fencing: FencingStatus | None = None
    """The fencing that is on its way, if there is one."""
    fenced: FencedStatus | None = None
    """A fence agent's evidence that the host is off, until its agent answers again."""
    fencing_device: Annotated[str, Field(max_length=128)] = ""
    """Which spec.fencing once said "on" while the host's agent answered; only that one is believed to say "off"."""
    fencings: Annotated[tuple[Time, ...], Field(max_length=8)] = ()
    """When the last fencings of this host were decided."""


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

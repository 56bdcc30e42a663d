"""XenVM: a virtual machine. Its name is the domain's name; editing spec.node moves it live."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field

from controller.api.common import (
    MIB,
    ApiModel,
    ApiObject,
    NodeName,
    Quantity,
    mebibytes,
    quantity_bytes,
)
from controller.api.rules import PATH, PRINTABLE, Rule, checked, text, validations
from controller.api.xenvm_status import VmState, XenVMStatus

OnEvent = Literal["destroy", "restart", "preserve"]
_TEXT_SAY = "leave quotes, backslashes and line breaks out: the text is one line of the kernel's command line"


def _path(example: str) -> Rule:
    return text(PATH, f"write an absolute path on the host, such as {example}")


# xen-vbd-interface(7): four IDE disks with 63 partitions, sixteen SCSI disks with 15, xvd with 255.
_VDEV = (
    "hd[a-d]([1-9]|[1-5][0-9]|6[0-3])?|sd[a-p]([1-9]|1[0-5])?"
    "|xvd[a-z]([a-z])?([1-9][0-9]?|1[0-9][0-9]|2[0-4][0-9]|25[0-5])?"
)


_SPEC_RULES = validations(
    Rule(
        "!has(self.maxMemory) || !isQuantity(string(self.maxMemory)) || !isQuantity(string(self.memory))"
        " || quantity(string(self.maxMemory)).compareTo(quantity(string(self.memory))) >= 0",
        "maxMemory is less than memory: write at least as much, or leave it out",
        path=".maxMemory",
        show="'maxMemory is less than memory: write at least ' + string(self.memory) + ', or leave it out'",
    ),
    Rule(
        "self.type == 'hvm' || has(self.kernel) != has(self.bootloader)",
        "a pv or pvh guest boots a kernel of the host or the one on its own disk: write either kernel, such as"
        " /boot/vmlinuz-guest, or bootloader: pygrub",
        path=".kernel",
    ),
    Rule(
        "self.type != 'hvm' || !has(self.bootloader)",
        "an hvm guest boots from its disk by its own firmware: leave bootloader out",
        path=".bootloader",
    ),
    Rule(
        "!has(self.ramdisk) || has(self.kernel)",
        "a ramdisk needs its kernel: write kernel too, or leave ramdisk out",
        path=".ramdisk",
    ),
    Rule(
        "!has(self.root) || has(self.kernel) || has(self.bootloader)",
        "root is for the kernel's command line: write kernel too, or leave root out",
        path=".root",
    ),
    Rule(
        "!has(self.extra) || has(self.kernel) || has(self.bootloader)",
        "extra is for the kernel's command line: write kernel too, or leave extra out",
        path=".extra",
    ),
)
_DISKS_RULES = (
    Rule(
        "self.all(d, self.exists_one(e, e.volume == d.volume))",
        "a volume can be one disk of the VM only: give each disk a DrbdVolume of its own",
    ),
    Rule(
        "self.all(d, self.all(e, !e.device.startsWith(d.device)"
        " || !e.device.substring(size(d.device)).matches('^[0-9]+$') || d.device.matches('[0-9]$')))",
        "a whole disk and a partition of the same disk exclude each other: write xvda and xvdb, or xvda1 and xvda2",
    ),
)
_NETWORKS_RULE = Rule(
    "self.all(n, !has(n.mac) || self.exists_one(m, has(m.mac) && m.mac.lowerAscii() == n.mac.lowerAscii()))",
    "two network cards have the same MAC address: write another one, or leave mac out and one is made",
)
_VM_RULES = validations(
    Rule(
        "!self.metadata.name.matches('^[0-9]+$|^domain-0$|--(incoming|migratedaway)$')",
        "xl would take this name for something else (a domain's number, dom0, a move's copy): choose another, such as"
        " shaolin",
        path=".metadata.name",
    ),
)


class Disk(ApiModel):
    """A volume as a disk of the VM."""

    volume: Annotated[
        str,
        checked(
            text(
                "[a-z0-9]([a-z0-9.-]*[a-z0-9])?",
                "write the name of a DrbdVolume, such as vm-shaolin (kubectl get dvol)",
            ),
            max_length=63,
        ),
    ]
    """Name of a DrbdVolume in the same namespace."""
    device: Annotated[
        str,
        checked(
            text(
                _VDEV,
                "write a disk such as xvda or a partition such as hda1, without /dev/: hda to hdd, sda to sdp, xvda and"
                " on (xen-vbd-interface(7))",
            ),
            max_length=32,
        ),
    ]
    """Name of the disk in the guest, such as xvda or hda1 (xl-disk-configuration(5), vdev)."""
    mode: Literal["r", "w"] = "w"
    """w: the guest may write; r: read-only."""


def _lower(mac: str | None) -> str | None:
    return mac.lower() if mac else mac


class Network(ApiModel):
    """A network card of the VM."""

    bridge: Annotated[
        str,
        checked(
            text("[A-Za-z0-9_][A-Za-z0-9_.-]*", "write the name of a bridge of the host, such as xenbr0 (ip link)"),
            max_length=15,
        ),
    ]
    """Bridge of the host that the card is plugged into, such as xenbr0; it must exist on each host that runs the VM."""
    mac: Annotated[
        str | None,
        checked(
            text("[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}", 'write six bytes with colons, such as "a0:00:00:01:00:01"'),
            Rule(
                "!self.matches('^[0-9A-Fa-f][13579bdfBDF]:')",
                "this is a multicast address, which no network card may have: make the second digit even, as in"
                ' "a0:00:00:01:00:01"',
            ),
            Rule("self != '00:00:00:00:00:00'", "all zeros is no address: write one such as a0:00:00:01:00:01"),
            max_length=17,
        ),
        AfterValidator(_lower),
    ] = None
    """MAC address, such as a0:00:00:01:00:01; omitted: one is made from the VM's uid, which never changes. Upper and
    lower case are the same."""


class XenVMSpec(ApiModel):
    """What the VM shall be. node, state, onNodeFailure, failback and priority take effect at once; a change of anything
    else when the VM starts the next time."""

    model_config = ConfigDict(json_schema_extra=_SPEC_RULES)

    node: NodeName | None = None
    """The XenNode that shall run the VM. Changing it moves a running VM live; changing it back before the hand-over
    cancels the move. Omitted: the controller chooses a host."""
    state: VmState = "Running"
    """Running, Stopped (shut down cleanly) or Paused (in memory, but gets no CPU time)."""
    type: Literal["pv", "pvh", "hvm"] = "pv"
    """Kind of guest, xl.cfg(5): pv, pvh or hvm."""
    memory: Annotated[Quantity, Field(json_schema_extra=mebibytes("16Mi", "16Ti"))]
    """Memory that the VM starts with, such as 512Mi."""
    max_memory: Annotated[Quantity, Field(json_schema_extra=mebibytes("16Mi", "16Ti"))] | None = None
    """Memory that the VM can be given while it runs, such as 4Gi; omitted: as memory."""
    vcpus: Annotated[int, Field(ge=1, le=128)] = 1
    """Virtual CPUs."""
    kernel: Annotated[str | None, checked(_path("/boot/vmlinuz-guest"), max_length=1024)] = None
    """Absolute path of the guest's kernel on the host, such as /boot/xenU/vmlinuz-2.6.16.49-xenU-r1; it must be there
    on each host that runs the VM."""
    ramdisk: Annotated[str | None, checked(_path("/boot/initrd-guest"), max_length=1024)] = None
    """Absolute path of the guest's initial RAM disk on the host."""
    root: Annotated[
        str | None,
        checked(
            text(f"{PRINTABLE}*", _TEXT_SAY),
            Rule("!self.startsWith('root=')", "leave root= out and write only what follows it, such as /dev/hda1 ro"),
            max_length=256,
        ),
    ] = None
    """Root device and options for the kernel's command line, such as "/dev/hda1 ro"."""
    extra: Annotated[
        str | None,
        checked(
            text(f"{PRINTABLE}*", _TEXT_SAY),
            max_length=1024,
        ),
    ] = None
    """More of the kernel's command line, such as "console=hvc0"."""
    bootloader: Annotated[
        str | None,
        checked(
            text(f"pygrub|{PATH}", "write pygrub, or the absolute path of a boot loader on the host"), max_length=1024
        ),
    ] = None
    """Program that finds the kernel on the VM's own disk, instead of kernel: pygrub or an absolute path."""
    disks: Annotated[
        tuple[Disk, ...],
        checked(
            *_DISKS_RULES,
            extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["device"]},
            max_length=16,
        ),
    ] = ()
    """Disks, each a DrbdVolume."""
    networks: Annotated[tuple[Network, ...], checked(_NETWORKS_RULE, max_length=8)] = ()
    """Network cards."""
    on_poweroff: OnEvent = "destroy"
    """What happens when the guest powers itself off, xl.cfg(5): destroy (it stays off), restart, or preserve."""
    on_reboot: OnEvent = "restart"
    """What happens when the guest reboots, xl.cfg(5): restart, destroy, or preserve."""
    on_crash: OnEvent = "restart"
    """What happens when the guest crashes, xl.cfg(5): restart, destroy, or preserve (kept, to be examined)."""
    shutdown_grace_seconds: Annotated[int, Field(ge=0, le=3600)] = 60
    """Seconds that the guest gets to shut down when the VM is stopped or deleted, before it is destroyed."""
    on_node_failure: Literal["Stay", "FailOver"] = "Stay"
    """What happens when the host fails. Stay: the VM waits for its host, or for you. FailOver: once the host is known
    to be off (spec.outOfService or a confirmed fencing of the XenNode, never silence alone), the VM is started on
    another host that has its disks up to date."""
    failback: Literal["Automatic", "Manual"] | None = None
    """When a VM that had to leave the host of spec.node goes back, live. Automatic: as soon as that host can take it.
    Manual: only when spec.node is edited. Omitted: when a person has said that the host is good, by ending its
    maintenance or its outOfService; after a fencing alone it stays where it is."""
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    """A VM with a higher number is moved away earlier in a maintenance, and gets memory first when a host has
    failed."""

    @property
    def memory_mib(self) -> int:
        return quantity_bytes(self.memory) // MIB

    @property
    def max_memory_mib(self) -> int:
        """maxMemory, or memory when it is omitted."""
        return quantity_bytes(self.max_memory or self.memory) // MIB


class XenVM(ApiObject):
    """A virtual machine on disks that two hosts hold identical. Change spec.node to move it to the other one, live."""

    model_config = ConfigDict(json_schema_extra=_VM_RULES)

    kind: Literal["XenVM"] = "XenVM"
    spec: XenVMSpec
    status: XenVMStatus = XenVMStatus()

    @property
    def name(self) -> str:
        return self.metadata.name

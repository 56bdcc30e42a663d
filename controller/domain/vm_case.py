"""One XenVM with everything that a decision about it may look at, and the questions asked of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Literal

from agent.protocol import (
    DiskConfig,
    DomainConfig,
    DomainDesired,
    DomainState,
    NetworkConfig,
    Refusal,
    VmState,
)
from controller.api.common import condition
from controller.api.drbdvolume import DrbdVolume
from controller.api.xenvm import XenVM
from controller.api.xenvm_status import NetworkStatus, Placement, XenVMStatus
from controller.domain.actions import PutDomain, PutVolume, Refused
from controller.domain.volume_case import VolumeCase
from controller.domain.world import HostView, World, domains_on, vm_on

XEN_OUI = "00:16:3e"
"""Xen's own vendor prefix (xl-network-configuration(5), mac)."""


def ended_for_good(vm: XenVM) -> bool:
    """The guest ended by itself and is not started again before somebody asks for it."""
    stalled = condition(vm.status.conditions, "Stalled")
    crashed = vm.status.phase == "Crashed" and stalled is not None and stalled.status == "True"
    return vm.spec.state == vm.status.last_state and (vm.status.phase == "Halted" or crashed)


def made_mac(uid: str, index: int) -> str:
    """A MAC that depends on the VM's uid and the card's number alone, so it is the same for ever."""
    digest = sha256(f"{uid}/{index}".encode()).hexdigest()
    return f"{XEN_OUI}:{digest[0:2]}:{digest[2:4]}:{digest[4:6]}"


@dataclass(frozen=True)
class VmCase:
    world: World
    vm: XenVM
    refused: tuple[Refused, ...] = ()
    written: XenVMStatus | None = None

    def planned(self, **update: object) -> VmCase:
        """The same case with a status that is to be written; `before` stays the one that is."""
        vm = self.vm.model_copy(update={"status": self.vm.status.model_copy(update=update)})
        return VmCase(self.world, vm, self.refused, self.before)

    @property
    def before(self) -> XenVMStatus:
        """The status as the API server has it."""
        return self.written if self.written is not None else self.vm.status

    @property
    def uid(self) -> str:
        return self.vm.metadata.uid

    @property
    def name(self) -> str:
        return self.vm.metadata.name

    @property
    def placement(self) -> Placement | None:
        return self.vm.status.placement

    @cached_property
    def home(self) -> HostView | None:
        """The host of the placement."""
        return self.world.objects.host(self.placement.node) if self.placement else None

    @cached_property
    def here(self) -> VmState | None:
        """What the home's agent says of the VM; None: unknown, or it never heard of it."""
        return vm_on(self.home, self.uid) if self.home else None

    def host(self, node: str) -> HostView:
        return self.world.objects.host(node)

    def is_here(self, node: str) -> bool:
        """Has the host a domain with the VM's uuid, in any form?"""
        return any((domain.uuid or "").lower() == self.uid.lower() for domain in self.domains(node))

    def domains(self, node: str) -> tuple[DomainState, ...]:
        return domains_on(self.host(node), self.uid, self.name)

    @cached_property
    def volumes(self) -> dict[str, DrbdVolume | None]:
        """By name, in the order of spec.disks."""
        namespace = self.vm.metadata.namespace
        return {disk.volume: self.world.objects.volume((namespace, disk.volume)) for disk in self.vm.spec.disks}

    @cached_property
    def volume_cases(self) -> tuple[VolumeCase, ...]:
        return tuple(VolumeCase(self.world, volume) for volume in self.volumes.values() if volume is not None)

    @cached_property
    def members(self) -> tuple[str, ...]:
        """Hosts that hold a replica of every disk; empty also when the VM has no disk (then any host will do)."""
        per_disk = [set(case.nodes) for case in self.volume_cases]
        return tuple(sorted(set.intersection(*per_disk))) if per_disk else ()

    @cached_property
    def candidates(self) -> tuple[str, ...]:
        """Hosts that could run it by what they hold: those with a replica of every disk; without a disk any host."""
        return self.members if self.volume_cases else tuple(sorted(self.world.objects.hosts()))

    def networks(self) -> tuple[NetworkStatus, ...]:
        return tuple(
            NetworkStatus(bridge=card.bridge, mac=(card.mac or made_mac(self.uid, index)).lower())
            for index, card in enumerate(self.vm.spec.networks)
        )

    def disks_missing(self) -> Refusal | None:
        """A disk that is not there or not ready, by its volume's status."""
        for name, volume in self.volumes.items():
            if volume is None:
                return Refusal(
                    reason="VolumeNotFound",
                    message=f"there is no DrbdVolume {name} in namespace {self.vm.metadata.namespace}: apply it",
                )
            if volume.deleting:
                return Refusal(reason="VolumeDeleting", message=f"DrbdVolume {name} is being deleted")
            if not (volume.status.initial_sync and volume.status.initial_sync.completed):
                return Refusal(reason="VolumeNotReady", message=f"waiting until DrbdVolume {name} is synchronised")
            if volume.spec.content and not (volume.status.content and volume.status.content.state == "Written"):
                return Refusal(reason="VolumeNotReady", message=f"waiting for the content of DrbdVolume {name}")
        return None

    def desired(
        self,
        state: Literal["Running", "Paused", "Stopped", "Released"],
        epoch: int | None = None,
        *,
        as_started: bool = False,
    ) -> DomainDesired:
        """What the VM shall be on one host; complete each time. Needs its volumes' devices to be decided.

        `as_started`: made of what the domain that is there was made of, whatever was edited since.
        """
        spec, status = self.vm.spec, self.vm.status
        if epoch is None:
            assert status.placement is not None
            epoch = status.placement.epoch
        return DomainDesired(
            term=self.world.term,
            epoch=epoch,
            uid=self.uid,
            namespace=self.vm.metadata.namespace,
            name=self.name,
            state=state,
            run=max(status.run, 1),
            config=(self.started if as_started else None) or self.config,
            on_poweroff=spec.on_poweroff,
            on_reboot=spec.on_reboot,
            on_crash=spec.on_crash,
            shutdown_grace_seconds=float(spec.shutdown_grace_seconds),
        )

    @property
    def started(self) -> DomainConfig | None:
        """What the domain at home was made of, if the agent there knows."""
        return self.here.started if self.here else None

    @cached_property
    def config(self) -> DomainConfig:
        """What a domain would be made of now, by the spec."""
        spec = self.vm.spec
        disks = [
            DiskConfig(resource=volume.resource, minor=volume.status.device.minor, vdev=disk.device, mode=disk.mode)
            for disk in spec.disks
            if (volume := self.volumes[disk.volume]) is not None and volume.status.device is not None
        ]
        command_line = " ".join(part for part in (f"root={spec.root}" if spec.root else "", spec.extra or "") if part)
        return DomainConfig(
            type=spec.type,
            memory_mib=spec.memory_mib,
            max_memory_mib=spec.max_memory_mib,
            vcpus=spec.vcpus,
            kernel=spec.kernel,
            ramdisk=spec.ramdisk,
            bootloader=spec.bootloader,
            cmdline=command_line,
            disks=tuple(disks),
            networks=tuple(NetworkConfig(bridge=n.bridge, mac=n.mac) for n in self.networks()),
        )

    def put(self, state: Literal["Running", "Paused", "Stopped"], *, as_started: bool = False) -> PutDomain:
        assert self.placement is not None
        return PutDomain(self.placement.node, self.desired(state, as_started=as_started))

    def not_primary_at(self, node: str) -> tuple[VolumeCase, ...]:
        """Volumes of writable disks that are not Primary on that host, or cannot be seen there."""
        return tuple(case for case in self.volume_cases if (view := case.view(node)) is None or view.role != "Primary")

    def promotions(self, node: str) -> tuple[PutVolume, ...]:
        cases = (case for case in self.not_primary_at(node) if case.view(node) and case.describable())
        return tuple(case.put(node, "Up", "Primary") for case in cases)

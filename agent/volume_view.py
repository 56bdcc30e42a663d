"""What is known of the volumes on this host, by resource, and the VolumeStates that are put together from it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from agent.fence_records import FenceView
from agent.protocol import GenerationIds, LogicalVolumeState, Refusal, VolumeState
from agent.records import VolumeRecord, assemble

if TYPE_CHECKING:
    from agent.drivers.drbd import DrbdResource, ResConfig

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Around:
    """What a VolumeState shows beside its own facts. `unreadable`: why DRBD cannot be read, if so."""

    node: str
    logical_volumes: Mapping[str, LogicalVolumeState]  # by group/name
    used_by: Mapping[str, tuple[str, ...]]  # names of domains by device
    unreadable: Refusal | None


@dataclass(slots=True)
class VolumeView:
    """The journal's records, /etc/drbd.d, the kernel's state (not yet read: `drbd_known` False), and the rest."""

    records: dict[str, VolumeRecord] = field(default_factory=dict)
    configured: dict[str, ResConfig] = field(default_factory=dict)
    drbd: dict[str, DrbdResource] = field(default_factory=dict)
    drbd_known: bool = False
    generations: dict[str, GenerationIds] = field(default_factory=dict)
    problems: dict[str, Refusal] = field(default_factory=dict)
    windows: dict[str, Refusal] = field(default_factory=dict)  # two Primaries are allowed, and by whom is not known
    fences: dict[str, FenceView] = field(default_factory=dict)
    _inputs: dict[str, tuple[Any, ...]] = field(default_factory=dict)  # what each VolumeState was put together from

    def forget(self, resource: str) -> None:
        """The volume is gone from the journal."""
        for known in (self.records, self.generations, self.problems, self.windows):
            known.pop(resource, None)

    def shown(self, known: Mapping[str, VolumeState], only: set[str] | None, around: Around) -> dict[str, VolumeState]:
        """All VolumeStates; all, or `only` those, are put together again. What did not change stays the same object."""
        names = sorted({*self.records, *self.configured, *self.drbd}) if only is None else only
        volumes: dict[str, VolumeState] = {} if only is None else dict(known)
        for resource in names:
            inputs = self._inputs_of(resource, around)
            if inputs is None:
                volumes.pop(resource, None)
                self._inputs.pop(resource, None)
            elif resource in known and self._inputs.get(resource) == inputs:
                volumes[resource] = known[resource]
            else:
                self._inputs[resource] = inputs
                volumes[resource] = assemble(resource, *inputs)
        return volumes

    def _inputs_of(self, resource: str, around: Around) -> tuple[Any, ...] | None:
        """What `assemble` needs; None when nothing here knows the resource."""
        record, kernel = self.records.get(resource), self.drbd.get(resource)
        configuration = self.configured.get(resource)
        if record is None and kernel is None and configuration is None:
            return None
        minor = record.desired.minor if record else kernel.minor if kernel else None
        return (
            record,
            configuration,
            kernel,
            self.drbd_known,
            around.logical_volumes.get(record.lv_key) if record else None,
            self.generations.get(resource),
            around.used_by.get(f"/dev/drbd{minor}", ()),
            self.problems.get(resource) or self.windows.get(resource) or around.unreadable,
            self.fences.get(resource),
            around.node,
        )


def put(known: dict[str, T], key: str, value: T | None) -> None:
    """None: gone."""
    if value is None:
        known.pop(key, None)
    else:
        known[key] = value

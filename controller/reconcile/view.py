"""What a decision sees: the object cache and the hosts' states as one `controller.domain.world.Objects`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from controller.agents.supervisor import Supervisors
from controller.api.drbdvolume import DrbdVolume
from controller.api.fencing import FencedStatus
from controller.api.xennode import XenNode
from controller.api.xenvm import XenVM
from controller.domain.world import NO_ANSWER_YET, HostView, Key
from controller.runtime.cache import Cache
from controller.runtime.queue import ObjectKey


class _Look(NamedTuple):
    """The first look at a version of a XenNode."""

    node: XenNode | None
    fenced: FencedStatus | None
    heard: int  # of the agent, at that look
    before: int  # the same before the record `fenced` was decided


class View:
    """Reads through to cache and supervisors: nothing is copied, so a decision must be made without waiting."""

    def __init__(self, cache: Cache, supervisors: Supervisors) -> None:
        self._cache, self._supervisors = cache, supervisors
        self._hosts: dict[str, HostView] = {}
        self._versions: dict[str, dict[str, int]] = {}  # of the sections of the host's state that its view was made of
        self._looks: dict[str, _Look] = {}

    def host(self, name: str) -> HostView:
        """The same view as long as nothing in it changed: what it has worked out from the state is worked out once."""
        node, supervisor = self._cache.node(name), self._supervisors.get(name)
        if supervisor is None:
            self._hosts.pop(name, None)
            self._versions.pop(name, None)
            return HostView(name, node, error="no XenNode of this name" if node is None else NO_ANSWER_YET)
        connected = supervisor.connected
        error = "" if connected else supervisor.error or "the agent is silent"
        since_fenced = self._heard_since_fenced(name, node, supervisor.heard)
        known = self._hosts.get(name)
        versions, seen = supervisor.versions, self._versions.get(name, {})
        if (
            known is None
            or known.node is not node
            or known.state is not supervisor.state
            or (known.connected, known.error, known.heard_since_fenced) != (connected, error, since_fenced)
        ):
            view = HostView(name, node, supervisor.state, connected, error, since_fenced)
            if known is not None and known.connected == connected:
                _hand_on(known, view, {section for section, one in versions.items() if one == seen.get(section)})
            known = self._hosts[name] = view
            self._versions[name] = dict(versions)
        return known

    def _heard_since_fenced(self, name: str, node: XenNode | None, heard: int) -> bool:
        """By counting what the agent said, not by clocks: those of two controllers differ.

        A record was decided from the version of the object before it, so that what was heard after the first look at
        that version came too late for it. A record that was found at the start is older than all that is heard.
        """
        last = self._looks.get(name)
        if last is None or last.node is not node:
            fenced = node.status.fenced if node else None
            same = last is not None and last.fenced == fenced
            before = last.before if last and same else last.heard if last else 0
            last = self._looks[name] = _Look(node, fenced, heard, before)
        return last.fenced is not None and heard > last.before

    def hosts(self) -> Mapping[str, HostView]:
        return {name: self.host(name) for name in sorted(self._cache.nodes)}

    def silent(self, name: str) -> float:
        supervisor = self._supervisors.get(name)
        return supervisor.silent if supervisor else 0.0

    def volume(self, key: Key) -> DrbdVolume | None:
        return self._cache.volume(key)

    def vm(self, key: Key) -> XenVM | None:
        return self._cache.vm(key)

    def vms_using(self, volume: Key) -> tuple[XenVM, ...]:
        return self._vms(self._cache.users(volume))

    def vms_on(self, node: str) -> tuple[XenVM, ...]:
        return self._vms(self._cache.placed(node))

    def moving(self) -> Mapping[Key, tuple[str, str]]:
        return self._cache.moving

    def volumes_on(self, node: str) -> tuple[DrbdVolume, ...]:
        found = (self._cache.volume((namespace, name)) for _, namespace, name in self._cache.replicated(node))
        return tuple(volume for volume in found if volume is not None)

    def claims(self, kind: str, value: str) -> tuple[tuple[str, str, str], ...]:
        holders = self._cache.holders((kind, value))
        return tuple((holder.namespace, holder.name, holder.uid) for holder in holders)

    def used_minors(self) -> frozenset[int]:
        return self._cache.numbers("minor")

    def used_ports(self) -> frozenset[int]:
        return self._cache.numbers("port")

    def _vms(self, keys: tuple[ObjectKey, ...]) -> tuple[XenVM, ...]:
        found = (self._cache.vm((namespace, name)) for _, namespace, name in keys)
        return tuple(vm for vm in found if vm is not None)


_WORKED_OUT = {"domains_by_name": "domains", "moves_by_vm": "operations"}
"""What a HostView works out once, and the section that it follows from."""


def _hand_on(old: HostView, new: HostView, unchanged: set[str]) -> None:
    """What was worked out from sections that did not change meanwhile."""
    for name, section in _WORKED_OUT.items():
        if section in unchanged and name in old.__dict__:
            new.__dict__[name] = old.__dict__[name]

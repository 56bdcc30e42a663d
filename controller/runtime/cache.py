"""The object cache: what kopf's events, our own writes and a full list now and then say, the newest of each object.

Read-your-writes: the answer to a write goes in at once, and an older event is ignored, so that no decision is made from
an older status than the one that was written. A write on its way holds its names already (`expect`), so that two
objects that are decided at the same time don't take the same minor.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from pydantic import ValidationError

from controller.api.common import ApiObject
from controller.api.drbdvolume import DrbdVolume, DrbdVolumeStatus
from controller.api.xennode import XenNode
from controller.api.xenvm import XenVM
from controller.api.xenvm_status import XenVMStatus
from controller.runtime.api_server import KINDS
from controller.runtime.index import Claim, Claims, Holder, Index, claims_of, volume_holds
from controller.runtime.queue import ObjectKey

log = structlog.get_logger(__name__)

REMEMBERED_DELETIONS = 10_000

Names = tuple[str, str]
"""(namespace, name)."""


@dataclass(frozen=True, slots=True)
class Change:
    """What an event did to the cache; `old` None: new, `new` None: deleted. `freed`: names that it gave up."""

    key: ObjectKey
    old: ApiObject | None
    new: ApiObject | None
    freed: tuple[Claim, ...] = ()


class Cache:
    """Objects by kind, parsed once, with their indexes. Belongs to one event loop; reading is O(1) or O(answer)."""

    def __init__(self) -> None:
        self._nodes: dict[str, XenNode] = {}
        self._volumes: dict[Names, DrbdVolume] = {}
        self._vms: dict[Names, XenVM] = {}
        self._by_uid: dict[str, ObjectKey] = {}
        self._deleted: OrderedDict[str, None] = OrderedDict()  # uids
        self._expected: dict[ObjectKey, DrbdVolumeStatus | XenVMStatus] = {}
        self._unreadable: dict[ObjectKey, str] = {}  # to the resourceVersion
        self._users: Index[Names] = Index()
        self._placed: Index[str] = Index()
        self._replicas: Index[str] = Index()
        self._members: Index[str] = Index()
        self._moving: dict[Names, tuple[str, str]] = {}
        self._claims = Claims()

    # --- feeding

    def upsert(self, raw: Mapping[str, Any]) -> Change | None:
        """Take an object as the API server gave it. None: nothing newer than what is here."""
        key, version, uid = identify(raw)
        if uid in self._deleted:
            return None
        old = self.get(key)
        if old is not None and old.metadata.uid == uid and not newer(version, old.metadata.resource_version):
            return None
        if self._unreadable.get(key) == version:
            return None
        try:
            new = KINDS[key[0]].model.from_object(raw)
        except ValidationError as error:
            # What is here stays: an object that cannot be read is not an object that is gone.
            self._unreadable[key] = version
            log.error("object cannot be read", object=key, error=str(error))
            return None
        self._unreadable.pop(key, None)
        if old is not None and old.metadata.uid != uid:
            self._forget_uid(old.metadata.uid)
        self._store(key, new)
        return self._reindex(key, old, new)

    def remove(self, raw: Mapping[str, Any]) -> Change | None:
        """The object is gone. None: it was not here, or one of the same name has taken its place."""
        key, _, uid = identify(raw)
        return self.remove_key(key, uid)

    def remove_key(self, key: ObjectKey, uid: str) -> Change | None:
        self._forget_uid(uid)
        self._unreadable.pop(key, None)
        old = self.get(key)
        if old is None or old.metadata.uid != uid:
            return None
        self._expected.pop(key, None)
        self._drop(key)
        return self._reindex(key, old, None)

    def expect(self, key: ObjectKey, status: object) -> None:
        """A status is being written: the names in it are held, and the host in it has the VM, from now on."""
        if isinstance(status, DrbdVolumeStatus | XenVMStatus):
            self._expected[key] = status
            self._reclaim(key, self.get(key))
            self._replace(key, self.get(key))

    def settle(self, key: ObjectKey) -> tuple[Claim, ...]:
        """The write succeeded or surely failed; returns the names that are free again."""
        if self._expected.pop(key, None) is None:
            return ()
        self._replace(key, self.get(key))
        return self._reclaim(key, self.get(key))

    # --- reading

    def get(self, key: ObjectKey) -> ApiObject | None:
        kind, namespace, name = key
        if kind == "XenNode":
            return self._nodes.get(name)
        if kind == "DrbdVolume":
            return self._volumes.get((namespace, name))
        return self._vms.get((namespace, name))

    def node(self, name: str) -> XenNode | None:
        return self._nodes.get(name)

    def volume(self, names: Names) -> DrbdVolume | None:
        return self._volumes.get(names)

    def vm(self, names: Names) -> XenVM | None:
        return self._vms.get(names)

    @property
    def nodes(self) -> Mapping[str, XenNode]:
        return self._nodes

    @property
    def volumes(self) -> Mapping[Names, DrbdVolume]:
        return self._volumes

    @property
    def vms(self) -> Mapping[Names, XenVM]:
        return self._vms

    def keys(self, kind: str) -> Iterator[ObjectKey]:
        if kind == "XenNode":
            return (("XenNode", "", name) for name in self._nodes)
        return ((kind, *names) for names in (self._volumes if kind == "DrbdVolume" else self._vms))

    def by_uid(self, uid: str) -> ObjectKey | None:
        return self._by_uid.get(uid)

    def users(self, volume: Names) -> tuple[ObjectKey, ...]:
        """Keys of the VMs whose spec.disks name the volume."""
        return self._users.keys(volume)

    def placed(self, node: str) -> tuple[ObjectKey, ...]:
        """Keys of the VMs that are placed on the node, or move from or to it; a status on its way counts."""
        return self._placed.keys(node)

    @property
    def moving(self) -> Mapping[Names, tuple[str, str]]:
        """VMs on a live move: (source, target); a status on its way counts."""
        return self._moving

    def replicated(self, node: str) -> tuple[ObjectKey, ...]:
        """Keys of the volumes whose status.nodes holds the node."""
        return self._replicas.keys(node)

    def concerned(self, node: str) -> tuple[ObjectKey, ...]:
        """Keys of the volumes and VMs that name the node in spec or status."""
        return self._members.keys(node)

    def holders(self, claim: Claim) -> tuple[Holder, ...]:
        return self._claims.holders(claim)

    def claimants(self, claim: Claim) -> tuple[ObjectKey, ...]:
        return self._claims.claimants(claim)

    def numbers(self, kind: str) -> frozenset[int]:
        return self._claims.numbers(kind)

    @property
    def unreadable(self) -> int:
        """Objects that don't parse as our models: not reconciled."""
        return len(self._unreadable)

    def __len__(self) -> int:
        return len(self._nodes) + len(self._volumes) + len(self._vms)

    # --- inside

    def _store(self, key: ObjectKey, new: ApiObject) -> None:
        _, namespace, name = key
        if isinstance(new, XenNode):
            self._nodes[name] = new
        elif isinstance(new, DrbdVolume):
            self._volumes[namespace, name] = new
        elif isinstance(new, XenVM):
            self._vms[namespace, name] = new
        self._by_uid[new.metadata.uid] = key

    def _drop(self, key: ObjectKey) -> None:
        kind, namespace, name = key
        if kind == "XenNode":
            self._nodes.pop(name, None)
        elif kind == "DrbdVolume":
            self._volumes.pop((namespace, name), None)
        else:
            self._vms.pop((namespace, name), None)

    def _forget_uid(self, uid: str) -> None:
        self._by_uid.pop(uid, None)
        self._deleted[uid] = None
        while len(self._deleted) > REMEMBERED_DELETIONS:
            self._deleted.popitem(last=False)

    def _reindex(self, key: ObjectKey, old: ApiObject | None, new: ApiObject | None) -> Change:
        if isinstance(new, XenVM):
            placement, spec = new.status.placement, new.spec
            self._users.set(key, {(new.metadata.namespace, disk.volume) for disk in spec.disks})
            move = new.status.migration
            nodes = {spec.node, placement and placement.node, move and move.source, move and move.target}
            self._members.set(key, {node for node in nodes if node})
        elif isinstance(new, DrbdVolume):
            self._replicas.set(key, new.status.nodes)
            self._members.set(key, {*new.status.nodes, *(new.spec.nodes or ())})
        else:
            self._users.set(key, ())
            self._replicas.set(key, ())
            self._members.set(key, ())
        self._replace(key, new)
        return Change(key, old, new, self._reclaim(key, new))

    def _replace(self, key: ObjectKey, found: ApiObject | None) -> None:
        """Where the VM is or may come to be, by what is written and by what is being written."""
        statuses = (found.status, self._expected.get(key)) if isinstance(found, XenVM) else ()
        nodes: set[str] = set()
        moving: tuple[str, str] | None = None
        for status in statuses:
            if isinstance(status, XenVMStatus):
                nodes |= {status.placement.node} if status.placement else set()
                move = status.migration
                if move is not None and move.outcome is None:
                    nodes |= {move.source, move.target}
                    moving = (move.source, move.target)
        self._placed.set(key, nodes)
        if moving is not None:
            self._moving[key[1:]] = moving
        elif key[0] == "XenVM":
            self._moving.pop(key[1:], None)

    def _reclaim(self, key: ObjectKey, found: ApiObject | None) -> tuple[Claim, ...]:
        before = self._claims.of(key)
        after = claims_of(found) if found else {}
        expected = self._expected.get(key) if found else None
        if isinstance(expected, DrbdVolumeStatus):
            after.update(dict.fromkeys(volume_holds(expected), True))
        elif isinstance(expected, XenVMStatus) and expected.placement:
            after["domain", key[2]] = True
        if before != after:
            meta = found.metadata if found else None
            holder = Holder(meta.creation_timestamp or "", meta.uid, key[1], key[2]) if meta else None
            self._claims.set(key, holder, after)
        return tuple(claim for claim, held in before.items() if held > after.get(claim, -1))


def identify(raw: Mapping[str, Any]) -> tuple[ObjectKey, str, str]:
    """((kind, namespace, name), resourceVersion, uid) of an object as the API server gives it."""
    meta = raw["metadata"]
    return (raw["kind"], meta.get("namespace", ""), meta["name"]), meta["resourceVersion"], meta["uid"]


def newer(version: str, than: str) -> bool:
    """resourceVersions of one object: whole numbers that grow (Kubernetes 1.35 and later promise it)."""
    return int(version) > int(than)

"""Indexes over the cached objects, kept up to date object by object: who uses, who sits where, who holds a name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from controller.api.common import ApiObject
from controller.api.drbdvolume import DrbdVolume, DrbdVolumeStatus
from controller.api.xenvm import XenVM
from controller.runtime.queue import ObjectKey

V = TypeVar("V", bound=Hashable)

Claim = tuple[str, str]
"""(kind of name, value): ("minor", "1"), ("port", "7789"), ("lv", "vg0/vm_shaolin"), ("resource", "vm_shaolin"),
("domain", "shaolin")."""


class Index(Generic[V]):
    """Values to the keys of the objects that have them."""

    def __init__(self) -> None:
        self._keys: dict[V, set[ObjectKey]] = {}
        self._values: dict[ObjectKey, frozenset[V]] = {}

    def set(self, key: ObjectKey, values: Iterable[V]) -> None:
        new, old = frozenset(values), self._values.get(key, frozenset())
        for value in old - new:
            keys = self._keys[value]
            keys.discard(key)
            if not keys:
                del self._keys[value]
        for value in new - old:
            self._keys.setdefault(value, set()).add(key)
        if new:
            self._values[key] = new
        else:
            self._values.pop(key, None)

    def keys(self, value: V) -> tuple[ObjectKey, ...]:
        """Sorted, so that what is decided from them does not depend on chance."""
        return tuple(sorted(self._keys.get(value, ())))

    def values(self, key: ObjectKey) -> frozenset[V]:
        return self._values.get(key, frozenset())


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """Who claims a name; sorts by seniority."""

    created: str
    uid: str
    namespace: str
    name: str


class Claims:
    """Names that only one object may have: held in status, or declared in spec."""

    def __init__(self) -> None:
        self._by_claim: dict[Claim, dict[ObjectKey, tuple[bool, Holder]]] = {}
        self._by_key: dict[ObjectKey, dict[Claim, bool]] = {}
        self._numbers: dict[str, Counter[int]] = {"minor": Counter(), "port": Counter()}
        self._frozen: dict[str, frozenset[int] | None] = {"minor": None, "port": None}

    def set(self, key: ObjectKey, holder: Holder | None, claims: dict[Claim, bool]) -> None:
        """Replace what the object claims; the value says whether it is held (status) or only declared (spec)."""
        old = self._by_key.get(key, {})
        for claim in old.keys() - claims.keys():
            holders = self._by_claim[claim]
            del holders[key]
            if not holders:
                del self._by_claim[claim]
            self._count(claim, -1)
        for claim, held in claims.items():
            assert holder is not None
            self._by_claim.setdefault(claim, {})[key] = (held, holder)
            if claim not in old:
                self._count(claim, +1)
        if claims:
            self._by_key[key] = claims
        else:
            self._by_key.pop(key, None)

    def holders(self, claim: Claim) -> tuple[Holder, ...]:
        """Everybody who claims the name: who holds it in status first, then who declares it; the oldest first."""
        found = self._by_claim.get(claim, {})
        return tuple(holder for _, holder in sorted((not held, holder) for held, holder in found.values()))

    def claimants(self, claim: Claim) -> tuple[ObjectKey, ...]:
        """Everybody who holds or declares it."""
        return tuple(self._by_claim.get(claim, ()))

    def of(self, key: ObjectKey) -> dict[Claim, bool]:
        return self._by_key.get(key, {})

    def numbers(self, kind: str) -> frozenset[int]:
        """Values of a numeric kind of claim ("minor", "port") in any spec or status."""
        frozen = self._frozen[kind]
        if frozen is None:
            frozen = self._frozen[kind] = frozenset(self._numbers[kind])
        return frozen

    def _count(self, claim: Claim, step: int) -> None:
        kind, value = claim
        counter = self._numbers.get(kind)
        if counter is None:
            return
        number = int(value)
        counter[number] += step
        if counter[number] == 0:
            del counter[number]
        self._frozen[kind] = None


def claims_of(found: ApiObject) -> dict[Claim, bool]:
    """The names that an object holds (True) or declares (False)."""
    if isinstance(found, DrbdVolume):
        declared = _volume_declares(found)
        held = dict.fromkeys(volume_holds(found.status), True)
        if found.status.logical_volume is not None:
            held.update({("lv", name): True for name in found.logical_volumes})
        return {**dict.fromkeys(declared, False), **held}
    if isinstance(found, XenVM):
        return {("domain", found.metadata.name): found.status.placement is not None}
    return {}


def _volume_declares(volume: DrbdVolume) -> Iterable[Claim]:
    device = volume.spec.device
    yield "resource", volume.resource
    for name in volume.logical_volumes:
        yield "lv", name
    if device.minor is not None:
        yield "minor", str(device.minor)
    if device.port is not None:
        yield "port", str(device.port)


def volume_holds(status: DrbdVolumeStatus) -> Iterable[Claim]:
    """The names that a volume's status holds."""
    if status.resource:
        yield "resource", status.resource
    if status.logical_volume:
        yield "lv", f"{status.logical_volume.group}/{status.logical_volume.name}"
    if status.device:
        yield "minor", str(status.device.minor)
        yield "port", str(status.device.port)

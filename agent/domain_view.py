"""The domains as they are shown: the newest list, with the disks that were last read of each. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.protocol import DomainDisk, DomainState

_Disks = tuple[DomainDisk, ...]
_Identity = tuple[int, str | None]  # domid and uuid
_Identities = set[tuple[int, str, str | None, str]]


class DomainView:
    """A list alone is read more often than with the disks, and the one that was asked for later may be there first."""

    def __init__(self) -> None:
        self._listed: tuple[DomainState, ...] = ()
        self._turn = 0  # which asking `_listed` is the answer of
        self._disks: dict[_Identity, _Disks | None] = {}  # None: xenstore could not be read
        self._known_disks: dict[_Identity, _Disks] = {}  # what was last read of each, whatever came after
        self._looked_at: _Identities = set()  # whose disks were read
        self.used_by: dict[str, tuple[str, ...]] = {}
        """Names of domains by device."""

    def take_list(self, domains: tuple[DomainState, ...], turn: int) -> None:
        if turn > self._turn:
            self._listed, self._turn = domains, turn

    def take_all(self, domains: tuple[DomainState, ...], turn: int) -> None:
        self.take_list(domains, turn)
        self._looked_at = identities(domains)
        known = self._known_disks
        self._disks = {_identity(one): one.disks for one in domains}
        self._known_disks = {key: known.get(key, ()) if disks is None else disks for key, disks in self._disks.items()}
        self.used_by = {}
        for domain in domains:
            for disk in self._known_disks[_identity(domain)]:
                self.used_by[disk.device] = (*self.used_by.get(disk.device, ()), domain.name)

    @property
    def outdated(self) -> bool:
        """Somebody's list, for instance that of a start or a move, tells of what the disks were not read for."""
        return identities(self._listed) != self._looked_at

    def shown(self, before: Mapping[str, DomainState]) -> dict[str, DomainState]:
        """By str(domid). What only used CPU time is the value that it was in `before`."""
        return {str(one.domid): self._shown(before.get(str(one.domid)), one) for one in self._listed}

    def _shown(self, old: DomainState | None, new: DomainState) -> DomainState:
        disks = self._disks.get(_identity(new))
        if old is not None and old.disks == disks and _telling(old) == _telling(new):
            return old
        return new if disks is None else new.model_copy(update={"disks": disks})


def _telling(one: DomainState) -> tuple[object, ...]:
    """What is news. CPU time and the running/blocked flags move on all the time; that it has run at all is news."""
    return one.domid, one.name, one.uuid, one.kind, one.state, one.memory_mib, one.vcpus, one.cpu_seconds == 0.0


def _identity(one: DomainState) -> _Identity:
    return one.domid, one.uuid


def identities(domains: Iterable[DomainState]) -> _Identities:
    """Which domains there are, and what each does."""
    return {(one.domid, one.name, one.uuid, one.state) for one in domains}


def changed_keys(before: Mapping[str, object], after: Mapping[str, object]) -> set[str]:
    """Keys whose value is another one, or that are in one of the two alone."""
    gone = before.keys() - after.keys()
    return gone | {key for key, one in after.items() if (old := before.get(key)) is not one and old != one}


def of_vms(domains: Iterable[DomainState]) -> dict[str, list[DomainState]]:
    """Domains by every name and uuid (in lower case) by which a VM may know them; zombies without a uuid under ""."""
    found: dict[str, list[DomainState]] = {}
    for one in domains:
        base = one.name.removesuffix("--incoming").removesuffix("--migratedaway")
        for key in {one.name, base, one.uuid.lower() if one.uuid else ""}:
            found.setdefault(key, []).append(one)
    return found

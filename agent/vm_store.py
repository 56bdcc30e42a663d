"""The journal's section `vms`, typed. Migration and domains share it; the lock `domain:<uid>` guards effects."""

from __future__ import annotations

from typing import Any

from agent.core import Context
from agent.vm_records import VmRecord


class VmStore:
    """`get`, `put`, `delete`, `all`; a put is on disk when it returns (raises JournalError when it cannot be)."""

    def __init__(self, context: Context) -> None:
        self._journal = context.journal
        self._parsed: dict[str, tuple[dict[str, Any], VmRecord]] = {}  # by uid, with the value that it was parsed from

    def get(self, uid: str) -> VmRecord | None:
        value = self._journal.peek("vms", uid)
        if value is None:
            self._parsed.pop(uid, None)
            return None
        known = self._parsed.get(uid)
        if known is None or known[0] is not value:
            known = self._parsed[uid] = (value, VmRecord.model_validate(value))
        return known[1]

    def put(self, record: VmRecord) -> VmRecord:
        self._journal.put("vms", record.desired.uid, record.model_dump(mode="json"))
        return record

    def update(self, uid: str, **values: object) -> VmRecord | None:
        """Change fields of the newest record; None when there is none any more."""
        record = self.get(uid)
        return None if record is None else self.put(record.model_copy(update=values))

    def delete(self, uid: str) -> None:
        self._journal.delete("vms", uid)

    def all(self) -> list[VmRecord]:
        found = (self.get(uid) for uid in self._journal.keys("vms"))
        return [record for record in found if record is not None]


def config_path(name: str) -> str:
    """Where a domain's configuration is kept on the dom0."""
    return f"/etc/xen/xentandem/{name}.cfg"


def domain_lock(uid: str) -> str:
    """Held by whoever changes the VM's domain: its worker for a step, a migration for its whole life."""
    return f"domain:{uid}"

"""Writes to our objects: status by compare-and-swap, and the finalizer with the same precondition.

A write says which version it was decided from; if that is not the newest any more, the decision is dropped. The cache
takes the answer at once. What a write that got no answer did is found out by reading before anything else is decided.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import structlog

from controller.api.common import API_VERSION, ApiObject, Status
from controller.runtime.api_server import FIELD_MANAGER, ApiServer, Conflict, Missing, Unanswered, object_path
from controller.runtime.cache import Cache, Change
from controller.runtime.index import Claim
from controller.runtime.queue import ObjectKey

log = structlog.get_logger(__name__)


class Stale(Exception):
    """The object is not the one that was decided about any more (or may not be): drop the decision, look again."""


class Writer:
    """Writes status and finalizers, and keeps the cache as new as what was written.

    `changed` is told of everything that the cache learns here: the watch will not tell it again. `freed`: of names that
    the object does not hold any more.
    """

    def __init__(
        self,
        api: ApiServer,
        cache: Cache,
        changed: Callable[[Change], None],
        freed: Callable[[ObjectKey, tuple[Claim, ...]], None],
    ) -> None:
        self._api, self._cache, self._changed, self._freed = api, cache, changed, freed

    async def put_status(self, key: ObjectKey, decided_from: ApiObject, status: Status) -> ApiObject:
        """Replace the status of exactly that version of the object; returns it as it is then.

        Raises Stale; Invalid when the schema refuses the status.
        """
        body = _body(key, decided_from) | {"status": status.to_status_dict()}
        self._cache.expect(key, status)
        try:
            answer = await self._api.request("PUT", object_path(key, "status"), body, query=_AS_US)
        except (Conflict, Missing) as error:
            await self.refresh(key)
            raise Stale(str(error)) from error
        except Unanswered as error:
            await self._find_out(key)
            raise Stale(str(error)) from error
        except BaseException:
            self._freed(key, self._cache.settle(key))
            raise
        return self._take(key, answer)

    async def put_finalizers(self, key: ObjectKey, decided_from: ApiObject, finalizers: tuple[str, ...]) -> ApiObject:
        """Set metadata.finalizers of exactly that version of the object; returns it as it is then. Raises Stale."""
        meta = decided_from.metadata
        patch = {
            "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version, "finalizers": list(finalizers)}
        }
        try:
            answer = await self._api.request(
                "PATCH", object_path(key), patch, query=_AS_US, content_type="application/merge-patch+json"
            )
        except (Conflict, Missing) as error:
            await self.refresh(key)
            raise Stale(str(error)) from error
        except Unanswered as error:
            await self._find_out(key)
            raise Stale(str(error)) from error
        return self._take(key, answer)

    async def refresh(self, key: ObjectKey) -> None:
        """Read the object anew into the cache. Raises Unanswered, ApiError; then names of a lost write stay held."""
        known = self._cache.get(key)
        change = None
        try:
            change = self._cache.upsert(await self._api.get(key))
        except Missing:
            if known is not None:
                change = self._cache.remove_key(key, known.metadata.uid)
        self._tell(change, key)

    async def _find_out(self, key: ObjectKey) -> None:
        try:
            await self.refresh(key)
        except Unanswered as error:
            log.warning("unknown whether a write happened", object=key, error=str(error))

    def _take(self, key: ObjectKey, answer: dict[str, Any]) -> ApiObject:
        gone = "deletionTimestamp" in answer["metadata"] and not answer["metadata"].get("finalizers")
        change = self._cache.remove(answer) if gone else self._cache.upsert(answer)
        self._tell(change, key)
        found = self._cache.get(key) or (change.old if change else None)
        if found is None:
            raise Stale(f"{key} was deleted while it was written")
        return found

    def _tell(self, change: Change | None, key: ObjectKey) -> None:
        freed = self._cache.settle(key)
        if change is not None:
            self._changed(change)
        self._freed(key, freed)


Finalizing = Literal["add", "remove"]


def finalizers_after(found: ApiObject, what: Finalizing, ours: str) -> tuple[str, ...] | None:
    """The finalizers that the object is to have; None: they are right already."""
    now = found.metadata.finalizers
    if what == "add":
        return None if ours in now else (*now, ours)
    return tuple(one for one in now if one != ours) if ours in now else None


def differs(status: Status, found: ApiObject) -> bool:
    """Whether writing the status would change the object."""
    return status != found.status and status.to_status_dict() != found.status.to_status_dict()


_AS_US = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}


def _body(key: ObjectKey, found: ApiObject) -> dict[str, Any]:
    kind, namespace, name = key
    meta = {"name": name, "uid": found.metadata.uid, "resourceVersion": found.metadata.resource_version}
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": meta | ({"namespace": namespace} if namespace else {}),
    }

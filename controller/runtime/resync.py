"""A full list of all kinds into the cache: at the start of a leadership, and now and then against watches that died."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from controller.runtime.api_server import KINDS, ApiServer
from controller.runtime.cache import Cache, Change, identify, newer
from controller.runtime.queue import ObjectKey


async def resync(api: ApiServer, cache: Cache) -> AsyncIterator[Change]:
    """Every difference between the API server and the cache. Raises Unanswered, ApiError (Missing: no such kind yet).

    An object that the list doesn't hold is gone only if the list is newer than what the cache has of it.
    """
    for kind in KINDS:
        listed: set[tuple[ObjectKey, str]] = set()
        as_of = "0"
        async for version, items in api.pages(kind):
            as_of = version
            for raw in items:
                key, _, uid = identify(raw)
                listed.add((key, uid))
                if change := cache.upsert(raw):
                    yield change
            await asyncio.sleep(0)  # let others run between the pages of a large list
        for key in list(cache.keys(kind)):
            found = cache.get(key)
            if found is None or (key, found.metadata.uid) in listed:
                continue
            if newer(as_of, found.metadata.resource_version) and (change := cache.remove_key(key, found.metadata.uid)):
                yield change

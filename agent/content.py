"""The two operations on a volume that happen once in its life: the first sync's forced promotion, and its content."""

from __future__ import annotations

import asyncio

from agent.core import Context, Refused
from agent.drivers.errors import DriverError
from agent.drivers.lvm import CONTENT_TAG, FORCED_TAG
from agent.guards import FORCE, WRITE_CONTENT, ContentFacts, ForceFacts, RoleFacts, require
from agent.images import shown
from agent.operations import Operation
from agent.protocol import ImageSource, InitialSync, OperationCancel, OperationRequest, WriteContent
from agent.records import VolumeRecord, has_tag
from agent.volumes import Volumes

IMAGES = "/var/lib/xentandem/images"


class InitialSyncHandler:
    """`initial-sync`: Starting -> Forcing -> Done. What it does is over in a moment; DRBD's own resync follows.

    That it was forced is in the journal and on the LV (tag xentandem.forced) before the command runs.
    """

    first_phase = "Starting"

    def __init__(self, context: Context, volumes: Volumes) -> None:
        self._context, self._volumes = context, volumes

    def subject(self, request: OperationRequest) -> tuple[str, str]:
        body = _initial_sync(request)
        return body.resource, body.uid

    async def check(self, request: OperationRequest) -> None:
        body = _initial_sync(request)
        record = self._volumes.record(body.resource)
        if record is None or record.desired.uid != body.uid or record.forced_by != request.id:
            require(FORCE, await self._facts(request))  # otherwise it was begun, and `run` looks how far it came

    async def run(self, operation: Operation) -> None:
        body = _initial_sync(operation.request)
        async with self._context.locks.hold(f"volume:{body.resource}"):
            record = self._volumes.owned(body.resource, body.uid)
            facts = await self._facts(operation.request)
            if record.forced_by == operation.id and _has_data(facts):
                operation.enter("Done")
                return
            require(FORCE, facts)
            operation.enter("Forcing")
            record = self._volumes.save(
                body.resource,
                record,
                forced_by=operation.id,
                desired=record.desired.model_copy(update={"role": "Primary"}),
            )
            await self._tag(record)
            await self._force(operation, body)
            operation.enter("Done")

    async def resume(self, operation: Operation) -> None:
        await self._volumes.bring_back(_initial_sync(operation.request).resource)  # the host may have rebooted
        await self.run(operation)

    async def cancel(self, operation: Operation, request: OperationCancel) -> None:
        raise Refused("NotCancellable", "the forced promotion is over in a moment and cannot be taken back")

    async def _force(self, operation: Operation, body: InitialSync) -> None:
        # Read again: the peer may have got data, or the link may have gone, while journal and tag were written.
        try:
            require(FORCE, await self._facts(operation.request))
            await self._context.drbd.force_primary(body.resource)
        except (Refused, DriverError):
            await self._take_back(operation, body)
            raise
        facts = await self._facts(operation.request)
        if facts.kernel is None or (facts.kernel.role, facts.kernel.disk) != ("Primary", "UpToDate"):
            raise Refused("NotConfirmed", f"{body.resource} is not Primary and UpToDate after the forced promotion")
        self._context.observer.put_generation(body.resource, facts.generation)
        self._context.log(object=body.resource, operation=operation.id).info("forced Primary, first sync begins")

    async def _take_back(self, operation: Operation, body: InitialSync) -> None:
        """DRBD or a guard refused. If DRBD still is as new, it was never forced, and says so again."""
        try:
            require(FORCE[-1:], await self._facts(operation.request))
        except Refused:
            return
        record = self._volumes.owned(body.resource, body.uid)
        await self._context.lvm.del_tag(record.desired.group, record.desired.logical_volume, FORCED_TAG)
        self._volumes.save(body.resource, record, forced_by=None)

    async def _tag(self, record: VolumeRecord) -> None:
        volumes = await self._context.observer.read_logical_volumes()
        if not has_tag(volumes[record.lv_key], FORCED_TAG):
            await self._context.lvm.add_tag(record.desired.group, record.desired.logical_volume, FORCED_TAG)
            await self._context.observer.read_logical_volumes()

    async def _facts(self, request: OperationRequest) -> ForceFacts:
        """Raises DriverError when something cannot be read: then nothing is forced."""
        body = _initial_sync(request)
        record = self._volumes.record(body.resource)
        volumes, kernel = await asyncio.gather(
            self._context.observer.read_logical_volumes(), self._context.observer.read_drbd()
        )
        up = kernel.get(body.resource)
        generation = await self._context.drbd.metadata(body.resource) if up is not None else None
        return ForceFacts(
            operation=request.id,
            uid=body.uid,
            record=record,
            logical_volume=volumes.get(record.lv_key) if record else None,
            kernel=up,
            generation=generation,
        )


class WriteContentHandler:
    """`write-content`: Starting -> Fetching (an image by URL) -> Writing -> Done.

    That content is being written is in the journal and on the LV (tag xentandem.content) before the first byte.
    """

    first_phase = "Starting"

    def __init__(self, context: Context, volumes: Volumes) -> None:
        self._context, self._volumes = context, volumes

    def subject(self, request: OperationRequest) -> tuple[str, str]:
        body = _write_content(request)
        return body.resource, body.uid

    async def check(self, request: OperationRequest) -> None:
        body = _write_content(request)
        if (body.filesystem is None) == (body.image is None):
            raise Refused("BadContent", "say either a filesystem or an image")
        if body.image is not None and (body.image.path is None) == (body.image.url is None):
            raise Refused("BadContent", "say either the path or the https URL of the image")
        if body.image is not None and body.image.url is not None and not body.image.url.startswith("https://"):
            raise Refused("BadContent", f"{shown(body.image.url)}: an image is fetched by https:// only")
        require(WRITE_CONTENT, await self._facts(request))

    async def run(self, operation: Operation) -> None:
        body = _write_content(operation.request)
        if self._is_written(operation, body):
            operation.enter("Done")
            return
        source = await self._fetch(operation, body.image) if body.image is not None else None
        try:
            await self._to_volume(operation, body, source)
        finally:
            if body.image is not None and body.image.url is not None and source is not None:
                await self._context.host.remove(source)

    async def _to_volume(self, operation: Operation, body: WriteContent, source: str | None) -> None:
        async with self._context.locks.hold(f"volume:{body.resource}"):
            record = self._volumes.owned(body.resource, body.uid)
            require(WRITE_CONTENT, await self._facts(operation.request))
            again = record.content == "writing"
            operation.enter("Writing")
            record = self._volumes.save(
                body.resource, record, content="writing", content_by=operation.id, content_detail=_detail(body)
            )
            await self._tag(record, body)
            await self._write(body, record, source, again)
            self._volumes.save(body.resource, record, content="written")
            operation.enter("Done")

    def _is_written(self, operation: Operation, body: WriteContent) -> bool:
        record = self._volumes.owned(body.resource, body.uid)
        return record.content == "written" and record.content_by == operation.id

    async def resume(self, operation: Operation) -> None:
        await self.run(operation)

    async def cancel(self, operation: Operation, request: OperationCancel) -> None:
        raise Refused("NotCancellable", "a half-written volume is of no use to anybody; delete the volume instead")

    async def _write(self, body: WriteContent, record: VolumeRecord, source: str | None, again: bool) -> None:
        if source is not None and body.image is not None:
            await self._context.content.write_image(source, record.device, body.image.sha256)
        elif body.filesystem is not None:
            await self._context.content.mkfs(record.device, body.filesystem, over_own=again)

    async def _fetch(self, operation: Operation, image: ImageSource) -> str:
        """The image as a file of this dom0. One that comes by URL is known to be right, and to fit, before writing."""
        if image.path is not None or image.url is None:
            return image.path or ""
        facts = await self._facts(operation.request)
        require(WRITE_CONTENT, facts)
        operation.enter("Fetching")
        path = f"{IMAGES}/{operation.id}"  # its own: two volumes may be made of one image at the same time
        kernel = facts.role.kernel  # the guard saw it Primary and UpToDate: it has a size
        room = (kernel.size_kib or 0) * 1024 if kernel is not None else 0
        await self._context.content.fetch_image(image.url, path, image.sha256, room)
        return path

    async def _tag(self, record: VolumeRecord, body: WriteContent) -> None:
        volumes = await self._context.observer.read_logical_volumes()
        if not has_tag(volumes[record.lv_key], CONTENT_TAG):
            tag = CONTENT_TAG + (body.filesystem or "image")
            await self._context.lvm.add_tag(record.desired.group, record.desired.logical_volume, tag)
            await self._context.observer.read_logical_volumes()

    async def _facts(self, request: OperationRequest) -> ContentFacts:
        """Raises DriverError when something cannot be read: then nothing is written."""
        body = _write_content(request)
        record = self._volumes.record(body.resource)
        volumes, kernel, domains = await asyncio.gather(
            self._context.observer.read_logical_volumes(),
            self._context.observer.read_drbd(),
            self._context.observer.read_domains(),
        )
        up = kernel.get(body.resource)
        signature = None
        if record is not None and up is not None and up.role == "Primary":  # a Secondary cannot be opened at all
            signature = await self._context.content.has_signature(record.device)
        return ContentFacts(
            operation=request.id,
            uid=body.uid,
            record=record,
            logical_volume=volumes.get(record.lv_key) if record else None,
            role=RoleFacts(body.resource, self._context.node, up, readable=True, domains=domains),
            signature=signature,
        )


def _has_data(facts: ForceFacts) -> bool:
    """The forced promotion took effect: it began a data generation, which no later crash takes back."""
    return facts.generation is not None and not facts.generation.fresh


def _initial_sync(request: OperationRequest) -> InitialSync:
    assert isinstance(request.body, InitialSync)
    return request.body


def _write_content(request: OperationRequest) -> WriteContent:
    assert isinstance(request.body, WriteContent)
    return request.body


def _detail(body: WriteContent) -> str:
    return body.filesystem or (f"image sha256:{body.image.sha256}" if body.image else "")

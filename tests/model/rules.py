"""What a decision never does, whatever the world looks like: read off the decision alone."""

from __future__ import annotations

from collections.abc import Iterator

from agent.protocol import InitialSync, MigrateReceive, MigrateSend, VolumeState, WriteContent
from controller.api.common import ApiObject
from controller.api.drbdvolume import DrbdVolume
from controller.api.xennode import XenNode
from controller.api.xenvm import XenVM
from controller.domain.actions import (
    Cancel,
    Decision,
    DeleteDomain,
    DeleteVolume,
    Operate,
    PutDomain,
    PutVerdict,
    PutVolume,
)
from controller.domain.move import source_keeps
from controller.domain.world import World, domains_on


def broken(world: World, found: ApiObject, decision: Decision) -> list[str]:
    """Every rule that the decision breaks, in words."""
    return [*_any(world, found, decision), *_OWN[type(found)](world, found, decision)]


def _any(world: World, found: ApiObject, decision: Decision) -> Iterator[str]:
    if decision.ask and (decision.status or decision.finalizer):
        yield "it asks, and writes before the answers are there"
    if decision.finalizer == "remove" and not found.deleting:
        yield "it lets go of an object that nobody deleted"
    for request in decision.requests:
        if world.objects.host(request.host).live is None:
            yield f"it asks something of {request.host}, whose state is not current"
        if request in decision.requests[: decision.requests.index(request)]:
            yield f"it asks the same of {request.host} twice"
    if decision.status is not None:
        said = decision.status.to_status_dict()
        if type(decision.status).model_validate(said).to_status_dict() != said:
            yield "its status does not come back from the API server as it was written"


def _survives(world: World, vm: XenVM, promotion: PutVolume, seen: VolumeState) -> bool:
    """Consistent, and a verdict that is on record names its host: it was good when it lost the other one."""
    volumes = [world.objects.volume((vm.metadata.namespace, disk.volume)) for disk in vm.spec.disks]
    records = [one.status.verdict for one in volumes if one is not None and one.metadata.uid == promotion.body.uid]
    survivors = {one.survivor for one in (*records, seen.fence.verdict) if one is not None}
    return seen.disk == "Consistent" and promotion.host in survivors


def _vm(world: World, found: ApiObject, decision: Decision) -> Iterator[str]:
    assert isinstance(found, XenVM)
    before, uid = found.status, found.metadata.uid
    after = decision.status if decision.status is not None else before
    placement, move = after.placement, after.migration  # type: ignore[union-attr]
    if placement is not None and before.placement is not None and placement != before.placement:
        if placement.epoch < before.placement.epoch:
            yield "the placement's epoch goes back"
        if placement.epoch == before.placement.epoch:
            yield "an epoch is given to another host"
    begun = [r for r in decision.requests if isinstance(r, PutDomain) and r.body.state in ("Running", "Paused")]
    if len(begun) > 1:
        yield "it shall run on two hosts"
    for put in begun:
        if found.deleting:
            yield "what is being deleted shall run"
        if placement is None or (put.host, put.body.epoch) != (placement.node, placement.epoch):
            yield "it shall run where it is not placed, by the status that is written"
    promoted = [r for r in decision.requests if isinstance(r, PutVolume) and r.body.role == "Primary"]
    for promotion in promoted:
        if placement is None or promotion.host != placement.node:
            yield "a disk becomes Primary where the VM is not placed"
        view = world.objects.host(promotion.host).live
        seen = view.volumes.get(promotion.body.resource) if view else None
        good = seen is not None and (seen.disk == "UpToDate" or _survives(world, found, promotion, seen))
        if seen is None or not good or (seen.peer is not None and seen.peer.role == "Primary"):
            yield "a disk becomes Primary that is not good, or whose peer is Primary"
    for request in decision.requests:
        match request:
            case PutDomain(body=body) if body.uid != uid:
                yield "another VM is changed"
            case PutDomain(host, body) if body.state == "Released":
                told = placement is not None and host != placement.node and body.epoch <= placement.epoch
                home = before.placement or placement  # found by a promise, it is recorded first
                if not told and not (home is not None and host == home.node and body.epoch > home.epoch):
                    yield "a release that is none: neither of its host with a new epoch, nor of one that lost it"
                if domains_on(world.objects.host(host), uid, found.metadata.name):
                    yield "it is released while a domain of it is there"
            case PutVolume(body=body) if body.role != "Primary":
                yield "a VM's decision demotes"
            case DeleteVolume():
                yield "a VM's decision removes a volume"
            case DeleteDomain(body=removal) if not found.deleting or removal.uid != uid:
                yield "a VM is forgotten that nobody deleted"
            case Operate(host, operation) if isinstance(operation.body, MigrateSend | MigrateReceive):
                part, sends = operation.body, isinstance(operation.body, MigrateSend)
                if move is None or move.outcome is not None or move.id != operation.id:
                    yield "a move without its record"
                elif host != (move.source if sends else move.target):
                    yield "a move of other hosts than its record's"
                elif part.domain.epoch != (placement.epoch if sends and placement else move.epoch):
                    yield "a move at another epoch than its record's"
            case Operate():
                yield "a VM's decision forces, or writes content"
            case Cancel(host, operation_id, cancel) if cancel.source_keeps:
                others = (view for name, view in world.objects.hosts().items() if name != host)
                own = world.objects.host(host)
                if not any(source_keeps(view, operation_id) for view in (*others, own)):
                    yield "a copy may be destroyed, and nobody saw that the source keeps the VM"
            case _:
                pass
    if decision.finalizer == "remove":
        for name, there in world.objects.hosts().items():
            if any((one.uuid or "").lower() == uid for one in domains_on(there, uid, found.metadata.name)):
                yield f"it is gone, and {name} has a domain of it"


def _volume(world: World, found: ApiObject, decision: Decision) -> Iterator[str]:
    assert isinstance(found, DrbdVolume)
    before, uid = found.status, found.metadata.uid
    after = decision.status if isinstance(decision.status, type(before)) else before
    old, new = before.initial_sync, after.initial_sync
    if old is not None and (new is None or new.node != old.node or (old.completed and not new.completed)):
        yield "what is recorded of the first synchronisation is changed"
    if len({r.host for r in decision.requests if isinstance(r, PutVolume) and r.body.role == "Primary"}) > 1:
        yield "it shall be Primary on two hosts"
    for request in decision.requests:
        match request:
            case PutVolume(host, body):
                if body.uid != uid:
                    yield "another volume is changed"
                if host not in after.nodes:
                    yield f"{host} is no member"
                if found.deleting:
                    yield "what is being deleted is made"
            case DeleteVolume(host, resource, removal):
                if not found.deleting or removal.uid != uid or resource != found.resource:
                    yield "a volume is removed that nobody deleted"
                if removal.policy != found.spec.deletion_policy:
                    yield "data are removed that shall be kept, or the other way round"
                if world.objects.vms_using((found.metadata.namespace, found.metadata.name)):
                    yield "a volume is removed that a VM has"
            case PutVerdict(body=body):
                said = after.verdict
                if said is None or (said.number, said.survivor or None) != (body.verdict.number, body.verdict.survivor):
                    yield "a verdict without its record"
            case Operate(host, operation) if isinstance(operation.body, InitialSync):
                if new is None or (host, operation.id) != (new.node, new.operation) or new.completed:
                    yield "force without its record"
                yield from _not_fresh(world, found, after.nodes)
            case Operate(host, operation) if isinstance(operation.body, WriteContent):
                content = after.content
                if content is None or (content.node, content.operation) != (host, operation.id):
                    yield "content without its record"
                elif before.content is not None and before.content.state == "Written":
                    yield "content is written over content"
            case _:
                yield f"a volume's decision asks {type(request).__name__}"


def _not_fresh(world: World, volume: DrbdVolume, nodes: tuple[str, ...]) -> Iterator[str]:
    for name in nodes:
        live = world.objects.host(name).live
        view = live.volumes.get(volume.resource) if live else None
        if view is None or view.uid != volume.metadata.uid or view.disk != "Inconsistent" or view.peer is None:
            yield f"force, and {name} is not seen to be new"
        elif view.generation is None or not view.generation.fresh or view.peer.connection != "Connected":
            yield f"force, and {name} has or may have data"


def _node(_: World, found: ApiObject, decision: Decision) -> Iterator[str]:
    assert isinstance(found, XenNode)
    for request in decision.requests:
        if request.host != found.name:
            yield "another host is told"
        match request:
            case DeleteVolume(body=removal) if removal.policy != "Unreserve":
                yield "a host's decision removes data"
            case PutVolume() | PutDomain() | DeleteDomain() | Operate() | Cancel():
                yield f"a host's decision asks {type(request).__name__}"


_OWN = {XenVM: _vm, DrbdVolume: _volume, XenNode: _node}

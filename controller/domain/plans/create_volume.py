"""`volume.create/v1`: from nothing to UpToDate/UpToDate, with its content. The howto's first ten commands."""

from __future__ import annotations

from agent.protocol import ImageSource, InitialSync, OperationRequest, Refusal, WriteContent
from controller.domain.actions import Operate, Request
from controller.domain.engine import Guard, Plan, Step
from controller.domain.volume_case import VolumeCase


def _members_answer(case: VolumeCase) -> Refusal | None:
    for host in case.hosts:
        if host.node is None:
            return Refusal(
                reason="NodeNotFound", message=f"there is no XenNode {host.name}; apply it, or change spec.nodes"
            )
        if host.live is None:
            return Refusal(reason="AgentUnreachable", message=f"the agent of {host.name} does not answer: {host.error}")
    return None


def _group_there(case: VolumeCase) -> Refusal | None:
    group = case.volume.spec.logical_volume.group
    for host in case.hosts:
        if case.view(host.name) is not None or host.live is None or host.node is None:
            continue
        if group not in host.node.spec.volume_groups:
            return Refusal(
                reason="VolumeGroupNotAllowed",
                message=f"XenNode {host.name} does not list volume group {group} in spec.volumeGroups",
            )
        groups = host.live.facts.volume_groups
        if groups is None:
            return Refusal(reason="VolumeGroupUnknown", message=f"the volume groups of {host.name} could not be read")
        found = next((g for g in groups if g.name == group), None)
        if found is None:
            return Refusal(reason="VolumeGroupNotFound", message=f"{host.name} has no volume group {group}")
        if found.free < case.volume.spec.size_bytes and not any(view.forced for view in case.known):
            return Refusal(
                reason="NotEnoughSpace",
                message=f"{found.free >> 20} MiB free in {group} on {host.name}, "
                f"{case.volume.spec.size_bytes >> 20} MiB needed",
            )
    return None


def _metadata_group_there(case: VolumeCase) -> Refusal | None:
    group = case.volume.spec.meta_disk.group
    for host in case.hosts:
        if group is None or case.view(host.name) is not None or host.live is None or host.node is None:
            continue
        if group not in host.node.spec.volume_groups:
            return Refusal(
                reason="VolumeGroupNotAllowed",
                message=f"XenNode {host.name} does not list volume group {group}, for the metadata, "
                "in spec.volumeGroups",
            )
        groups = host.live.facts.volume_groups
        if groups is not None and not any(found.name == group for found in groups):
            return Refusal(
                reason="VolumeGroupNotFound", message=f"{host.name} has no volume group {group} for the metadata"
            )
    return None


def _reserved(case: VolumeCase) -> bool:
    device = case.volume.status.device
    return device is not None and all(
        (view := case.view(node)) is not None and (view.minor, view.port) == (device.minor, device.port)
        for node in case.nodes
    )


def _provisioned_on(case: VolumeCase, node: str) -> bool:
    view = case.view(node)
    return view is not None and view.logical_volume is not None and view.metadata == "present"


def _connected_on(case: VolumeCase, node: str) -> bool:
    view = case.view(node)
    return view is not None and view.configured and view.peer is not None and view.peer.connection == "Connected"


def _forced(case: VolumeCase) -> bool:
    intent = case.volume.status.initial_sync
    if intent is None:
        return False
    view, operation = case.view(intent.node), case.operation(intent.operation)
    if operation is not None and operation.outcome is None:
        return False  # its agent takes no other operation on the volume before this one has ended
    return intent.completed or (view is not None and view.forced and view.disk == "UpToDate")


def _force(case: VolumeCase) -> tuple[Request, ...]:
    """Only with the intent in status, only at the host that it names, only with the proof."""
    intent = case.volume.status.initial_sync
    if intent is None or case.fresh_everywhere() is not None:
        return ()
    body = InitialSync(resource=case.resource, uid=case.uid)
    return (Operate(intent.node, OperationRequest(id=intent.operation, term=case.world.term, body=body)),)


def _force_waits(case: VolumeCase) -> str:
    proof = case.fresh_everywhere()
    return proof.message if proof else f"{case.first_source()} becomes Primary for the first sync"


def _content_written(case: VolumeCase) -> bool:
    content = case.volume.status.content
    return content is not None and content.state == "Written"


def _write_content(case: VolumeCase) -> tuple[Request, ...]:
    intent, content = case.volume.status.content, case.volume.spec.content
    if intent is None or intent.node is None or intent.operation is None or content is None:
        return ()
    view = case.view(intent.node)
    if view is not None and view.role == "Secondary":
        # The source restarted after it was forced: it comes back Secondary, and UpToDate is promoted without force.
        return (case.put(intent.node, "Up", "Primary"),)
    image = content.image
    body = WriteContent(
        resource=case.resource,
        uid=case.uid,
        filesystem=content.filesystem,
        image=ImageSource(path=image.path, url=image.url, sha256=image.sha256) if image else None,
    )
    return (Operate(intent.node, OperationRequest(id=intent.operation, term=case.world.term, body=body)),)


def _content_waits(case: VolumeCase) -> str:
    content = case.volume.spec.content
    what = content.filesystem if content and content.filesystem else "the image"
    return f"{what} is being written on {case.first_source()}"


def _sync_waits(case: VolumeCase) -> str:
    source = case.first_source()
    target = next((node for node in case.nodes if node != source), source)
    view = case.view(source)
    done = view.peer.done_percent if view and view.peer else None
    return f"{source} copies to {target}" + (f": {int(done)}%" if done is not None else "")


def _needless_primaries(case: VolumeCase) -> tuple[str, ...]:
    return tuple(node for node in case.primaries() if node != case.wanted_primary())


CREATE_VOLUME: Plan[VolumeCase] = Plan(
    id="volume.create/v1",
    title="Creating the volume",
    guards=(
        Guard("MembersAnswer", "both members' agents answer", _members_answer),
        Guard("VolumeGroupThere", "the volume group is there, allowed, and has room", _group_there),
        Guard(
            "MetadataGroupThere", "the volume group of external metadata is there and allowed", _metadata_group_there
        ),
    ),
    steps=(
        Step(
            name="Reserve",
            does="both members keep the resource's name, minor, port and logical volume for this volume",
            record="status.nodes, status.device; of a new volume all that the later steps need, too",
            confirmed=_reserved,
            requests=lambda c: tuple(c.put(n, "Reserved") for n in c.nodes if c.view(n) is None or not _reserved(c)),
            waiting=lambda c: "minor and port are being reserved on " + " and ".join(c.nodes),
            interrupted="nothing is made yet; the reservation is repeated, or another free minor is chosen",
        ),
        Step(
            name="Provision",
            does="a logical volume with our tag, metadata where none is, the DRBD configuration: on both members",
            confirmed=lambda c: all(_provisioned_on(c, node) for node in c.nodes),
            requests=lambda c: tuple(c.put(n, "Provisioned") for n in c.nodes if not _provisioned_on(c, n)),
            waiting=lambda c: (
                "logical volume and metadata are made on "
                + " and ".join(n for n in c.nodes if not _provisioned_on(c, n))
            ),
            interrupted="the agent finds its tagged logical volume and goes on; metadata is never made twice",
        ),
        Step(
            name="Connect",
            does="drbdadm up on both members",
            confirmed=lambda c: all(_connected_on(c, node) for node in c.nodes),
            requests=lambda c: tuple(
                c.put(n, "Up") for n in c.nodes if (view := c.view(n)) is None or not view.configured
            ),
            waiting=lambda c: " and ".join(c.nodes) + " connect",
            interrupted="up is repeated where the kernel does not know the resource",
        ),
        Step(
            name="ForcePrimary",
            does="Inconsistent/Inconsistent: one member is forced Primary, once in the volume's life",
            record="status.initialSync: the node, never changed afterwards, and the operation",
            confirmed=_forced,
            requests=_force,
            waiting=_force_waits,
            interrupted="the same operation is asked of the same member, which does it once; never of the other one",
        ),
        Step(
            name="WriteContent",
            does="mkfs or the image, written once through DRBD while the source is Primary",
            record="status.content: node and operation",
            applies=lambda c: c.volume.spec.content is not None,
            confirmed=_content_written,
            requests=_write_content,
            waiting=_content_waits,
            interrupted="no VM had the volume yet: the agent that began writes it again from the start",
        ),
        Step(
            name="Synchronise",
            does="DRBD copies the source's disk to the other member",
            confirmed=lambda c: c.up_to_date() and c.everywhere(),
            requests=lambda c: (),
            waiting=_sync_waits,
            interrupted="DRBD goes on from its bitmap when both members are connected again",
        ),
        Step(
            name="Demote",
            does="the source becomes Secondary again unless a VM is to run there",
            confirmed=lambda c: not _needless_primaries(c),
            requests=lambda c: tuple(c.put(node) for node in _needless_primaries(c)),
            waiting=lambda c: "demoting " + " and ".join(_needless_primaries(c)),
            interrupted="Primary without a user does no harm; it is demoted at the next look",
        ),
    ),
)

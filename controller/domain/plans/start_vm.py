"""`vm.start/v1`, `vm.stop/v1`: from Primary disks to a running domain, and back."""

from __future__ import annotations

from agent.protocol import Refusal
from controller.api.xenvm import XenVM
from controller.domain.actions import Request, record_ends
from controller.domain.alone import good, unproved
from controller.domain.engine import Guard, Plan, Step
from controller.domain.vm_case import VmCase
from controller.domain.world import vm_on

OFF = ("absent", "halted", "crashed")
"""VmState.status without a domain: it is not there, or the guest ended by itself and stays so."""


def _agent_answers(case: VmCase) -> Refusal | None:
    home = case.home
    if home is None or home.node is None:
        name = case.placement.node if case.placement else case.vm.spec.node
        return Refusal(reason="NodeNotFound", message=f"there is no XenNode {name}; apply it, or change spec.node")
    if home.live is None:
        return Refusal(reason="AgentUnreachable", message=f"the agent of {home.name} does not answer: {home.error}")
    return None


def _home_answers(case: VmCase) -> Refusal | None:
    no, home = _agent_answers(case), case.home
    if no is not None or home is None or home.node is None:
        return no
    if home.node.spec.out_of_service:
        return Refusal(reason="OutOfService", message=f"{home.name} is out of service by a person's word")
    if home.node.spec.maintenance:
        return Refusal(reason="Maintenance", message=f"{home.name} is in maintenance: nothing is started there")
    return record_ends(home)


def _disks_ready(case: VmCase) -> Refusal | None:
    return case.disks_missing()


def _replica_here(case: VmCase) -> Refusal | None:
    if case.placement is None or not case.volume_cases:
        return None
    node = case.placement.node
    for volume in case.volume_cases:
        if node not in volume.nodes:
            return Refusal(
                reason="NoReplicaHere",
                message=f"{node} holds no replica of {volume.volume.name}; its replicas are on "
                f"{' and '.join(volume.nodes)}: set spec.node to one of them",
            )
    return None


def _up_to_date_here(case: VmCase) -> Refusal | None:
    if case.placement is None or case.home is None or case.home.live is None:
        return None
    node = case.placement.node
    for volume in case.volume_cases:
        view = volume.view(node)
        if view is None:
            return Refusal(reason="ReplicaMissing", message=f"{node} does not show the replica of {volume.volume.name}")
        if (bad := good(volume, node)) is not None:
            return bad
        if view.suspended != "no":
            return Refusal(reason="Suspended", message=f"IO of {volume.volume.name} on {node} is frozen")
        if view.peer is not None and view.peer.role == "Primary":
            other = next((name for name in volume.nodes if name != node), "the other host")
            return Refusal(reason="PrimaryElsewhere", message=f"{volume.volume.name} is Primary on {other}, not {node}")
    return None


def _members_described(case: VmCase) -> Refusal | None:
    for volume in case.volume_cases:
        for host in volume.hosts:
            if host.node is None:
                return Refusal(
                    reason="NodeNotFound",
                    message=f"there is no XenNode {host.name}, which holds a replica of {volume.volume.name}; apply it",
                )
    return None


def _known_newest(case: VmCase) -> Refusal | None:
    """A replica that is not Primary and cannot see its peer may lack the peer's writes, though it is UpToDate.

    DRBD says so itself when it refuses such a promotion with (-7), drbdsetup(8); before that it asks for a verdict.
    """
    if case.placement is None:
        return None
    node = case.placement.node
    for volume in case.volume_cases:
        view = volume.view(node)
        if view is None or view.role == "Primary":
            continue
        peer = view.peer
        behind = peer is not None and peer.disk in ("Outdated", "Inconsistent")
        if peer is not None and (peer.connection == "Connected" or behind):
            continue
        no = unproved(volume, node)
        if no is not None:
            return Refusal(
                reason="ReplicaMayBeStale",
                message=f"{volume.volume.name} on {node} is not connected to its peer "
                f"({peer.connection if peer else 'not configured'}), which may have newer data ({no.message}); "
                "the VM is started when both replicas see each other again",
            )
    return None


def _disks_its_own(case: VmCase) -> Refusal | None:
    """No other VM has a disk of this one: neither by its spec nor by a domain that is still there."""
    for volume in case.volume_cases:
        name = volume.volume.name
        for other in volume.consumers:
            if other.metadata.uid != case.uid and (other.status.placement is not None or _comes_first(other, case)):
                return Refusal(
                    reason="VolumeInUse",
                    message=f"{name} is a disk of XenVM {other.name} too, and two guests on one disk destroy it; "
                    "remove it from the spec of one of them",
                )
        for node in volume.nodes:
            view = volume.view(node)
            others = [user for user in view.used_by if not _form_of(user, case.name)] if view else []
            if others:
                return Refusal(
                    reason="VolumeInUse", message=f"{name} is a disk of domain {', '.join(others)} on {node}"
                )
    return None


def _comes_first(other: XenVM, case: VmCase) -> bool:
    """Of two VMs that were never placed the older one gets the disk."""
    if case.before.placement is not None or case.here is not None:
        return False
    theirs, mine = other.metadata, case.vm.metadata
    return (theirs.creation_timestamp or "", theirs.uid) < (mine.creation_timestamp or "", mine.uid)


def _form_of(domain: str, name: str) -> bool:
    return domain in (name, f"{name}--incoming", f"{name}--migratedaway")


def _no_open_move(case: VmCase) -> Refusal | None:
    """An agent that holds a received copy would unpause that old memory when it is given the VM."""
    if case.home is None:
        return None
    for operation in case.home.moves_by_vm.get(case.uid, ()):
        return Refusal(
            reason="OperationOpen",
            message=f"{operation.id} ({operation.kind}, {operation.phase}) is still open on {case.home.name}; "
            "it is being cancelled",
        )
    return None


def nowhere_else(case: VmCase) -> Refusal | None:
    """A domain of the VM on another host, in any form, forbids a start: found by uuid and by name, also unmanaged."""
    assert case.placement is not None
    for name, host in case.world.objects.hosts().items():
        if name == case.placement.node or host.live is None:
            continue
        for domain in case.domains(name):
            there = vm_on(host, case.uid)
            left = there.problem if there is not None and domain.kind != "main" else None
            return Refusal(
                reason="DomainElsewhere",
                message=f"{name} has domain {domain.name} (id {domain.domid}, uuid {domain.uuid}); "
                f"a VM runs on one host only{f'. {left.message}' if left else ''}",
            )
    return None


def _running(case: VmCase) -> bool:
    here, placement = case.here, case.placement
    wish = "paused" if case.vm.spec.state == "Paused" else "running"
    if here is None or placement is None:
        return False
    return (here.epoch, here.run, here.status) == (placement.epoch, max(case.vm.status.run, 1), wish)


def _create(case: VmCase) -> tuple[Request, ...]:
    return (case.put("Paused" if case.vm.spec.state == "Paused" else "Running"),)


def _stopped(case: VmCase) -> bool:
    """No domain of it, and nobody there who may make one. A guest that ended by itself counts as stopped."""
    here = case.here
    if case.placement is not None and case.is_here(case.placement.node):
        return False
    return here is None or (here.status in OFF and (here.desired in ("Stopped", "Released") or not here.granted))


def stop_problem(case: VmCase) -> Refusal | None:
    """What keeps the agent from stopping it, once it was asked to."""
    return case.here.problem if case.here is not None and case.here.desired == "Stopped" else None


START_VM: Plan[VmCase] = Plan(
    id="vm.start/v1",
    title="Starting the VM",
    guards=(
        Guard("DisksReady", "every disk's volume is there, synchronised once, with its content", _disks_ready),
        Guard(
            "HomeAnswers",
            "the agent of the placement's host answers; the host is in service, and not recorded as off",
            _home_answers,
        ),
        Guard("ReplicaHere", "the host holds a replica of every disk", _replica_here),
        Guard("DisksItsOwn", "no other VM has one of the disks, by its spec or as a domain", _disks_its_own),
        Guard("UpToDateHere", "every replica is UpToDate here, not frozen, and Primary nowhere else", _up_to_date_here),
        Guard("MembersDescribed", "there is a XenNode for each host that holds a replica", _members_described),
        Guard(
            "KnownNewest",
            "every replica is Primary already, sees its peer, or knows it behind; or a verdict is given for it",
            _known_newest,
        ),
        Guard("NoOpenMove", "no part of an earlier move is open on the host", _no_open_move),
        Guard("NowhereElse", "no other host shows a domain of the VM", nowhere_else),
    ),
    steps=(
        Step(
            name="Promote",
            does="every disk becomes Primary on the placement's host",
            record="status.placement: node and epoch",
            confirmed=lambda c: c.placement is not None and not c.not_primary_at(c.placement.node),
            requests=lambda c: c.promotions(c.placement.node) if c.placement else (),
            waiting=lambda c: f"the disks become Primary on {c.placement.node if c.placement else ''}",
            interrupted="Primary without a user does no harm; promotion is repeated",
        ),
        Step(
            name="Create",
            does="the agent promises the epoch, creates the domain paused, checks its disks, and unpauses it",
            confirmed=_running,
            requests=_create,
            waiting=lambda c: f"the domain starts on {c.placement.node if c.placement else ''}",
            interrupted="the agent knows by its journal and by xl whether the domain is there: never two",
        ),
    ),
)

STOP_VM: Plan[VmCase] = Plan(
    id="vm.stop/v1",
    title="Stopping the VM",
    guards=(Guard("HomeAnswers", "the agent of the placement's host answers", _agent_answers),),
    steps=(
        Step(
            name="Shutdown",
            does="clean shutdown; destroyed after spec.shutdownGraceSeconds",
            confirmed=_stopped,
            requests=lambda c: (c.put("Stopped"),),
            waiting=lambda c: f"the guest shuts down on {c.placement.node if c.placement else ''}",
            interrupted="the agent goes on with the shutdown that its journal holds",
        ),
    ),
)

"""`vm.migrate/v1`: a live migration with one Primary at every instant. The guards are the preflight."""

from __future__ import annotations

from agent.protocol import PreflightReport, Refusal
from controller.domain import hand_over
from controller.domain.actions import record_ends
from controller.domain.engine import Guard, Plan, Step
from controller.domain.move import SOURCE_HANDING_OVER, Move
from controller.domain.world import HostView, Question


def _not_there(host: HostView) -> Refusal | None:
    if host.node is None:
        return Refusal(reason="NodeNotFound", message=f"there is no XenNode {host.name}")
    if host.node.spec.out_of_service:
        return Refusal(reason="OutOfService", message=f"{host.name} is out of service by a person's word")
    if host.live is None:
        return Refusal(reason="AgentUnreachable", message=f"the agent of {host.name} does not answer: {host.error}")
    return record_ends(host)


def _both_answer(move: Move) -> Refusal | None:
    return _not_there(move.source_host) or _not_there(move.target_host)


def _target_open(move: Move) -> Refusal | None:
    node = move.target_host.node
    if node is None:
        return None
    if not node.spec.relocation.enabled:
        return Refusal(reason="RelocationDisabled", message=f"XenNode {move.target} has spec.relocation.enabled: false")
    allowed = node.spec.relocation.allow_from
    if allowed and move.source not in allowed:
        return Refusal(
            reason="RelocationNotAllowed",
            message=f"XenNode {move.target} takes moves from {', '.join(allowed)} only (spec.relocation.allowFrom), "
            f"not from {move.source}",
        )
    return None


def _movable(move: Move) -> Refusal | None:
    spec, here = move.case.vm.spec, move.case.here
    if spec.type == "hvm":
        return Refusal(
            reason="HvmNotMovable",
            message="an hvm guest's qemu opens its disk too early for a move with one Primary; use type pvh, "
            "or set state: Stopped, change node, and set state: Running again",
        )
    if here is not None and here.status != "running":
        return Refusal(
            reason="NotRunning", message=f"the domain is {here.status} on {move.source}; only a running one moves live"
        )
    return None


def _disks_as_started(move: Move) -> Refusal | None:
    """What is handed over are the disks of the spec: they must be those of the domain."""
    missing = move.case.disks_missing()
    if missing is not None and missing.reason == "VolumeNotFound":
        return missing
    started = move.case.started
    if started is None or set(started.disks) == set(move.case.config.disks):
        return None
    return Refusal(
        reason="DisksEdited",
        message=f"spec.disks was edited since the guest was started with "
        f"{', '.join(f'{disk.vdev} ({disk.resource})' for disk in started.disks) or 'none'}; "
        "set it back, or restart the VM (state: Stopped, then Running)",
    )


def _replicas(move: Move) -> Refusal | None:
    """UpToDate on both, or failed on the source alone; connected, not frozen; the target Secondary."""
    for volume in move.case.volume_cases:
        name = volume.volume.name
        if move.target not in volume.nodes:
            return Refusal(
                reason="NoReplicaThere",
                message=f"{move.target} holds no replica of {name}; its replicas are on {' and '.join(volume.nodes)}",
            )
        source, target = volume.view(move.source), volume.view(move.target)
        if source is None or target is None:
            if move.source_host.live and move.target_host.live:
                where = move.target if source else move.source
                return Refusal(reason="ReplicaUnknown", message=f"{where} does not show the replica of {name}")
            continue
        if (no := hand_over.against(volume, move.source, move.target)) is not None:
            return no
        if target.role != "Secondary":
            return Refusal(reason="TargetNotSecondary", message=f"{name} is {target.role} on {move.target}")
    return None


def _nothing_in_the_way(move: Move) -> Refusal | None:
    for domain in move.case.domains(move.target):
        return Refusal(
            reason="DomainInTheWay",
            message=f"{move.target} has domain {domain.name} (id {domain.domid}) with the VM's name or uuid",
        )
    return None


def _xen_versions(move: Move) -> Refusal | None:
    """The target's Xen the same or one minor newer (xl(1), migrate; Xen support matrix)."""
    versions = []
    for host in (move.source_host, move.target_host):
        text = host.live.facts.xen_version if host.live else None
        if host.live is None:
            return None
        parts = (text or "").split(".")
        if len(parts) < 2 or not (parts[0].isdigit() and parts[1].isdigit()):
            return Refusal(reason="XenVersionUnknown", message=f"the Xen version of {host.name} could not be read")
        versions.append((int(parts[0]), int(parts[1])))
    (major, minor), target = versions
    if target not in ((major, minor), (major, minor + 1)):
        return Refusal(
            reason="XenVersion",
            message=f"{move.source} has Xen {major}.{minor}, {move.target} has {target[0]}.{target[1]}; "
            "the target's must be the same or one minor newer",
        )
    return None


def _cpu_features(move: Move) -> Refusal | None:
    """Same vendor, and every feature bit of the source on the target too."""
    if move.source_host.live is None or move.target_host.live is None:
        return None
    source, target = move.source_host.live.facts, move.target_host.live.facts
    if source.cpu_vendor is None or target.cpu_vendor is None or source.cpu_vendor != target.cpu_vendor:
        return Refusal(
            reason="CpuVendor",
            message=f"CPU vendors are {source.cpu_vendor or 'unknown'} on {move.source} and "
            f"{target.cpu_vendor or 'unknown'} on {move.target}",
        )
    words = _words(source.hw_caps), _words(target.hw_caps)
    if words[0] is None or words[1] is None or len(words[0]) != len(words[1]):
        return Refusal(
            reason="CpuFeaturesUnknown", message="the CPU features (hw_caps) of both hosts cannot be compared"
        )
    lacking = [f"{a & ~b:08x}" for a, b in zip(words[0], words[1], strict=True) if a & ~b]
    if lacking:
        return Refusal(
            reason="CpuFeatures",
            message=f"{move.target} lacks CPU features of {move.source} (hw_caps {':'.join(lacking)})",
        )
    return None


def _words(text: str | None) -> list[int] | None:
    try:
        return [int(word, 16) for word in text.split(":")] if text else None
    except ValueError:
        return None


def _agent_says(move: Move, question: Question) -> Refusal | None:
    answer = move.answer(question)
    if isinstance(answer, str):
        return Refusal(reason="PreflightUnanswered", message=f"{question.host} did not answer the preflight: {answer}")
    if isinstance(answer, PreflightReport) and answer.refusals:
        messages = "; ".join(refusal.message for refusal in answer.refusals)
        return Refusal(reason=answer.refusals[0].reason, message=messages)
    return None


def _listening(move: Move) -> bool:
    return move.receiving is not None or move.sending is not None


def _handed_over(move: Move) -> bool:
    return move.sending is not None and (
        move.sending.phase in SOURCE_HANDING_OVER or move.sending.outcome == "Succeeded"
    )


def _runs_there(move: Move) -> bool:
    return move.arrived


MIGRATE_VM: Plan[Move] = Plan(
    id="vm.migrate/v1",
    title="Live migration",
    guards=(
        Guard("BothAnswer", "both hosts' agents answer; neither is out of service or recorded as off", _both_answer),
        Guard("TargetOpen", "the target takes moves, and from this source", _target_open),
        Guard("Movable", "a running pv or pvh guest", _movable),
        Guard(
            "DisksAsStarted", "every disk that the running domain has is in the spec, and no other", _disks_as_started
        ),
        Guard(
            "Replicas",
            "every disk UpToDate on both, or failed on the source alone; connected, not frozen, Secondary there",
            _replicas,
        ),
        Guard(
            "NothingInTheWay", "no domain with the VM's name (in any form) or uuid on the target", _nothing_in_the_way
        ),
        Guard("XenVersions", "the target's Xen is the same or one minor newer", _xen_versions),
        Guard("CpuFeatures", "same CPU vendor; the target has every feature of the source", _cpu_features),
        Guard(
            "SourceAgrees",
            "the source's agent: log-dirty mode, disable_sendpage",
            lambda m: _agent_says(m, m.questions[0]),
        ),
        Guard(
            "TargetAgrees", "the target's agent: memory, bridges, kernel file", lambda m: _agent_says(m, m.questions[1])
        ),
    ),
    steps=(
        Step(
            name="Prepare",
            does="the target's agent expects this one stream, from this source, for this operation",
            record="status.migration: id, source, target, epoch",
            confirmed=lambda m: _listening(m) or _runs_there(m),
            requests=lambda m: (m.receive(),) if m.target_host.node else (),
            waiting=lambda m: f"{m.target} gets ready to receive",
            interrupted="nothing happened: the target forgets the operation when it is cancelled",
        ),
        Step(
            name="Transfer",
            does="xl migrate -p -e through mutual TLS: memory is copied while the guest runs, the target Secondary",
            confirmed=lambda m: _handed_over(m) or _runs_there(m),
            requests=lambda m: (m.send(),) if m.sending is None and m.receiving and m.target_host.node else (),
            waiting=lambda m: f"memory is copied to {m.target}",
            interrupted="the source runs on; the incoming copy is destroyed",
        ),
        Step(
            name="HandOver",
            does="the source's agent writes down its release and demotes; the target's agent sees its peer Secondary "
            "by its own DRBD, promotes, attaches, checks, unpauses",
            confirmed=_runs_there,
            requests=lambda m: (),
            waiting=lambda m: f"the disks change sides to {m.target}",
            interrupted="the agents finish forward from the facts: a paused copy on the target, both sides Secondary",
        ),
        Step(
            name="Leave",
            does="the placement moves to the target with its epoch; the source excludes leftovers, (null) too",
            record="status.placement: the target and its epoch",
            confirmed=lambda m: m.sending is None or m.sending.outcome is not None,
            requests=lambda m: (),
            waiting=lambda m: f"{m.source} clears what is left of the domain",
            interrupted="the VM runs on the target; the source's agent goes on clearing when it is back",
        ),
    ),
)

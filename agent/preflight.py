"""What stands against starting, sending or receiving a domain: every reason at once, with its numbers.

What needs both hosts' facts side by side (CPU features, the processors' vendors, Xen's versions) the controller
compares; each agent answers for what it alone can see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.core import Context
from agent.foreign import receiving, senders, told
from agent.host import HostProcess
from agent.leftovers import find_processes
from agent.protocol import (
    DOMAIN_OVERHEAD_MIB,
    DomainDesired,
    DomainState,
    HostDesired,
    HostFacts,
    PreflightReport,
    PreflightRequest,
    Refusal,
)
from agent.vm_disks import against_hand_over, usable
from agent.vm_records import ENDED, VmRecord, in_the_way, mine
from agent.vm_store import VmStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.drivers.drbd_parse import DrbdResource


@dataclass(frozen=True, slots=True)
class Seen:
    """What the host said just now. None: it could not be read, which is a reason against."""

    node: str
    facts: HostFacts
    desired: HostDesired | None
    listening: bool  # for VMs that move here
    domains: Sequence[DomainState] | None
    drbd: Mapping[str, DrbdResource] | None
    files: Mapping[str, bool]  # kernel and ramdisk: is it there
    record: VmRecord | None
    busy: str | None  # the operation that the VM is in
    alone: tuple[str, ...] = ()  # disks that may have been written here without their peer
    stale: tuple[Refusal, ...] = ()  # disks that the journal forbids to promote here
    processes: tuple[HostProcess, ...] | None = ()  # those that move, save or restore domains


async def look(context: Context, domain: DomainDesired, *, recent: bool = False) -> Seen:
    """Read everything that a preflight weighs; `recent`: or what was read a moment ago. Raises nothing."""
    if recent:
        found = await context.looks.recent(disk.resource for disk in domain.config.disks)
    else:
        found = await context.looks.now()
    files: dict[str, bool] = {}
    for path in (domain.config.kernel, domain.config.ramdisk):
        if path is not None:
            files[path] = await context.host.exists(path)
    running = context.operations.running(domain.uid)
    return Seen(
        listening=context.migration.port != 0,
        node=context.node,
        facts=found.facts or HostFacts(),
        desired=context.observer.state.desired,
        domains=found.domains,
        drbd=found.drbd,
        files=files,
        record=VmStore(context).get(domain.uid),
        alone=tuple(wrote_alone(context, domain)),
        stale=tuple(no for disk in domain.config.disks if (no := context.fence.promotable(disk.resource)) is not None),
        processes=await find_processes(context),
        busy=f"{running[0].id} ({running[0].state.kind}, {running[0].phase})" if running else None,
    )


def wrote_alone(context: Context, domain: DomainDesired) -> list[str]:
    """Disks that may have been written here without their peer since both sides were seen whole."""
    disks = (disk.resource for disk in domain.config.disks)
    return [resource for resource in disks if context.fence.wrote_alone(resource)]


async def preflight(context: Context, request: PreflightRequest) -> PreflightReport:
    """Changes nothing."""
    seen = await look(context, request.domain)
    weigh = {"source": leaving, "target": arriving, "start": starting}[request.side]
    return PreflightReport(refusals=tuple(weigh(seen, request.domain)))


# --- the three sides, pure ----------------------------------------------------------------------------------------


def starting(seen: Seen, domain: DomainDesired) -> list[Refusal]:
    """Against `xl create` on this host."""
    found = [*_host(seen, domain), *_names(seen, domain), *_busy(seen, domain)]
    if seen.drbd is None:
        found.append(_unreadable(seen, "DRBD"))
    else:
        found += usable(domain.config.disks, seen.drbd, seen.node)
    return found


def arriving(seen: Seen, domain: DomainDesired, *, source: str | None = None) -> list[Refusal]:
    """Against being the target of a live migration."""
    found = [
        *_relocation(seen, source),
        *_listening(seen),
        *_host(seen, domain),
        *_names(seen, domain),
        *_busy(seen, domain),
        *_receiver(seen),
    ]
    if seen.record is not None and domain.epoch < seen.record.epoch:
        found.append(
            Refusal(
                reason="EpochTooOld",
                message=f"epoch {domain.epoch} is over: {seen.node} promised epoch {seen.record.epoch}",
            )
        )
    if seen.drbd is None:
        found.append(_unreadable(seen, "DRBD"))
    else:
        found += against_hand_over(
            domain.config.disks, seen.drbd, seen.node, side="target", role="Secondary", peer_role="Primary"
        )
    found += seen.stale  # found out at the hand-over, it would keep the guest standing still
    return found + _sendpage(seen, domain)


def leaving(seen: Seen, domain: DomainDesired) -> list[Refusal]:
    """Against being the source of a live migration."""
    found = [*_relocation(seen, None), *_log_dirty(seen, domain), *_busy(seen, domain), *_sender(seen, domain)]
    if seen.domains is None:
        found.append(_unreadable(seen, "the domains"))
    else:
        found += _runs(seen, seen.domains, domain)
    if seen.record is None or not seen.record.granted or seen.record.epoch != domain.epoch:
        has = f"epoch {seen.record.epoch}, {_granted(seen.record)}" if seen.record else "nothing of it"
        found.append(
            Refusal(reason="NotGranted", message=f"{seen.node} has {has}; {domain.name} shall leave at {domain.epoch}")
        )
    if seen.drbd is None:
        found.append(_unreadable(seen, "DRBD"))
    else:
        found += against_hand_over(
            domain.config.disks,
            seen.drbd,
            seen.node,
            side="source",
            role="Primary",
            peer_role="Secondary",
            alone=seen.alone,
        )
    return found + _sendpage(seen, domain)


def _granted(record: VmRecord) -> str:
    return "granted" if record.granted else "given away"


def _unreadable(seen: Seen, what: str) -> Refusal:
    return Refusal(reason="Unreadable", message=f"{what} of {seen.node} could not be read just now")


def _host(seen: Seen, domain: DomainDesired) -> list[Refusal]:
    """Memory, bridges, files: what a domain needs of any host it is made on."""
    found, config, facts = [], domain.config, seen.facts
    needed = config.memory_mib + DOMAIN_OVERHEAD_MIB
    if facts.memory_free_mib is None:
        found.append(_unreadable(seen, "the free memory"))
    elif facts.memory_free_mib < needed:
        found.append(
            Refusal(
                reason="NotEnoughMemory",
                message=f"{facts.memory_free_mib} MiB free on {seen.node}, {needed} MiB needed",
            )
        )
    wanted = {network.bridge for network in config.networks}
    if wanted and facts.bridges is None:
        found.append(_unreadable(seen, "the bridges"))
    elif missing := sorted(wanted - set(facts.bridges or ())):
        there = ", ".join(facts.bridges or ()) or "none"
        found.append(
            Refusal(reason="NoSuchBridge", message=f"no bridge {', '.join(missing)} on {seen.node}; there are: {there}")
        )
    for path, there_is in seen.files.items():
        if not there_is:
            found.append(
                Refusal(reason="NoSuchFile", message=f"{path} is not on {seen.node}; the guest's start needs it there")
            )
    modes = {"pv": "pv", "pvh": "hvm", "hvm": "hvm"}
    if facts.virt_caps is None:
        found.append(_unreadable(seen, "xl info's virt_caps"))
    elif modes[config.type] not in facts.virt_caps:
        found.append(
            Refusal(
                reason="TypeNotSupported",
                message=f"{seen.node} cannot run {config.type} guests: virt_caps are {' '.join(facts.virt_caps)}",
            )
        )
    return found


def _names(seen: Seen, domain: DomainDesired) -> list[Refusal]:
    """The domain's name and uuid are free here, in every form that a migration knows."""
    if seen.domains is None:
        return [_unreadable(seen, "the domains")]
    if (refusal := in_the_way(domain.uid, domain.name, seen.domains, seen.node)) is not None:
        return [refusal]
    here = mine(domain.uid, domain.name, seen.domains)
    if not here:
        return []
    return [
        Refusal(reason="AlreadyHere", message=f"{domain.name} is on {seen.node} already, as domain {here[0].domid}")
    ]


def _busy(seen: Seen, domain: DomainDesired) -> list[Refusal]:
    if seen.busy is None:
        return []
    return [Refusal(reason="OperationRunning", message=f"{domain.name} is busy on {seen.node} with {seen.busy}")]


def _receiver(seen: Seen) -> list[Refusal]:
    """Whom somebody else's receiver waits for is not known before it is there: it may be this VM."""
    if seen.processes is None:
        return [_unreadable(seen, "the processes")]
    found = receiving(seen.processes, seen.node)
    return [] if found is None else [found]


def _sender(seen: Seen, domain: DomainDesired) -> list[Refusal]:
    """Nobody else is moving it away."""
    if seen.processes is None:
        return [_unreadable(seen, "the processes")]
    here = mine(domain.uid, domain.name, seen.domains or ())
    found = senders(seen.processes, domain.name, here[0].domid if here else None)
    if not found:
        return []
    return [
        Refusal(
            reason="ForeignMigration",
            message=f"{told(found)} on {seen.node} moves {domain.name} already, and Xentandem did not start it",
        )
    ]


def _relocation(seen: Seen, source: str | None) -> list[Refusal]:
    if seen.desired is None:
        return []
    if not seen.desired.relocation_enabled:
        return [Refusal(reason="RelocationDisabled", message=f"XenNode {seen.node} has spec.relocation.enabled: false")]
    allowed = seen.desired.relocation_allow_from
    if source is not None and allowed and source not in allowed:
        return [
            Refusal(
                reason="SourceNotAllowed",
                message=f"XenNode {seen.node} takes VMs from {', '.join(allowed)} only (spec.relocation.allowFrom),"
                f" not from {source}",
            )
        ]
    return []


def _listening(seen: Seen) -> list[Refusal]:
    if seen.listening or (seen.desired is not None and not seen.desired.relocation_enabled):
        return []
    where = f"{seen.desired.relocation_address or '*'}:{seen.desired.relocation_port}" if seen.desired else "its port"
    return [
        Refusal(
            reason="RelocationNotListening",
            message=f"the agent of {seen.node} cannot listen on {where} for VMs that move there (its log says why);"
            " correct spec.relocation of the XenNode, or free the port",
        )
    ]


def _log_dirty(seen: Seen, domain: DomainDesired) -> list[Refusal]:
    """Precopy needs the hypervisor's log-dirty mode: by shadow paging (PV) or by hardware-assisted paging."""
    if domain.config.type == "hvm":
        return [
            Refusal(
                reason="TypeNotMovable",
                message=f"{domain.name} is of type hvm, whose device model opens the disk early; stop it to move it",
            )
        ]
    caps = seen.facts.virt_caps
    if caps is None:
        return [_unreadable(seen, "xl info's virt_caps")]
    needed = {"pv": ("shadow",), "pvh": ("hap", "shadow")}[domain.config.type]
    if any(cap in caps for cap in needed):
        return []
    return [
        Refusal(
            reason="NoLogDirty",
            message=f"Xen on {seen.node} cannot track the memory of a running {domain.config.type} guest: virt_caps are"
            f" {' '.join(caps)}, {' or '.join(needed)} is needed"
            + (" (or type: pvh)" if domain.config.type == "pv" else ""),
        )
    ]


def _runs(seen: Seen, domains: Sequence[DomainState], domain: DomainDesired) -> list[Refusal]:
    """The VM is here, up, under its own name, and nothing of an earlier migration is left."""
    own = mine(domain.uid, domain.name, domains)
    if (refusal := in_the_way(domain.uid, domain.name, own, seen.node)) is not None:
        return [refusal]
    if not own:
        return [
            Refusal(reason="NotRunning", message=f"{domain.name} has no domain on {seen.node}; it cannot move live")
        ]
    state = own[0].state
    if state in ENDED or state not in ("running", "paused"):
        return [
            Refusal(reason="NotRunning", message=f"{domain.name} is {state} on {seen.node}; only a running one moves")
        ]
    return []


def _sendpage(seen: Seen, domain: DomainDesired) -> list[Refusal]:
    """Without it a lost peer can leave a dead domain that holds the disk until the host is rebooted."""
    if not domain.config.disks or seen.facts.drbd_disable_sendpage is not False:
        return []
    return [
        Refusal(
            reason="SendpageEnabled",
            message=f"drbd on {seen.node} runs with disable_sendpage=N; set `options drbd disable_sendpage=1` in"
            " /etc/modprobe.d and write Y to /sys/module/drbd/parameters/disable_sendpage",
        )
    ]

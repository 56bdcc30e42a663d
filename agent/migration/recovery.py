"""What the facts of one host mean after a migration's stream ended, however it ended. Pure.

xl's texts and exit status prove nothing (every failure is exit 1). What does:

- the relay recorded the permission to go before it sent it: without that record the target never owned the guest;
- a report of 0 means that the target has the domain under its own name, paused; the source destroys its copy only
  after that report;
- so a copy called `--incoming` is never the only one, and a suspended source may go on while no permission was given
  or the report said that the target failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.protocol import DomainState, Refusal
from agent.vm_records import ENDED


@dataclass(frozen=True, slots=True)
class RunsOn:
    """The source's domain is up under its own name: nothing happened to it."""

    domain: DomainState


@dataclass(frozen=True, slots=True)
class Resume:
    """The source's domain is suspended and no other copy can run: its name back, and on."""

    domain: DomainState
    rename: bool


@dataclass(frozen=True, slots=True)
class Unclear:
    """The permission to go went out and no report came back: only who sees both hosts can tell."""

    domain: DomainState | None


@dataclass(frozen=True, slots=True)
class Over:
    """The source's domain ended or is gone, and not by the migration."""

    why: Refusal


SourceVerdict = RunsOn | Resume | Unclear | Over


def judge_source(own: Sequence[DomainState], *, go: bool, report: int | None, node: str) -> SourceVerdict:
    """What became of the source's domain after its `xl migrate` and everything with it ended without success.

    `own`: the VM's domains on the source, read just now. `report` is None or not 0.
    """
    may_be_there = go and report is None
    alive = [domain for domain in own if domain.kind in ("main", "migratedaway")]
    for domain in alive:
        if domain.state == "suspended":
            return Unclear(domain) if may_be_there else Resume(domain, rename=domain.kind == "migratedaway")
        if domain.state in ("running", "paused"):
            if domain.kind == "main":
                return RunsOn(domain)
            return Resume(domain, rename=True)
        if domain.state in ENDED:
            return Over(
                Refusal(reason="GuestEnded", message=f"the guest ended by itself ({domain.flags}) while it was moved")
            )
    if may_be_there:
        return Unclear(None)
    zombies = [domain for domain in own if domain.kind == "zombie" or domain.state == "dying"]
    if zombies:
        message = f"domain {zombies[0].domid} is dead on {node} and not gone ({zombies[0].flags})"
        return Over(Refusal(reason="ZombieDomain", message=message))
    return Over(Refusal(reason="DomainGone", message=f"its domain is not on {node} any more"))


@dataclass(frozen=True, slots=True)
class Arrived:
    """The copy is here under its own name, paused, and never ran."""

    domain: DomainState


@dataclass(frozen=True, slots=True)
class Remove:
    """A copy that never ran and is not the only one."""

    domain: DomainState


@dataclass(frozen=True, slots=True)
class Nothing:
    """Nothing of the VM is here."""


@dataclass(frozen=True, slots=True)
class Strange:
    """A person has to look: touching it could destroy the only copy."""

    why: Refusal


TargetVerdict = Arrived | Remove | Nothing | Strange


def judge_target(own: Sequence[DomainState], *, node: str) -> TargetVerdict:
    """What of the VM is on the target after the receiver ended. `own`: its domains there, read just now."""
    for domain in own:
        where = f"domain {domain.domid} ({domain.name}, {domain.flags}, {domain.cpu_seconds:g} s) on {node}"
        if domain.kind == "incoming":
            if domain.state in ("paused", "dying") and domain.cpu_seconds == 0.0:
                return Remove(domain)
            return Strange(Refusal(reason="UnexpectedState", message=f"{where} is not as a receiver leaves it"))
        if domain.kind == "zombie":
            # Its receiver was killed while it took the failed copy down: the name is gone, and nothing holds it yet
            if domain.state == "paused" and domain.cpu_seconds == 0.0 and domain.uuid is not None:
                return Remove(domain)
            return Strange(Refusal(reason="ZombieDomain", message=f"{where} is dead and cannot be removed"))
        if domain.kind == "main" and domain.state == "paused" and domain.cpu_seconds == 0.0:
            return Arrived(domain)
        return Strange(Refusal(reason="UnexpectedState", message=f"{where} is not as a receiver leaves it"))
    return Nothing()

"""decide_* is total, and some things it never asks, whatever the world looks like, impossible worlds too."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.protocol import (
    FenceQuestion,
    FenceState,
    InitialSync,
    MigrateReceive,
    MigrateSend,
    PreflightReport,
    Refusal,
    Verdict,
)
from controller.domain.actions import Operate, PutDomain, PutVerdict, PutVolume, Refused
from tests.unit.domain.worlds import (
    FRESH,
    NOW,
    VM_UID,
    VOLUME_UID,
    Told,
    domain_state,
    howto,
    operation_state,
    peer,
    vm_state,
    volume_state,
)

MOVE = "move-bbbbbbbb-2"
TIME = "2027-01-15T08:00:00Z"

peers = st.none() | st.builds(
    peer,
    connection=st.sampled_from(["Connected", "Connecting", "StandAlone"]),
    role=st.sampled_from(["Primary", "Secondary", "Unknown"]),
    disk=st.sampled_from(["UpToDate", "Inconsistent", "DUnknown", "Outdated", "Diskless"]),
    replication=st.sampled_from(["Off", "Established", "SyncSource", "SyncTarget", "VerifyS"]),
    done_percent=st.none() | st.floats(0, 100),
    out_of_sync_kib=st.none() | st.integers(0, 1 << 30),
    speed_kib_s=st.none() | st.integers(0, 1 << 20),
)
verdicts = st.builds(
    lambda number, sides: Verdict(number=number, survivor=sides[0], stale=sides[1], reason="PeerLost"),
    st.integers(1, 4),
    st.sampled_from([("mk1", "mk2"), ("mk2", "mk1"), ("gone", "mk1"), (None, None)]),
)
volumes = st.none() | st.builds(
    volume_state,
    fenced=st.booleans(),
    fence=st.builds(FenceState, verdict=st.none() | verdicts, given_back=st.booleans()),
    fence_question=st.none()
    | st.builds(FenceQuestion, peer=st.just("mk2"), wants=st.sampled_from(["io", "promotion"])),
    uid=st.sampled_from([VOLUME_UID, None, "eeeeeeee-0000-4000-8000-000000000007"]),
    minor=st.sampled_from([None, 1, 2]),
    port=st.sampled_from([None, 7789, 7790]),
    configured=st.booleans(),
    metadata=st.sampled_from(["none", "present", "unknown"]),
    role=st.sampled_from(["Primary", "Secondary", "Unknown"]),
    disk=st.sampled_from(["UpToDate", "Inconsistent", "Diskless", "Outdated", "Consistent"]),
    peer=peers,
    suspended=st.sampled_from(["no", "fencing"]),
    generation=st.sampled_from([None, FRESH["generation"], volume_state().generation]),
    forced=st.booleans(),
    content=st.sampled_from(["none", "writing", "written", "unknown"]),
    logical_volume=st.sampled_from([None, volume_state().logical_volume]),
    used_by=st.sampled_from([(), ("shaolin",)]),
    options=st.sampled_from(["", "C 500M sha1 10.0.0.81 10.0.0.82", "A 1M md5"]),
)
vms = st.none() | st.builds(
    vm_state,
    epoch=st.integers(1, 4),
    granted=st.booleans(),
    desired=st.sampled_from(["Running", "Paused", "Stopped", "Released"]),
    run=st.integers(0, 2),
    status=st.sampled_from(
        ["absent", "starting", "running", "paused", "stopping", "halted", "crashed", "preserved", "unknown"]
    ),
    halted_reason=st.sampled_from([None, "poweroff", "crash", "reboot"]),
)
domains = st.none() | st.builds(
    domain_state,
    name=st.sampled_from(["shaolin", "shaolin--incoming", "shaolin--migratedaway", "(null)", "other"]),
    uuid=st.sampled_from([VM_UID, None, "ffffffff-0000-4000-8000-000000000001"]),
)
refusals = st.builds(
    Refusal,
    reason=st.sampled_from(["MinorTaken", "PortTaken", "HandOverUnclear", "NotEnoughMemory", "TermTooOld"]),
    message=st.just("because"),
)
operations = st.none() | st.builds(
    operation_state,
    id=st.just(MOVE),
    phase=st.sampled_from(
        ["Starting", "Precopy", "StopAndCopy", "HandOver", "Demoted", "Done", "Listening", "Receiving", "Received",
         "Promoting", "Attaching", "Unpausing"]
    ),
    outcome=st.sampled_from([None, "Succeeded", "Failed", "Cancelled"]),
    refusal=st.none() | refusals,
    finished_at=st.sampled_from([None, TIME]),
)  # fmt: skip
migrations = st.none() | st.fixed_dictionaries(
    {
        "id": st.just(MOVE),
        "source": st.sampled_from(["mk1", "mk2", "gone"]),
        "target": st.sampled_from(["mk1", "mk2", "gone"]),
        "epoch": st.integers(1, 4),
        "phase": st.sampled_from(["Preflight", "Transfer", "HandOver", "Done", "Cancelling"]),
        "cancelRequested": st.booleans(),
    },
    optional={"outcome": st.sampled_from(["Succeeded", "Failed", "Cancelled"]), "startedAt": st.just(TIME)},
)
last_migrations = st.none() | st.fixed_dictionaries(
    {
        "id": st.just(MOVE), "source": st.just("mk1"), "target": st.just("mk2"),
        "outcome": st.sampled_from(["Succeeded", "Failed", "Cancelled"]), "failures": st.integers(0, 40),
    },
    optional={"finishedAt": st.just(TIME)},
)  # fmt: skip
vm_statuses = st.fixed_dictionaries(
    {"observedGeneration": st.integers(-1, 2), "run": st.integers(0, 2)},
    optional={
        "placement": st.fixed_dictionaries(
            {"node": st.sampled_from(["mk1", "mk2", "gone"]), "epoch": st.integers(1, 3)}
        ),
        "migration": migrations.filter(bool),
        "lastMigration": last_migrations.filter(bool),
        "lastState": st.sampled_from(["Running", "Stopped", "Paused"]),
        "phase": st.sampled_from(["Running", "Stopped", "Unknown"]),
    },
)
volume_statuses = st.fixed_dictionaries(
    {"observedGeneration": st.integers(-1, 1)},
    optional={
        "verdict": st.fixed_dictionaries(
            {"number": st.integers(1, 4), "reason": st.sampled_from(["PeerLost", "Redundant"])},
            optional={"survivor": st.sampled_from(["mk1", "mk2", "gone"]), "stale": st.sampled_from(["mk1", "mk2"])},
        ),
        "fenced": st.booleans(),
        "nodes": st.sampled_from([["mk1", "mk2"], ["mk1", "gone"]]),
        "device": st.just({"minor": 1, "port": 7789}),
        "initialSync": st.fixed_dictionaries(
            {"node": st.sampled_from(["mk1", "mk2"]), "operation": st.just("is"), "completed": st.booleans()}
        ),
        "content": st.fixed_dictionaries(
            {"state": st.sampled_from(["None", "Writing", "Written"])},
            optional={"node": st.just("mk1"), "operation": st.sampled_from([MOVE, "content-x-1"])},
        ),
        "sync": st.just({"percent": 40.0, "observedAt": TIME}),
    },
)


@st.composite
def worlds(draw):
    made = howto()
    made.now = NOW + draw(st.integers(0, 100_000))
    made.edit(
        "DrbdVolume", "vm-shaolin",
        content=draw(st.sampled_from([None, {"filesystem": "ext4"}])),
        device=draw(st.sampled_from([{}, {"minor": 1, "port": 7789}])),
        nodes=draw(st.sampled_from([None, ["mk1", "mk2"]])),
    )  # fmt: skip
    made.edit(
        "XenVM", "shaolin",
        node=draw(st.sampled_from([None, "mk1", "mk2", "gone"])),
        state=draw(st.sampled_from(["Running", "Stopped", "Paused"])),
    )  # fmt: skip
    made.set_status("DrbdVolume", "vm-shaolin", draw(volume_statuses))
    made.set_status("XenVM", "shaolin", draw(vm_statuses))
    for name in ("mk1", "mk2"):
        volume, vm, domain, operation = draw(volumes), draw(vms), draw(domains), draw(operations)
        made.tell(
            name,
            volumes={"vm_shaolin": volume} if volume else {},
            vms={VM_UID: vm} if vm else {},
            domains={"3": domain} if domain else {},
            operations={MOVE: operation} if operation else {},
        )
        made.hosts[name].connected = draw(st.sampled_from([True, True, True, False]))
        if draw(st.sampled_from([False, False, False, True])):
            made.hosts[name] = Told(None, connected=draw(st.booleans()))
    for kind, name in (("DrbdVolume", "vm-shaolin"), ("XenVM", "shaolin")):
        if draw(st.sampled_from([False, False, False, True])):
            made.delete(kind, name)
    answers = draw(st.sampled_from([None, PreflightReport(), "timed out"]))
    if answers is not None:
        for question in made.decide_vm().ask:
            made.answers[question] = answers
    requests = (*made.decide_vm().requests, *made.decide_volume().requests)
    if requests and draw(st.booleans()):
        made.refused = tuple(Refused(request, draw(refusals), made.now) for request in requests)
    return made


LIMITS = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))


@given(worlds())
@LIMITS
def test_a_vm_always_has_a_decision_within_the_rules(made):
    decision = made.decide_vm()
    for request in decision.requests:
        assert made.hosts[request.host].connected, "asked a host whose state is not current"
        if isinstance(request, PutDomain) and request.body.state in ("Running", "Paused"):
            placement = decision.status.placement
            assert (placement.node, placement.epoch) == (request.host, request.body.epoch)
        if isinstance(request, PutVolume) and request.body.role == "Primary":
            assert decision.status.placement.node == request.host
        if isinstance(request, Operate) and isinstance(request.body.body, MigrateSend | MigrateReceive):
            assert decision.status.migration.id == request.body.id
            assert decision.status.migration.outcome is None
    before = made.cache.vm(("default", "shaolin")).status
    if decision.status and before.placement and decision.status.placement != before.placement:
        assert decision.status.placement.epoch > before.placement.epoch or before.migration


@given(worlds())
@LIMITS
def test_a_volume_always_has_a_decision_within_the_rules(made):
    decision = made.decide_volume()
    before = made.cache.volume(("default", "vm-shaolin")).status
    for request in decision.requests:
        assert made.hosts[request.host].connected
        if isinstance(request, PutVolume):
            writes = decision.status.content is not None and decision.status.content.node == request.host
            assert request.body.role == "Secondary" or _primary_there(made, request.host) or writes
        if isinstance(request, Operate) and isinstance(request.body.body, InitialSync):
            assert decision.status.initial_sync.node == request.host
            for name in ("mk1", "mk2"):
                view = made.hosts[name].state.volumes["vm_shaolin"]
                assert view.disk == "Inconsistent"
                assert view.generation.fresh
                assert view.peer.connection == "Connected"
    if before.initial_sync and decision.status:
        assert decision.status.initial_sync.node == before.initial_sync.node


@given(worlds())
@LIMITS
def test_a_verdict_is_given_to_one_side_while_none_stands_and_numbers_only_grow(made):
    decision = made.decide_volume()
    before = made.cache.volume(("default", "vm-shaolin")).status.verdict
    verdict = decision.status.verdict if decision.status else None
    if verdict is None:
        assert before is None or decision.status is None
        assert not any(isinstance(request, PutVerdict) for request in decision.requests)
        return
    known = [told.state.volumes["vm_shaolin"] for told in made.hosts.values()
             if told.state and "vm_shaolin" in told.state.volumes]  # fmt: skip
    journals = [(one.fence.verdict.number, one.fence.verdict.survivor) for one in known
                if one.uid == VOLUME_UID and one.fence.verdict]  # fmt: skip
    records = [(before.number, before.survivor or None)] if before else []
    assert before is None or verdict.number >= before.number
    for request in decision.requests:
        if isinstance(request, PutVerdict):
            assert (request.body.verdict.number, request.body.verdict.survivor or "") == (
                verdict.number,
                verdict.survivor,
            )
    highest = max([*journals, *records], key=lambda one: one[0], default=(0, None))
    if verdict.number <= highest[0]:
        return  # nothing new: what is known already
    held = {survivor for number, survivor in [*journals, *records] if number == highest[0] and survivor is not None}
    for survivor in held:
        holder = made.hosts[survivor].state.volumes["vm_shaolin"].fence
        assert holder.given_back
        assert (holder.verdict.number, holder.verdict.survivor) == (highest[0], survivor)
    if verdict.survivor:
        view = made.hosts[verdict.survivor].state.volumes["vm_shaolin"]
        assert made.hosts[verdict.survivor].connected
        assert view.disk == "UpToDate"
        assert verdict.stale != verdict.survivor
    else:
        assert held


def _primary_there(made, host):
    view = made.hosts[host].state.volumes.get("vm_shaolin")
    return view is not None and view.role == "Primary"

"""Requests that are whole and come from the controller, but too late, twice, or for somebody else's things."""

from __future__ import annotations

from typing import Any

import pytest
from rig import EPOCH, NAME, OTHER, RESOURCE, TERM, VM, VOLUME, Body, Rig
from test_names import KINDS, put, requests


def refusal(rig: Rig, method: str, path: str, body: Body) -> tuple[str, str]:
    with rig.unchanged():
        status, answer = rig.ask(method, path, body)
    assert status == 409, answer
    return answer["reason"], answer["message"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "preflight"])
def test_a_deposed_controller_is_refused(rig: Rig, kind: str) -> None:
    method, path, body = requests(rig)[kind]
    for term in (TERM - 1, 1, 0):
        reason, message = refusal(rig, method, path, put(body, ("term",), term))
        assert reason == "TermTooOld"
        assert f"term {TERM}" in message


def operation(body: Body, name: str = "move-1") -> Body:
    return {"id": name, "term": TERM, "body": body}


def send(rig: Rig, **changes: Any) -> Body:
    return operation(
        {"kind": "migrate-send", "domain": rig.domain(**changes), "target": "mk2", "target_address": "127.0.0.1"}
    )


def receive(rig: Rig, source: str = "mk2", **changes: Any) -> Body:
    return operation({"kind": "migrate-receive", "domain": rig.domain(**changes), "source": source})


@pytest.mark.parametrize("epoch", [1, EPOCH - 1])
def test_an_old_placement_is_refused(rig: Rig, epoch: int) -> None:
    domain = f"/v1/domains/{NAME}"
    for state in ("Running", "Paused", "Stopped", "Released"):
        assert refusal(rig, "PUT", domain, rig.domain(epoch=epoch, state=state))[0] == "EpochTooOld"
    removal = {"term": TERM, "uid": VM, "epoch": epoch}
    assert refusal(rig, "DELETE", domain, removal)[0] == "EpochTooOld"
    assert refusal(rig, "POST", "/v1/operations", send(rig, epoch=epoch))[0] in ("EpochTooOld", "NotGranted")
    assert refusal(rig, "POST", "/v1/operations", receive(rig, epoch=epoch))[0] in ("EpochTooOld", "AlreadyHere")


def test_what_runs_here_is_not_received_again(rig: Rig) -> None:
    assert refusal(rig, "POST", "/v1/operations", receive(rig, epoch=EPOCH))[0] in ("EpochTooOld", "AlreadyHere")
    assert refusal(rig, "POST", "/v1/operations", receive(rig, epoch=EPOCH + 1))[0]


def test_a_replayed_operation_with_another_body_is_refused(rig: Rig) -> None:
    same = operation({"kind": "initial-sync", "resource": RESOURCE, "uid": VOLUME}, "sync")
    with rig.unchanged():
        status, answer = rig.ask("POST", "/v1/operations", same)
    assert (status, answer["outcome"]) == (200, "Succeeded"), "a repetition joins it"
    for other in (
        {"kind": "initial-sync", "resource": RESOURCE, "uid": OTHER},
        {"kind": "initial-sync", "resource": "other", "uid": VOLUME},
        {"kind": "write-content", "resource": RESOURCE, "uid": VOLUME, "filesystem": "xfs"},
        send(rig)["body"],
    ):
        reason, message = refusal(rig, "POST", "/v1/operations", operation(other, "sync"))
        assert reason == "OperationIdTaken"
        assert "a new wish needs a new id" in message
    assert refusal(rig, "POST", "/v1/operations", same | {"id": "sync-2"})[0] in ("AlreadyForced", "NotBrandNew")


def test_a_volume_with_a_guest_is_not_written_over(rig: Rig) -> None:
    for number, filesystem in enumerate(("ext4", "xfs")):
        body = {"kind": "write-content", "resource": RESOURCE, "uid": VOLUME, "filesystem": filesystem}
        reason, _ = refusal(rig, "POST", "/v1/operations", operation(body, f"content-{number}"))
        assert reason in ("InUse", "HasContent")


def test_a_cancellation_of_somebody_elses_is_refused(rig: Rig) -> None:
    assert refusal(rig, "DELETE", "/v1/operations/sync", {"term": TERM, "uid": OTHER})[0] == "UidMismatch"
    assert refusal(rig, "DELETE", "/v1/operations/none", {"term": TERM, "uid": VOLUME})[0] == "NoSuchOperation"


def test_names_of_others_are_refused(rig: Rig) -> None:
    volume, domain = f"/v1/volumes/{RESOURCE}", f"/v1/domains/{NAME}"
    assert refusal(rig, "PUT", volume, rig.volume(uid=OTHER))[0] == "ResourceTaken"
    assert refusal(rig, "DELETE", volume, {"term": TERM, "uid": OTHER, "policy": "Delete"})[0] == "UidMismatch"
    assert refusal(rig, "DELETE", volume, {"term": TERM, "uid": VOLUME, "policy": "Delete"})[0] == "InUse"
    assert refusal(rig, "PUT", domain, rig.domain(uid=OTHER))[0] == "NameTaken"
    assert refusal(rig, "DELETE", domain, {"term": TERM, "uid": VM, "epoch": EPOCH})[0] == "DomainPresent"
    taken = rig.volume(uid=OTHER, resource="other", logical_volume="other", minor=2, port=7790)
    other = "/v1/volumes/other"
    assert refusal(rig, "PUT", other, taken | {"minor": 1})[0] == "MinorTaken"
    assert refusal(rig, "PUT", other, taken | {"port": 7789})[0] == "PortTaken"
    assert refusal(rig, "PUT", other, taken | {"logical_volume": RESOURCE})[0] == "LogicalVolumeTaken"
    strangers = [{"node": "mk8", "address": "10.0.0.88"}, {"node": "mk9", "address": "10.0.0.89"}]
    assert refusal(rig, "PUT", other, taken | {"members": strangers})[0] == "NotAMember"
    assert refusal(rig, "PUT", volume, rig.volume(role="Primary", size=4 << 20))[0] == "Shrink"


def test_a_guest_from_a_host_that_may_not_send_is_refused(rig: Rig) -> None:
    arriving = receive(rig, uid=OTHER, name="other", epoch=9, config={"disks": []})
    rig.done("PUT", "/v1/host", rig.host_wish(relocation_allow_from=["mk9"]))
    try:
        reason, message = refusal(rig, "POST", "/v1/operations", arriving)
        assert "from mk9 only" in message
        assert reason in ("SourceNotAllowed", "Preflight")
    finally:
        rig.done("PUT", "/v1/host", rig.host_wish())

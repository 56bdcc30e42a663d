"""`kubectl xen resolve` against a real API server; the test writes the status as the controller would."""

from __future__ import annotations

import json
from collections.abc import Iterator

import devcluster
import pytest
from api_objects import kubectl
from plugin_place import NOW, Object, Place

VOLUME = "vm-shaolin"
FOUND = {
    "id": "3f09c2aa",
    "kind": "SplitBrain",
    "detectedAt": NOW,
    "sides": [
        {"node": "mk1", "generation": "1" * 16, "role": "Primary", "writtenAlone": "8Ki", "evidence": "shaolin has it",
         "snapshot": "vg0/vm_shaolin.split-3f09c2aa"},
        {"node": "mk2", "generation": "2" * 16, "role": "Secondary"},
    ],
}  # fmt: skip


@pytest.fixture
def place(cluster: devcluster.Cluster, namespace: str) -> Iterator[Place]:
    yield Place(cluster, namespace)
    kubectl(cluster, "delete", "xnode", "--all")


def chosen(place: Place) -> Object | None:
    made = json.loads(kubectl(place.cluster, "get", "dvol", VOLUME, "-n", place.namespace, "-o", "json"))
    found: Object | None = made["spec"].get("splitBrain")
    return found


def test_the_evidence_is_shown_and_a_choice_is_for_what_was_shown(place: Place) -> None:
    place.report("dvol", VOLUME, splitBrain=FOUND)
    shown = place.xen("resolve", VOLUME).output
    assert "split brain 3f09c2aa" in shown
    assert "mk1  Primary, written alone: 8Ki, kept in: vg0/vm_shaolin.split-3f09c2aa; shaolin has it" in shown
    assert "mk2  Secondary, written alone: unknown, kept in: nothing" in shown
    assert chosen(place) is None
    result = place.xen("resolve", VOLUME, "--survivor", "mk1")
    assert result.exit_code == 0, result.output
    assert chosen(place) == {"id": "3f09c2aa", "survivor": "mk1"}


def test_what_cannot_be_chosen_changes_nothing(place: Place) -> None:
    assert "has no split brain" in place.xen("resolve", VOLUME, "--survivor", "mk1").output
    assert 'no DrbdVolume "other"' in place.xen("resolve", "other").output
    place.report("dvol", VOLUME, splitBrain=FOUND)
    result = place.xen("resolve", VOLUME, "--survivor", "mk9")
    assert (result.exit_code, "write --survivor mk1 or --survivor mk2" in result.output) == (1, True)
    place.report("dvol", VOLUME, splitBrain=FOUND | {"kind": "Unrelated"})
    assert "nothing can be chosen" in place.xen("resolve", VOLUME).output
    assert "no history in common" in place.xen("resolve", VOLUME, "--survivor", "mk1").output
    assert chosen(place) is None


def test_the_api_server_refuses_what_is_no_choice(place: Place) -> None:
    patch = json.dumps({"spec": {"splitBrain": {"id": "all", "survivor": "mk1"}}})
    with pytest.raises(AssertionError, match=r"write the id that status\.splitBrain shows"):
        kubectl(place.cluster, "patch", "dvol", VOLUME, "-n", place.namespace, "--type=merge", "-p", patch)

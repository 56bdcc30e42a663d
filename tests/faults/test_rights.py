"""The controller under its own account: what it used is what it was given, and nothing else would it be let do."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import devcluster
import pytest
import yaml
from accounts import ACCOUNT, AUDIT, BASE, SYSTEM, login_of
from api_objects import howto, kubectl
from harness import Scene, is_ready, runs_on

from controller.api.xenvm import XenVM
from controller.runtime import events
from controller.runtime.api_server import KINDS
from controller.runtime.queue import ObjectKey

USER = f"system:serviceaccount:{SYSTEM}:{ACCOUNT}"

Right = tuple[str, str, str]
"""Verb, group/resource(/subresource), where: "*", or the namespace with the name when it is limited to one."""


def granted() -> set[Right]:
    """By the manifests, to the controller's account."""
    found: set[Right] = set()
    for one in yaml.safe_load_all((BASE / "rbac.yaml").read_text()):
        if one["kind"] not in ("ClusterRole", "Role") or one["metadata"]["name"] != ACCOUNT:
            continue
        for rule in one["rules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    for verb in rule["verbs"]:
                        where = one["metadata"].get("namespace", "*")
                        for name in rule.get("resourceNames", [""]):
                            found.add((verb, f"{group}/{resource}", f"{where} {name}".strip()))
    return found


def requests(cluster: devcluster.Cluster, user: str) -> list[dict[str, Any]]:
    lines = (cluster.directory / AUDIT).read_text().splitlines()
    return [one for one in map(json.loads, lines) if one["user"]["username"] == user]


def right(one: dict[str, Any]) -> Right:
    about = one["objectRef"]
    resource = "/".join(filter(None, (about["resource"], about.get("subresource"))))
    where = "*"
    if about.get("apiGroup") == "coordination.k8s.io":  # `create` is authorized before the name is known
        where = about["namespace"] if one["verb"] == "create" else f"{about['namespace']} {about.get('name', '')}"
    return one["verb"], f"{about.get('apiGroup', '')}/{resource}", where


class InTheWay:
    """Somebody writes each kind once between the controller's look at it and its own write."""

    def __init__(self, scene: Scene) -> None:
        self._scene, self._left = scene, set(KINDS)

    async def __call__(self, moment: str, key: ObjectKey) -> None:
        if moment == "before status" and key[0] in self._left:
            self._left.discard(key[0])
            await self._scene.patch(key[0], key[2], {"metadata": {"labels": {"seen": "yes"}}})


async def whole_life(scene: Scene, controller: dict[str, Any]) -> None:
    """Made, moved, refused, stopped, deleted; one controller after another."""
    await asyncio.gather(*(scene.start_agent(name) for name in scene.names))
    for name in scene.names:
        await scene.apply(scene.node_manifest(name))
    await scene.start_controller(**controller)
    volume = howto("DrbdVolume")
    volume["spec"] |= {"size": "32Mi", "deletionPolicy": "Delete"}
    await scene.apply(volume, howto("XenVM"))
    await scene.until("XenVM", "shaolin", lambda vm: runs_on("mk1")(vm) and is_ready(vm))
    await scene.move("shaolin", "mk2")
    await scene.until("XenVM", "shaolin", lambda vm: runs_on("mk2")(vm) and is_ready(vm))
    await scene.stop_controller()
    await scene.start_controller(**controller)
    for state in ("Paused", "Running", "Paused", "Running"):  # the same is said twice, in one Event
        await scene.patch("XenVM", "shaolin", {"spec": {"state": state}})
        await scene.until("XenVM", "shaolin", in_phase(state))
    await scene.patch("XenVM", "shaolin", {"spec": {"state": "Stopped"}})
    await scene.until("XenVM", "shaolin", lambda vm: is_ready(vm) and vm.status.phase == "Stopped")
    await scene.delete("XenVM", "shaolin")
    await scene.until_gone("XenVM", "shaolin")
    await scene.delete("DrbdVolume", "vm-shaolin")
    await scene.until_gone("DrbdVolume", "vm-shaolin")
    for name in scene.names:
        await scene.delete("XenNode", name)
        await scene.until_gone("XenNode", name)
    await scene.until_settled()
    await scene.stop_controller()


def in_phase(phase: str) -> Callable[[XenVM], bool]:
    return lambda vm: is_ready(vm) and vm.status.phase == phase


async def test_every_right_is_needed_and_no_other(
    cluster: devcluster.Cluster, tmp_path: Path, namespace: str, account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "REFRESH", 0.1)
    async with Scene(cluster, tmp_path / "scene", namespace) as scene:
        login = {"kubeconfig": str(account), "namespace": SYSTEM, "leader_elect": True}
        await whole_life(scene, login | {"on_step": InTheWay(scene)})
    made = requests(cluster, USER)
    refused = [(one["verb"], one["requestURI"]) for one in made if one["responseStatus"]["code"] in (401, 403)]
    assert not refused
    used = {right(one) for one in made if "objectRef" in one}
    assert granted() - used == set(), "rights that a whole life did not need: take them away"
    assert used - granted() == set(), "what is allowed by other means: every account may do it"


def may(cluster: devcluster.Cluster, login: Path, where: str) -> set[Right]:
    """Everything, as the API server has it."""
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": where}}
    arguments = ["--kubeconfig", str(login), "create", "--validate=false", "-f", "-", "-o", "json"]
    said = json.loads(kubectl(cluster, *arguments, stdin=json.dumps(review)))
    assert not said["status"]["incomplete"]
    return {
        (verb, f"{group}/{resource}", f"{where} {name}".strip() if "leases" in resource else "*")
        for rule in said["status"]["resourceRules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", [""])
    }


def test_the_account_may_do_nothing_else(cluster: devcluster.Cluster, account: Path, tmp_path: Path) -> None:
    """But for what every account may: ask about itself."""
    nobody = login_of(cluster, "default", tmp_path / "nobody")
    for where in (SYSTEM, "default", "kube-system"):
        own = may(cluster, account, where) - may(cluster, nobody, where)
        assert own == {one for one in granted() if one[2] == "*" or (one[2].startswith(SYSTEM) and where == SYSTEM)}
        assert not any("*" in word for right in own for word in right[:2])


def test_it_may_not(cluster: devcluster.Cluster, account: Path) -> None:
    for question in (
        ("list", "secrets", "-A"), ("get", "secrets", "-n", SYSTEM), ("create", "xenvms", "-n", "default"),
        ("update", "xenvms", "-n", "default"), ("delete", "xennodes"), ("create", "pods", "-n", SYSTEM),
        ("create", "serviceaccounts/token", "-n", SYSTEM), ("impersonate", "users"), ("bind", "clusterroles"),
        ("update", "leases/other", "-n", SYSTEM), ("create", "leases", "-n", "default"), ("*", "*", "-A"),
    ):  # fmt: skip
        asked = subprocess.run(
            [str(devcluster.kubectl()), "--kubeconfig", str(account), "auth", "can-i", *question],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert asked.stdout.strip() == "no", (question, asked)

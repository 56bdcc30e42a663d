"""What the controller wrote, as the API server's own audit log has it: every request that was answered, by its user.

A count in the controller could miss a write; this one also shows what each write said.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo_lib.kube import ACCOUNT, SYSTEM

USER = f"system:serviceaccount:{SYSTEM}:{ACCOUNT}"
LEASES = "leases"  # written every few seconds whatever there is to do


@dataclass(frozen=True)
class Write:
    """`resource` with its subresource ("xenvms/status"); `code` is HTTP's; `says` what the body was about, in words."""

    verb: str
    resource: str
    name: str
    code: int
    at: str
    says: str


class Audit:
    """The log of one API server, that writes it before it answers."""

    def __init__(self, folder: Path, *, bodies: bool) -> None:
        """`bodies`: keep what each write said; without, many objects need less room."""
        self._log = folder / "audit.log"
        self._policy = folder / "audit-policy.json"
        self._level = "Request" if bodies else "Metadata"

    def flags(self) -> tuple[str, ...]:
        """Of kube-apiserver. Writes the policy."""
        policy = {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [
                {"level": "None", "verbs": ["get", "list", "watch"]},
                {"level": "Metadata", "users": [USER], "resources": [{"group": "coordination.k8s.io"}]},
                {"level": self._level, "users": [USER]},
                {"level": "None"},
            ],
        }
        self._policy.write_text(json.dumps(policy))
        return (
            f"--audit-policy-file={self._policy}",
            f"--audit-log-path={self._log}",
            "--audit-log-mode=blocking",
            "--audit-log-maxsize=100000",  # MiB: never rotated
        )

    def mark(self) -> int:
        """Where the log ends now."""
        return self._log.stat().st_size if self._log.exists() else 0

    def since(self, mark: int) -> list[Write]:
        """Every write of the controller after `mark`, refused ones too, in the order of their answers."""
        if not self._log.exists():
            return []
        with self._log.open("rb") as log:
            log.seek(mark)
            return [_write(json.loads(line)) for line in log if line.endswith(b"\n")]


def without_leases(writes: Iterable[Write]) -> list[Write]:
    return [write for write in writes if write.resource != LEASES]


def tally(writes: Iterable[Write]) -> Counter[tuple[str, str]]:
    """By (verb, resource)."""
    return Counter((write.verb, write.resource) for write in writes)


def _write(entry: dict[str, Any]) -> Write:
    about = entry.get("objectRef") or {}
    resource = "/".join(filter(None, (about.get("resource", entry["requestURI"]), about.get("subresource"))))
    code = int((entry.get("responseStatus") or {}).get("code", 0))
    body = entry.get("requestObject") or {}
    says = _says(resource, body)
    return Write(entry["verb"], resource, about.get("name", ""), code, entry["stageTimestamp"], says)


def _says(resource: str, body: dict[str, Any]) -> str:
    if resource == "events":
        target = (body.get("involvedObject") or {}).get("kind", "")
        return f"{target} {body.get('reason', 'again')}".strip()
    if not resource.endswith("/status"):
        return "finalizer" if "finalizers" in (body.get("metadata") or {}) else ""
    status = body.get("status") or {}
    words = [str(status.get("phase", ""))]
    if step := (status.get("operation") or {}).get("step"):
        words.append(str(step))
    if (move := status.get("migration")) and not move.get("outcome"):
        words.append(f"move: {move.get('phase')}")
    if (sync := status.get("sync")) is not None:
        words.append(f"sync {sync.get('percent')}%")
    if resource.startswith("drbdvolumes"):
        words.append(f"{status.get('diskState', '')} {status.get('primary') or 'no'} Primary".strip())
    if resource.startswith("xenvms") and (placement := status.get("placement")):
        words.append(f"on {placement.get('node')}, epoch {placement.get('epoch')}")
    if resource.startswith("xennodes"):
        words.append(f"{status.get('domains', 0)} VMs, {(status.get('memory') or {}).get('free', '?')} free")
    ready = next((one for one in status.get("conditions", ()) if one["type"] == "Ready"), None)
    if ready is not None:
        words.append(f"Ready={ready['status']} ({ready['reason']})")
    return ", ".join(filter(None, words))

"""The files that are made from the code, and what is out of date among them."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

import failure_modes

from controller.api.crd import KINDS, crd, file_name, to_yaml
from controller.api.reference import reference
from controller.domain.describe import markdown

PROJECT = Path(__file__).resolve().parents[1]


def files() -> dict[Path, str]:
    """Every generated file, relative to the project, with its text."""
    made = {Path("crds") / file_name(kind): to_yaml(crd(kind)) for kind in KINDS}
    # Without an ending: `kubectl apply -k crds` finds it, and `kubectl apply -f crds` does not take it for an object.
    made[Path("crds/Kustomization")] = _kustomization()
    made[Path("docs/reference.md")] = reference()
    made[Path("docs/plans.md")] = markdown()
    made[failure_modes.PAGE] = failure_modes.page(PROJECT)
    return made


def _kustomization() -> str:
    lines = ["apiVersion: kustomize.config.k8s.io/v1beta1", "kind: Kustomization", "resources:"]
    return "\n".join([*lines, *(f"  - {file_name(kind)}" for kind in KINDS)]) + "\n"


def drift(project: Path = PROJECT) -> list[str]:
    """Differences between the files and what the code makes, as a unified diff; files that nothing makes any more."""
    wanted = files()
    lines: list[str] = []
    for path, text in wanted.items():
        there = (project / path).read_text() if (project / path).exists() else ""
        lines += difflib.unified_diff(
            there.splitlines(), text.splitlines(), str(path), f"{path} (from the code)", lineterm=""
        )
    lines += [
        f"{path.relative_to(project)}: nothing makes this file any more"
        for path in sorted((project / "crds").glob("*"))
        if path.relative_to(project) not in wanted
    ]
    return lines


def write(project: Path = PROJECT) -> list[Path]:
    """Write what is out of date; returns those paths."""
    written = []
    for path, text in files().items():
        target = project / path
        if not target.exists() or target.read_text() != text:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
            written.append(path)
    return written


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        lines = drift()
        if lines:
            print("\n".join(lines[:200]), "Generated files are out of date: run hack/generate and commit.", sep="\n")
        return 1 if lines else 0
    if arguments:
        print("usage: hack/generate [--check]", file=sys.stderr)
        return 2
    for path in write():
        print(f"wrote {path}")
    return 0

"""`kubectl xen resolve`: shows a volume's split brain, and writes spec.splitBrain when a survivor is named."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from kubectl_xen import view
from kubectl_xen.cluster import Cluster, Problem
from kubectl_xen.view import Object


def volume(cluster: Cluster, name: str) -> Object:
    """Raises Problem with the names that there are."""
    there = {view.name_of(one): one for one in cluster.volumes()}
    if name not in there:
        names = ", ".join(sorted(there)) or "(there are none; another namespace? write -n NAMESPACE)"
        raise Problem(f'no DrbdVolume "{name}" in namespace "{cluster.namespace}"; there are: {names}')
    return there[name]


def show(console: Console, found: Object) -> None:
    """The evidence for each side."""
    split = _split(found)
    name = view.name_of(found)
    console.print(f"{name}: split brain {split['id']}, found {split.get('detectedAt', '')}", highlight=False)
    for side in split["sides"]:
        written = side.get("writtenAlone", "unknown")
        told = (
            f"  {side['node']}  {side['role']}, written alone: {written}, kept in: {side.get('snapshot') or 'nothing'}"
        )
        evidence = side.get("evidence")
        console.print(escape(f"{told}{f'; {evidence}' if evidence else ''}"), highlight=False)
    if split.get("survivor"):
        console.print(f"The data of {split['survivor']} stays; the other side takes it over.", highlight=False)
        return
    if split["kind"] == "Unrelated":
        console.print(
            "They have no history in common: nothing can be chosen. See docs/split-brain.md.", highlight=False
        )
        return
    console.print(f"Choose: kubectl xen resolve {name} --survivor NODE", highlight=False)


def choose(cluster: Cluster, found: Object, survivor: str) -> str:
    """Write the choice for the split brain that was shown. Returns its id. Raises Problem."""
    split = _split(found)
    sides = [side["node"] for side in split["sides"]]
    if survivor not in sides:
        raise Problem(f"{survivor} holds no replica; write --survivor {' or --survivor '.join(sides)}")
    if split["kind"] == "Unrelated":
        raise Problem("the sides have no history in common: neither can take over the other's data")
    if split.get("survivor") and split["survivor"] != survivor:
        raise Problem(f"it is decided already: the data of {split['survivor']} stays")
    cluster.set_split_brain(found, {"id": split["id"], "survivor": survivor})
    return str(split["id"])


def _split(found: Object) -> Object:
    split: Object | None = found.get("status", {}).get("splitBrain")
    if split is None:
        raise Problem(
            f"{view.name_of(found)} has no split brain (status.splitBrain is empty): there is nothing to choose"
        )
    return split

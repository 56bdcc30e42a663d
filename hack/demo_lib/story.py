"""What the demo shows, in order. Reads by the API, changes by kubectl."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from demo_lib.cast import SAMPLE, Guest, HostPlace
from demo_lib.kube import Kube
from demo_lib.screen import DemoFailed, Row, Screen
from kubectl_xen import view
from kubectl_xen.cluster import Cluster
from kubectl_xen.view import Object

STALLED_SECONDS = 10.0


@dataclass
class Story:
    screen: Screen
    kube: Kube
    cluster: Cluster
    hosts: list[HostPlace]
    guests: list[Guest]
    alive: Callable[[], None]
    patience: float = 180.0
    sample: str = SAMPLE
    rates: bool = False  # simulated pages are counted one by one, but carry no bytes
    _stalled: dict[str, float] = field(default_factory=dict)

    def nodes(self) -> None:
        self.screen.heading(f"{len(self.hosts)} hosts")
        self.screen.command(self.kube.typed("kubectl apply -f nodes.yaml"))
        self.screen.block(self.kube.apply([host.document() for host in self.hosts]))
        names = {host.name for host in self.hosts}
        self._follow(lambda: [self._node(one) for one in self.cluster.nodes() if view.name_of(one) in names], "hosts")

    def create(self) -> None:
        """Apply the sample; done when every volume is identical on both hosts and every VM runs."""
        more = f"  # and {len(self.guests) - 1} more like it" if len(self.guests) > 1 else ""
        self.screen.heading("A replicated volume and a VM on it, from one file")
        self.screen.command(self.kube.typed(f"kubectl apply -f {self.sample}{more}"))
        documents = [document for guest in self.guests for document in guest.documents]
        self.screen.block(_short(self.kube.apply(documents, self.kube.namespace)))
        volumes, vms = {guest.volume for guest in self.guests}, {guest.name for guest in self.guests}
        self._follow(
            lambda: [self._volume(one) for one in self.cluster.volumes() if view.name_of(one) in volumes], "sync"
        )
        self._follow(lambda: [self._vm(one) for one in self.cluster.vms() if view.name_of(one) in vms], "start")

    def move(self) -> None:
        """Edit spec.node of every VM; done when each runs on its other host."""
        self.screen.heading("Edit spec.node: the VM moves while it runs")
        targets = {guest.name: guest.second for guest in self.guests}
        for number, guest in enumerate(self.guests):
            patch = json.dumps({"spec": {"node": guest.second}}, separators=(",", ":"))
            show = f"kubectl patch xenvm {guest.name} --type merge -p '{patch}'" if number == 0 else ""
            where = ("-n", self.kube.namespace)
            self.kube.run("patch", "xenvm", guest.name, *where, "--type", "merge", "-p", patch, show=show)
        begun = time.monotonic()
        self._follow(
            lambda: [
                self._moving(one, targets[view.name_of(one)])
                for one in self.cluster.vms()
                if view.name_of(one) in targets
            ],
            "migration",
        )
        self.screen.line(f"  moved in {time.monotonic() - begun:.1f} s")

    def settled(self) -> None:
        """Wait until the volumes and hosts show it, too."""
        targets = {guest.volume: guest.second for guest in self.guests}
        vms = {host.name: sum(guest.second == host.name for guest in self.guests) for host in self.hosts}

        def look() -> list[Row]:
            primaries = {view.name_of(one): view.status_of(one).get("primary") for one in self.cluster.volumes()}
            running = {view.name_of(one): view.status_of(one).get("domains", 0) for one in self.cluster.nodes()}
            wrong = [
                f"{name} is Primary on {primaries.get(name)}"
                for name in targets
                if primaries.get(name) != targets[name]
            ]
            wrong += [f"{name} shows {running.get(name)} VMs" for name in vms if running.get(name) != vms[name]]
            return [Row("status", 0.0 if wrong else 100.0, "; ".join(wrong) or "settled", not wrong)]

        begun = time.monotonic()
        self.screen.quietly(look, seconds=self.patience, what="status of volumes and hosts", alive=self.alive)
        self.screen.line(f"  settled after {time.monotonic() - begun:.1f} s more")

    def to_state(self, guest: Guest, state: str) -> None:
        """Edit spec.state of one VM; done when it is so."""
        patch = json.dumps({"spec": {"state": state}}, separators=(",", ":"))
        show = f"kubectl patch xenvm {guest.name} --type merge -p '{patch}'"
        self.kube.run(
            "patch", "xenvm", guest.name, "-n", self.kube.namespace, "--type", "merge", "-p", patch, show=show
        )

        def look() -> list[Row]:
            vm = next(one for one in self.cluster.vms() if view.name_of(one) == guest.name)
            done = view.current(vm) and view.phase_of(vm) == state and not self._note(vm)
            return [Row(guest.name, 100.0 if done else 0.0, view.phase_of(vm), done)]

        self.screen.quietly(look, seconds=self.patience, what=f"{guest.name} {state}", alive=self.alive)

    def show_objects(self) -> None:
        kinds = "xnode,dvol,xvm"
        self.screen.block(self.kube.run("get", kinds, "-n", self.kube.namespace, show=f"kubectl get {kinds}"))

    def _follow(self, look: Callable[[], list[Row]], what: str) -> None:
        self.screen.follow(look, seconds=self.patience, what=what, alive=self.alive)

    def _node(self, node: Object) -> Row:
        note = self._note(node)
        status = view.status_of(node)
        facts = f"Ready: Xen {status.get('xenVersion')}, DRBD {status.get('drbdVersion')}"
        return Row(view.name_of(node), 0.0 if note else 100.0, note or facts, not note)

    def _volume(self, volume: Object) -> Row:
        note, status = self._note(volume), view.status_of(volume)
        sync = status.get("sync")
        state = status.get("diskState") or ""
        if not note and state == "UpToDate/UpToDate":
            return Row(view.name_of(volume), 100.0, f"{state}, {status.get('connection', '')}", True)
        words = ["Syncing", sync.get("rate"), sync.get("timeLeft")] if sync else [view.phase_of(volume)]
        text = " ".join(str(word) for word in [*words, state] if word)
        return Row(view.name_of(volume), float(sync.get("percent", 0.0)) if sync else 0.0, text, False)

    def _vm(self, vm: Object) -> Row:
        note, phase = self._note(vm), view.phase_of(vm)
        running = not note and phase == "Running"
        where = f"Running on {view.placed_on(vm)}, domain {(view.status_of(vm).get('domain') or {}).get('id', '?')}"
        return Row(view.name_of(vm), 100.0 if running else 0.0, where if running else f"{phase} {note}", running)

    def _moving(self, vm: Object, target: str) -> Row:
        note, move, name = self._note(vm), view.status_of(vm).get("migration") or {}, view.name_of(vm)
        if move.get("target") == target and move.get("outcome") in {"Failed", "Cancelled"}:
            raise DemoFailed(f"the move of {name} ended as {move['outcome']}: {move.get('message', '')}")
        if not note and view.placed_on(vm) == target and not view.migration(vm) and view.phase_of(vm) == "Running":
            return Row(name, 100.0, f"Running on {target}", True)
        if move.get("target") != target:
            return Row(name, 0.0, "waiting", False)
        details = [view.phase_of_move(move)]
        details += [f"round {move['round']}"] if move.get("round") is not None else []
        details += [str(move["rate"])] if self.rates and move.get("rate") else []
        return Row(name, float(move.get("percent") or 0.0), ", ".join(details), False)

    def _note(self, thing: Object) -> str:
        """Why it is not Ready, empty when it is. Raises DemoFailed when it has needed a person for a while."""
        note = view.note(thing)
        key = f"{thing['kind']} {view.name_of(thing)}"
        if note is None or not note.stalled:
            self._stalled.pop(key, None)
        elif time.monotonic() - self._stalled.setdefault(key, time.monotonic()) > STALLED_SECONDS:
            raise DemoFailed(f"{key} is stalled: {note}")
        return str(note) if note else ""


def _short(text: str, lines: int = 8) -> str:
    made = text.splitlines()
    return "\n".join(made if len(made) <= lines else [*made[: lines - 1], f"... and {len(made) - lines + 1} more"])

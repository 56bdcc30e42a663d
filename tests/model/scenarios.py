"""Where explorations begin."""

from __future__ import annotations

from states import Api, Budget, Domain, Host, Placement, Promise, World


def running(faults: int, edits: int) -> World:
    """The VM runs on mk1, where spec.node wants it."""
    promise = Promise("Running", 1, 1, granted=True, run=1, this_boot=True, started=True, made=True)
    home = Host(
        promise=promise,
        asked=True,
        domains=(Domain("main", "running", ran=True, attached=True),),
        role="Primary",
        kept_role="Primary",
    )
    api = Api(placement=Placement(0, 1), phase="Running", run=1, last_state="Running")
    return World(api=api, hosts=(home, Host()), budget=Budget(faults, edits))


def moving(faults: int, edits: int) -> World:
    """It runs on mk1, and spec.node was just changed to mk2."""
    world = running(faults, edits)
    return world._replace(api=world.api._replace(node=1, acted_on=False))


def new(faults: int, edits: int) -> World:
    """The XenVM was just applied; its volume is synchronised and Secondary on both."""
    return World(api=Api(acted_on=False), hosts=(Host(), Host()), budget=Budget(faults, edits))


def stopped(faults: int, edits: int) -> World:
    """It ran on mk1 once and was shut down."""
    promise = Promise("Stopped", 1, 1, granted=True, run=1, this_boot=True, made=True)
    api = Api(placement=Placement(0, 1), state="Stopped", phase="Stopped", run=1, last_state="Stopped")
    return World(api=api, hosts=(Host(promise=promise, asked=True), Host()), budget=Budget(faults, edits))

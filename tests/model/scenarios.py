"""Where explorations begin."""

from __future__ import annotations

import environment
from canonical import canonical
from states import HOSTS, Api, Budget, Domain, Host, Key, Message, Placement, Promise, World


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


def walked(world: World, *labels: str) -> World:
    """The world after the steps of these names (their beginnings), each taken as soon as it can be; what else has to
    happen meanwhile happens by itself. The budgets stay whole."""
    for wanted in labels:
        world = _until(world, wanted)
    return world


def _until(start: World, wanted: str) -> World:
    seen, coming = {start}, [start]
    for world in coming:
        for label, after in environment.progress(world):
            if label.startswith(wanted):
                return canonical(after)
            if after not in seen:
                seen.add(after)
                coming.append(after)
    raise AssertionError(f"nothing called {wanted!r} can come")


def copying(faults: int, edits: int) -> World:
    """A move has begun: its memory is copied."""
    return walked(moving(faults, edits), "mk2 (receives): the stream begins")


def going(faults: int, edits: int) -> World:
    """The guest is suspended, and the permission to go is recorded."""
    return walked(copying(faults, edits), "mk1's relay: records go")


def arrived(faults: int, edits: int) -> World:
    """The copy has its name, paused; the source does not know yet."""
    return walked(going(faults, edits), "xl migrate-receive: go")


def reported(faults: int, edits: int) -> World:
    """The source knows that the copy is there."""
    return walked(arrived(faults, edits), "the report passes")


def released(faults: int, edits: int) -> World:
    """The source has written down that it gave the VM away."""
    return walked(reported(faults, edits), "mk1 (sends): journals its release")


def moved(faults: int, edits: int) -> World:
    """It has moved to mk2, and runs there."""
    return walked(released(faults, edits), "mk2 (receives): unpauses the guest", "mk1 (sends): done", "the controller")


def _late(start: World, *asked: tuple[int, Key]) -> World:
    """The same world, and requests that were on their way for long."""
    return start._replace(wire=tuple(sorted((Message(host, 1, key, mad=True) for host, key in asked), key=repr)))


def mad(start: World) -> World:
    """The same world, and a controller that has gone mad has asked the agents for whatever could do harm."""
    asked: list[tuple[int, Key]] = [(host, ("volume", role)) for host in HOSTS for role in ("Primary", "Secondary")]
    asked += [(host, ("domain", "Running", epoch, 1)) for host, epoch in ((0, 1), (0, 2), (1, 1), (1, 2))]
    asked += [(0, ("domain", "Released", 3, 1)), (0, ("forget", 1))]
    return _late(start, *asked)


def mad_at_running(faults: int, edits: int) -> World:
    return mad(running(faults, edits))


def mad_at_released(faults: int, edits: int) -> World:
    return mad(released(faults, edits))


def mad_at_moved(faults: int, edits: int) -> World:
    return mad(moved(faults, edits))


def late_role(faults: int, edits: int) -> World:
    """The guest is being handed over, and its source is told late to be Primary."""
    return _late(released(faults, edits), (0, ("volume", "Primary")))


def late_stop(faults: int, edits: int) -> World:
    """The guest is being handed over, and its source is told late to stop it."""
    return _late(going(faults, edits), (0, ("domain", "Stopped", 1, 1)))


def late_start(faults: int, edits: int) -> World:
    """The VM was deleted, and its host is told late to start it."""
    world = new(faults, edits)
    gone = world._replace(api=Api(exists=False), hosts=(Host(gone=True), Host()))
    return _late(gone, (0, ("volume", "Primary")), (0, ("domain", "Running", 1, 1)))


def late_cancel(faults: int, edits: int) -> World:
    """The guest is being handed over, and both sides are told late to give the move up."""
    world = released(faults, edits)
    move = world.api.move
    assert move is not None
    return _late(world, *((host, ("cancel", move.id, True)) for host in HOSTS))


def late_cancel_at_go(faults: int, edits: int) -> World:
    world = going(faults, edits)
    move = world.api.move
    assert move is not None
    return _late(world, *((host, ("cancel", move.id, False)) for host in HOSTS))

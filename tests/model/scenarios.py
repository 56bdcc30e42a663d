"""Where explorations begin."""

from __future__ import annotations

import environment
from canonical import canonical
from states import HOSTS, Api, Budget, Domain, Host, Key, Message, Placement, Power, Promise, World


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


def walked(world: World, *labels: str, never: str = "") -> World:
    """The world after the steps of these names (their beginnings), each taken as soon as it can be; what else has to
    happen meanwhile happens by itself, but what is `never` to. The budgets stay whole."""
    for wanted in labels:
        world = _until(world, wanted, never)
    return world


def _until(start: World, wanted: str, never: str) -> World:
    seen, coming = {start}, [start]
    for world in coming:
        for label, after in environment.progress(world):
            if never and label.startswith(never):
                continue
            if label.startswith(wanted):
                return canonical(after)
            if after not in seen:
                seen.add(after)
                coming.append(after)
    raise AssertionError(f"nothing called {wanted!r} can come")


def struck(world: World, label: str) -> World:
    """The world after a fault, or an edit, of that name."""
    happens = (*environment.faults(world), *environment.edits(world))
    return canonical(next(after for name, after in happens if name == label))


def protected(faults: int, edits: int) -> World:
    """The VM runs on mk1, and fails over."""
    world = running(faults, edits)
    return world._replace(api=world.api._replace(on_failure="FailOver"))


def cut_off(faults: int, edits: int) -> World:
    """The replication link was cut: mk1's disk is frozen, its handler asks."""
    return struck(protected(faults, edits), "the replication link is cut")


def alone(faults: int, edits: int) -> World:
    """... and mk1 goes on by its verdict."""
    return walked(cut_off(faults, edits), "mk1's handler hears 4")


def whole_again(faults: int, edits: int) -> World:
    """... until the link was back and mk2 had everything. The verdict stands yet."""
    return walked(alone(faults, edits), "mk2 gets verdict", "DRBD has synchronised")


def with_fence_agents(world: World) -> World:
    return world._replace(api=world.api._replace(power=(Power(device=True), Power(device=True))))


def fenced(faults: int, edits: int) -> World:
    """... and both hosts have fence agents."""
    return with_fence_agents(protected(faults, edits))


def lost(faults: int, edits: int) -> World:
    """mk1 has lost its power; nobody has said so yet."""
    return struck(protected(faults, edits), "mk1 loses power")


def known_off(faults: int, edits: int) -> World:
    """mk1 has lost its power, and a person has said that it is off."""
    return struck(lost(faults, edits), "kubectl: mk1 is out of service")


def power_cut(faults: int, edits: int) -> World:
    """Both hosts have lost their power at once."""
    return struck(lost(faults, edits), "mk2 loses power")


def taken_over(faults: int, edits: int) -> World:
    """mk2 runs the VM of mk1, which is off."""
    return walked(known_off(faults, edits), "mk2's agent: Unpause", never="mk1 boots")


def switched_off(faults: int, edits: int) -> World:
    """mk2 runs the VM of mk1, which its fence agent has switched off."""
    world = struck(fenced(faults, edits), "mk1 loses power")
    return walked(world, "mk2's agent: Unpause", never="mk1 boots")


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


def second_thoughts(faults: int, edits: int) -> World:
    """mk1's disk is frozen; a controller has seen that, and stands still. Then mk1 lost its power, and a person says
    that it is off."""
    world = cut_off(faults, edits)
    for label in ("a controller looks, and stands still", "mk1 loses power", "kubectl: mk1 is out of service"):
        world = struck(world, label)
    return world


def frozen_out_of_reach(faults: int, edits: int) -> World:
    """mk1's disk is frozen, and no controller reaches mk1."""
    return struck(cut_off(faults, edits), "the controllers do not reach mk1")


def continues(faults: int, edits: int) -> World:
    """mk1's disk is frozen, no controller reaches mk1, and the volume's policy is Continue."""
    world = frozen_out_of_reach(faults, edits)
    return world._replace(api=world.api._replace(continues=True))


def went_on(faults: int, edits: int) -> World:
    """... and mk1 went on by it."""
    return walked(continues(faults, edits), "mk1's agent goes on by its policy")


def only_copy_lost(faults: int, edits: int) -> World:
    """mk1 went on alone, mk2 does not know it yet; mk1 has lost its power, and a person says that it is off."""
    world = struck(alone(faults, edits), "mk1 loses power")
    return struck(world, "kubectl: mk1 is out of service")


def mad_at_cut(faults: int, edits: int) -> World:
    """mk1's disk is frozen, and mk2 is asked for what mk1 had."""
    return _late(cut_off(faults, edits), (1, ("volume", "Primary")))


def frozen_to_be_fenced(faults: int, edits: int) -> World:
    return with_fence_agents(frozen_out_of_reach(faults, edits))


def whole_to_be_fenced(faults: int, edits: int) -> World:
    return with_fence_agents(whole_again(faults, edits))


def mad_at_stale(faults: int, edits: int) -> World:
    """mk1 went on alone and was lost, and the VM is asked for on mk2, which knows that its copy is stale."""
    world = struck(walked(alone(faults, edits), "mk2 gets verdict"), "mk1 loses power")
    return _late(world, (1, ("volume", "Primary")), (1, ("domain", "Running", 2, 1)))


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

"""The explored world: two hosts, one VM on one DRBD volume, the API server, two controllers and the wires between them.

Immutable and small, so that millions fit. What the project's own code reads is made from it in `observe`.
"""

from __future__ import annotations

from typing import NamedTuple

NAMES = ("mk1", "mk2")
NODES = (*NAMES, "mk3")  # spec.node may name a host that has no replica
HOSTS = (0, 1)

Key = tuple[object, ...]
"""A request to an agent without its term, such as ("domain", "Running", 1, 1): what makes two requests the same."""


class Placement(NamedTuple):
    node: int
    epoch: int


class Move(NamedTuple):
    """status.migration."""

    id: str
    source: int
    target: int
    epoch: int
    cancelling: bool
    outcome: str | None


class Last(NamedTuple):
    """status.lastMigration."""

    target: int
    outcome: str


class Verdict(NamedTuple):
    """Of a volume: who may go on without the other. `survivor` None: nobody, the one before has ended."""

    number: int
    survivor: int | None
    reason: str


class Displaced(NamedTuple):
    """status.displaced: why the VM is not on the host of spec.node."""

    origin: int
    reason: str


class Power(NamedTuple):
    """A XenNode's spec.fencing, and what its status says of it."""

    device: bool = False  # a fence agent is there, and was tested
    state: str = ""  # fencing, fenced, contradicted: what is recorded
    same_boot: bool = False  # the record is about the boot that the host has now, or had last
    known: bool = True  # status.bootID is that boot


class Api(NamedTuple):
    """What etcd holds: the XenVM, the DrbdVolume's verdict, and the XenNodes."""

    exists: bool = True
    node: int = 0
    state: str = "Running"
    deleting: bool = False
    acted_on: bool = True  # status.observedGeneration is the spec's
    placement: Placement | None = None
    phase: str | None = None
    run: int = 0
    last_state: str | None = None
    move: Move | None = None
    last: Last | None = None
    displaced: Displaced | None = None
    on_failure: str = "Stay"  # spec.onNodeFailure
    verdict: Verdict | None = None
    out_of_service: tuple[bool, bool] = (False, False)
    power: tuple[Power, Power] = (Power(), Power())
    maintenance: tuple[bool, bool] = (False, False)
    priority: int = 0  # spec.priority
    continues: bool = False  # the volume's spec.fencing.whenControllerUnreachable

    @property
    def of_vm(self) -> Api:
        """The XenVM alone: what its compare-and-swap is about."""
        return self.around(Api())

    def around(self, kept: Api) -> Api:
        """This XenVM, and of `kept` the other objects."""
        return self._replace(
            verdict=kept.verdict, out_of_service=kept.out_of_service, power=kept.power, maintenance=kept.maintenance,
            continues=kept.continues,
        )  # fmt: skip

    def with_power(self, host: int, **update: object) -> Api:
        new = self.power[host]._replace(**update)  # type: ignore[arg-type]
        return self._replace(power=(new, self.power[1]) if host == 0 else (self.power[0], new))


class Promise(NamedTuple):
    """agent.vm_records.VmRecord without what never differs here."""

    state: str
    asked_epoch: int
    epoch: int
    granted: bool
    run: int
    this_boot: bool
    halted: str | None = None
    started: bool = False
    stopping: bool = False
    restarting: bool = False
    made: bool = False  # `started`: what its domain was made of is known


class Part(NamedTuple):
    """One side's operation of a move, as its agent's journal has it; `cancelled` is memory."""

    id: str
    kind: str  # send, receive
    peer: int
    epoch: int
    phase: str
    outcome: str | None = None
    reason: str | None = None  # of its refusal
    released: bool = False
    unclear: bool = False
    cancel_asked: bool = False
    cancelled: bool = False
    this_boot: bool = True
    told: bool = False
    job: bool = False  # xl migrate was started and may run
    alone: bool = False  # the source said that it wrote without this host


class Domain(NamedTuple):
    kind: str  # main, incoming, migratedaway
    state: str  # running, paused, suspended, poweroff, crashed
    ran: bool = False
    attached: bool = False


class Fence(NamedTuple):
    """The volume's fencing at one agent: its journal, and the handler that waits for an answer (memory)."""

    verdict: Verdict | None = None
    given_back: bool = False
    continued: bool = False  # it went on by its policy, without a verdict
    asked: str = ""  # io, promotion: what the handler was called for


class Host(NamedTuple):
    on: bool = True
    agent: bool = True
    heard: bool = True  # the controllers reach its agent
    term: int = 1
    promise: Promise | None = None
    gone: bool = False  # the VM was forgotten here, for good
    asked: bool = False  # the controller asked this agent process: memory
    parts: tuple[Part, ...] = ()
    domains: tuple[Domain, ...] = ()
    role: str = "Secondary"  # Primary, Secondary, Unknown: not up
    kept_role: str = "Secondary"  # the volume's desired role in the journal
    disk: str = "UpToDate"  # Inconsistent, Outdated, Consistent
    whole: bool = True  # its disk has every acknowledged write
    ahead: bool = False  # it went on while its peer was away: DRBD's bitmap UUID
    frozen: bool = False  # suspended:fencing
    peer_disk: str = "DUnknown"  # Outdated, Inconsistent: what it knows of its peer while that is away
    fence: Fence = Fence()


class Stream(NamedTuple):
    """xl migrate, both relays and xl migrate-receive of one move."""

    id: str
    source: int
    target: int
    stage: str = "precopy"  # precopy, tail, ready, go, arrived, reported
    cut: bool = False
    receiver: bool = True  # xl migrate-receive runs
    go: bool = False  # recorded at the source
    report: int | None = None  # recorded at the source


class Message(NamedTuple):
    host: int
    term: int
    key: Key
    mad: bool = False  # no controller in its senses asked that; nobody waits for the answer


class Leader(NamedTuple):
    """The controller that leads: its term, the agents' last refusals, what came of the fence agents it asked."""

    term: int = 1
    refused: tuple[tuple[int, Key, str], ...] = ()
    power: tuple[str, str] = ("", "")  # asked, off, failed


class Frozen(NamedTuple):
    """A second controller: what it saw when it was stopped for a while, and decides by when it goes on."""

    term: int
    api: Api
    views: tuple[Key | None, ...]
    refused: tuple[tuple[int, Key, str], ...]


class Budget(NamedTuple):
    """How much may still go wrong, or be wanted, on the way to a state."""

    faults: int = 1
    edits: int = 1


class World(NamedTuple):
    api: Api
    hosts: tuple[Host, Host]
    link: str = "Connected"  # Connected, Syncing, Lost, StandAlone: between the two disks
    source: int = 0  # of a resync
    cable: bool = True
    stream: Stream | None = None
    wire: tuple[Message, ...] = ()
    leader: Leader = Leader()
    frozen: Frozen | None = None
    budget: Budget = Budget()


def with_host(world: World, index: int, **update: object) -> World:
    host = world.hosts[index]._replace(**update)  # type: ignore[arg-type]
    return world._replace(hosts=(host, world.hosts[1]) if index == 0 else (world.hosts[0], host))


def with_part(world: World, index: int, part_id: str, kind: str, **update: object) -> World:
    parts = tuple(
        part._replace(**update) if (part.id, part.kind) == (part_id, kind) else part  # type: ignore[arg-type]
        for part in world.hosts[index].parts
    )
    return with_host(world, index, parts=parts)

"""The controller put together, and kopf, which watches the kinds: the only module that imports kopf.

kopf runs in a thread with a loop of its own: at its exit it cancels every task of its loop, and its bookkeeping of
thousands of objects does not hold up a hand-over. It only watches (`on.event`): no annotation, no finalizer, no Event.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import kopf
import structlog

from controller.agents.client import ClientTls
from controller.agents.supervisor import HostChange, Supervisors
from controller.api.common import GROUP, VERSION
from controller.api.xennode import XenNode
from controller.domain.world import Limits
from controller.reconcile import hosts, nodes, vms, volumes
from controller.reconcile.power import Fencer
from controller.reconcile.shell import Shell, Step, no_step
from controller.runtime.api_server import KINDS, ApiError, ApiServer, Missing, Unanswered, login
from controller.runtime.cache import Cache, Change
from controller.runtime.events import Recorder
from controller.runtime.health import HealthServer
from controller.runtime.lease import Elector, Timing, unique_identity
from controller.runtime.metrics import Metrics
from controller.runtime.queue import ObjectKey, WorkQueue
from controller.runtime.resync import resync

log = structlog.get_logger(__name__)

T = TypeVar("T")
CONCERNED = {"XenNode": nodes.concerned, "DrbdVolume": volumes.concerned, "XenVM": vms.concerned}
FIRST_ANSWERS_SECONDS, DRAIN_SECONDS = 5.0, 10.0
RETRY_SECONDS, KOPF_SECONDS = 2.0, 5.0
STUCK_SECONDS = 300.0
BURST_SECONDS, LONGEST_BURST_SECONDS = 0.05, 0.5


@dataclass(frozen=True)
class Options:
    """How one controller runs. `metrics_address`: (host, port) of health and metrics, None: not served."""

    tls: ClientTls
    kubeconfig: str | None = None
    context: str | None = None
    namespace: str = "xentandem-system"
    identity: str = field(default_factory=unique_identity)
    leader_elect: bool = True
    timing: Timing = field(default_factory=Timing)
    metrics_address: tuple[str, int] | None = None
    workers: int = 16
    limits: Limits = field(default_factory=Limits)
    resync_seconds: float = 600.0
    fence_agents: tuple[Path, str] = (Path("/usr/sbin"), "xentandem-fencing")  # their folder, their Secrets' namespace
    on_step: Step = no_step


class KopfWatcher:
    """Feeds every event of the three kinds to `deliver`, which runs in the loop that made this object."""

    def __init__(
        self, source: tuple[str | None, str | None], deliver: Callable[[str | None, dict[str, Any]], None]
    ) -> None:
        self._source, self._deliver = source, deliver
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="kopf", daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def ended(self) -> None:
        """Wait until kopf ends. Raises what it ended with."""
        await asyncio.shield(self._ended)

    def stop(self) -> None:
        """Ask kopf to end; events that still come are nobody's."""
        self._stop.set()
        if self._ended.done() and not self._ended.cancelled():
            self._ended.exception()  # somebody has seen it

    async def gone(self, seconds: float) -> None:
        """Give the thread that time to end."""
        await asyncio.wait({self._ended}, timeout=seconds)

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            asyncio.run(self._operate())
        except BaseException as what:
            error = what
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._end, error)

    def _end(self, error: BaseException | None) -> None:
        if self._ended.done():
            return
        if error is not None and not self._stop.is_set():
            self._ended.set_exception(RuntimeError(f"kopf ended: {error}"))
        else:
            self._ended.set_result(None)

    async def _operate(self) -> None:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(self._login)
        for kind in KINDS.values():
            kopf.on.event(GROUP, VERSION, kind.plural, registry=registry, id=f"see-{kind.plural}")(self._see)
        await kopf.operator(
            registry=registry, settings=_settings(), clusterwide=True, standalone=True, stop_flag=self._stop
        )

    async def _login(self, **_: Any) -> kopf.ConnectionInfo:
        found = await login(*self._source)
        return kopf.ConnectionInfo(
            server=found.server,
            ca_path=found.ca_path,
            insecure=found.insecure,
            certificate_path=found.certificate_path,
            private_key_path=found.private_key_path,
            token=found.token,
            scheme="Bearer" if found.token else None,
        )

    async def _see(self, event: Any, **_: Any) -> None:
        if not self._stop.is_set():
            self._loop.call_soon_threadsafe(self._deliver, event["type"], event["object"])


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True  # no watching of CRDs and namespaces: the kinds are there before kopf starts
    settings.process.ultimate_exiting_timeout = None  # it would kill the whole process
    settings.watching.server_timeout = 300  # a whole number: the API server refuses "300.0"
    settings.watching.client_timeout = 310
    settings.watching.connect_timeout = 30
    settings.watching.inactivity_timeout = 70
    return settings


class Controller:
    """One controller process' life, or one of several in a test: `run`, and `stop` or `kill` from elsewhere."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.cache = Cache()
        self.queue = WorkQueue()
        self.metrics = Metrics()
        self.api = ApiServer(options.kubeconfig, options.context)
        self.elector = Elector(self.api, options.namespace, options.identity, timing=options.timing)
        self.supervisors = Supervisors(options.tls, self._host_changed)
        self.recorder = Recorder(self.api, options.identity)
        self.shell = Shell(
            api=self.api,
            cache=self.cache,
            queue=self.queue,
            supervisors=self.supervisors,
            leadership=self.elector,
            recorder=self.recorder,
            metrics=self.metrics,
            fencer=Fencer(self.api, *options.fence_agents),
            changed=self._changed,
            on_step=options.on_step,
            limits=options.limits,
        )
        expiries = self.supervisors.certificates
        self.metrics.watch(self.cache, self.queue, self.api, self._hosts, lambda: self.recorder.dropped, expiries)
        self.health: HealthServer | None = None
        self.started = asyncio.Event()  # leading, and every object was put on the queue
        self._acting = False
        self._stopping = asyncio.Event()
        self._killed = False
        self._run_task: asyncio.Task[Any] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._background: set[asyncio.Task[Any]] = set()
        self._watcher: KopfWatcher | None = None

    # --- life

    async def run(self) -> None:
        """Until `stop` (returns), `kill` (CancelledError), or the leadership is lost (raises LeadershipLost)."""
        self._run_task = asyncio.current_task()
        try:
            if self.options.metrics_address:
                host, port = self.options.metrics_address
                self.health = HealthServer(
                    host, port, alive=self._alive, ready=self._ready, metrics=self._render_metrics
                )
                await self.health.start()
            if await self._unless_stopped(self._lead()):
                await self._until_stopped()
            await self._drain()
        finally:
            await self._close()

    def stop(self) -> None:
        """End in good order: what is being done is finished, then the lease is given up."""
        self._stopping.set()

    def kill(self) -> None:
        """End at once, as SIGKILL does: nothing is finished, nothing is said to anybody."""
        self._killed = True
        self.elector.abandon()
        self.queue.close()
        if self._run_task is not None:
            self._run_task.cancel()
        self.shell.cancel()
        for task in self._tasks:
            task.cancel()

    async def _lead(self) -> bool:
        await self._until_kinds_are_there()
        self._watcher = KopfWatcher(self.api.source, self._seen)
        self._watcher.start()
        await self.elector.acquire(seize=not self.options.leader_elect)
        self._spawn(self.elector.keep())
        await self._retried(self._resync)  # all that was written before this leadership is known before the first act
        self._acting = True
        for node in self.cache.nodes.values():
            self._follow(node)
        await self.supervisors.settle(FIRST_ANSWERS_SECONDS)
        gc.collect()
        gc.freeze()  # thousands of long-lived objects need not be looked through again and again
        for kind in KINDS:
            for key in self.cache.keys(kind):
                self.queue.add(key)
        for _ in range(self.options.workers):
            self._spawn(self.queue.work(self.shell.reconcile))
        self._spawn(self.recorder.run())
        self._spawn(self._keep_house())
        self._spawn(self._watcher.ended())
        self.started.set()
        log.info("started", objects=len(self.cache), term=self.elector.term)
        return True

    async def _until_stopped(self) -> None:
        """Raises what any of the tasks ends with, LeadershipLost among it."""
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            done, _ = await asyncio.wait({stopping, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        for task in done - {stopping}:
            task.result()
            raise RuntimeError(f"{task.get_coro()} ended")

    async def _drain(self) -> None:
        log.info("stopping", active=self.queue.active, requests=self.shell.lanes.busy)
        try:
            await asyncio.wait_for(self.queue.drain(), DRAIN_SECONDS)
        except TimeoutError:
            log.warning("not everything was finished", active=self.queue.active)
        await self.shell.finish(DRAIN_SECONDS)
        await self.recorder.flush(2.0)
        await self.elector.release()

    async def _close(self) -> None:
        self._acting = False
        self.elector.abandon()
        self.queue.close()
        self.shell.cancel()
        if self._watcher is not None:
            self._watcher.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.supervisors.stop()
        await self.api.close()
        if self.health is not None:
            await self.health.stop()
        if self._watcher is not None and not self._killed:
            await self._watcher.gone(KOPF_SECONDS)

    # --- parts of it

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        self._tasks.add(asyncio.create_task(work))

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Its result; None when the controller was stopped first."""
        task, stopping = asyncio.create_task(work), asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({task, stopping, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            task.cancel()
            stopping.cancel()
            await asyncio.gather(task, stopping, return_exceptions=True)

    async def _until_kinds_are_there(self) -> None:
        for kind in KINDS.values():
            await self._retried(partial(self.api.request, "GET", kind.path(), query={"limit": "1"}))

    async def _retried(self, work: Callable[[], Awaitable[object]]) -> None:
        while True:
            try:
                await work()
                return
            except Missing as error:
                log.warning("waiting for the CRDs (kubectl apply -k crds)", error=str(error))
            except (ApiError, Unanswered) as error:
                log.warning("waiting for the API server", error=str(error))
            await asyncio.sleep(RETRY_SECONDS)

    async def _resync(self) -> None:
        async for change in resync(self.api, self.cache):
            self._changed(change)

    async def _keep_house(self) -> None:
        """Against watches that died unnoticed, and against memory that nobody needs."""
        while True:
            await asyncio.sleep(self.options.resync_seconds)
            try:
                await self._resync()
            except (ApiError, Unanswered) as error:
                log.warning("the full list failed", error=str(error))
            self.shell.lanes.prune()

    # --- what happens

    def _seen(self, type_: str | None, raw: dict[str, Any]) -> None:
        """kopf saw an event; `type_` None: part of its first list."""
        change = self.cache.remove(raw) if type_ == "DELETED" else self.cache.upsert(raw)
        if change is not None:
            self._changed(change)

    def _changed(self, change: Change) -> None:
        if not self._acting:
            return
        self.metrics.changed(change)
        if change.key[0] == "XenNode":
            if isinstance(change.new, XenNode):
                self._follow(change.new)
            else:
                self.supervisors.forget(change.key[2])
        self.queue.add(change.key)
        self._enqueue(CONCERNED[change.key[0]](self.cache, change))
        self.shell.free(change.key, change.freed)

    def _host_changed(self, change: HostChange) -> None:
        if not self._acting:
            return
        supervisor = self.supervisors.get(change.node)
        state = supervisor.state if supervisor else None
        if state is not None and state.term > self.elector.term and self.elector.leading:
            self._spawn_quietly(self._raise_term(state.term))
        seconds = self._burst() if hosts.may_wait(change) else 0.0
        for key in hosts.concerned(self.cache, change):
            self.queue.add_after(key, seconds)

    def _burst(self) -> float:
        """Longer the more objects wait already: more of their news is seen by one look then."""
        return min(LONGEST_BURST_SECONDS, BURST_SECONDS * (1 + len(self.queue) / self.options.workers))

    async def _raise_term(self, promised: int) -> None:
        if await self.elector.raise_term(promised):
            for kind in KINDS:
                self._enqueue(self.cache.keys(kind))

    def _spawn_quietly(self, work: Coroutine[Any, Any, Any]) -> None:
        """A task whose end is no reason to end."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _follow(self, node: XenNode) -> None:
        self.supervisors.follow(node.name, node.spec.agent.address, node.spec.agent.port)

    def _enqueue(self, keys: Iterable[ObjectKey]) -> None:
        for key in keys:
            self.queue.add(key)

    # --- how it is

    def _hosts(self) -> dict[str, bool]:
        return {one.node: one.connected for one in self.supervisors.all()}

    def _alive(self) -> str:
        if self.queue.longest() > STUCK_SECONDS:
            return f"an object has been worked on for {self.queue.longest():.0f} s"
        return ""

    def _ready(self) -> str:
        return "" if self._watcher is not None else "the API server does not offer the kinds yet"

    def _render_metrics(self) -> bytes:
        self.metrics.leading.set(1 if self.elector.leading else 0)
        self.metrics.term.set(self.elector.term)
        return self.metrics.render()

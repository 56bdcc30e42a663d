"""The agent of one dom0: builds the context, starts the parts in their order, and ends them gracefully or at once."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from agent.content import InitialSyncHandler, WriteContentHandler
from agent.core import STREAM_LIMIT, Context, TlsFiles
from agent.domains import Domains
from agent.drivers.content import Content
from agent.drivers.drbd import Dialect, Drbd, detect_dialect
from agent.drivers.errors import DriverError
from agent.drivers.lvm import Lvm
from agent.drivers.xen import Xen
from agent.fence import Fence
from agent.gone import Gone
from agent.host import CommandTimedOut, Host
from agent.journal import Journal
from agent.killable import KillableHost
from agent.leftovers import Leftovers
from agent.looks import Looks
from agent.migration import Relocation
from agent.observer import Observer
from agent.operations import Operations
from agent.promises import Promises
from agent.protocol import API_PORT, RELOCATION_PORT
from agent.server import Server
from agent.split_brain import DiscardHandler, SnapshotHandler
from agent.tls import Credentials
from agent.volumes import Volumes
from agent.windows import Windows

DRAIN_SECONDS = 30.0  # for commands that run when the agent is asked to stop


class StartError(Exception):
    """The agent cannot start; the message says why and what to do."""


class Agent:
    """`async start()`, then `async stop()` or `async kill()`. One agent a host; `state_dir` is its alone.

    `api` and `relocation` are (address, port); address "" is every address, port 0 one that the kernel chooses.
    """

    def __init__(
        self,
        host: Host,
        state_dir: Path,
        node: str,
        *,
        api: tuple[str, int] = ("", API_PORT),
        relocation: tuple[str, int] = ("", RELOCATION_PORT),
        tls: TlsFiles,
        stream_limit: float = STREAM_LIMIT,
    ) -> None:
        self._host = KillableHost(host)
        self._state_dir, self._node, self._tls = state_dir, node, tls
        self._api, self._relocation, self._stream_limit = api, relocation, stream_limit
        self._context: Context | None = None
        self._server: Server | None = None

    @property
    def api_port(self) -> int:
        return self._server.port if self._server is not None else 0

    @property
    def relocation_port(self) -> int:
        return self._context.migration.port if self._context is not None else 0

    @property
    def context(self) -> Context:
        """For tests and diagnosis. Raises StartError before `start`."""
        if self._context is None:
            raise StartError("the agent has not been started")
        return self._context

    async def start(self) -> None:
        """Serving when this returns. Raises StartError, JournalError, TlsError, OSError (an address in use)."""
        credentials = Credentials(self._tls, self._node)
        boot_id = await self._boot_id()
        journal = Journal.open(self._state_dir, self._node, self._host.run_dir)
        try:
            await self._start(journal, boot_id, credentials)
        except BaseException:
            await self.kill()
            journal.close()
            raise

    async def _start(self, journal: Journal, boot_id: str, credentials: Credentials) -> None:
        context = Context(
            node=self._node,
            boot_id=boot_id,
            state_dir=self._state_dir,
            host=self._host,
            journal=journal,
            lvm=Lvm(self._host),
            drbd=Drbd(self._host, await self._dialect(journal)),
            xen=Xen(self._host),
            content=Content(self._host),
            tls=self._tls,
            credentials=credentials,
            relocation=self._relocation,
            stream_limit=self._stream_limit,
        )
        promises = Promises(journal)
        context.observer = Observer(context, term=promises.term, desired=promises.desired)
        context.looks = Looks(context)
        context.gone = Gone(context)
        context.operations = Operations(context)
        volumes = Volumes(context)
        context.volumes = volumes
        fence = Fence(context)
        context.fence = fence
        context.domains = Domains(context)
        context.leftovers = Leftovers(context)
        windows = Windows(context, volumes)
        context.migration = Relocation(context)
        context.operations.register("initial-sync", InitialSyncHandler(context, volumes), repeatable=True)
        context.operations.register("write-content", WriteContentHandler(context, volumes))
        context.operations.register("snapshot", SnapshotHandler(context, volumes), repeatable=True)
        context.operations.register("discard-changes", DiscardHandler(context, volumes), repeatable=True)
        self._context = context
        try:
            context.gone.load()
            volumes.load()
            fence.load()
            context.operations.load()
        except ValidationError as error:
            raise StartError(f"the journal in {self._state_dir} holds a record of another version: {error}") from error
        await context.observer.start()
        await fence.start()
        await volumes.start()
        await context.domains.start()
        await context.migration.start()
        context.operations.resume_all()
        await context.leftovers.start()
        await windows.start()
        self._server = Server(context, promises, *self._api)
        await self._server.start()
        fence.heard = self._server.heard
        context.log().info("agent started", boot_id=boot_id, api_port=self.api_port, term=promises.term)

    async def stop(self) -> None:
        """Let requests and running commands end, then leave. Long work goes on in its scope and is taken up again."""
        if self._context is None:
            return
        if self._server is not None:
            await self._server.stop()
        await self._context.migration.stop()
        self._context.fence.abort()
        self._host.kill()
        await self._context.tasks.cancel_all()
        await self._host.drain(DRAIN_SECONDS)
        self._context.journal.close()
        self._context.log().info("agent stopped")

    async def kill(self) -> None:
        """What kill -9 leaves, within one process: nothing more is done on the host or written to the journal."""
        self._host.kill()
        if self._context is None:
            return
        self._context.journal.kill()
        self._context.migration.abort()
        self._context.fence.abort()
        if self._server is not None:
            await self._server.abort()
        await self._context.tasks.cancel_all()

    async def _boot_id(self) -> str:
        path = "/proc/sys/kernel/random/boot_id"
        try:
            return (await self._host.read_text(path)).strip()
        except OSError as error:
            raise StartError(f"{path} cannot be read ({error}): is this a Linux dom0 with /proc mounted?") from error

    async def _dialect(self, journal: Journal) -> Dialect:
        """The host's DRBD; the one it had last when DRBD does not answer now (the observer says that it does not)."""
        known = journal.get("host", "drbd")
        try:
            dialect = await detect_dialect(self._host)
        except (DriverError, CommandTimedOut) as error:
            if known is None:
                raise StartError(f"DRBD is not ready on this host: {error}") from error
            return "8.4" if known["dialect"] == "8.4" else "9"
        journal.put("host", "drbd", {"dialect": dialect})
        return dialect

"""Controllers as a Deployment keeps them: one that ended, however, is followed by another."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from harness import Scene

from controller.operator import Controller
from controller.runtime.lease import LeadershipLost

PAUSE_SECONDS = 0.2


class Keeper:
    """`replicas` at a time; `kill` ends one as SIGKILL does. `options` are of the controllers."""

    def __init__(self, scene: Scene, replicas: int = 1, **options: Any) -> None:
        self._scene, self._options = scene, options
        self.running: dict[int, Controller] = {}
        self.ends: list[str] = []
        self._tasks = [asyncio.create_task(self._keep(number)) for number in range(replicas)]

    def kill(self, number: int = 0) -> None:
        if (victim := self.running.get(number)) is not None:
            victim.kill()

    async def stop(self) -> None:
        """Raises what a controller ended with that none should."""
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _keep(self, number: int) -> None:
        while True:
            controller = self.running[number] = Controller(self._scene.options(**self._options))
            run = asyncio.create_task(controller.run())
            try:
                await asyncio.wait({run})
            except asyncio.CancelledError:
                controller.kill()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await run
                raise
            self.ends.append("killed" if run.cancelled() else str(run.exception()))
            if not run.cancelled() and not isinstance(error := run.exception(), LeadershipLost | RuntimeError):
                raise error or AssertionError("a controller ended that nobody had stopped")
            await asyncio.sleep(PAUSE_SECONDS)

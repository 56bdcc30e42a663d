"""A real Kubernetes API server for tests and the demo: kube-apiserver, etcd and the garbage-collection, namespace and
service-account controllers in one process on 127.0.0.1 (sources in `server/`). No kubelet: pods stay Pending.

    with devcluster.start() as cluster:         # a temporary folder, removed at the end
        subprocess.run(["kubectl", "get", "ns"], env=cluster.environment())

Only the standard library. The server ends with its parent, also when the parent is killed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from devcluster.build import BuildFailed, Say, cache_folder, kubectl, path_with_kubectl, say_on_stderr
from devcluster.build import devcluster as binary

__all__ = [
    "BuildFailed", "Cluster", "NotStarted", "binary", "cache_folder", "kubectl", "path_with_kubectl", "say_on_stderr",
    "start",
]  # fmt: skip

READY_SECONDS = 150.0


class NotStarted(Exception):
    """The server ended or did not become ready; the message has its last words."""


@dataclass
class Cluster:
    """A running control plane. Use it as a context manager (`with` or `async with`), or call `stop()`.

    `kubeconfig` is an administrator's; `directory` holds the state, server.log and etcd.log.
    """

    directory: Path
    kubeconfig: Path
    process: subprocess.Popen[bytes]
    temporary: bool = field(default=False, repr=False)

    def environment(self) -> dict[str, str]:
        """os.environ with KUBECONFIG set to this cluster's."""
        return dict(os.environ, KUBECONFIG=str(self.kubeconfig))

    def stop(self, seconds: float = 20.0) -> None:
        """End the server and wait for it; remove the folder if it was a temporary one."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()
        if self.temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    async def __aenter__(self) -> Cluster:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()


def start(directory: Path | str | None = None, *, extra: Sequence[str] = (), say: Say = say_on_stderr) -> Cluster:
    """Start a control plane and return once it is ready (about 3 seconds; minutes when it has to be built first).

    `directory` keeps the state and is kept (a second start continues it); None: a temporary one, removed at the end.
    `extra` are further flags of kube-apiserver. Raises BuildFailed, NotStarted.
    """
    program = binary(say)
    temporary = directory is None
    folder = Path(tempfile.mkdtemp(prefix="xentandem-cluster-") if directory is None else directory).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    kubeconfig = folder / "kubeconfig"
    argv = [str(program), "-lifeline", "-dir", str(folder), "-kubeconfig", str(kubeconfig)]
    argv += [*(["-remove"] if temporary else []), "--", *extra]
    with (folder / "console.log").open("w") as console:
        # A session of its own: Ctrl-C in the terminal reaches the parent, which then ends the server in order.
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=console, stderr=subprocess.STDOUT, start_new_session=True
        )
    cluster = Cluster(folder, kubeconfig, process, temporary)
    try:
        _wait_until_ready(cluster)
    except BaseException:
        cluster.stop()
        raise
    return cluster


def _wait_until_ready(cluster: Cluster) -> None:
    console = cluster.directory / "console.log"
    deadline = time.monotonic() + READY_SECONDS
    while cluster.process.poll() is None and time.monotonic() < deadline:
        if any(line.startswith("ready") for line in console.read_text().splitlines()):
            return
        time.sleep(0.05)
    log = cluster.directory / "server.log"
    tail = log.read_text(errors="replace").splitlines()[-5:] if log.exists() else []
    raise NotStarted("the API server did not start:\n" + "\n".join(console.read_text().splitlines()[-10:] + tail))

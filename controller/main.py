"""The command line `xentandem-controller`."""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import signal
import ssl
import sys
from pathlib import Path
from typing import Literal

import click

PKI = Path("/etc/xentandem/pki")
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
NAMESPACE = "xentandem-system"
TLS_BUFFER = 32 * 1024
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _own_namespace() -> str:
    """The pod's, or the one that the manifests make."""
    try:
        return NAMESPACE_FILE.read_text().strip()
    except OSError:
        return NAMESPACE


class _Address(click.ParamType[tuple[str, int] | None]):
    name = "HOST:PORT"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int] | None:
        if not isinstance(value, str) or value in ("", "0"):
            return None
        host, _, port = value.rpartition(":")
        if not port.isdigit() or int(port) > 65535:
            self.fail(f"{value!r} is not an address: write HOST:PORT, such as 0.0.0.0:9100, or 0 for none", param, ctx)
        return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - the kubelet and Prometheus are elsewhere


@click.command(context_settings={"auto_envvar_prefix": "XENTANDEM", "max_content_width": 110})
@click.version_option(package_name="xentandem", prog_name="xentandem-controller")
@click.option("--kubeconfig", type=_FILE, help="Default: in a pod its service account, else KUBECONFIG.")
@click.option("--context", help="Context of the kubeconfig.  [default: its current one]")
@click.option("--namespace", help="Namespace of the Lease.  [default: the pod's, or xentandem-system]")
@click.option("--tls-cert", type=_FILE, default=PKI / "tls.crt", show_default=True, help="Certificate for the agents.")
@click.option("--tls-key", type=_FILE, default=PKI / "tls.key", show_default=True, help="Its key.")
@click.option("--tls-ca", type=_FILE, default=PKI / "ca.crt", show_default=True, help="CA of the agents' certificates.")
@click.option(
    "--metrics-address", type=_Address(), default=":9100", show_default=True,
    help="Where /metrics, /healthz and /readyz are served; 0: nowhere.",
)  # fmt: skip
@click.option("--log-format", type=click.Choice(["json", "console"]), default="json", show_default=True)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
@click.option(
    "--leader-elect/--no-leader-elect", default=True, show_default=True,
    help="Wait until another controller's Lease runs out; without: take it at once.",
)  # fmt: skip
@click.option("--identity", help="Name in the Lease, another one for each process.  [default: made up]")
@click.option(
    "--moves-per-host", type=click.IntRange(1, 64), default=2, show_default=True,
    help="Live moves at the same time on a host, as source and target together, for maintenance and failback.",
)  # fmt: skip
@click.option(
    "--moves-per-cluster", type=click.IntRange(1, 256), default=4, show_default=True,
    help="The same on all hosts together. Moves that somebody asked for by spec.node count, but never wait.",
)  # fmt: skip
@click.option("--workers", type=click.IntRange(1, 256), default=16, show_default=True, help="Objects at the same time.")
@click.option(
    "--fence-agents-dir", type=click.Path(file_okay=False, path_type=Path), default=Path("/usr/sbin"),
    show_default=True, help="Folder of the fence agents that XenNodes may name.",
)  # fmt: skip
@click.option(
    "--fence-secrets-namespace", default="xentandem-fencing", show_default=True,
    help="Namespace of the Secrets with their logins.",
)  # fmt: skip
def main(
    kubeconfig: Path | None,
    context: str | None,
    namespace: str | None,
    tls_cert: Path,
    tls_key: Path,
    tls_ca: Path,
    metrics_address: tuple[str, int] | None,
    log_format: Literal["json", "console"],
    log_level: str,
    leader_elect: bool,
    identity: str | None,
    moves_per_host: int,
    moves_per_cluster: int,
    workers: int,
    fence_agents_dir: Path,
    fence_secrets_namespace: str,
) -> None:
    """Keep XenNodes, DrbdVolumes and XenVMs as their specs say. SIGTERM ends it in good order.

    Exit status: 0 after SIGTERM or SIGINT; 1 when it could not start or go on, also when another controller has become
    the leader.
    """
    from controller.agents.client import ClientTls
    from controller.domain.world import Limits
    from controller.operator import Options
    from controller.runtime import logs
    from controller.runtime.lease import unique_identity

    logs.configure(log_format, log_level)
    # asyncio gives each TLS connection a zeroed buffer of 256 KiB to read into; there may be hundreds of them.
    asyncio.sslproto.SSLProtocol.max_size = TLS_BUFFER
    tls = ClientTls(tls_cert, tls_key, tls_ca)
    try:
        tls.context()
    except (OSError, ssl.SSLError) as error:
        raise click.ClickException(f"{tls_cert}, {tls_key}, {tls_ca} are not usable: {error}") from error
    options = Options(
        tls=tls,
        kubeconfig=str(kubeconfig) if kubeconfig else None,
        context=context,
        namespace=namespace or _own_namespace(),
        identity=identity or unique_identity(),
        leader_elect=leader_elect,
        metrics_address=metrics_address,
        workers=workers,
        limits=Limits(moves_per_host, moves_per_cluster),
        fence_agents=(fence_agents_dir, fence_secrets_namespace),
    )
    sys.exit(asyncio.run(_run(options)))


async def _run(options: object) -> int:
    import structlog

    from controller.operator import Controller, Options
    from controller.runtime.api_server import LoginMissing
    from controller.runtime.lease import LeadershipLost

    assert isinstance(options, Options)
    log = structlog.get_logger("controller")
    controller = Controller(options)
    loop = asyncio.get_running_loop()
    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, controller.stop)
    try:
        await controller.run()
    except LeadershipLost as error:
        log.error("no longer the leader: ending", error=str(error))
        return 1
    except LoginMissing as error:
        log.error("no login for a Kubernetes cluster: give --kubeconfig", error=str(error))
        return 1
    except OSError as error:
        log.error("cannot go on", error=str(error))
        return 1
    log.info("ended")
    return 0

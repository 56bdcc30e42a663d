"""The command line `xentandem-agent`: run the daemon, make certificates, run simulated hosts."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Literal, ParamSpec, TypeVar

import click
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent import pki
from agent.core import AGENT_VERSION, STREAM_LIMIT, TlsFiles
from agent.protocol import API_PORT, RELOCATION_PORT

P = ParamSpec("P")
R = TypeVar("R")
Port = Annotated[int, Field(ge=1, le=65535)]
PKI = Path("/etc/xentandem/pki")
RUN = Path("/run/xentandem")  # not RuntimeDirectory=: systemd empties that when the agent stops


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Api(_Settings):
    address: str = ""  # "" = every address
    port: Port = API_PORT


class Relocation(_Settings):
    address: str = ""
    port: Port = RELOCATION_PORT
    stream_limit: Annotated[float, Field(ge=10, le=3600)] = STREAM_LIMIT


class Tls(_Settings):
    certificate: Path = PKI / "tls.crt"
    key: Path = PKI / "tls.key"
    authority: Path = PKI / "ca.crt"


class Log(_Settings):
    format: Literal["json", "console"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(_Settings):
    """The file that `run --config` reads (YAML). Everything has a default."""

    node: str = ""  # "" = uname -n
    state: Path = Path("/var/lib/xentandem")
    api: Api = Api()
    relocation: Relocation = Relocation()
    tls: Tls = Tls()
    log: Log = Log()


def load_config(path: Path) -> Config:
    """Raises click.ClickException that says which line or field is wrong."""
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise click.ClickException(f"{path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise click.ClickException(f"{path} is not YAML: {error}") from error
    try:
        return Config.model_validate(values if values is not None else {})
    except ValidationError as error:
        said = [f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors()]
        raise click.ClickException(f"{path}: " + "; ".join(said)) from error


def _readable_errors(command: Callable[P, R]) -> Callable[P, R]:
    """A message and exit status 1 instead of a traceback, for what a person can put right."""
    from agent.daemon import StartError
    from agent.journal import JournalError
    from agent.tls import TlsError

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (pki.PkiError, StartError, JournalError, TlsError, OSError) as error:
            raise click.ClickException(str(error)) from error

    return run


@click.group()
@click.version_option(AGENT_VERSION, prog_name="xentandem-agent")
def main() -> None:
    """The Xentandem agent of a Xen dom0."""


@main.command()
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default=Path("/etc/xentandem/agent.yaml"),
    show_default=True,
    help="YAML file: node, state, api, relocation, tls, log.",
)
def run(config_path: Path) -> None:
    """Run the daemon in the foreground until SIGTERM or SIGINT."""
    _readable_errors(_run)(load_config(config_path))


def _run(config: Config) -> None:
    from agent import logs

    logs.configure(config.log.format, config.log.level)
    os.umask(0o077)
    asyncio.run(_serve(config))


async def _serve(config: Config) -> None:
    from agent.daemon import Agent
    from agent.real_host import RealHost

    agent = Agent(
        RealHost(config.state, RUN),
        config.state,
        config.node or os.uname().nodename,
        api=(config.api.address, config.api.port),
        relocation=(config.relocation.address, config.relocation.port),
        tls=TlsFiles(certificate=config.tls.certificate, key=config.tls.key, authority=config.tls.authority),
        stream_limit=config.relocation.stream_limit,
    )
    ended = asyncio.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(one, ended.set)
    await agent.start()
    await ended.wait()
    await agent.stop()


@main.group(name="pki")
def pki_group() -> None:
    """Make the private CA and the certificates of agents and controller."""


_ca_option = click.option(
    "--ca", type=click.Path(path_type=Path), default=Path("pki"), show_default=True, help="Folder of the CA."
)
_days_option = click.option("--days", type=click.IntRange(1, 3650), default=pki.LEAF_DAYS, show_default=True)


@pki_group.command(name="init")
@_ca_option
def pki_init(ca: Path) -> None:
    """Make the CA: ca.crt and ca.key. Keep ca.key off the hosts."""
    _readable_errors(pki.create_authority)(ca)
    click.echo(f"{ca / 'ca.crt'}  the CA's certificate\n{ca / 'ca.key'}  its key: keep it away from the hosts")


@pki_group.command(name="issue-agent")
@click.argument("node")
@click.option("--address", "addresses", multiple=True, help="IP or DNS name by which the agent is reached; repeatable.")
@_ca_option
@click.option("--out", type=click.Path(path_type=Path), help="Folder of tls.crt, tls.key, ca.crt; default: <ca>/NODE.")
@_days_option
def pki_issue_agent(node: str, addresses: tuple[str, ...], ca: Path, out: Path | None, days: int) -> None:
    """Make the certificate of the agent on NODE (its `uname -n`); copy the folder to its /etc/xentandem/pki."""
    issue = _readable_errors(pki.issue_agent)
    _say(issue(_readable_errors(pki.Authority.load)(ca), node, out or ca / node, addresses=addresses, days=days))


@pki_group.command(name="issue-controller")
@_ca_option
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder of tls.crt, tls.key, ca.crt; default: <ca>/controller."
)
@_days_option
def pki_issue_controller(ca: Path, out: Path | None, days: int) -> None:
    """Make the controller's certificate; the folder becomes its TLS secret."""
    issue = _readable_errors(pki.issue_controller)
    _say(issue(_readable_errors(pki.Authority.load)(ca), out or ca / "controller", days=days))


def _say(files: TlsFiles) -> None:
    for path in (files.certificate, files.key, files.authority):
        click.echo(str(path))


@main.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def simulate(arguments: tuple[str, ...]) -> None:
    """Run simulated hosts, each with its agent, in one process (`simulate --help` says more)."""
    from agent.simulation.main import main as simulation

    sys.exit(simulation(list(arguments)))


if __name__ == "__main__":
    main()

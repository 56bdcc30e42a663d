"""Metrics, health, logs and the command line: what people and machines see of the controller."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
import structlog
from click.testing import CliRunner
from raw_objects import again, node, vm, volume

from agent import pki
from controller.main import main
from controller.runtime import logs
from controller.runtime.api_server import ApiServer
from controller.runtime.cache import Cache
from controller.runtime.health import HealthServer
from controller.runtime.metrics import Metrics
from controller.runtime.queue import WorkQueue

READY = {"type": "Ready", "status": "True", "lastTransitionTime": "2031-02-01T10:00:00Z", "reason": "UpToDate"}
STALLED = {"type": "Ready", "status": "False", "lastTransitionTime": "2031-02-01T10:00:00Z", "reason": "MinorTaken"}


@pytest.fixture
def no_logging_left() -> Iterator[None]:
    """The root logger and structlog as they were."""
    root, before = logging.getLogger(), structlog.get_config()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**before)


# --- metrics ----------------------------------------------------------------------------------------------------------


async def test_objects_are_counted_by_phase_and_by_why_they_are_not_ready() -> None:
    cache, metrics = Cache(), Metrics()
    metrics.watch(cache, WorkQueue(), ApiServer(), lambda: {"mk1": True, "mk2": False}, lambda: 3)
    cache.upsert(node("mk1", status={"phase": "Ready", "conditions": [READY]}))
    cache.upsert(volume("v", status={"phase": "Syncing", "sync": {"percent": 45.0}, "conditions": [STALLED]}))
    cache.upsert(volume("w"))
    value = metrics.registry.get_sample_value
    assert value("xentandem_objects", {"kind": "XenNode", "phase": "Ready"}) == 1
    assert value("xentandem_objects", {"kind": "DrbdVolume", "phase": "Syncing"}) == 1
    assert value("xentandem_objects", {"kind": "DrbdVolume", "phase": "Pending"}) == 1
    assert value("xentandem_objects_not_ready", {"kind": "DrbdVolume", "reason": "MinorTaken"}) == 1
    assert value("xentandem_objects_not_ready", {"kind": "XenNode", "reason": "UpToDate"}) is None
    assert value("xentandem_volume_sync_percent", {"namespace": "default", "name": "v"}) == 45
    assert value("xentandem_volume_sync_percent", {"namespace": "default", "name": "w"}) is None
    assert value("xentandem_agent_connected", {"host": "mk1"}) == 1
    assert value("xentandem_agent_connected", {"host": "mk2"}) == 0
    assert value("xentandem_events_dropped_total") == 3


async def test_how_long_certificates_are_still_good() -> None:
    metrics, now = Metrics(), datetime.now(UTC)
    ends = {"mk1": now + timedelta(days=30), "controller": now - timedelta(days=1)}
    metrics.watch(Cache(), WorkQueue(), ApiServer(), dict, lambda: 0, lambda: ends)
    value = metrics.registry.get_sample_value
    assert value("xentandem_certificate_expiry_seconds", {"of": "mk1"}) == pytest.approx(30 * 86400, abs=60)
    assert value("xentandem_certificate_expiry_seconds", {"of": "controller"}) == pytest.approx(-86400, abs=60)


async def test_the_queue_and_the_writes_are_shown_as_they_are_at_the_scrape() -> None:
    queue, api, metrics = WorkQueue(), ApiServer(), Metrics()
    metrics.watch(Cache(), queue, api, dict, lambda: 0)
    value = metrics.registry.get_sample_value
    queue.add(("XenVM", "default", "a"))
    queue.add_after(("XenVM", "default", "b"), 60)
    api.writes["put", "xenvms/status"] += 2
    assert value("xentandem_queue_depth") == 1
    assert value("xentandem_queue_delayed") == 1
    assert value("xentandem_api_writes_total", {"verb": "put", "resource": "xenvms/status"}) == 2
    await queue.get()
    assert value("xentandem_queue_depth") == 0
    assert value("xentandem_queue_active") == 1


def test_each_ended_move_is_counted_once() -> None:
    cache, metrics = Cache(), Metrics()
    raw = vm("a")
    last = {"id": "move-1", "source": "mk1", "target": "mk2", "outcome": "Succeeded"}
    for status in ({}, {"lastMigration": last}, {"lastMigration": last, "restarts": 1}):
        raw = again(raw, status=status)
        change = cache.upsert(raw)
        assert change is not None
        metrics.changed(change)
    change = cache.upsert(again(raw, status={"lastMigration": {**last, "id": "move-2", "outcome": "Failed"}}))
    assert change is not None
    metrics.changed(change)
    value = metrics.registry.get_sample_value
    assert value("xentandem_migrations_total", {"outcome": "Succeeded"}) == 1
    assert value("xentandem_migrations_total", {"outcome": "Failed"}) == 1


# --- health -----------------------------------------------------------------------------------------------------------


async def test_health_says_what_is_wrong_and_metrics_are_text() -> None:
    wrong = ""
    server = HealthServer("127.0.0.1", 0, alive=lambda: wrong, ready=lambda: "not yet", metrics=lambda: b"up 1\n")
    await server.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session:

            async def get(path: str) -> tuple[int, str]:
                async with session.get(path) as response:
                    return response.status, await response.text()

            assert await get("/healthz") == (200, "ok\n")
            wrong = "an object has been worked on for 301 s"
            assert await get("/healthz") == (503, f"{wrong}\n")
            assert await get("/readyz") == (503, "not yet\n")
            assert await get("/metrics") == (200, "up 1\n")
    finally:
        await server.stop()


# --- logs -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_logging_left")
def test_json_logs_have_what_was_bound_in_every_line_and_other_libraries_speak_json_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("json", "info")
    with structlog.contextvars.bound_contextvars(object="XenVM default/shaolin", operation="move-1"):
        structlog.get_logger("test").info("done", request="PutDomain")
        logging.getLogger("somebody").warning("careful %s", "now")
        try:
            raise ValueError("why")
        except ValueError:
            structlog.get_logger("test").exception("failed")
    structlog.get_logger("test").debug("not said")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == ["done", "careful now", "failed"]
    assert {(line["object"], line["operation"]) for line in lines} == {("XenVM default/shaolin", "move-1")}
    assert "ValueError: why" in lines[2]["exception"]
    assert all(line["timestamp"].endswith("Z") for line in lines)


@pytest.mark.usefixtures("no_logging_left")
def test_what_kopf_says_of_each_event_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("console", "info")
    logging.getLogger("kopf.objects").info("Handler succeeded")
    logging.getLogger("kopf.objects").error("trouble")
    said = capsys.readouterr().err
    assert "succeeded" not in said
    assert "trouble" in said


# --- the command line -------------------------------------------------------------------------------------------------


def test_files_that_are_not_there_are_named() -> None:
    result = CliRunner().invoke(main, ["--tls-cert", "/not/there.crt"])
    assert result.exit_code == 2
    assert "/not/there.crt" in result.output


@pytest.mark.usefixtures("no_logging_left")
def test_certificates_that_are_not_usable_are_said_in_words(tmp_path: Path) -> None:
    files = pki.issue_controller(pki.create_authority(tmp_path), tmp_path / "controller")
    options = [
        "--tls-cert",
        str(files.certificate),
        "--tls-key",
        str(files.authority),
        "--tls-ca",
        str(files.authority),
    ]
    result = CliRunner().invoke(main, options)
    assert result.exit_code == 1
    assert "not usable" in result.output


@pytest.mark.parametrize("address", ["nonsense", "host:", "host:99999", ":-1"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    result = CliRunner().invoke(main, ["--metrics-address", address])
    assert result.exit_code == 2

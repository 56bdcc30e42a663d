"""Fence agents by their standard: real programs, written here, that behave well and in every bad way."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from controller.domain.power import Device
from controller.power.fence_agent import BadInput, FenceAgents, stdin_lines, without_secrets
from controller.power.program import NoProgram, find, run

SECRET = {"username": "admin-of-mk1", "password": 'pa"ss=w$ö rd'}

GOOD = """
said = dict(line.rstrip("\\n").split("=", 1) for line in sys.stdin)
state = pathlib.Path(__file__).with_name("state")
if said["action"] == "off":
    state.write_text("off")
    print("Success: Powered OFF")
elif said["action"] == "on":
    state.write_text("on" if "deaf" not in said else "off")
    print("Success: Powered ON")
elif said["action"] == "status":
    on = state.read_text() == "on"
    print("Status: " + ("ON" if on else "OFF"))
    sys.exit(0 if on else 2)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "state").write_text("on")
    return tmp_path


def program(folder: Path, body: str, name: str = "fence_test") -> FenceAgents:
    path = folder / name
    path.write_text(f"#!{sys.executable}\nimport os, pathlib, signal, subprocess, sys, time\n{body}\n")
    path.chmod(0o755)
    return FenceAgents(folder)


def device(seconds: int = 20, **parameters: str) -> Device:
    return Device("fence_test", tuple(sorted(parameters.items())), "mk1-bmc", seconds)


# --- what an answer means -------------------------------------------------------------------------------------------


async def test_off_and_its_confirmation(folder: Path):
    agents = program(folder, GOOD)
    assert (await agents.status(device(), SECRET)).state == "on"
    result = await agents.off(device(), SECRET)
    assert result.state == "off"
    assert result.said == "fence_test: off: Success: Powered OFF; status: Status: OFF (exit status 2)"
    assert (await agents.status(device(), SECRET)).state == "off"
    assert (await agents.off(device(), SECRET)).state == "off"  # once more does no harm


async def test_on_and_its_confirmation(folder: Path):
    agents = program(folder, GOOD)
    assert (await agents.off(device(), SECRET)).state == "off"
    deaf = await agents.on(device(deaf="1"), SECRET)
    assert (deaf.state, deaf.reason) == ("failed", "StillOff")
    result = await agents.on(device(), SECRET)
    assert (result.state, result.said) == ("on", "fence_test: on: Success: Powered ON; status: Status: ON")
    assert (await program(folder, "sys.exit(1)").on(device(), SECRET)).reason == "AgentFailed"


def says(off: int, status: int, word: str) -> str:
    """A program that ends with these, and prints the word when asked for the status."""
    return (
        f"off = 'action=off' in sys.stdin.read()\nprint('' if off else '{word}')\nsys.exit({off} if off else {status})"
    )


@pytest.mark.parametrize(
    ("off", "status", "word", "reason"),
    [
        (0, 0, "Status: ON", "StillOn"),
        (0, 1, "Status: OFF", "AgentFailed"),
        (0, 2, "", "AgentFailed"),  # Python ends with 2 when it finds no file, a shell for wrong options
        (0, 2, "Status: ON", "AgentFailed"),
        (0, 2, "usage: the official way", "AgentFailed"),
        (0, 3, "Status: OFF", "AgentFailed"),
        (1, 2, "Status: OFF", "AgentFailed"),  # a status alone is nothing: the device may always say so
        (2, 2, "Status: OFF", "AgentFailed"),
        (255, 2, "Status: OFF", "AgentFailed"),
    ],
)
async def test_nothing_else_is_off(folder: Path, off: int, status: int, word: str, reason: str):
    result = await program(folder, says(off, status, word)).off(device(), SECRET)
    assert (result.state, result.reason) == ("failed", reason)


async def test_a_program_that_kills_itself_proves_nothing(folder: Path):
    result = await program(folder, "os.kill(os.getpid(), signal.SIGKILL)").off(device(), SECRET)
    assert (result.state, result.reason) == ("failed", "AgentFailed")


async def test_a_program_that_reads_nothing_is_asked_all_the_same(folder: Path):
    result = await program(folder, "os.close(0); print('Status: ON')").status(device(), SECRET)
    assert result.state == "on"


async def test_what_went_wrong_is_told_without_the_times_of_a_log(folder: Path):
    said = "x.py:5: DeprecationWarning: old\\n2026-11-22 21:00:00,123 ERROR: Unable to connect\\n\\n"
    body = f"print('{said}', file=sys.stderr); sys.exit(1)"
    result = await program(folder, body).status(device(), SECRET)
    assert result.said == "fence_test status ended with 1: ERROR: Unable to connect"


# --- time -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "time.sleep(600)",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)",
        "subprocess.run(['sleep', '600'])",
        "subprocess.Popen(['sleep', '600']); print('Status: OFF'); sys.exit(2)",  # the pipe stays open
        "while True: print('x' * 100000)",
    ],
)
async def test_a_program_that_does_not_end_is_ended_with_all_that_it_started(folder: Path, body: str):
    pids = folder / "group"
    agents = program(folder, f"pathlib.Path({str(pids)!r}).write_text(str(os.getpid()))\n{body}")
    began = time.monotonic()
    result = await agents.status(device(seconds=2), SECRET)
    assert (result.state, result.reason) == ("failed", "TimedOut")
    assert time.monotonic() - began < 12
    await until_gone(int(pids.read_text()))


async def test_a_run_that_is_cancelled_leaves_nothing_behind(folder: Path):
    pids = folder / "group"
    agents = program(folder, f"pathlib.Path({str(pids)!r}).write_text(str(os.getpid()))\ntime.sleep(600)")
    task = asyncio.create_task(agents.off(device(), SECRET))
    await until(lambda: pids.exists() and bool(pids.read_text()))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await until_gone(int(pids.read_text()))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - other processes tell nobody when they are so far
            await asyncio.sleep(0.02)


async def until_gone(group: int) -> None:
    """Until nothing is left of the process group but, at most, what nobody has waited for yet."""
    await until(lambda: not alive(group))


def alive(group: int) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().partition(") ")
        except OSError:
            continue
        state, _, pgrp = rest.split()[:3]
        if int(pgrp) == group and state != "Z":
            found.append(name)
    return found


# --- secrets --------------------------------------------------------------------------------------------------------


async def test_a_secret_is_in_standard_input_and_nowhere_else(folder: Path):
    """The program looks at itself: at its argv, its environment, and what it reads."""
    body = f"""
seen = pathlib.Path(__file__).with_name("seen")
seen.with_name("argv").write_bytes(pathlib.Path("/proc/self/cmdline").read_bytes())
seen.with_name("environ").write_bytes(pathlib.Path("/proc/self/environ").read_bytes())
seen.write_text(sys.stdin.read())
print("Status: ON " + {SECRET["password"]!r})
"""
    os.environ["XENTANDEM_TEST_LOGIN"] = "of the controller"
    try:
        result = await program(folder, body).status(device(ip="10.0.1.81"), SECRET)
    finally:
        del os.environ["XENTANDEM_TEST_LOGIN"]
    told = (folder / "seen").read_text()
    assert told == f"action=status\nip=10.0.1.81\npassword={SECRET['password']}\nusername=admin-of-mk1\n"
    assert (folder / "argv").read_bytes() == f"{sys.executable}\0{folder / 'fence_test'}\0".encode()
    assert b"of the controller" not in (folder / "environ").read_bytes()
    for value in SECRET.values():
        assert value.encode() not in (folder / "environ").read_bytes()
        assert value not in result.said
    assert result.said == "status: Status: ON ***"


async def test_an_agent_that_prints_its_login_is_not_quoted(folder: Path):
    body = "print('tried', repr(sys.stdin.read()), file=sys.stderr); sys.exit(1)"
    result = await program(folder, body).off(device(), {"username": "admin-of-mk1", "password": "hunter2hunter2"})
    assert "hunter2" not in result.said
    assert "admin-of-mk1" not in result.said


@pytest.mark.parametrize("form", ["s3cret/&x", "s3cret%2F%26x", "s3cret/%26x", "czNjcmV0LyZ4"])
def test_other_forms_of_a_secret_are_removed_too(form: str):
    assert without_secrets(f"GET https://bmc/?p={form}", ["s3cret/&x"]) == "GET https://bmc/?p=***"


@pytest.mark.parametrize("value", ["x\naction=on", "x\r", "x\n", "\0", "x\x1b[0m"])
def test_a_secret_with_a_line_break_is_refused_and_not_quoted(value: str):
    with pytest.raises(BadInput) as no:
        stdin_lines("status", device(), {"password": value})
    assert no.value.reason == "BadSecret"
    assert "password" in str(no.value)
    assert value not in str(no.value)


@pytest.mark.parametrize(
    "name",
    ["action", "option", "passwd_script", "ipmitool_path", "debug_file", "verbose", "ssh_options", "A", "a b", "a=b"],
)
def test_a_secret_gives_a_login_and_no_orders(name: str):
    with pytest.raises(BadInput, match="no parameter that may be given"):
        stdin_lines("status", device(), {name: "x"})


@pytest.mark.parametrize("name", ["action", "passwd", "password", "password_script", "ipmitool_path", "Ip", "i\np"])
def test_a_parameter_that_the_schema_refuses_is_refused_here_too(name: str):
    with pytest.raises(BadInput):
        stdin_lines("status", Device("fence_test", ((name, "x"),), None, 5), {})


@pytest.mark.parametrize("value", ["10.0.0.1 -f /etc/passwd", "x\naction=on", "$(x)", "'", '"', "a;b"])
def test_a_parameters_value_is_one_word(value: str):
    with pytest.raises(BadInput):
        stdin_lines("status", device(ip=value), {})


def test_a_parameter_is_said_once():
    with pytest.raises(BadInput, match="write it once"):
        stdin_lines("status", device(username="a"), {"username": "b"})


# --- programs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../fence_test", "/bin/true", "fence_test/../x", "fence_", "fence_Test", "", "true", "fence_test\n", "-f"]
)
def test_a_name_is_no_path(folder: Path, name: str):
    with pytest.raises(NoProgram):
        find(folder, name)


async def test_a_program_that_is_missing_or_not_executable_is_told(folder: Path):
    result = await FenceAgents(folder).status(device(), SECRET)
    assert (result.state, result.reason) == ("failed", "AgentMissing")
    assert str(folder) in result.said
    (folder / "fence_test").write_text("")
    assert (await FenceAgents(folder).status(device(), SECRET)).reason == "AgentMissing"
    (folder / "fence_test").chmod(0o755)
    (folder / "fence_test").write_text("#!/no/such/interpreter\n")
    result = await FenceAgents(folder).off(device(), SECRET)
    assert (result.state, result.reason) == ("failed", "AgentMissing")


async def test_no_shell_reads_the_lines(folder: Path):
    marker = folder / "made"
    program(folder, "sys.stdout.write(sys.stdin.read())")
    completed = await run(folder / "fence_test", [f"$(touch {marker})", f"; touch {marker}"], 20)
    assert completed.stdout == f"$(touch {marker})\n; touch {marker}\n"
    assert not marker.exists()


async def test_output_without_end_is_cut(folder: Path):
    completed = await program_run(folder, "print('x' * 10_000_000)")
    assert completed == 64 * 1024


async def program_run(folder: Path, body: str, measure: Callable[[str], int] = len) -> int:
    program(folder, body)
    return measure((await run(folder / "fence_test", [], 20)).stdout)

"""The real host, with real and harmless commands."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import real_host, real_jobs
from agent.host import CommandTimedOut
from agent.real_host import RealHost

PYTHON = sys.executable
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def host(tmp_path: Path) -> RealHost:
    return RealHost(tmp_path / "state")


async def until(condition: Callable[[], object], limit: float = 20.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    return real_jobs.started_at(pid) is not None


# --- commands -------------------------------------------------------------------------------------------------------


async def test_run_gives_status_and_both_outputs(host: RealHost) -> None:
    done = await host.run([PYTHON, "-c", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(11)"])
    assert (done.exit, done.stdout, done.stderr) == (11, "out\n", "err\n")
    assert done.argv[0] == PYTHON


async def test_run_feeds_standard_input_and_closes_it(host: RealHost) -> None:
    assert (await host.run(["cat"], stdin=b"x" * 300_000)).stdout == "x" * 300_000
    assert (await host.run(["cat"])).stdout == ""


async def test_arguments_are_not_interpreted(host: RealHost) -> None:
    assert (await host.run(["printf", "%s|", "$HOME", "a;b", "`id`", ""])).stdout == "$HOME|a;b|`id`||"


async def test_run_speaks_english_and_has_nothing_of_the_agents_environment(
    host: RealHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    values = dict(line.split("=", 1) for line in (await host.run(["env"])).stdout.splitlines())
    assert values["LC_ALL"] == "C"
    assert "PYTHONPATH" not in values
    assert {"/usr/sbin", "/sbin"} <= set(values["PATH"].split(":"))


async def test_a_command_ended_by_a_signal_has_a_negative_status(host: RealHost) -> None:
    done = await host.run([PYTHON, "-c", "import os; os.kill(os.getpid(), 15)"])
    assert done.exit == -signal.SIGTERM


async def test_a_missing_program_is_file_not_found(host: RealHost) -> None:
    with pytest.raises(FileNotFoundError):
        await host.run(["no-such-program-anywhere"])


async def test_the_time_limit_ends_the_whole_process_group(host: RealHost, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = f"""if True:
        import os, subprocess, time
        child = subprocess.Popen(["sleep", "600"])
        open({str(pids)!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
        time.sleep(600)"""
    with pytest.raises(CommandTimedOut) as caught:
        await host.run([PYTHON, "-c", code], timeout=1.5)
    assert caught.value.seconds == 1.5
    for pid in map(int, pids.read_text().split()):
        await until(lambda pid=pid: not alive(pid))  # type: ignore[misc]


async def test_cancelling_ends_the_command(host: RealHost, tmp_path: Path) -> None:
    pids = tmp_path / "pid"
    code = f"import os, time; open({str(pids)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    task = asyncio.create_task(host.run([PYTHON, "-c", code]))
    await until(lambda: pids.exists() and pids.read_text())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not alive(int(pids.read_text())))


async def test_too_much_output_ends_the_command(host: RealHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_host, "OUTPUT_LIMIT", 100_000)
    done = await host.run(["cat", "/dev/zero"], timeout=20)
    assert done.exit == -signal.SIGKILL
    assert len(done.stdout) < 400_000


async def test_a_daemon_that_holds_the_output_open_does_not_hold_up_the_answer(host: RealHost) -> None:
    code = "import subprocess; print(subprocess.Popen(['sleep', '600'], start_new_session=True).pid)"
    done = await host.run([PYTHON, "-c", code], timeout=30)
    daemon = int(done.stdout)
    assert done.exit == 0
    assert alive(daemon), "what a command leaves behind on purpose is not ours to end"
    os.kill(daemon, signal.SIGKILL)


async def test_follow_yields_lines_as_they_come_and_ends_the_command_when_closed(host: RealHost) -> None:
    code = "import os, time\nprint(os.getpid(), flush=True)\nprint('second', flush=True)\ntime.sleep(600)"
    async with host.follow([PYTHON, "-c", code]) as lines:
        pid = int(await anext(lines))
        assert await anext(lines) == "second"
        assert alive(pid)
    await until(lambda: not alive(pid))


async def test_follow_ends_with_the_command(host: RealHost) -> None:
    async with host.follow(["printf", "one\ntwo"]) as lines:
        assert [line async for line in lines] == ["one", "two"]


# --- jobs -----------------------------------------------------------------------------------------------------------


async def test_a_job_keeps_its_output_and_its_status(host: RealHost) -> None:
    code = "import sys; print('to stdout', flush=True); print('to stderr', file=sys.stderr); sys.exit(3)"
    job = await host.start_job("migrate-1", [PYTHON, "-c", code])
    assert job.scope == "migrate-1"
    assert await job.wait() == 3
    assert [line async for line in job.stderr()] == ["to stdout", "to stderr"]
    again = await host.find_job("migrate-1")
    assert again is not None
    assert await again.wait() == 3


async def test_a_jobs_lines_come_while_it_runs(host: RealHost, tmp_path: Path) -> None:
    go = tmp_path / "go"
    code = f"""if True:
        import os, time
        print("first", flush=True)
        while not os.path.exists({str(go)!r}): time.sleep(0.01)
        print("last", end="")"""
    job = await host.start_job("lines", [PYTHON, "-c", code])
    lines = job.stderr()
    assert await anext(lines) == "first"
    assert job.exit_status() is None
    go.touch()
    assert [line async for line in lines] == ["last"]
    assert await job.wait() == 0


async def test_a_scope_runs_once(host: RealHost) -> None:
    await (await host.start_job("once", ["true"])).wait()
    with pytest.raises(FileExistsError):
        await host.start_job("once", ["true"])
    await host.forget_job("once")
    assert await host.find_job("once") is None
    assert await (await host.start_job("once", ["false"])).wait() == 1


async def test_a_job_whose_program_is_missing_leaves_nothing(host: RealHost) -> None:
    with pytest.raises(FileNotFoundError):
        await host.start_job("missing", ["no-such-program-anywhere"])
    assert await host.find_job("missing") is None


@pytest.mark.parametrize("scope", ["", "../x", "A", "-x", "a/b", "x" * 200])
async def test_a_scope_is_no_path(host: RealHost, scope: str) -> None:
    with pytest.raises(ValueError, match="no name of a job"):
        await host.start_job(scope, ["true"])


async def test_killing_a_job_ends_its_whole_scope_and_records_it(host: RealHost, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = f"""if True:
        import os, subprocess, time
        helper = subprocess.Popen(["sleep", "600"], start_new_session=True)
        open({str(pids)!r}, "w").write(f"{{os.getpid()}} {{helper.pid}}\\n")
        time.sleep(600)"""
    job = await host.start_job("to-kill", [PYTHON, "-c", code])
    await until(lambda: pids.exists() and pids.read_text().endswith("\n"))
    await job.kill()
    assert not any(alive(pid) for pid in map(int, pids.read_text().split()))
    assert await job.wait() == -signal.SIGKILL


async def test_a_running_job_is_not_forgotten(host: RealHost) -> None:
    job = await host.start_job("busy", ["sleep", "600"])
    with pytest.raises(RuntimeError, match="still runs"):
        await host.forget_job("busy")
    await job.kill()
    await host.forget_job("busy")


async def test_a_job_outlives_the_process_that_started_it_and_can_be_joined(tmp_path: Path) -> None:
    """The agent's side is killed with SIGKILL, its whole process group; another agent process joins the job."""
    state, go = tmp_path / "state", tmp_path / "go"
    job_code = f"""if True:
        import os, time
        print("begun", flush=True)
        while not os.path.exists({str(go)!r}): time.sleep(0.01)
        print("ended", flush=True)
        raise SystemExit(7)"""
    agent_code = f"""if True:
        import asyncio, pathlib, sys
        sys.path.insert(0, {str(ROOT)!r})
        from agent.real_host import RealHost
        async def main():
            host = RealHost(pathlib.Path({str(state)!r}))
            await host.start_job("send-1", [sys.executable, "-c", {job_code!r}])
            print("started", flush=True)
            await asyncio.sleep(600)
        asyncio.run(main())"""
    agent = await asyncio.create_subprocess_exec(
        PYTHON, "-c", agent_code, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert agent.stdout is not None
    assert await agent.stdout.readline() == b"started\n"
    os.killpg(agent.pid, signal.SIGKILL)
    await agent.wait()

    job = await RealHost(state).find_job("send-1")
    assert job is not None
    assert job.exit_status() is None
    lines = job.stderr()
    assert await anext(lines) == "begun"
    go.touch()
    assert [line async for line in lines] == ["ended"]
    assert await job.wait() == 7


async def test_a_job_whose_runner_was_killed_counts_as_killed_once_nothing_of_it_is_left(host: RealHost) -> None:
    job = await host.start_job("lost", ["sleep", "600"])
    runner = job._runner()
    assert runner is not None
    await until(lambda: len(real_jobs.marked_processes(job._mark)) == 2)
    children = real_jobs.marked_processes(job._mark) - {runner}
    os.kill(runner, signal.SIGKILL)
    await until(lambda: not alive(runner))
    assert job.exit_status() is None, "its program still runs"
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    assert await job.wait() == -signal.SIGKILL


async def test_a_reused_pid_is_not_taken_for_the_job(host: RealHost, tmp_path: Path) -> None:
    """After a reboot the recorded pid may be any other process: here it is this one."""
    folder = tmp_path / "state" / "jobs" / "before-reboot"
    folder.mkdir(parents=True)
    (folder / "pid").write_text(f"{os.getpid()} 1")
    job = await host.find_job("before-reboot")
    assert job is not None
    assert await job.wait() == -signal.SIGKILL
    await job.kill()  # ends nothing: this process lives to say so


def test_under_systemd_a_job_has_a_unit_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(real_jobs, "SYSTEMD", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert real_jobs.scope_prefix("send-1")[:2] == ["systemd-run", "--scope"]
    assert "--unit=xentandem-job-send-1" in real_jobs.scope_prefix("send-1")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert real_jobs.scope_prefix("send-1") == []
    monkeypatch.setattr(real_jobs, "SYSTEMD", tmp_path / "missing")
    assert real_jobs.scope_prefix("send-1") == []


# --- files ----------------------------------------------------------------------------------------------------------


async def test_files_are_written_whole_with_their_mode(host: RealHost, tmp_path: Path) -> None:
    path = tmp_path / "vm.res"
    await host.write_text(str(path), "one")
    await host.write_text(str(path), "two", mode=0o644)
    assert await host.read_text(str(path)) == "two"
    assert path.stat().st_mode & 0o777 == 0o644
    assert await host.list_dir(str(tmp_path)) == ["vm.res"]


async def test_a_failed_write_leaves_the_old_file_and_no_rest(
    host: RealHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "vm.res"
    await host.write_text(str(path), "old")
    seen: list[str] = []

    def full(descriptor: int) -> None:
        seen.extend(os.listdir(tmp_path))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        await host.write_text(str(path), "new")
    assert path.read_text() == "old"
    assert [name for name in seen if name.endswith(".res")] == ["vm.res"], "no half-written file is ever taken for one"
    assert os.listdir(tmp_path) == ["vm.res"]


async def test_absent_and_unreadable_differ(host: RealHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not await host.exists(str(tmp_path / "no"))
    assert await host.exists(str(tmp_path))
    assert await host.list_dir(str(tmp_path / "no")) == []
    await host.remove(str(tmp_path / "no"))
    with pytest.raises(FileNotFoundError):
        await host.read_text(str(tmp_path / "no"))

    def denied(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "stat", denied)
    with pytest.raises(PermissionError):
        await host.exists("/etc/drbd.d/x.res")


async def test_an_image_is_never_written_into_a_file(host: RealHost, tmp_path: Path) -> None:
    """A missing device node must not become a file that swallows the image."""
    (tmp_path / "image").write_bytes(b"data")
    (tmp_path / "file").write_bytes(b"kept")
    with pytest.raises(OSError, match="Block device required"):
        await host.copy_image(str(tmp_path / "image"), str(tmp_path / "file"))
    with pytest.raises(FileNotFoundError):
        await host.copy_image(str(tmp_path / "image"), str(tmp_path / "device"))
    assert (tmp_path / "file").read_bytes() == b"kept"
    assert not (tmp_path / "device").exists()


async def test_an_image_is_copied_and_its_digest_is_of_what_was_written(
    host: RealHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(3 << 20)
    (tmp_path / "image").write_bytes(data)
    (tmp_path / "device").write_bytes(b"")
    monkeypatch.setattr(stat, "S_ISBLK", lambda mode: True)
    monkeypatch.setattr(real_host, "_CHUNK", 1_000_003)
    size, digest = await host.copy_image(str(tmp_path / "image"), str(tmp_path / "device"))
    assert (size, (tmp_path / "device").read_bytes()) == (len(data), data)
    assert digest == hashlib.sha256(data).hexdigest()

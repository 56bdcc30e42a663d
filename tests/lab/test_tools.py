"""What the agent calls on a host beside the field's own tools, against the real ones."""

from __future__ import annotations

from tests.lab.hosts import NAME, Hosts

RESUME = "/opt/xentandem/lib/python3.11/site-packages/agent/scripts/xentandem-resume"


async def test_a_suspended_domain_goes_on(running: Hosts) -> None:
    """Left suspended by a toolstack that was killed, it goes on with its disk: libxl_domain_resume by ctypes."""
    (domain,) = running.domains("mk1")
    # `xl save` suspends first; nobody reads the fifo, so it waits until it and its helper are killed
    running.on("mk1", "rm -f /run/saved; mkfifo /run/saved; (sleep 600 <>/run/saved &) >/dev/null 2>&1")
    running.on("mk1", f"(setsid xl save {NAME} /run/saved &) >/dev/null 2>&1 </dev/null")

    async def suspended() -> bool:
        return [one.state for one in running.domains("mk1")] == ["suspended"]

    await running.until(suspended, "suspended")
    running.on("mk1", "kill -9 $(pgrep -f '^[^ ]*(xl save|libxl-save-helper)')")
    assert [one.state for one in running.domains("mk1")] == ["suspended"]
    running.on("mk1", f"{RESUME} {domain.domid}")
    assert [one.state for one in running.domains("mk1")] == ["running"]
    await running.writes("mk1")
    assert running.answers_ping("mk2")
    running.nothing_lost("mk1")


async def test_what_is_not_suspended_is_left_alone(running: Hosts) -> None:
    (domain,) = running.domains("mk1")
    done = running.lab.shell("mk1").run(f"{RESUME} {domain.domid + 1000}")
    assert done.exit != 0
    assert "libxl_domain_resume" in done.stderr
    await running.writes("mk1")

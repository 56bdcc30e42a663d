"""Facts of the host: Xen's, DRBD's version and the volume groups are polled, the agent's own are shown at once."""

from __future__ import annotations

from contextlib import suppress

from agent.core import Context, time_text
from agent.drivers.drbd import kernel_version
from agent.drivers.errors import DriverError
from agent.host import CommandTimedOut
from agent.protocol import HostFacts


async def read_facts(context: Context, known: HostFacts) -> tuple[HostFacts, dict[str, Exception | None]]:
    """What is read now, else what was `known`; and by reason what could not be read (None: it could)."""
    facts, problems = known, dict[str, Exception | None]()
    try:
        facts = await context.xen.host_facts()
        problems["XenUnreadable"] = None
    except (DriverError, CommandTimedOut, OSError) as error:
        problems["XenUnreadable"] = error
    update: dict[str, object] = {"drbd_version": None, "volume_groups": known.volume_groups}
    with suppress(DriverError, CommandTimedOut, OSError):  # None says it
        update["drbd_version"] = await kernel_version(context.host)
    try:
        update["volume_groups"] = await context.lvm.volume_groups()
    except (DriverError, CommandTimedOut, OSError) as error:
        problems["LvmUnreadable"] = error
    update["relocation_listening"] = context.migration.port != 0
    update["certificate_expires_at"] = certificate_expiry(context)
    return facts.model_copy(update=update), problems


def certificate_expiry(context: Context) -> str:
    return time_text(context.credentials.expires.timestamp())


def put_facts(context: Context, **facts: object) -> None:
    """What the agent itself knows of HostFacts changed."""
    watch = context.observer.watch
    watch.publish(watch.state.model_copy(update={"facts": watch.state.facts.model_copy(update=facts)}))

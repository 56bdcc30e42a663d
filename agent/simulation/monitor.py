"""What a daemonised `xl create` (without -e) does after the start: acts on the domain's end as its configuration says.

Exits when the domain is suspended: on Xen up to 4.19 nobody watches a domain any more whose migration failed.
"""

from __future__ import annotations

import dataclasses

from agent.simulation import libxl
from agent.simulation.hypervisor import CRASH, POWEROFF, REBOOT, Domain

PAUSE_BEFORE_RESTART = 2.0  # xl sleeps so long before it makes the domain again


def start(domain: Domain) -> None:
    """Watch in the background until the domain is gone for good, or the host."""
    domain.xen.start(_watch(domain), f"xl's monitor of {domain.domid}")


async def _watch(domain: Domain) -> None:
    xen, spec = domain.xen, domain.spec
    await xen.host.simulation.changed.wait_until(lambda: domain.gone or domain.shutdown is not None)
    actions = {POWEROFF: spec.on_poweroff, REBOOT: spec.on_reboot, CRASH: spec.on_crash}
    action = actions.get(-1 if domain.shutdown is None else domain.shutdown, "")
    name = domain.name
    if domain.gone or name is None or action in ("", "preserve"):
        return
    if action == "rename-restart":
        libxl.rename(domain, f"{name}-{domain.domid}", _unheard)
        spec = dataclasses.replace(spec, uuid=None)
    else:
        await libxl.destroy(domain, _unheard)
    if "restart" not in action:
        return
    await xen.host.clock.sleep(PAUSE_BEFORE_RESTART)
    try:
        again = await libxl.create(xen, libxl.renamed(spec, name), _unheard)
    except libxl.LibxlError:
        return
    again.unpause()
    start(again)


def _unheard(text: str) -> None:
    """It writes to /var/log/xen, which nobody reads here."""

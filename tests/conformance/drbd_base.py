"""What the DRBD scenarios share: the configuration that agent/drivers writes, and the commands that look."""

from __future__ import annotations

from agent.drivers import drbd_config
from agent.protocol import Member, VolumeDesired
from tests.conformance.lvm import CREATE
from tests.conformance.tools import Tools

NAME = "vm_shaolin"
FILE = f"/etc/drbd.d/{NAME}.res"
DEVICE = "/dev/drbd1"
SIZE = 64 << 20
EVENTS = "drbdsetup events2 --now --statistics"
PROC = "cat /proc/drbd"
BRIEF = (EVENTS, f"drbdadm get-gi {NAME}")
"""What the drivers ask."""
LOOK = (
    PROC,
    *BRIEF,
    f"drbdadm status {NAME}",
    "drbdsetup status --verbose --statistics",
    f"drbdadm role {NAME}",
    f"drbdadm cstate {NAME}",
    f"drbdadm dstate {NAME}",
    "drbdsetup show",
)
"""And what tests/samples has in every state."""


def desired(*, rate: str = "100M", metadata_group: str | None = None) -> VolumeDesired:
    members = (Member(node="mk1", address="10.0.0.81"), Member(node="mk2", address="10.0.0.82"))
    return VolumeDesired(
        term=1, uid="99999999-9999-4999-8999-999999999999", namespace="default", name="vm-shaolin", resource=NAME,
        minor=1, port=7789, group="vg0", logical_volume=NAME, size=SIZE, members=members, resync_rate=rate,
        metadata_group=metadata_group,
    )  # fmt: skip


def config(
    *,
    rate: str = "100M",
    handler: str | None = None,
    fencing: str = "resource-only",
    external: bool = False,
    net: str = "",
    disk: str = "",
) -> str:
    """As the driver renders it, with short time-outs so that a lost peer is noticed in seconds."""
    text = drbd_config.render(
        desired(rate=rate, metadata_group="vg0" if external else None), "8.4", fence_handler=handler
    )
    text = text.replace("  net {", f"  net {{\n    timeout 30; ping-int 3; connect-int 3; {net}")
    text = text.replace("c-plan-ahead 20;", f"c-plan-ahead 0; {disk}")
    return text if handler else text.replace("fencing resource-only", f"fencing {fencing}")


async def provision(hosts: Tools, text: str | None = None, *, size: int = SIZE) -> None:
    """Logical volume, configuration, metadata; not up."""
    await hosts.write(FILE, text or config())
    await hosts.do_both(f"{CREATE} -n {NAME} -L {size}b vg0", f"drbdadm create-md --force {NAME}")


async def in_sync(hosts: Tools, text: str | None = None, *, size: int = SIZE) -> None:
    """UpToDate on both by the short way, Primary nowhere. Data is what the new volumes hold: zeros."""
    await provision(hosts, text, size=size)
    await hosts.do_both(f"drbdadm up {NAME}")
    await hosts.until_both(PROC, "cs:Connected")
    await hosts.do("mk1", f"drbdadm -- --clear-bitmap new-current-uuid {NAME}/0")
    await settled(hosts)


async def settled(hosts: Tools) -> None:
    """Connected, nothing to copy any more."""
    await hosts.until_both(PROC, "cs:Connected ro:[^ ]+ ds:UpToDate/UpToDate", 240)

"""drbd.conf(5) for one resource. Pure: no I/O.

Both dialects get the same policies: one Primary (two are never allowed), a split brain ends in disconnection unless the
unused side wrote nothing, a failing disk is detached, without access to any data IO waits, a handshake that would need
a choice disconnects.
"""

from __future__ import annotations

import re
from typing import Literal

from agent.drivers.errors import DriverError
from agent.drivers.lvm import path
from agent.protocol import VolumeDesired

Dialect = Literal["8.4", "9"]

OWNER_COMMENT = "# xentandem-uid: "
"""First line of a file that Xentandem wrote; the owner's uid follows."""


def render(
    desired: VolumeDesired, dialect: Dialect, *, fence_handler: str | None = None, shared_secret: str | None = None
) -> str:
    """The whole file /etc/drbd.d/<resource>.res.

    Fencing is `resource-only` without a handler: IO goes on when the peer is lost, and DRBD refuses to promote a side
    that can't see its peer (-7), which is what keeps a stale replica from being used. With `fence_handler` (the path of
    a fence-peer program, drbd.conf(5)) it is `resource-and-stonith`: IO is frozen until the handler has answered. With
    protocol A DRBD takes `resource-only` alone (ERR_STONITH_AND_PROT_A): the handler is asked, and IO goes on.
    `shared_secret` (at most 64 characters) authenticates the peers. Raises DriverError("InvalidConfiguration").
    """
    rate = _kib(desired.resync_rate)
    fencing = "resource-and-stonith" if fence_handler and desired.protocol != "A" else "resource-only"
    net = [
        f"protocol {desired.protocol}",
        "allow-two-primaries no",
        "after-sb-0pri discard-zero-changes",
        "after-sb-1pri consensus",
        "after-sb-2pri disconnect",
        "rr-conflict disconnect",
        f"verify-alg {desired.verify_alg}",
    ]
    if shared_secret is not None:
        if len(shared_secret) > 64:
            raise DriverError("InvalidConfiguration", "the shared secret has more than DRBD's 64 characters")
        net += ["cram-hmac-alg sha256", f"shared-secret {_quoted('the shared secret', shared_secret)}"]
    disk = [
        "on-io-error detach",
        f"resync-rate {desired.resync_rate}",
        "c-plan-ahead 20",
        "c-fill-target 1M",
        f"c-max-rate {max(rate, 250)}k",
        f"c-min-rate {min(rate, 10 * 1024)}k",
    ]
    # The one difference that makes each parser refuse the other's file (drbd.conf(5) of 8.4 and 9)
    (disk if dialect == "8.4" else net).append(f"fencing {fencing}")
    lines = [
        f"{OWNER_COMMENT}{desired.uid}",
        f"# DrbdVolume {desired.namespace}/{desired.name}: written by xentandem-agent, changes are overwritten",
        f"resource {desired.resource} {{",
        *_section("net", net),
        *_section("disk", disk),
    ]
    # A Primary whose disk and whose peer are gone waits for one of them: its guest sees no IO error
    options = ["on-no-data-accessible suspend-io"]
    if dialect == "9":
        # Opening a device never makes it Primary: only the agent promotes
        options.insert(0, "auto-promote no")
    lines += _section("options", options)
    if fence_handler:
        lines += _section("handlers", [f"fence-peer {_quoted('the fence handler', fence_handler)}"])
    for node_id, member in enumerate(desired.members):
        lines.append(f"  on {member.node} {{")
        if dialect == "9":
            lines.append(f"    node-id {node_id};")
        lines += [
            f"    address {_address(member.address, desired.port)};",
            "    volume 0 {",
            f"      device minor {desired.minor};",
            f"      disk {path(desired.group, desired.logical_volume)};",
            f"      meta-disk {_meta_disk(desired)};",
            "    }",
            "  }",
        ]
    return "\n".join([*lines, "}"]) + "\n"


def _section(name: str, options: list[str]) -> list[str]:
    return [f"  {name} {{", *(f"    {option};" for option in options), "  }"]


def _kib(rate: str) -> int:
    """drbd.conf's rates count KiB when they have no unit. c-max-rate takes no less than 250 of them."""
    units = {"K": 1, "M": 1 << 10, "G": 1 << 20}
    return int(rate[:-1]) * units[rate[-1]] if rate[-1] in units else int(rate)


def _meta_disk(desired: VolumeDesired) -> str:
    if desired.metadata_group is None:
        return "internal"
    return path(desired.metadata_group, f"{desired.logical_volume}_meta")


def _address(address: str, port: int) -> str:
    if re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3}){3}", address):
        return f"ipv4 {address}:{port}"
    if re.fullmatch(r"[0-9A-Fa-f:.]+", address) and ":" in address:
        return f"ipv6 [{address}]:{port}"
    raise DriverError("InvalidConfiguration", f"{address!r} is not an IP address: DRBD's address takes no host names")


def _quoted(what: str, value: str) -> str:
    if '"' in value or "\\" in value or not value.isprintable():
        raise DriverError(
            "InvalidConfiguration", f"{what} has a quote, backslash or control character: drbd.conf can't carry it"
        )
    return f'"{value}"'

"""The domain configuration xl reads (xl.cfg(5), xl-disk-configuration(5)). Pure: no I/O."""

from __future__ import annotations

from agent.drivers.errors import DriverError
from agent.protocol import DiskConfig, DomainDesired, NetworkConfig

HOTPLUG_SCRIPT = "block-xentandem"
"""Our block script in /etc/xen/scripts: attaches a disk whose DRBD is Primary here and leaves any other unopened."""

NETWORK_SCRIPT = "vif-xentandem"
"""Our network script there: vif-bridge's work, or that of the script that xl.conf names, at once."""


def render(desired: DomainDesired) -> str:
    """The configuration of a domain; its uuid is the XenVM's uid.

    The on_* settings are what xl's own monitor would do; domains are created with `-e`, without a monitor, and the
    agent acts on a domain that ended. They say `preserve`, so that nothing else ever restarts a domain by itself.
    Raises DriverError("InvalidConfiguration") for text that xl's quoting can't carry.
    """
    config = desired.config
    lines = [
        f"# XenVM {_text('namespace', desired.namespace)}/{_text('name', desired.name)}: written by xentandem-agent",
        f"name = {_quoted('name', desired.name)}",
        f"uuid = {_quoted('uid', desired.uid)}",
        f'type = "{config.type}"',
        f"memory = {config.memory_mib}",
        f"maxmem = {config.max_memory_mib}",
        f"vcpus = {config.vcpus}",
    ]
    for field in ("kernel", "ramdisk", "bootloader"):
        value = getattr(config, field)
        if value is not None:
            lines.append(f"{field} = {_quoted(field, value)}")
    if config.cmdline:
        lines.append(f"cmdline = {_quoted('cmdline', config.cmdline)}")
    lines.append(_list("disk", [_disk(disk) for disk in config.disks]))
    lines.append(_list("vif", [_network(network) for network in config.networks]))
    lines += [f'{event} = "preserve"' for event in ("on_poweroff", "on_reboot", "on_crash", "on_watchdog")]
    return "\n".join(lines) + "\n"


def _disk(disk: DiskConfig) -> str:
    access = "rw" if disk.mode == "w" else "ro"
    # target= must come last: it takes the rest of the string (xl-disk-configuration(5))
    return f"format=raw,vdev={disk.vdev},access={access},script={HOTPLUG_SCRIPT},target=/dev/drbd{disk.minor}"


def _network(network: NetworkConfig) -> str:
    return f"mac={network.mac},bridge={_text('bridge', network.bridge)},script={NETWORK_SCRIPT}"


def _list(name: str, items: list[str]) -> str:
    return f"{name} = [{', '.join(_quoted(name, item) for item in items)}]"


def _quoted(field: str, value: str) -> str:
    return f'"{_text(field, value)}"'


def _text(field: str, value: str) -> str:
    """xl's strings know escapes, but no way to write every character: refuse those that could end a string early."""
    wrong = sorted({character for character in value if character in "\"'\\" or not character.isprintable()})
    if wrong:
        raise DriverError(
            "InvalidConfiguration",
            f"{field} has {', '.join(map(repr, wrong))}: "
            "write it on one line without quotes, backslashes or control characters",
        )
    return value

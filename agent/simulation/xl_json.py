"""libxl's JSON of a domain: what a migration stream carries and `xl list -l` shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.simulation.xl_parse import ConfigError, DiskSpec, DomainSpec, VifSpec


def to_json(spec: DomainSpec) -> dict[str, Any]:
    """libxl_domain_config as libxl writes it: settings that equal the default are left out."""
    info: dict[str, Any] = {
        "max_vcpus": spec.vcpus,
        "avail_vcpus": list(range(spec.vcpus)),
        "max_memkb": spec.max_kib,
        "target_memkb": spec.target_kib,
        "video_memkb": 0,
        "sched_params": {"sched": "credit2", "weight": 256, "cap": 0},
        "claim_mode": "True",
    }
    for key, value in (("kernel", spec.kernel), ("cmdline", spec.cmdline), ("ramdisk", spec.ramdisk)):
        if value:
            info[key] = value
    if spec.bootloader:
        info["bootloader"] = spec.bootloader
    info |= {f"type.{spec.type}": {}, "arch_arm": {}, "arch_x86": {"msr_relaxed": "False"}}
    config: dict[str, Any] = {
        "c_info": {
            "type": spec.type,
            "name": spec.name,
            "domid": 4294967295,
            "uuid": spec.uuid,
            "run_hotplug_scripts": "True",
        },
        "b_info": info,
    }
    if spec.disks:
        config["disks"] = [_disk_json(disk) for disk in spec.disks]
    if spec.vifs:
        config["nics"] = [
            {"devid": index, "mac": vif.mac, "bridge": vif.bridge, "script": f"/etc/xen/scripts/{vif.script}"}
            for index, vif in enumerate(spec.vifs)
        ]
    for key, action in (("poweroff", spec.on_poweroff), ("reboot", spec.on_reboot), ("crash", spec.on_crash)):
        if action != "destroy":
            config[f"on_{key}"] = action.replace("-", "_")
    config["on_soft_reset"] = "soft_reset"
    return config


def _disk_json(disk: DiskSpec) -> dict[str, Any]:
    shown: dict[str, Any] = {"pdev_path": disk.target, "vdev": disk.vdev}
    if disk.backend:
        shown["backend"] = disk.backend
    shown["format"] = "raw"
    if disk.script:
        shown["script"] = disk.script
    return {**shown, "readwrite": int(disk.access == "w"), "colo_restore_enable": "False"}


def from_json(config: Mapping[str, Any]) -> DomainSpec:
    """The inverse of `to_json`. Raises ConfigError when the document is not a domain's."""
    try:
        made, built = config["c_info"], config["b_info"]
        return DomainSpec(
            name=made["name"],
            uuid=made["uuid"],
            type=made["type"],
            target_kib=built["target_memkb"],
            max_kib=built["max_memkb"],
            vcpus=built["max_vcpus"],
            kernel=built.get("kernel"),
            ramdisk=built.get("ramdisk"),
            cmdline=built.get("cmdline", ""),
            bootloader=built.get("bootloader"),
            disks=tuple(
                DiskSpec(
                    disk["pdev_path"],
                    disk["vdev"],
                    "w" if disk.get("readwrite") else "r",
                    disk.get("script"),
                    disk.get("backend"),
                )
                for disk in config.get("disks", [])
            ),
            vifs=tuple(
                VifSpec(nic.get("mac"), nic["bridge"], nic["script"].rsplit("/", 1)[-1])
                for nic in config.get("nics", [])
            ),
            **{
                f"on_{key}": config.get(f"on_{key}", "destroy").replace("_", "-")
                for key in ("poweroff", "reboot", "crash")
            },
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"libxl: error: cannot parse the domain configuration: {error!r}") from None


def render_json(value: Any, depth: int = 0) -> str:
    """JSON as libxl's generator writes it: four blanks, and an empty map with an empty line in it."""
    pad, inner = "    " * depth, "    " * (depth + 1)
    if isinstance(value, dict):
        if not value:
            return "{\n\n" + pad + "}"
        items = [f"{inner}{render_json(key)}: {render_json(item, depth + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + "\n" + pad + "}"
    if isinstance(value, list):
        return "[\n" + ",\n".join(inner + render_json(item, depth + 1) for item in value) + "\n" + pad + "]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return "null" if value is None else str(value)

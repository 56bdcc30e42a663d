"""What xl prints: `xl list`, `xl list -l`, `xl info`, `xl block-list`, `xl vcpu-list`, column by column (xl(1))."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from agent.simulation.hotplug import INITIALISING
from agent.simulation.hypervisor import DOM0_UUID, Domain, Xen
from agent.simulation.xl_json import render_json, to_json

LIST_HEADER = "Name                                        ID   Mem VCPUs\tState\tTime(s)"
VERBOSE_HEADER = "   UUID                            Reason-Code\tSecurity Label"
BLOCK_HEADER = f"{'Vdev':<5} {'BE':<3} {'handle':<6} {'state':<5} {'evt-ch':<6} {'ring-ref':<8} {'BE-path':<30}\n"


def list_domains(xen: Xen, domains: Iterable[Domain], *, dom0: bool, verbose: bool) -> str:
    lines = [LIST_HEADER + (VERBOSE_HEADER if verbose else "")]
    if dom0:
        uptime = xen.host.clock.now() - xen.host.booted_at
        cpus = min(2, xen.host.simulation.hardware.cpus)
        lines.append(_line("Domain-0", 0, xen.settings.dom0_mib, cpus, "r-----", 5.0 + 0.1 * uptime))
        if verbose:
            lines[-1] += _verbose(DOM0_UUID, None)
    for domain in domains:
        memory = domain.memory_kib // 1024
        name = domain.name or "(null)"
        lines.append(_line(name, domain.domid, memory, domain.vcpus_online, domain.flags, domain.cpu_seconds))
        if verbose:
            lines[-1] += _verbose(domain.uuid, domain.shutdown)
    return "\n".join(lines) + "\n"


def _line(name: str, domid: int, memory: int, vcpus: int, flags: str, seconds: float) -> str:
    return f"{name:<40} {domid:5d} {memory:5d} {vcpus:5d}     {flags}  {seconds:8.1f}"


def _verbose(uuid: str, reason: int | None) -> str:
    return f" {uuid} {'-' if reason is None else format(reason, 'x'):>8} {'-':>16}"


def list_long(xen: Xen, domains: Iterable[Domain], *, dom0: bool) -> str:
    shown: list[dict[str, Any]] = []
    if dom0:
        scheduling = {"sched": "credit2", "weight": 256, "cap": 0}
        memory = {"max_memkb": 17179869180, "target_memkb": xen.settings.dom0_mib * 1024 - 1}
        built = {**memory, "sched_params": scheduling, "type.pv": {}, "arch_arm": {}, "arch_x86": {}}
        shown.append({"domid": 0, "config": {"c_info": {"type": "pv", "name": "Domain-0"}, "b_info": built}})
    shown += [{"domid": domain.domid, "config": configuration(domain)} for domain in domains if domain.name]
    return render_json(shown) + "\n\n" if shown else "[\n\n]\n\n"


def configuration(domain: Domain) -> dict[str, Any]:
    """libxl_retrieve_domain_configuration: with the name that the domain has now."""
    return to_json(dataclasses.replace(domain.spec, name=domain.name or "", uuid=domain.uuid))


def block_list(domain: Domain) -> str:
    """Lines without the header. `state` is the frontend's: 1 until the guest ran, 4 connected, 6 a dead disk."""
    lines = ""
    for devid, vbd in domain.vbds.items():
        state = int(domain.xen.store.read(f"{vbd.frontend}/state") or INITIALISING)
        event, ring = ("8" if domain.spec.type == "pv" else "7", "8") if state == 4 else ("-1", "-1")
        lines += f"{devid:<5} {0:<3} {domain.domid:<6} {state:<5} {event:<6} {ring:<8} {vbd.path:<30}\n"
    return lines


def info(xen: Xen) -> dict[str, str]:
    """`xl info`, key by key in its order."""
    settings, hardware = xen.settings, xen.host.simulation.hardware
    major, minor, extra = settings.version
    hvm = " hvm-3.0-x86_32 hvm-3.0-x86_32p hvm-3.0-x86_64" if "hvm" in settings.virt_caps.split() else ""
    return {
        "host": xen.host.name,
        "release": "6.1.0-37-amd64",
        "version": "#1 SMP PREEMPT_DYNAMIC Debian 6.1.140-1 (2025-05-22)",
        "machine": "x86_64",
        "nr_cpus": str(hardware.cpus),
        "max_cpu_id": str(hardware.cpus - 1),
        "nr_nodes": "1",
        "cores_per_socket": str(hardware.cpus),
        "threads_per_core": "1",
        "cpu_mhz": "2596.102",
        "hw_caps": settings.hw_caps,
        "virt_caps": settings.virt_caps,
        "total_memory": str(xen.total_mib),
        "free_memory": str(max(0, xen.free_kib // 1024)),
        "sharing_freed_memory": "0",
        "sharing_used_memory": "0",
        "outstanding_claims": "0",
        "free_cpus": "0",
        "xen_major": str(major),
        "xen_minor": str(minor),
        "xen_extra": f".{extra}",
        "xen_version": f"{major}.{minor}.{extra}",
        "xen_caps": f"xen-3.0-x86_64{hvm} ",
        "xen_scheduler": "credit2",
        "xen_pagesize": "4096",
        "platform_params": "virt_start=0xffff800000000000",
        "xen_changeset": "",
        "xen_commandline": f"dom0_mem={settings.dom0_mib}M,max:{settings.dom0_mib}M",
        "cc_compiler": "x86_64-linux-gnu-gcc (Debian 12.2.0-14+deb12u1) 12.2.0",
        "cc_compile_by": "pkg-xen-devel",
        "cc_compile_domain": "lists.alioth.debian.org",
        "cc_compile_date": "Wed Nov  4 16:52:28 UTC 2026",
        "build_id": "151b373fd64b321593bf987fd923cd10dabadac4",
        "xend_config_format": "4",
    }


def info_text(xen: Xen) -> str:
    return "".join(f"{key:<23}: {value}\n" for key, value in info(xen).items())

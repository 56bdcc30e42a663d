"""What libxl does with a domain, in the order and with the words of Xen 4.17: make, build, attach, destroy, resume.

Every function says on `say` (standard error) what libxl would log, and returns or raises libxl's code (negative).
What the kernel and the hypervisor began goes on when the xl process that asked for it is killed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

from agent.simulation.guest import Guest
from agent.simulation.hotplug import SCRIPTS, ScriptFailed, Vbd, Vif, add_disk, add_interface
from agent.simulation.hypervisor import Domain, Xen
from agent.simulation.save_format import GuestState
from agent.simulation.xl_parse import DomainSpec, with_uuid

Say = Callable[[str], None]
ERROR_FAIL, ERROR_INVAL, ERROR_TIMEDOUT, ERROR_GUEST_TIMEDOUT, ERROR_NOTFOUND = -3, -6, -5, -8, -21
ENOENT_TEXT = "No such file or directory"


class LibxlError(Exception):
    """libxl failed with this code; its words were said."""

    def __init__(self, code: int) -> None:
        super().__init__(f"libxl error {code}")
        self.code = code


def say_gone(say: Say, domid: int) -> None:
    """What destroying a domain that is not there says; also the end of every failed creation."""
    say(f"libxl: error: libxl_domain.c:1183:libxl__destroy_domid: Domain {domid}:Non-existant domain\n")
    say(f"libxl: error: libxl_domain.c:1137:domain_destroy_callback: Domain {domid}:Unable to destroy guest\n")
    say(f"libxl: error: libxl_domain.c:1064:domain_destroy_cb: Domain {domid}:Destruction of domain failed\n")


async def make(xen: Xen, spec: DomainSpec, say: Say) -> Domain:
    """A domain with its name and nothing else. A name that is taken: -3."""
    draw = random.Random(xen.host.simulation.random.getrandbits(64))  # noqa: S311  # repeatable
    macs = [
        f"00:16:3e:{draw.randrange(128):02x}:{draw.randrange(256):02x}:{draw.randrange(256):02x}" for _ in spec.vifs
    ]
    spec = with_uuid(spec, xen.host.simulation.random_uuid(), macs)
    assert spec.uuid is not None
    domain = xen.new_domain(spec, spec.uuid)
    if xen.find(spec.name) is not None or spec.name == "Domain-0":
        xen.release(domain)
        say_name_taken(say, domain.domid, spec.name)
        say(f"libxl: error: libxl_create.c:1296:initiate_domain_create: Domain {domain.domid}:cannot make domain: -6\n")
        say_gone(say, domain.domid)
        raise LibxlError(ERROR_FAIL)
    xen.introduce(domain, spec.name)
    for index, disk in enumerate(spec.disks):
        if disk.script is None and not xen.host.devices.exists(disk.target):
            say(
                "libxl: error: libxl_device.c:455:libxl__device_disk_set_backend: "
                f"Disk vdev={disk.vdev} failed to stat: {disk.target}: {ENOENT_TEXT}\n"
            )
            say(
                f"libxl: error: libxl_create.c:1318:initiate_domain_create: Domain {domain.domid}:"
                f"Unable to set disk defaults for disk {index}\n"
            )
            await _undo(domain, say)
            raise LibxlError(ERROR_FAIL)
    return domain


def say_name_taken(say: Say, domid: int, name: str) -> None:
    say(
        f"libxl: error: libxl_domain.c:81:libxl__domain_rename: Domain {domid}:"
        f'Domain with name "{name}" already exists.\n'
    )


async def create(xen: Xen, spec: DomainSpec, say: Say) -> Domain:
    """A whole new domain, still paused. Raises LibxlError; nothing is left then."""
    domain = await make(xen, spec, say)
    await build(domain, say)
    await attach(domain, say)
    return domain


async def build(domain: Domain, say: Say) -> None:
    """Kernel and memory of a domain that starts from nothing."""
    xen, spec = domain.xen, domain.spec
    await xen.host.clock.sleep(xen.settings.build)
    for what, path in (("kernel", spec.kernel), ("ramdisk", spec.ramdisk)):
        if path is not None and not spec.bootloader and not xen.host.files.exists(path):
            _say_no_file(say, spec.type, what, path)
            await cannot_build(domain, say)
    if spec.kernel is None and spec.bootloader is None and spec.type != "hvm":
        say("xc: error: panic: xg_dom_core.c:667: xc_dom_find_loader: no loader found: Invalid kernel\n")
        say("libxl: error: libxl_dom.c:571:libxl__build_dom: xc_dom_parse_image failed\n")
        await cannot_build(domain, say)
    if not xen.allocate(domain, spec.target_kib):
        say(
            "xc: error: panic: xg_dom_boot.c:119: xc_dom_boot_mem_init: can't allocate low memory for domain: "
            "Out of memory\n"
            "libxl: error: libxl_dom.c:586:libxl__build_dom: xc_dom_boot_mem_init failed: Cannot allocate memory\n"
        )
        await cannot_build(domain, say)
    domain.vcpus_online = spec.vcpus
    domain.guest = Guest(domain)


def _say_no_file(say: Say, kind: str, what: str, path: str) -> None:
    say(f"xc: error: panic: xg_dom_core.c:205: failed to open file '{path}': {ENOENT_TEXT}: Internal error\n")
    pv, hvm = {"kernel": (646, 909), "ramdisk": (659, 926)}[what]
    if kind == "pv":
        say(f"libxl: error: libxl_dom.c:{pv}:libxl__build_pv: xc_dom_{what}_file failed: {ENOENT_TEXT}\n")
        return
    where = "libxl__load_hvm_firmware_module"
    say(f"libxl: error: libxl_dom.c:{hvm}:{where}: xc_dom_{what}_file failed: {ENOENT_TEXT}\n")
    say(f"libxl: error: libxl_dom.c:942:{where}: xc_dom_{{kernel_file/ramdisk_file}} failed: {ENOENT_TEXT}\n")
    say("libxl: error: libxl_dom.c:1075:libxl__build_hvm: initializing domain firmware failed\n")


async def cannot_build(domain: Domain, say: Say) -> NoReturn:
    """The end of a creation or a restore that failed in the building: raises."""
    say(
        f"libxl: error: libxl_create.c:1640:domcreate_rebuild_done: Domain {domain.domid}:"
        "cannot (re-)build domain: -3\n"
    )
    await _undo(domain, say)
    raise LibxlError(ERROR_FAIL)


def restored(domain: Domain, state: GuestState) -> None:
    """The memory is all here: processors and the guest, still paused."""
    domain.vcpus_online = domain.spec.vcpus
    domain.guest = Guest(domain, state)


async def attach(domain: Domain, say: Say) -> None:
    """Disks, then interfaces, each with its hotplug script."""
    for disk in domain.spec.disks:
        vbd = Vbd(domain, disk)
        domain.vbds[disk.devid] = vbd
        vbd.make()
        if domain.xen.zombies and any(other.dying for other in domain.xen):
            await _xenwatch_stuck(domain, vbd, say)
        try:
            await add_disk(vbd)
        except ScriptFailed as failure:
            _say_script(say, f"{SCRIPTS}/{vbd.script}", "add", failure)
            await _cannot_attach(domain, say, 1672, "domcreate_launch_dm", "disk")
    if domain.spec.type == "hvm":
        await _device_model(domain, say)
    for index, vif_spec in enumerate(domain.spec.vifs):
        vif = Vif(domain, index, vif_spec)
        domain.vifs[index] = vif
        vif.make()
        try:
            await add_interface(vif)
        except ScriptFailed as failure:
            vif.failure = failure
            _say_script(say, f"{SCRIPTS}/{vif_spec.script}", "online", failure)
            await _cannot_attach(domain, say, 1921, "domcreate_attach_devices", "vif")


async def _device_model(domain: Domain, say: Say) -> None:
    """qemu opens an HVM guest's disks at its own start, whatever a hotplug script put off."""
    for vbd in domain.vbds.values():
        if vbd.connected:
            continue
        what = f"domain {domain.domid} device model"
        where = f"libxl_dm.c:3159:device_model_spawn_outcome: Domain {domain.domid}"
        say(f"libxl: error: {where}:{what}: spawn failed (rc=-3)\n")
        say(
            f"libxl: error: libxl_create.c:1896:domcreate_devmodel_started: Domain {domain.domid}:"
            "device model did not start: -3\n"
        )
        await _undo(domain, say)
        raise LibxlError(ERROR_FAIL)


def _say_script(say: Say, script: str, action: str, failure: ScriptFailed) -> None:
    if failure.missing:
        say(f"libxl: cannot execute {script}: {ENOENT_TEXT}\n")
    say(
        f"libxl: error: libxl_exec.c:117:libxl_report_child_exitstatus: {script} {action} [373] "
        f"exited with error status {255 if failure.missing else 1}\n"
    )
    if not failure.missing:
        why = str(failure) or f"{script} failed; error detected."
        say(f"libxl: error: libxl_device.c:1337:device_hotplug_child_death_cb: script: {why}\n")


async def _cannot_attach(domain: Domain, say: Say, line: int, function: str, kind: str) -> NoReturn:
    say(f"libxl: error: libxl_create.c:{line}:{function}: Domain {domain.domid}:unable to add {kind} devices\n")
    await _undo(domain, say)
    raise LibxlError(ERROR_FAIL)


async def _xenwatch_stuck(domain: Domain, vbd: Vbd, say: Say) -> NoReturn:
    """A zombie's disk hangs in the kernel's only xenwatch thread: no backend of any domain gets anywhere."""
    await domain.xen.host.clock.sleep(domain.xen.settings.destroy_timeout)
    where = f"libxl: error: libxl_device.c:1181:device_backend_callback: Domain {domain.domid}:"
    say(f"{where}unable to add device with path {vbd.path}\n")
    await _cannot_attach(domain, say, 1672, "domcreate_launch_dm", "disk")


async def _undo(domain: Domain, say: Say) -> None:
    await destroy(domain, say)
    say_gone(say, domain.domid)


async def destroy(domain: Domain, say: Say) -> None:
    """Pause, close the disks, forget, kill. Disks that do not close in time leave a domain `(null)` behind."""
    xen, settings = domain.xen, domain.xen.settings
    domain.pause()
    for vbd in domain.vbds.values():
        vbd.start_closing()
    waits = [asyncio.ensure_future(vbd.until_closed()) for vbd in domain.vbds.values()]
    try:
        await xen.host.clock.wait_for(asyncio.gather(*waits), settings.destroy_timeout)
    except TimeoutError:
        say(
            f"libxl: error: libxl_domain.c:1530:devices_destroy_cb: Domain {domain.domid}:"
            "libxl__devices_destroy failed\n"
        )
    else:
        await xen.host.clock.sleep(settings.teardown)
    for vif in domain.vifs.values():
        if vif.failure is not None:  # the script finds the bridge as little as before
            _say_script(say, f"{SCRIPTS}/{vif.vif.script}", "offline", vif.failure)
        vif.unplug()
    if domain.gone:  # somebody else was quicker
        return
    xen.forget_paths(domain)
    domain.kill()
    if all(vbd.closed for vbd in domain.vbds.values()):
        xen.release(domain)
    else:
        xen.start(_zombie(domain), f"zombie {domain.domid}")


async def _zombie(domain: Domain) -> None:
    """Dead, but its pages are still with blkback: gone only when the last disk was closed."""
    for vbd in domain.vbds.values():
        await vbd.until_closed()
    domain.xen.release(domain)


def resume(domain: Domain, say: Say) -> int:
    """libxl_domain_resume, "suspend cancelled": the guest goes on with its devices as they are."""
    if domain.resume():
        return 0
    stopped = domain.shutdown is not None
    reason = domain.shutdown if domain.shutdown is not None else 255
    say(f"xc: error: Dom {domain.domid} not suspended: (shutdown {int(stopped)}, reason {reason}): Internal error\n")
    say(
        f"libxl: error: libxl_dom_suspend.c:666:domain_resume_done: Domain {domain.domid}:"
        "xc_domain_resume failed: Invalid argument\n"
    )
    return ERROR_FAIL


def rename(domain: Domain, new: str, say: Say) -> int:
    other = domain.xen.find(new)
    if new == "Domain-0" or (other is not None and other is not domain):
        say_name_taken(say, domain.domid, new)
        return ERROR_INVAL
    domain.xen.rename(domain, new)
    return 0


def renamed(spec: DomainSpec, name: str) -> DomainSpec:
    return replace(spec, name=name)

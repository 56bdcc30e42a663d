"""Domains: the commands of agent/drivers/xen.py, what xl refuses, and what its exit status hides."""

from __future__ import annotations

from tests.conformance.drbd_base import DEVICE, NAME, in_sync
from tests.conformance.drbd_states import PRIMARY, SECONDARY
from tests.conformance.scenario import scenario
from tests.conformance.tools import Tools

FILE = "/etc/xen/conformance.cfg"
GUEST = "shaolin"
UUID = "11111111-1111-4111-8111-111111111111"


def config(**changes: str) -> str:
    values = {
        "name": f'"{GUEST}"', "uuid": f'"{UUID}"', "type": '"pv"', "memory": "128", "maxmem": "128", "vcpus": "1",
        "kernel": '"/boot/xenU/vmlinux"', "ramdisk": '"/boot/xenU/initrd.img"',
        "cmdline": '"console=hvc0 mitigations=off quiet"',
        "disk": f'["format=raw,vdev=xvda,access=rw,script=block,target={DEVICE}"]',
        "vif": '["mac=00:16:3e:00:00:91,bridge=xenbr0"]',
    }  # fmt: skip
    return "".join(f"{key} = {value}\n" for key, value in (values | changes).items())


@scenario("tools", "No domain: what xl, and xenstore say of a name and a number that nobody has")
async def xen_empty(hosts: Tools) -> None:
    await hosts.see("mk1", "xl list", "xl list -v", "xl list no_such", "xl list 4711", "xl list -v 4711")
    await hosts.see("mk1", "xl info", only=r"^(host|nr_cpus|xen_(major|minor|extra|version|scheduler|pagesize))\b|exit")
    for command in ("domid", "pause", "unpause", "destroy", "shutdown", "reboot", "block-list"):
        await hosts.see("mk1", f"xl {command} no_such", f"xl {command} 4711")
    await hosts.see("mk1", "xl rename no_such other", "xl domname 4711", "xl migrate no_such mk2", "xl frobnicate")
    await hosts.see("mk1", "xl create /etc/xen/no_such.cfg", "xl destroy 0", "xl resume 4711")
    await hosts.see(
        "mk1",
        "xenstore-ls -f /local/domain/0/backend/vbd",
        "xenstore-read /local/domain/4711/name",
        "xenstore-read /local/domain/0/name",
        "xenstore-write /tool/conformance/a 1 /tool/conformance/b 2",
        "xenstore-ls -f /tool/conformance",
        "xenstore-ls /tool/conformance",
        "xenstore-list /tool/conformance",
        "xenstore-exists /tool/conformance/c",
        "xenstore-rm /tool/conformance",
        "xenstore-rm /tool/conformance",
    )


@scenario("tools", "A domain that cannot be made: no kernel, bridge, disk or memory; a bad file; nothing stays behind")
async def xen_refusals(hosts: Tools) -> None:
    await in_sync(hosts)
    await hosts.do("mk1", PRIMARY)
    for name, text in {
        "no kernel": config(kernel='"/boot/no_such"'),
        "no ramdisk": config(ramdisk='"/boot/no_such"'),
        "no bridge": config(vif='["mac=00:16:3e:00:00:91,bridge=no_such"]'),
        "no disk": config(disk='["format=raw,vdev=xvda,access=rw,target=/dev/drbd9"]'),
        "too much memory": config(memory="3000", maxmem="3000"),
        "not a configuration": "name = {\n",
        "no name": config().replace(f'name = "{GUEST}"\n', ""),
    }.items():
        await hosts.write(FILE, text, "mk1")
        await hosts.see("mk1", f"xl create -e {FILE}", "xl list", where=name)
    await hosts.see("mk1", SECONDARY, where="after all of them")


@scenario("tools", "A domain's life: create, pause, unpause, rename, crash, reboot, poweroff, shutdown, destroy")
async def xen_life(hosts: Tools) -> None:
    await in_sync(hosts)
    await hosts.do("mk1", PRIMARY)
    look = ("xl list", "xl list -v")
    await hosts.write(FILE, config(), "mk1")
    await hosts.see("mk1", f"xl create -p -e {FILE}", *look, where="paused")
    await hosts.see("mk1", f"xl block-list {GUEST}", where="paused")
    backend = "/local/domain/0/backend/vbd"
    await hosts.see("mk1", f"xenstore-ls -f {backend}", only="params|frontend-id|online|mode|physical-device|hotplug")
    await hosts.see("mk1", f"xl create -e {FILE}", *look, where="name taken")
    await hosts.see("mk1", f"xl unpause {GUEST}", f"xl unpause {GUEST}")
    await hosts.until("mk1", f"xl block-list {GUEST}", "^51712 +0 +[0-9]+ +4")
    await hosts.see("mk1", *look, f"xl block-list {GUEST}", where="running")
    await hosts.see("mk1", SECONDARY, f"xl pause {GUEST}", *look, f"xl unpause {GUEST}", where="in use")
    await hosts.see("mk1", f"xl rename {GUEST} monk", f"xl rename {GUEST} other", "xl list", f"xl rename monk {GUEST}")
    for does, reason in (("crash", "c"), ("reboot", "r"), ("poweroff", "-")):
        await hosts.until("mk1", f"xl block-list {GUEST}", "^51712 +0 +[0-9]+ +4")
        await hosts.place.guest("mk1", GUEST, does)
        await hosts.until("mk1", "xl list", f"---s{reason}-")
        await hosts.see("mk1", *look, f"xl unpause {GUEST}", "xl list", where=f"after {does} in the guest")
        await hosts.see("mk1", f"xl destroy {GUEST}", "xl list", f"xl destroy {GUEST}", where=f"after {does}")
        await hosts.see("mk1", f"xl create -e {FILE}", where=f"after {does}")
    await hosts.until("mk1", f"xl block-list {GUEST}", "^51712 +0 +[0-9]+ +4")
    await hosts.place.sleep(2)
    await hosts.see("mk1", f"xl reboot {GUEST}")
    await hosts.until("mk1", "xl list", "---sr-")
    await hosts.do("mk1", f"xl destroy {GUEST}", f"xl create -e {FILE}")
    await hosts.until("mk1", f"xl block-list {GUEST}", "^51712 +0 +[0-9]+ +4")
    await hosts.place.sleep(2)
    await hosts.see("mk1", f"xl shutdown {GUEST}")
    await hosts.until("mk1", "xl list", "---s--")
    await hosts.see("mk1", *look, where="shut down")
    await hosts.see("mk1", f"xl destroy {GUEST}", SECONDARY, f"xenstore-ls -f {backend}", where="at the end")


@scenario("tools", "A domain on a Secondary disk: xl says 0, the disk is dead")
async def xen_on_secondary(hosts: Tools) -> None:
    await in_sync(hosts)
    await hosts.write(FILE, config(), "mk1")
    await hosts.see("mk1", f"xl create -e {FILE}", "xl list")
    await hosts.until("mk1", f"xl block-list {GUEST}", "^51712 +0 +[0-9]+ +6")
    await hosts.see("mk1", f"xl block-list {GUEST}", where="dead disk")
    await hosts.see("mk1", f"xl destroy {GUEST}", "xl list", f"drbdadm role {NAME}")

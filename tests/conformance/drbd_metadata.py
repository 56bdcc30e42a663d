"""Metadata to the byte, growth, external metadata, verify, fencing, configurations: beyond tests/samples."""

from __future__ import annotations

from tests.conformance.drbd_base import (
    BRIEF,
    DEVICE,
    EVENTS,
    FILE,
    LOOK,
    NAME,
    PROC,
    SIZE,
    config,
    in_sync,
    provision,
    settled,
)  # fmt: skip
from tests.conformance.drbd_states import PRIMARY, SECONDARY
from tests.conformance.lvm import CREATE, LVS
from tests.conformance.scenario import scenario
from tests.conformance.tools import Tools

MIB = 1 << 20
SIZES = ("blockdev --getsize64 /dev/drbd1", f"blockdev --getsize64 /dev/vg0/{NAME}")


@scenario("tools", "Metadata: create, dump, identifiers, wipe, on disks of several sizes; usable sizes to the byte")
async def drbd_metadata(hosts: Tools) -> None:
    await hosts.write(FILE, config())
    for size in (4 * MIB, 64 * MIB, 132 * MIB, 1024 * MIB):
        await hosts.do("mk1", f"{CREATE} -n {NAME} -L {size}b vg0")
        where = f"{size // MIB} MiB"
        await hosts.see("mk1", f"drbdadm create-md --force {NAME}", f"drbdadm dump-md {NAME}", where=where)
        await hosts.see("mk1", f"drbdadm up {NAME}", *SIZES, where=where)
        await hosts.do("mk1", f"drbdadm down {NAME}")
        await hosts.see("mk1", f"drbdadm wipe-md --force {NAME}", f"drbdadm dump-md {NAME}", where=where)
        await hosts.do("mk1", f"lvremove -y vg0/{NAME}")
    await provision(hosts)
    await hosts.see("mk1", f"drbdadm create-md {NAME}", where="metadata there, not forced")
    await hosts.see(
        "mk1", f"drbdadm get-gi {NAME}", f"drbdadm dstate {NAME}", f"drbdadm role {NAME}", where="down, fresh"
    )
    await hosts.see("mk1", f"drbdadm outdate {NAME}", f"drbdadm invalidate {NAME}", where="down, fresh")
    await hosts.see("mk1", f"drbdadm apply-al {NAME}", f"drbdadm dstate {NAME}", where="down, invalidated")
    await hosts.do("mk1", f"drbdadm create-md --force {NAME}")
    await hosts.do_both(f"drbdadm up {NAME}")
    await hosts.until_both(PROC, "cs:Connected")
    await hosts.see("mk1", f"drbdadm new-current-uuid {NAME}/0", where="without --clear-bitmap")
    await hosts.see("mk1", f"drbdadm -- --clear-bitmap new-current-uuid {NAME}/0")
    await settled(hosts)
    await hosts.see_both(*BRIEF, where="first sync skipped")
    await hosts.see("mk1", f"drbdadm -- --clear-bitmap new-current-uuid {NAME}/0", where="a second time")
    await hosts.do_both(f"drbdadm down {NAME}")
    await hosts.see_both(f"drbdadm get-gi {NAME}", f"drbdadm dstate {NAME}", f"drbdadm dump-md {NAME}", where="down")
    await hosts.see("mk2", f"drbdadm outdate {NAME}", f"drbdadm dstate {NAME}", f"drbdadm get-gi {NAME}", where="down")


@scenario("tools", "Metadata that is used, cleaned and wiped; a disk with somebody's data")
async def drbd_metadata_used(hosts: Tools) -> None:
    await hosts.write(FILE, config())
    await hosts.do("mk1", f"{CREATE} -n {NAME} -L {SIZE}b vg0")
    await hosts.place.fill("mk1", f"/dev/vg0/{NAME}", 8, 1, "x")
    await hosts.see("mk1", f"drbdadm create-md {NAME}", f"drbdadm get-gi {NAME}", where="data there, not forced")
    await hosts.do("mk1", f"drbdadm create-md --force {NAME}", f"drbdadm up {NAME}", f"drbdadm down {NAME}")
    await hosts.see("mk1", f"drbdadm apply-al {NAME}", f"drbdadm dump-md {NAME}", where="used once")
    await hosts.see("mk1", f"drbdadm wipe-md {NAME}", where="not forced")
    await hosts.see("mk1", f"drbdadm -- --force wipe-md {NAME}", f"drbdadm dump-md {NAME}", where="forced")


@scenario("tools", "Growing online: both volumes, then DRBD; order and premises; sizes to the byte")
async def drbd_grow(hosts: Tools) -> None:
    await in_sync(hosts)
    await hosts.see_both(*SIZES, where="before")
    await hosts.see("mk1", f"drbdadm resize {NAME}", where="no Primary")
    await hosts.do("mk1", PRIMARY)
    await hosts.see("mk1", f"drbdadm resize {NAME}", *SIZES, where="nothing grew")
    await hosts.see("mk1", f"lvextend -L {128 * MIB}b vg0/{NAME}", f"drbdadm resize {NAME}", *SIZES, where="one side")
    await hosts.see("mk2", f"lvextend -L {128 * MIB}b vg0/{NAME}", *SIZES, where="both")
    await hosts.see("mk1", f"drbdadm resize {NAME}", where="both")
    await settled(hosts)
    await hosts.see_both(*SIZES, LVS, *BRIEF, where="grown")
    await hosts.do("mk2", f"drbdadm disconnect {NAME}")
    await hosts.until("mk1", PROC, "cs:WFConnection")
    await hosts.see("mk1", f"drbdadm resize {NAME}", where="disconnected")
    await hosts.do("mk2", f"drbdadm connect {NAME}")
    await settled(hosts)
    await hosts.do("mk1", SECONDARY)
    await hosts.do_both(f"drbdadm down {NAME}")
    await hosts.see("mk1", f"lvextend -L {132 * MIB}b vg0/{NAME}", f"drbdadm up {NAME}", where="grown while down")


@scenario("tools", "External metadata: a volume of its own, whole size for data, growth")
async def drbd_external_metadata(hosts: Tools) -> None:
    await hosts.write(FILE, config(external=True))
    await hosts.do_both(f"{CREATE} -n {NAME} -L {SIZE}b vg0")
    await hosts.see("mk1", f"drbdadm create-md --force {NAME}", f"drbdadm dump-md {NAME}", where="no volume for it")
    await hosts.do_both(f"{CREATE} -n {NAME}_meta -L {4 * MIB}b vg0")
    await hosts.see_both(f"drbdadm dump-md {NAME}", f"drbdadm create-md --force {NAME}", f"drbdadm dump-md {NAME}")
    await hosts.see_both(f"drbdadm up {NAME}")
    await hosts.until_both(PROC, "cs:Connected")
    await hosts.see_both(*SIZES, *BRIEF, where="Inconsistent")
    await hosts.do("mk1", f"drbdadm -- --clear-bitmap new-current-uuid {NAME}/0", PRIMARY)
    await hosts.see_both(f"lvextend -L {128 * MIB}b vg0/{NAME}")
    await hosts.see("mk1", f"drbdadm resize {NAME}")
    await settled(hosts)
    await hosts.see_both(*SIZES, LVS, where="grown")


@scenario("tools", "Verify: blocks that differ are counted and marked, a reconnect repairs them")
async def drbd_verify(hosts: Tools) -> None:
    await in_sync(hosts)
    await hosts.do("mk2", f"drbdadm down {NAME}")
    await hosts.place.fill("mk2", f"/dev/vg0/{NAME}", 100, 5, "x")
    await hosts.do("mk2", f"drbdadm up {NAME}")
    await settled(hosts)
    await hosts.see("mk1", f"drbdadm verify {NAME}")
    await hosts.until("mk1", PROC, "cs:Connected")
    await hosts.see_both(*BRIEF, where="5 blocks differ")
    hosts.note("mk1: out of sync in KiB", (await hosts.do("mk1", "cat /proc/drbd"))[0].split("oos:")[1].split()[0])
    await hosts.do("mk2", f"drbdadm disconnect {NAME}")
    await hosts.see("mk2", f"drbdadm verify {NAME}", where="disconnected")
    await hosts.see("mk2", f"drbdadm connect {NAME}")
    await settled(hosts)
    await hosts.see_both(*BRIEF, where="repaired")
    await hosts.see(
        "mk1", f"drbdadm verify {NAME}", f"drbdadm invalidate {NAME}", f"drbdadm resize {NAME}", where="under way"
    )
    await settled(hosts)


@scenario("tools", "Fencing resource-and-stonith: IO frozen until the handler answers; its exit codes; resume-io")
async def drbd_fencing(hosts: Tools) -> None:
    handler = "/usr/local/sbin/conformance-fence"
    await in_sync(hosts, config(handler=handler))
    for host in ("mk1", "mk2"):
        await hosts.place.handler(host, handler, 1)
    await hosts.do("mk1", PRIMARY)
    await hosts.place.hold("mk1", DEVICE)
    await hosts.place.set_link(up=False)
    await hosts.until("mk1", EVENTS, "suspended:fencing")
    await hosts.until_both(PROC, "cs:WFConnection")
    await hosts.see("mk1", *LOOK, where="frozen, the handler failed")
    await hosts.see("mk1", f"cat {handler}.env")
    await hosts.see("mk2", PRIMARY, f"drbdadm primary {NAME}", *BRIEF, where="the handler failed")
    await hosts.place.set_link(up=True)
    await settled(hosts)
    await hosts.see_both(*BRIEF, where="thawed by the link")
    await hosts.place.handler("mk1", handler, 4)
    await hosts.place.set_link(up=False)
    await hosts.until("mk1", EVENTS, "suspended:no")
    await hosts.until("mk1", PROC, "ds:UpToDate/Outdated")
    await hosts.place.fill("mk1", DEVICE, 3, 1, "f")
    await hosts.see("mk1", *BRIEF, where="the handler outdated the peer")
    await hosts.place.set_link(up=True)
    await settled(hosts)
    await hosts.see_both(*BRIEF, where="resynced")
    await hosts.place.handler("mk1", handler, 1)
    await hosts.place.set_link(up=False)
    await hosts.until("mk1", EVENTS, "suspended:fencing")
    await hosts.see("mk1", f"drbdadm resume-io {NAME}", *BRIEF, where="resumed by hand")
    await hosts.place.set_link(up=True)
    await settled(hosts)
    await hosts.place.release("mk1", DEVICE)


@scenario("tools", "Configurations: bad ones, one not for this host, one of two resources among three hosts")
async def drbd_configurations(hosts: Tools) -> None:
    new = f"{FILE}.new"
    cases = {
        "good": config(),
        "no semicolon": config().replace("protocol C;", "protocol C"),
        "unknown option": config(net="frobnicate 7;"),
        "fencing where 9 has it": config(net="fencing resource-only;"),
        "node-id as 9 has it": config().replace("on mk1 {", "on mk1 {\n    node-id 0;"),
        "a bad value": config(net="max-buffers many;"),
        "no address": config().replace("address ipv4 10.0.0.81:7789;", ""),
        "no metadata": config().replace("meta-disk internal;", ""),
        "unfinished": config().rstrip()[:-1],
        "syncer, as 8.3 had it": config().replace("  on mk1 {", "  syncer { rate 500M; }\n  on mk1 {", 1),
        "empty": "",
    }
    for name, text in cases.items():
        await hosts.write(new, text, "mk1")
        await hosts.see("mk1", f"drbdadm -t {new} sh-nop", where=name)
    await hosts.see("mk1", "drbdadm -t /etc/no_such sh-nop", "drbdadm sh-resources", where="nothing installed")
    await hosts.write(FILE, config())
    other = config().replace(NAME, "vm_other").replace("minor 1", "minor 2").replace(":7789", ":7790")
    for name, text in {
        "twice the same": config(),
        "another minor's": other.replace("minor 2", "minor 1"),
        "another port's": other.replace(":7790", ":7789"),
        "another disk's": other.replace("/dev/vg0/vm_other", f"/dev/vg0/{NAME}"),
        "nobody else's": other,
    }.items():
        await hosts.write(new, text, "mk1")
        await hosts.see("mk1", f"drbdadm -t {new} sh-nop", where=name)
    away = other.replace("on mk1", "on mk3").replace("10.0.0.81", "10.0.0.83")
    await hosts.write("/etc/drbd.d/vm_other.res", away)
    for command in ("role", "up", "down", "dump-md", "sh-dev", "sh-minor", "sh-ll-dev"):
        await hosts.see_both(f"drbdadm {command} vm_other", where="of mk2 and mk3")
    await hosts.see_both("drbdadm sh-resources", f"drbdadm sh-dev {NAME}", "drbdadm status", where="of mk2 and mk3")
    await hosts.write("/etc/drbd.d/bad.res", "resource bad { net { frobnicate; } }\n", "mk1")
    await hosts.see("mk1", f"drbdadm role {NAME}", f"drbdadm up {NAME}", "drbdadm status", where="one bad file")
    await hosts.see("mk1", f"drbdadm -c {FILE} -t {new} sh-nop", where="another base")

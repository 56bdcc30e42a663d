"""The domains as they are shown: a list alone takes no disks away, and no other domain's disks are given to it."""

from __future__ import annotations

from agent.domain_view import DomainView, of_vms
from agent.protocol import DomainDisk, DomainState
from agent.vm_records import mine

DISK = DomainDisk(vdev="xvda1", device="/dev/drbd1", attached=True)
UID = "11111111-0000-4000-8000-000000000000"
OTHER = "22222222-0000-4000-8000-000000000000"


def domain(domid: int = 1, name: str = "shaolin", uuid: str | None = UID, **values: object) -> DomainState:
    one = DomainState(
        domid=domid, name=name, uuid=uuid, kind="main", state="running", flags="-b----", memory_mib=512, vcpus=1,
        cpu_seconds=1.0,
    )  # fmt: skip
    return one.model_copy(update=values)


def test_a_list_alone_keeps_the_disks_that_were_read() -> None:
    view = DomainView()
    view.take_all((domain(disks=(DISK,)),), 1)
    view.take_list((domain(state="paused"),), 2)
    shown = view.shown({})["1"]
    assert (shown.state, shown.disks) == ("paused", (DISK,))
    assert view.used_by == {"/dev/drbd1": ("shaolin",)}


def test_a_domain_that_took_the_number_of_another_has_not_its_disks() -> None:
    view = DomainView()
    view.take_all((domain(disks=(DISK,)),), 1)
    view.take_list((domain(uuid=OTHER, name="other"),), 2)
    assert view.shown({})["1"].disks is None


def test_disks_that_come_late_do_not_bring_an_older_list_back() -> None:
    view = DomainView()
    view.take_list((domain(state="paused"),), 2)
    view.take_all((domain(disks=(DISK,)), domain(domid=2, uuid=OTHER, name="gone")), 1)
    shown = view.shown({})
    assert {key: (one.state, one.disks) for key, one in shown.items()} == {"1": ("paused", (DISK,))}


def test_what_the_disks_were_not_read_for_is_known_whoever_read_the_list() -> None:
    view = DomainView()
    assert not view.outdated
    view.take_list((domain(state="paused"),), 1)
    assert view.outdated
    view.take_all((domain(state="paused", disks=()),), 2)
    assert not view.outdated
    view.take_list((domain(cpu_seconds=2.0),), 3)  # it runs, with its disks
    assert view.outdated
    view.take_all((domain(disks=(DISK,)),), 4)
    view.take_list((domain(cpu_seconds=9.0, flags="r-----"),), 5)
    assert not view.outdated


def test_unreadable_disks_are_shown_as_such_and_still_count_as_used() -> None:
    view = DomainView()
    view.take_all((domain(disks=(DISK,)),), 1)
    view.take_all((domain(),), 2)
    assert view.shown({})["1"].disks is None
    assert view.used_by == {"/dev/drbd1": ("shaolin",)}


def test_cpu_time_is_no_news_but_that_it_ran_is() -> None:
    view = DomainView()
    view.take_list((domain(cpu_seconds=0.0),), 1)
    before = view.shown({})
    view.take_list((domain(cpu_seconds=0.1),), 2)
    ran = view.shown(before)
    assert ran["1"].cpu_seconds == 0.1
    view.take_list((domain(cpu_seconds=9.0, flags="r-----"),), 3)
    assert view.shown(ran)["1"] is ran["1"]


def test_the_index_finds_what_looking_at_all_of_them_finds() -> None:
    names = ("shaolin", "shaolin--incoming", "shaolin--migratedaway", "other", "(null)")
    domains = [
        domain(domid=number, name=name, uuid=uuid, kind="zombie" if name == "(null)" else "main")
        for number, (name, uuid) in enumerate((name, uuid) for name in names for uuid in (UID.upper(), OTHER, None))
    ]
    index = of_vms(domains)
    for name, uid in (("shaolin", UID), ("other", OTHER), ("none", "none")):
        near = {one.domid: one for key in (name, uid, "") for one in index.get(key, ())}
        assert mine(uid, name, [near[domid] for domid in sorted(near)]) == mine(uid, name, domains)

"""/proc/drbd and `drbdsetup status|show`, in the layout of the 8.4 kernel and drbd-utils 9.22."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from agent.simulation import drbd_events, drbd_options
from agent.simulation.drbd_events import shown
from agent.simulation.drbd_state import connected, resyncing

if TYPE_CHECKING:
    from agent.simulation.drbd_kernel import Kernel
    from agent.simulation.drbd_volume import Volume

HEADER = "version: 8.4.11 (api:1/proto:86-101)\nsrcversion: F73C670A7EC572DB9CF3E5B \n"
WIDTH = 80
KIB = 1024
GIB_BLOCKS = 1 << 18


def proc(kernel: Kernel) -> str:
    parts, before = [HEADER], -1
    for minor, volume in sorted(kernel.minors.items()):
        if before != minor - 1:
            parts.append("\n")
        before = minor
        parts.append(_listed(minor, volume))
    return "".join(parts)


def _listed(minor: int, volume: Volume) -> str:
    """Put together again only when something that is in it is different; a resync's progress always is."""
    if resyncing(volume.state.cs):
        return "".join(_device(minor, volume))
    key = (*shown(volume), volume.net.value("protocol") if volume.net is not None else " ")
    if volume.listed is None or volume.listed[0] != key:
        volume.listed = (key, "".join(_device(minor, volume)))
    return volume.listed[1]


def _device(minor: int, volume: Volume) -> Iterator[str]:
    state, counters = volume.state, volume.counters
    if state.cs == "StandAlone" and state.disk == "Diskless" and state.role == "Secondary":
        yield f"{minor:2}: cs:Unconfigured\n"
        return
    protocol = volume.net.value("protocol") if volume.net is not None else " "
    flags = "".join((
        "s" if state.suspended != "no" else "r",
        "-",
        "p" if state.paused_peer else "-",
        "u" if state.paused_user else "-",
        "-",
        "s" if state.al_suspended else "-",
    ))  # fmt: skip
    yield (
        f"{minor:2}: cs:{state.cs} ro:{state.role}/{state.peer_role} ds:{state.disk}/{state.peer_disk} "
        f"{protocol} {flags}\n"
        f"    ns:{counters.sent // 2} nr:{counters.received // 2} dw:{counters.written // 2} dr:{counters.read // 2} "
        f"al:{counters.al_writes} bm:0 lo:0 pe:0 ua:0 ap:{len(volume.writing)} ep:1 wo:f oos:{volume.out_of_sync}\n"
    )
    resync = volume.session.resync if volume.session is not None else None
    if resyncing(state.cs) and resync is not None and resync.progress is not None:
        yield from _progress(volume)


def _progress(volume: Volume) -> Iterator[str]:
    assert volume.session is not None
    resync = volume.session.resync
    assert resync is not None
    assert resync.progress is not None
    progress = resync.progress
    done = progress.per_mille
    marks = done // 50
    bar = "=" * max(0, marks - 1) + ">" + "." * (20 - marks)
    left, total = progress.left * 4, progress.total * 4
    amount = f"({left}/{total})K"
    if progress.total > 4 * GIB_BLOCKS:  # more than 4 GiB are shown in MiB
        amount = f"({progress.left >> 8}/{progress.total >> 8})M"
    yield f"\t[{bar}] sync'ed:{done // 10:3}.{done % 10}% {amount}\n"
    seconds, speed, average = progress.speeds(volume.host.clock.now())
    want = f" want: {resync.rate:,}" if volume.state.cs == "SyncTarget" else ""
    yield (
        f"\tfinish: {seconds // 3600}:{seconds % 3600 // 60:02}:{seconds % 60:02} "
        f"speed: {speed:,} ({average:,}){want} K/sec\n"
    )


def done_percent(volume: Volume) -> str | None:
    """Of the whole device, as `status` prints it; None when no resync runs."""
    if not resyncing(volume.state.cs) or not volume.known_size:
        return None
    return f"{100 * (1 - volume.out_of_sync * KIB / volume.known_size):.2f}"


def status(volumes: Sequence[Volume], *, verbose: bool, statistics: bool) -> str:
    return "".join(_status(volume, verbose, statistics) + "\n" for volume in volumes)


def _status(volume: Volume, verbose: bool, statistics: bool) -> str:
    state = volume.state
    first = [f"{volume.name} role:{state.role}"]
    if verbose or state.suspended != "no":
        first.append(f"suspended:{state.suspended}")
    text = _wrapped(first, 0, 4)
    if statistics:
        text += "    write-ordering:flush\n"
    if volume.minor is not None:
        disk = [f"disk:{state.disk}"]
        if verbose:
            disk = ["volume:0", f"minor:{volume.minor}", *disk]
        elif (blocked := drbd_events.device_statistics(volume)["blocked"]) != "no":
            disk.append(f"blocked:{blocked}")
        text += _wrapped(disk, 2, 6)
        if statistics:
            text += _wrapped(_pairs(drbd_events.device_statistics(volume)), 6, 6)
    if volume.net is not None and volume.minor is not None:
        text += _status_of_peer(volume, verbose, statistics)
    return text


def _status_of_peer(volume: Volume, verbose: bool, statistics: bool) -> str:
    state = volume.state
    peer = ["peer"]
    if verbose or state.connection != "Connected":
        peer.append(f"connection:{state.connection}")
    if verbose or state.connection == "Connected":
        peer.append(f"role:{state.peer_role}")
    if verbose:
        peer.append("congested:no")
    text = _wrapped(peer, 2, 6)
    if verbose or connected(state.cs):
        words = ["volume:0"] if verbose else []
        words += [f"replication:{state.replication}", f"peer-disk:{state.peer_disk}"]
        if (done := done_percent(volume)) is not None:
            words.append(f"done:{done}")
        if verbose or state.resync_suspended != "no":
            words.append(f"resync-suspended:{state.resync_suspended}")
        text += _wrapped(words, 4, 8)
    if statistics:
        text += _wrapped(_pairs(drbd_events.peer_statistics(volume)), 8, 8)
    return text


def _pairs(values: dict[str, str | int]) -> list[str]:
    return [f"{name}:{value}" for name, value in values.items()]


def _wrapped(words: list[str], indent: int, hanging: int) -> str:
    """Words in lines of less than 80 columns."""
    lines, line = [], " " * indent
    for number, word in enumerate(words):
        if number and len(line) + 1 + len(word) >= WIDTH:
            lines.append(line)
            line = " " * hanging + word
        else:
            line += (" " if number else "") + word
    return "".join(f"{text}\n" for text in [*lines, line])


def show(volumes: Sequence[Volume]) -> str:
    return "".join("".join(f"{line}\n" for line in _show(volume)) for volume in volumes)


def _show(volume: Volume) -> Iterator[str]:
    yield f"resource {volume.name} {{"
    yield "    options {"
    yield from drbd_options.shown(volume.resource_options, drbd_options.RESOURCE, "        ")
    yield "    }"
    if volume.net is not None:
        yield "    net {"
        yield from drbd_options.shown(volume.net.options, drbd_options.NET, "        ")
        yield "    }"
        yield "    _remote_host {"
        yield f"        address\t\t\t{_address(volume.net.remote)};"
        yield "    }"
    yield "    _this_host {"
    if volume.net is not None:
        yield f"        address\t\t\t{_address(volume.net.local)};"
    if volume.minor is not None:
        yield "        volume 0 {"
        yield f"            device\t\t\tminor {volume.minor};"
        if volume.backing is not None and volume.metadata is not None:
            yield f'            disk\t\t\t"{volume.backing.path}";'
            where = "internal" if volume.metadata.internal else f'"{volume.metadata.volume.path}"'
            yield f"            meta-disk\t\t\t{where};"
            if options := drbd_options.shown(volume.disk_options, drbd_options.DISK, " " * 16):
                yield "            disk {"
                yield from options
                yield "            }"
        yield "        }"
    yield "    }"
    yield "}"


def _address(endpoint: tuple[str, int]) -> str:
    address, port = endpoint
    return f"ipv6 [{address}]:{port}" if ":" in address else f"ipv4 {address}:{port}"

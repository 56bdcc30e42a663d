"""Worlds that differ only in names are one: attempts of a move are numbered anew, epochs and verdicts count from one,
and operations that have ended and that nobody speaks of any more are forgotten."""

from __future__ import annotations

from collections.abc import Iterable

import controllers
from states import Api, Fence, Frozen, Key, Part, Promise, Verdict, World

STEM = "move-bbbbbbbb"


def canonical(world: World) -> World:
    """The same world under its shortest names. Order and equality of attempts and of epochs stay what they were."""
    world = _forgotten(world)
    shift = min(_epochs(world), default=1) - 1
    names, verdicts = _names(_ids(world), shift), min(_verdicts(world), default=1) - 1
    if not shift and not verdicts and all(old == new for old, new in names.items()):
        return world
    return _Renaming(names, shift, verdicts).world(world)


def _attempt(part_id: str) -> tuple[int, int]:
    """("move-bbbbbbbb-2-3") -> (epoch 2, attempt 3); the first one has no number."""
    words = part_id.removeprefix(f"{STEM}-").split("-")
    return int(words[0]), int(words[1]) if len(words) > 1 else 1


def _names(ids: set[str], shift: int) -> dict[str, str]:
    names: dict[str, str] = {}
    count: dict[int, int] = {}
    for epoch, attempt in sorted(_attempt(one) for one in ids):
        number = count[epoch] = count.get(epoch, 0) + 1
        names[_name(epoch, attempt)] = _name(epoch - shift, number)
    return names


def _name(epoch: int, attempt: int) -> str:
    return f"{STEM}-{epoch}" if attempt == 1 else f"{STEM}-{epoch}-{attempt}"


def _forgotten(world: World) -> World:
    if all(part.outcome is None for host in world.hosts for part in host.parts):
        return world
    spoken_of = _ids(world._replace(hosts=tuple(host._replace(parts=()) for host in world.hosts)))  # type: ignore[arg-type]
    spoken_of |= {part.id for host in world.hosts for part in host.parts if part.outcome is None}
    first, second = world.hosts
    kept = tuple(tuple(part for part in host.parts if part.id in spoken_of) for host in world.hosts)
    if (first.parts, second.parts) == kept:
        return world
    return world._replace(hosts=(first._replace(parts=kept[0]), second._replace(parts=kept[1])))


def _ids(world: World) -> set[str]:
    found = {part.id for host in world.hosts for part in host.parts}
    found |= {one.key[1] for one in world.wire if isinstance(one.key[1], str) and one.key[0] in _WITH_ID}
    found |= {key[1] for _, key, _ in world.leader.refused if key[0] in _WITH_ID}  # type: ignore[misc]
    if world.stream is not None:
        found.add(world.stream.id)
    if world.api.move is not None:
        found.add(world.api.move.id)
    if (frozen := world.frozen) is not None:
        found |= {key[1] for _, key, _ in frozen.refused if key[0] in _WITH_ID}  # type: ignore[misc]
        found |= {part.id for view in frozen.views if view is not None for part in view[3]}  # type: ignore[attr-defined]
        if frozen.api.move is not None:
            found.add(frozen.api.move.id)
    return found


_WITH_ID = ("send", "receive", "cancel")
_EPOCH_AT = {"domain": 2, "forget": 1, "send": 2, "receive": 2}


def _epochs(world: World) -> Iterable[int]:
    for api in (world.api, *((world.frozen.api,) if world.frozen else ())):
        if api.placement is not None:
            yield api.placement.epoch
        if api.move is not None:
            yield api.move.epoch - 1
    promises = [host.promise for host in world.hosts]
    views = world.frozen.views if world.frozen else ()
    promises += [view[1] for view in views if view is not None]  # type: ignore[misc]
    for promise in promises:
        if promise is not None:
            yield min(promise.epoch, promise.asked_epoch)
    parts = [part for host in world.hosts for part in host.parts]
    parts += [part for view in views if view is not None for part in view[3]]  # type: ignore[attr-defined]
    for part in parts:
        yield part.epoch if part.kind == "send" else part.epoch - 1
    keys = [message.key for message in world.wire] + [key for _, key, _ in world.leader.refused]
    keys += [key for _, key, _ in world.frozen.refused] if world.frozen else []
    for key in keys:
        if (at := _EPOCH_AT.get(str(key[0]))) is not None:
            epoch = key[at]
            assert isinstance(epoch, int)
            yield epoch - 1 if key[0] == "receive" else epoch
        elif key[0] == "cancel":
            yield _attempt(str(key[1]))[0] - 1


def _verdicts(world: World) -> Iterable[int]:
    known = [world.api.verdict, *(host.fence.verdict for host in world.hosts)]
    if (frozen := world.frozen) is not None:
        known.append(frozen.api.verdict)
        known += [view[8].verdict for view in frozen.views if view is not None]  # type: ignore[attr-defined]
    yield from (verdict.number for verdict in known if verdict is not None)
    yield from (int(one.key[1]) for one in world.wire if one.key[0] == "verdict")  # type: ignore[call-overload]


class _Renaming:
    def __init__(self, names: dict[str, str], shift: int, verdicts: int) -> None:
        self._names, self._shift, self._verdicts = names, shift, verdicts

    def world(self, world: World) -> World:
        first, second = world.hosts
        leader, frozen = world.leader, world.frozen
        return world._replace(
            api=self._api(world.api),
            hosts=(
                first._replace(
                    promise=self._promise(first.promise), parts=self._parts(first.parts), fence=self._fence(first.fence)
                ),
                second._replace(
                    promise=self._promise(second.promise),
                    parts=self._parts(second.parts),
                    fence=self._fence(second.fence),
                ),
            ),
            stream=world.stream._replace(id=self._names[world.stream.id]) if world.stream else None,
            wire=tuple(
                sorted((one._replace(key=self._key(one.term, one.host, one.key)) for one in world.wire), key=repr)
            ),
            leader=leader._replace(refused=self._refused(leader.term, leader.refused)),
            frozen=self._frozen(frozen) if frozen else None,
        )

    def _api(self, api: Api) -> Api:
        placement, move = api.placement, api.move
        if placement is not None:
            placement = placement._replace(epoch=placement.epoch - self._shift)
        if move is not None:
            move = move._replace(id=self._names[move.id], epoch=move.epoch - self._shift)
        return api._replace(placement=placement, move=move, verdict=self._verdict(api.verdict))

    def _verdict(self, verdict: Verdict | None) -> Verdict | None:
        return None if verdict is None else verdict._replace(number=verdict.number - self._verdicts)

    def _fence(self, fence: Fence) -> Fence:
        return fence._replace(verdict=self._verdict(fence.verdict))

    def _promise(self, promise: Promise | None) -> Promise | None:
        if promise is None:
            return None
        return promise._replace(epoch=promise.epoch - self._shift, asked_epoch=promise.asked_epoch - self._shift)

    def _parts(self, parts: tuple[Part, ...]) -> tuple[Part, ...]:
        return tuple(part._replace(id=self._names[part.id], epoch=part.epoch - self._shift) for part in parts)

    def _key(self, term: int, host: int, key: Key) -> Key:
        new = list(key)
        if key[0] in _WITH_ID:
            new[1] = self._names[str(key[1])]
        if (at := _EPOCH_AT.get(str(key[0]))) is not None:
            new[at] = key[at] - self._shift  # type: ignore[operator]
        if key[0] == "verdict":
            new[1] = key[1] - self._verdicts  # type: ignore[operator]
        renamed = tuple(new)
        if renamed != key:
            controllers.also_known(term, host, key, renamed)
        return renamed

    def _refused(self, term: int, refused: tuple[tuple[int, Key, str], ...]) -> tuple[tuple[int, Key, str], ...]:
        return tuple((host, self._key(term, host, key), reason) for host, key, reason in refused)

    def _frozen(self, frozen: Frozen) -> Frozen:
        views = tuple(
            None
            if view is None
            else (view[0], self._promise(view[1]), view[2], self._parts(view[3]), *view[4:8], self._fence(view[8]))  # type: ignore[arg-type]
            for view in frozen.views
        )
        return frozen._replace(
            api=self._api(frozen.api), views=views, refused=self._refused(frozen.term, frozen.refused)
        )

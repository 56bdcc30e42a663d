"""Generation identifiers: which of two replicas is newer. Pure; the rules are the 8.4 kernel's drbd_uuid_compare()."""

from __future__ import annotations

from dataclasses import dataclass, replace

JUST_CREATED = 4
NEW_BITMAP_OFFSET = 1 << 48

SAME = 0
SOURCE, TARGET = 1, -1  # by bitmap
FULL_SOURCE, FULL_TARGET = 2, -2
SPLIT_BRAIN = 100  # both have a bitmap since the last common generation
SPLIT_BRAIN_FULL = -100  # only histories in common
UNRELATED = -1000


@dataclass(frozen=True)
class Generation:
    """The four identifiers of a replica. Bit 0 of `current` says that it is Primary."""

    current: int = JUST_CREATED
    bitmap: int = 0
    history: tuple[int, int] = (0, 0)

    def with_new_current(self, uuid: int) -> Generation:
        """A new generation of data begins here, without the peer: the bitmap counts from the old one."""
        return replace(self, current=uuid, bitmap=self.bitmap or self.current)

    def with_bitmap(self, uuid: int) -> Generation:
        """The bitmap's identifier changes (0: in sync again); the old one becomes history."""
        if self.bitmap == 0:
            return replace(self, bitmap=uuid)
        return replace(self, bitmap=uuid, history=(self.bitmap, self.history[0]))

    @property
    def masked(self) -> Generation:
        """Without the bits that say "Primary"."""
        return Generation(self.current & ~1, self.bitmap & ~1, (self.history[0] & ~1, self.history[1] & ~1))


def begin_resync(source: Generation, target: Generation, fresh: int) -> tuple[Generation, Generation]:
    """Identifiers of both while the resync runs: the bitmap's, a new one, is what the target is on its way from.

    `fresh` is used when the source's bitmap has no identifier to derive one from.
    """
    derived = (source.bitmap + NEW_BITMAP_OFFSET) & (1 << 64) - 1
    uuid = fresh if source.bitmap in {0, JUST_CREATED} else derived
    return source.with_bitmap(uuid), Generation(uuid & ~1 | target.current & 1, 0, target.history)


def end_resync(source: Generation, target: Generation, told: Generation) -> tuple[Generation, Generation]:
    """Identifiers of both afterwards: equal but for the bits that say "Primary".

    `told` is what the source told of itself last, before the resync began: that is what the target takes over.
    """
    before = told.bitmap or told.history[0]
    finished = Generation(told.current & ~1 | target.current & 1, 0, (target.current & ~1, before))
    return source.with_bitmap(0), finished


def compare(
    own: Generation,
    peer: Generation,
    *,
    own_crashed: bool = False,
    peer_crashed: bool = False,
    tie_target: bool = False,
) -> int:
    """What `own` becomes: SOURCE, TARGET, ... `*_crashed`: was Primary when its host died.

    `tie_target` breaks the tie when both crashed as Primary.
    """
    mine, theirs = own.masked, peer.masked
    if mine.current == JUST_CREATED and theirs.current == JUST_CREATED:
        return SAME
    if mine.current in {JUST_CREATED, 0}:
        return FULL_TARGET
    if theirs.current in {JUST_CREATED, 0}:
        return FULL_SOURCE
    if mine.current == theirs.current:
        return _same_generation(mine, theirs, own_crashed, peer_crashed, tie_target)
    if mine.current == theirs.bitmap:
        return TARGET
    if mine.current == theirs.history[0]:
        return TARGET  # the peer finished a resync of which we missed the end
    if mine.current in theirs.history:
        return FULL_TARGET
    if mine.bitmap == theirs.current:
        return SOURCE
    if mine.history[0] == theirs.current:
        return SOURCE
    if theirs.current in mine.history:
        return FULL_SOURCE
    if mine.bitmap == theirs.bitmap != 0:
        return SPLIT_BRAIN
    if {identifier for identifier in mine.history if identifier} & set(theirs.history):
        return SPLIT_BRAIN_FULL
    return UNRELATED


def _same_generation(
    mine: Generation, theirs: Generation, own_crashed: bool, peer_crashed: bool, tie_target: bool
) -> int:
    if theirs.bitmap == 0 and mine.bitmap != 0 and mine.bitmap == theirs.history[0]:
        return SOURCE  # we were the source of a resync whose end we missed
    if mine.bitmap == 0 and theirs.bitmap != 0 and theirs.bitmap == mine.history[0]:
        return TARGET
    if own_crashed and peer_crashed:
        return TARGET if tie_target else SOURCE
    if own_crashed:
        return SOURCE
    if peer_crashed:
        return TARGET
    return SAME

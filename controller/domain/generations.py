"""Which of two replicas is newer, by DRBD's generation identifiers, as DRBD itself would find at the handshake.

The rules are drbd_uuid_compare() of the 8.4 kernel. A replica's lowest bit of `current` says that it was Primary and is
no part of the generation's name.
"""

from __future__ import annotations

from typing import Literal

from agent.protocol import GenerationIds

Relation = Literal["Same", "FirstNewer", "SecondNewer", "SplitBrain", "Unrelated", "Unknown"]
"""SplitBrain: both were written without the other. Unrelated: nothing in common. Unknown: an identifier is missing or
unreadable."""

_JUST_CREATED = 4


def relation(first: GenerationIds | None, second: GenerationIds | None) -> Relation:
    """Total: whatever cannot be read is Unknown."""
    mine, theirs = _numbers(first), _numbers(second)
    if mine is None or theirs is None:
        return "Unknown"
    current, bitmap, history = mine
    their_current, their_bitmap, their_history = theirs
    if current == their_current:
        return "Same"
    if their_current in (_JUST_CREATED, 0):
        return "FirstNewer"
    if current in (_JUST_CREATED, 0):
        return "SecondNewer"
    if current in (their_bitmap, *their_history):
        return "SecondNewer"
    if their_current in (bitmap, *history):
        return "FirstNewer"
    if bitmap == their_bitmap != 0 or {number for number in history if number} & set(their_history):
        return "SplitBrain"
    return "Unrelated"


def _numbers(ids: GenerationIds | None) -> tuple[int, int, tuple[int, ...]] | None:
    """current, bitmap, history, without the bits that say "Primary"."""
    if ids is None:
        return None
    try:
        current, bitmap, *history = (int(word, 16) & ~1 for word in (ids.current, ids.bitmap, *ids.history))
    except ValueError:
        return None
    return current, bitmap, tuple(history)

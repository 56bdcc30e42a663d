"""What a tool said about one thing, and said in the same words the last time, is not parsed again."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

S = TypeVar("S", bound=Hashable)
T = TypeVar("T")


class Parsed(Generic[S, T]):
    """`parse` is pure. The same words give the same object, so that what did not change is found by identity.

    Only the pieces of the last text are kept. A piece that raises leaves everything as it was.
    """

    def __init__(self, parse: Callable[[S], T]) -> None:
        self._parse = parse
        self._known: dict[S, T] = {}

    def __call__(self, pieces: Iterable[S]) -> list[T]:
        """Of every piece of one text, in their order."""
        known, parse = self._known, self._parse
        now: dict[S, T] = {}
        found: list[T] = []
        for piece in pieces:
            value = known.get(piece)
            if value is None:
                value = parse(piece)
            now[piece] = value
            found.append(value)
        self._known = now
        return found

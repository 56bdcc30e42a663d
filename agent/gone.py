"""The uids of objects that were deleted: what still comes for one of them is late, and is refused.

A request can be under way when its object is deleted: asked again, delayed, or sent by a controller that saw an older
cluster. Without this memory it would begin a new life here, of an object that nobody has any more.
"""

from __future__ import annotations

from typing import Final

from agent.core import Context, Refused

KEPT: Final = 1000  # the newest; no request lives for as long as it takes to delete so many objects


class Gone:
    """Section `gone` of the journal: when each uid was forgotten here."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def load(self) -> None:
        """Show what the journal holds."""
        self._show()

    def add(self, uid: str) -> None:
        """The object of that uid never comes back here; on disk when this returns."""
        if uid in self._context.observer.state.gone:
            return
        self._context.journal.put("gone", uid, {"at": self._context.now_text()})
        kept = sorted((value["at"], key) for key, value in self._context.journal.items("gone"))
        for _, key in kept[:-KEPT]:
            self._context.journal.delete("gone", key)
        self._show()

    def check(self, uid: str) -> None:
        """Raises Refused("Gone")."""
        if uid in self._context.observer.state.gone:
            raise Refused(
                "Gone",
                f"the object with uid {uid} was deleted, and what still comes for it is too late. If it was restored"
                " from a backup: delete it and apply it again, which gives it a uid of its own",
            )

    def _show(self) -> None:
        self._context.observer.put_gone({key: value["at"] for key, value in self._context.journal.items("gone")})

"""Live migration with one Primary: both sides of it, the relay of the stream, the recovery.

`Relocation` is imported when it is asked for: the relay, which xl starts in the middle of a migration, imports this
package too and must be there at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.migration.relocation import Relocation

__all__ = ["Relocation"]


def __getattr__(name: str) -> Any:
    if name != "Relocation":
        raise AttributeError(name)
    from agent.migration.relocation import Relocation

    return Relocation

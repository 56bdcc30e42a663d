"""The activity log: which parts of the disk are being written, so that a crash leaves no doubt about the rest."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from agent.simulation import drbd_metadata as md

if TYPE_CHECKING:
    from agent.simulation.drbd_volume import Volume


class ActivityLog:
    """Extents of 4 MiB, the last used ones (al-extents at most), kept on disk too."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._extents: OrderedDict[int, None] = OrderedDict()

    def note(self, offset: int, length: int) -> None:
        """These bytes are about to be written."""
        volume = self._volume
        extents = range(offset // md.AL_EXTENT, (offset + max(1, length) - 1) // md.AL_EXTENT + 1)
        cold = [extent for extent in extents if extent not in self._extents]
        for extent in extents:
            self._extents[extent] = None
            self._extents.move_to_end(extent)
        while len(self._extents) > md.AL_EXTENTS:
            self._extents.popitem(last=False)
        if cold:
            volume.counters.al_writes += 1
            if volume.block.flag(md.AL_CLEAN):
                volume.save(flags=volume.block.flags & ~md.AL_CLEAN)
            self.write()

    def clear(self) -> None:
        """Nothing is in flight: no longer Primary, or detached in order."""
        if self._extents:
            self._extents.clear()
            self.write()

    def write(self) -> None:
        extents = tuple(self._extents)
        self._volume.guarded(lambda area: area.write_log(extents))

"""drbd.conf(5) of a host: /etc/drbd.conf and what it includes, in the order in which drbdadm reads it."""

from __future__ import annotations

import fnmatch
import posixpath
import weakref
from dataclasses import replace

from agent.simulation.drbd_parser import parse_file
from agent.simulation.drbd_words import (
    Claim,
    Complaint,
    ConfigError,
    HostPart,
    Include,
    ResourceConfig,
    conflict,
)
from agent.simulation.files import VirtualFiles

MAIN = "/etc/drbd.conf"
MAIN_TEXT = """\
# You can find an example in  /usr/share/doc/drbd.../drbd.conf.example

include "drbd.d/global_common.conf";
include "drbd.d/*.res";
"""
GLOBAL_COMMON = "/etc/drbd.d/global_common.conf"
GLOBAL_COMMON_TEXT = "global { usage-count no; }\ncommon { }\n"

_whole: weakref.WeakKeyDictionary[VirtualFiles, tuple[int, list[ResourceConfig]]] = weakref.WeakKeyDictionary()


def parse(files: VirtualFiles, main: str = MAIN, *, test: str | None = None) -> list[ResourceConfig]:
    """All resources that `main` and what it includes configure, checked together with the file `test`.

    Raises ConfigError, FileNotFoundError when `main` or `test` is not there.
    """
    plain = main == MAIN and test is None
    if plain and (known := _whole.get(files)) is not None and known[0] == files.revision:
        return known[1]
    reading = _Reading(files)
    line = reading.read(main, main, 1)
    if test is not None:
        reading.read(test, test, line)  # the lines are counted on
    if reading.complaints:
        raise ConfigError(reading.complaints)
    merged = [_with_common(resource, reading.common) for resource in reading.resources]
    if plain:
        _whole[files] = (files.revision, merged)
    return merged


class _Reading:
    """One run of drbdadm: each name, minor, address with port is used once; the first conflict ends it."""

    def __init__(self, files: VirtualFiles) -> None:
        self.resources: list[ResourceConfig] = []
        self.common = ResourceConfig("common")
        self.complaints = ""
        self._files = files
        self._used: dict[str, str] = {}
        self._seen: set[str] = set()

    def read(self, path: str, name: str, line: int) -> int:
        """The number of the file's last line. Raises ConfigError."""
        self._seen.add(path)
        found = parse_file(name, self._files.read(path), line)
        for step in found.steps:
            if isinstance(step, Claim):
                if step.key in self._used:
                    raise ConfigError(self.complaints + conflict(step, self._used[step.key]))
                self._used[step.key] = step.place
            elif isinstance(step, Complaint):
                self.complaints += step.text
            elif isinstance(step, Include):
                self._include(path, step)
            elif step.name == "common":
                self.common = step
            else:
                self.resources.append(step)
        if found.fatal is not None:
            raise ConfigError(self.complaints + str(found.fatal), found.fatal.exit)
        return found.end

    def _include(self, path: str, include: Include) -> None:
        folder, pattern = posixpath.split(include.pattern)
        where = posixpath.normpath(posixpath.join(posixpath.dirname(path), folder))
        names = [name for name in self._files.names(where) if fnmatch.fnmatchcase(name, pattern)]
        if not names and not set("*?[") & set(include.pattern):
            self.complaints += f"{include.place}: Failed to open include file '{include.pattern}'.\n"
        for name in names:
            if (whole := f"{where}/{name}") not in self._seen:
                self.read(whole, posixpath.join(folder, name), 1)


def _with_common(resource: ResourceConfig, common: ResourceConfig) -> ResourceConfig:
    if not (common.net or common.disk or common.options or common.handlers):
        return resource
    return replace(
        resource,
        net=common.net | resource.net,
        disk=common.disk | resource.disk,
        options=common.options | resource.options,
        handlers=common.handlers | resource.handlers,
    )


__all__ = ["MAIN", "ConfigError", "HostPart", "ResourceConfig", "parse"]

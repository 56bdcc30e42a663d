"""The second VM's part of a world is explored under the first one's names. Outside it is called otherwise: monk, with
disks, minor, port and uids of its own, and perhaps on other hosts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import TypeVar

from pydantic import BaseModel

from controller.domain.actions import Cancel, DeleteDomain, Request

HOSTS = ("mk1", "mk2", "mk3")
M = TypeVar("M", bound=BaseModel)
At = tuple[int, int]
"""The two hosts, by their number, that hold a VM's volume."""

_NAMES = {
    "shaolin": "monk", "bbbbbbbb": "dddddddd", "aaaaaaaa": "eeeeeeee", '"minor":1': '"minor":2', "7789": "7790",
    "/dev/drbd1": "/dev/drbd2",
}  # fmt: skip


def third(at: At) -> int:
    return 3 - sum(at)


@cache
def _names(at: At, outward: bool) -> Callable[[str], str]:
    known = dict(_NAMES)
    for inside, outside in enumerate((*at, third(at))):
        known[HOSTS[inside]] = HOSTS[outside]
        known[f"10.0.0.8{inside + 1}"] = f"10.0.0.8{outside + 1}"
    if not outward:
        known = {there: here for here, there in known.items()}
    words = re.compile("|".join(re.escape(one) for one in known))
    return lambda text: words.sub(lambda found: known[found[0]], text)


def outside(index: int, at: At, text: str) -> str:
    """As the controllers and people call it. The first VM has its own names."""
    return text if index == 0 else _names(at, True)(text)


def inside(index: int, at: At, text: str) -> str:
    return text if index == 0 else _names(at, False)(text)


def model(index: int, at: At, found: M, *, outward: bool) -> M:
    if index == 0:
        return found
    told = _names(at, outward)(found.model_dump_json(by_alias=True, round_trip=True))
    return type(found).model_validate_json(told)


def request(index: int, at: At, asked: Request, *, outward: bool) -> Request:
    if index == 0:
        return asked
    word = _names(at, outward)
    body = model(index, at, asked.body, outward=outward)
    changed: Request = replace(asked, host=word(asked.host), body=body)  # type: ignore[arg-type]
    match changed:
        case Cancel(operation=operation):
            return replace(changed, operation=word(operation))
        case DeleteDomain(name=name):
            return replace(changed, name=word(name))
    return changed

"""What a request says: its body and the names in its path, checked strictly, and every mistake said in words."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, StringConstraints, TypeAdapter, ValidationError

from agent.protocol import Name, OperationId

BODY_LIMIT = 1 << 16  # bytes; the largest request, a domain's configuration, has less than a quarter
BODY_SECONDS = 20.0  # from the end of the headers to the end of the body
MISTAKES = 20  # of a body that are told
SHOWN = 80  # letters of a wrong value, or of an unknown field

M = TypeVar("M", bound=BaseModel)


class Invalid(Exception):
    """The request itself is wrong: HTTP 422."""


def helpful(request: web.Request, error: web.HTTPException) -> str:
    """aiohttp's own words name the status alone."""
    match error:
        case web.HTTPNotFound():
            return f"there is no {_short(request.path)}; agent/protocol lists the paths"
        case web.HTTPMethodNotAllowed():
            return f"{_short(request.path)} takes {', '.join(sorted(error.allowed_methods))}, not {error.method}"
        case web.HTTPRequestEntityTooLarge():
            return f"the body is longer than {BODY_LIMIT} bytes; no request needs as many"
        case web.HTTPRequestTimeout():
            return f"the body did not come within {BODY_SECONDS:g} s; send it again"
    return error.reason


async def read_body(request: web.Request, model: type[M]) -> M:
    """The body, checked strictly. Raises Invalid with every mistake, where it is, and what is expected there."""
    if request.content_type != "application/json" or "Content-Encoding" in request.headers:
        raise web.HTTPUnsupportedMediaType(reason="write a JSON body, Content-Type: application/json, not compressed")
    if (request.content_length or 0) > BODY_LIMIT:
        raise web.HTTPRequestEntityTooLarge(max_size=BODY_LIMIT, actual_size=request.content_length or 0)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            text = await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    try:
        made = model.model_validate_json(text, strict=True)
        json.loads(text, object_pairs_hook=_unique)  # which of two values is meant, readers disagree (RFC 8259, 4)
    except ValidationError as error:
        raise Invalid(f"{model.__name__}: {_explained(error)}") from None
    except ValueError as error:
        raise Invalid(f"{model.__name__}: {error}") from None
    return made


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise ValueError(f"{_short(key)}: is there twice; write it once")
        made[key] = value
    return made


def _explained(error: ValidationError) -> str:
    said = []
    for one in error.errors(include_url=False)[:MISTAKES]:
        where = ".".join(_short(str(part)) for part in one["loc"]) or "body"
        if one["type"] == "extra_forbidden":
            said.append(f"{where}: unknown field; remove it")
        elif one["type"] == "missing":
            said.append(f"{where}: is missing; write it")
        else:
            said.append(f"{where}: {_plain(one['msg'])}, not {_cut(repr(one.get('input')))}")
    if (more := error.error_count() - MISTAKES) > 0:
        said.append(f"and {more} more")
    return "; ".join(said)


def _short(text: str) -> str:
    """What somebody else wrote, for a line of a log or of an answer."""
    return _cut(_plain(text))


def _plain(text: str) -> str:
    return text if text.isprintable() else ascii(text)


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def _checked(adapter: TypeAdapter[str], what: str, value: str) -> str:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise Invalid(f"{what} in the path: {_explained(error)}") from None


_NAME: TypeAdapter[str] = TypeAdapter(Annotated[Name, StringConstraints()])
_ID: TypeAdapter[str] = TypeAdapter(OperationId)


def name_in_path(request: web.Request, what: str) -> str:
    return _checked(_NAME, what, request.match_info[what])


def same_name(request: web.Request, what: str, value: str) -> str:
    """The name in the path, which must be the one in the body."""
    if (name := name_in_path(request, what)) != value:
        raise Invalid(f"{what}: the path says {name}, the body says {value}; write the same name in both")
    return name


def operation_in_path(request: web.Request) -> str:
    return _checked(_ID, "id", request.match_info["id"])

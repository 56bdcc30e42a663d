"""Whatever is asked, in whatever order: an answer in words, no harm by what is refused, no word taken for an option.

XENTANDEM_FUZZ=5000 hack/test tests/door/test_fuzz.py: so many other stories than the ones hack/test always tries.
"""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from rig import OTHER, RESOURCE, SECONDS, VM, VOLUME, Rig
from shapes import JUNK, TEXTS, bodies, spoilt
from test_names import KINDS, put, requests, texts

from agent.protocol import (
    DomainDesired,
    DomainRemoval,
    HostDesired,
    OperationCancel,
    OperationRequest,
    PreflightRequest,
    VerdictDesired,
    VolumeDesired,
    VolumeRemoval,
)

EXAMPLES = int(os.environ.get("XENTANDEM_FUZZ", "0"))
FUZZ = settings(
    max_examples=EXAMPLES or 30,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
ANSWERS = {200, 204, 404, 405, 409, 413, 415, 422}
MODELS: dict[str, type[BaseModel]] = {
    "host": HostDesired,
    "volume": VolumeDesired,
    "verdict": VerdictDesired,
    "volume's removal": VolumeRemoval,
    "domain": DomainDesired,
    "domain's removal": DomainRemoval,
    "preflight": PreflightRequest,
    "cancellation": OperationCancel,
    "operation": OperationRequest,
}


class Target:
    """Hosts of the fuzzer's own: what is not refused is done to them, until there is nothing left to harm."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._rig: Rig | None = None

    def rig(self) -> Rig:
        if self._rig is not None and self._rig.state()["vms"].get(VM, {}).get("status") != "running":
            self.stop()
        if self._rig is None:
            self._rig = Rig(self._folders.mktemp("fuzz"))
            self._rig.start()
        return self._rig

    def stop(self) -> None:
        made, self._rig = self._rig, None
        if made is not None:
            made.stop()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    made = Target(tmp_path_factory)
    yield made
    made.stop()


def nearly(draw: Any, rig: Rig, kind: str) -> tuple[str, str, Any]:
    """A request that would be taken, but for some of its values."""
    method, path, body = copy.deepcopy(requests(rig)[kind])
    for place in draw(st.lists(st.sampled_from(list(texts(body))), max_size=2)):
        good = st.sampled_from([RESOURCE, "other", VM, OTHER, VOLUME, "mk1", "mk2", "vg0", "shaolin", "Stopped"])
        body = put(body, place, draw(good | TEXTS))
    if draw(st.integers(0, 3)) == 0:
        body = draw(spoilt(st.just(body)))
    return method, path, body


def any_shape(draw: Any, rig: Rig, kind: str) -> tuple[str, str, Any]:
    """A request of any values that the protocol allows, or nearly."""
    method, path, _ = requests(rig)[kind]
    model = MODELS.get(kind, OperationRequest)
    body = draw(spoilt(bodies(model)))
    if isinstance(body, dict) and isinstance(body.get("term"), int) and draw(st.integers(0, 9)):
        body["term"] = rig.state()["term"]  # else the first high one would end it all
    named = body.get("resource") or body.get("name") if isinstance(body, dict) else None
    if isinstance(named, str) and draw(st.booleans()) and method != "POST":
        path = f"{path.rpartition('/')[0]}/{quote(named, safe='')}"
    return method, path, body


def check(rig: Rig, method: str, path: str, body: Any) -> None:
    try:
        data = json.dumps(body).encode()
    except ValueError:
        return
    before = settled(rig)
    began = len(rig.argv)
    status, answer = rig.ask(method, path, data)
    assert status in ANSWERS, answer
    if status >= 400:
        assert answer["reason"], answer
        assert len(answer["message"]) > 10, answer
    after = rig.snapshot()
    if status in (404, 405, 413, 415, 422):
        assert after == before, answer
    if status == 409:  # a volume's names may have been taken for it before LVM or DRBD said no
        for fact in ("running", "primaries"):
            assert after[fact] == before[fact], answer
        assert after["journal"]["vms"] == before["journal"]["vms"], answer
    said = {one for one in _words(body) if one.startswith("-") or "\n" in one or "\0" in one} - {"-f", "-", "--"}
    for argv in rig.argv[began:]:
        for word in argv:
            assert not any(one in word for one in said), (argv, said)
            assert word.isprintable(), argv


def settled(rig: Rig) -> dict[str, Any]:
    """The hosts once what was accepted before has been done."""
    seen, since, end = rig.snapshot(), time.monotonic(), time.monotonic() + SECONDS
    while rig.busy or time.monotonic() - since < 0.01:
        assert time.monotonic() < end, "they never come to rest"
        time.sleep(0.005)
        if (now := rig.snapshot()) != seen:
            seen, since = now, time.monotonic()
    return seen


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from (key, *_words(one))
    elif isinstance(value, list):
        for one in value:
            yield from _words(one)


@FUZZ
@given(data=st.data(), kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))
def test_requests_that_are_nearly_good(target: Target, data: st.DataObject, kinds: list[str]) -> None:
    rig = target.rig()
    for kind in kinds:
        check(rig, *nearly(data.draw, rig, kind))
    assert rig.ask("GET", "/healthz")[0] == 200


@settings(FUZZ, max_examples=EXAMPLES or 20)
@given(data=st.data(), kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))
def test_requests_of_any_shape(target: Target, data: st.DataObject, kinds: list[str]) -> None:
    rig = target.rig()
    for kind in kinds:
        check(rig, *any_shape(data.draw, rig, kind))
    assert rig.ask("GET", "/healthz")[0] == 200


@FUZZ
@given(
    method=st.sampled_from(["GET", "PUT", "POST", "DELETE", "PATCH", "HEAD", "OPTIONS"]),
    folder=st.sampled_from(["/v1/volumes/", "/v1/domains/", "/v1/operations/", "/v1/", "/"]),
    name=TEXTS,
    body=st.binary(max_size=200) | JUNK.map(lambda one: json.dumps(one).encode()),
)
def test_anything_anywhere(target: Target, method: str, folder: str, name: str, body: bytes) -> None:
    if (folder, name, method) == ("/v1/", "watch", "GET"):
        return  # an answer without end
    rig = target.rig()
    before = settled(rig)
    status, _ = rig.ask(method, folder + quote(name.encode("utf-8", "surrogatepass"), safe=""), body)
    assert status in ANSWERS
    assert rig.snapshot() == before

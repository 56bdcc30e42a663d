"""Bodies that are no requests: each is refused with words that help, and the host stays as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from rig import JSON, NAME, RESOURCE, TERM, VM, VOLUME, Rig

LIMIT = 1 << 16

HOST, VOLUMES, DOMAINS = "/v1/host", f"/v1/volumes/{RESOURCE}", f"/v1/domains/{NAME}"


def text(body: dict[str, Any], *, instead: dict[str, str]) -> bytes:
    """The body with raw JSON in place of some of its values."""
    marked = json.dumps(body | {key: f"@{key}@" for key in instead})
    for key, value in instead.items():
        marked = marked.replace(f'"@{key}@"', value)
    return marked.encode()


Make = Callable[[Rig], tuple[str, bytes]]

BROKEN: dict[str, Make] = {
    "nothing": lambda rig: (VOLUMES, b""),
    "half": lambda rig: (VOLUMES, json.dumps(rig.volume(role="Primary")).encode()[:-7]),
    "two": lambda rig: (VOLUMES, json.dumps(rig.volume(role="Primary")).encode() * 2),
    "a list": lambda rig: (VOLUMES, b"[1, 2]"),
    "null": lambda rig: (VOLUMES, b"null"),
    "not UTF-8": lambda rig: (VOLUMES, b'{"term": "\xff\xfe"}'),
    "UTF-16": lambda rig: (VOLUMES, json.dumps(rig.volume(role="Primary")).encode("utf-16")),
    "a byte order mark": lambda rig: (VOLUMES, b"\xef\xbb\xbf" + json.dumps(rig.volume(role="Primary")).encode()),
    "half a surrogate": lambda rig: (VOLUMES, text(rig.volume(role="Primary"), instead={"name": '"\\ud800"'})),
    "deep": lambda rig: (VOLUMES, b'{"members":' * 5000 + b"1" + b"}" * 5000),
    "deep lists": lambda rig: (VOLUMES, b"[" * 60_000),
    "the same key twice": lambda rig: (
        VOLUMES, json.dumps(rig.volume(role="Primary")).encode()[:-1] + b', "size": 16777216}',
    ),
    "the same key twice, deeper": lambda rig: (
        DOMAINS,
        text(rig.domain(), instead={"config": '{"memory_mib": 128, "max_memory_mib": 128, "memory_mib": 256}'}),
    ),
    "NaN": lambda rig: (DOMAINS, text(rig.domain(), instead={"shutdown_grace_seconds": "NaN"})),
    "Infinity": lambda rig: (DOMAINS, text(rig.domain(), instead={"shutdown_grace_seconds": "Infinity"})),
    "minus Infinity": lambda rig: (DOMAINS, text(rig.domain(), instead={"shutdown_grace_seconds": "-Infinity"})),
    "a float beyond all": lambda rig: (DOMAINS, text(rig.domain(), instead={"shutdown_grace_seconds": "1e999"})),
    "a time that runs backwards": lambda rig: (DOMAINS, text(rig.domain(), instead={"shutdown_grace_seconds": "-1"})),
    "true for a number": lambda rig: (VOLUMES, text(rig.volume(role="Primary"), instead={"term": "true"})),
    "a float for a number": lambda rig: (VOLUMES, text(rig.volume(role="Primary"), instead={"term": f"{TERM}.5"})),
    "a number for a name": lambda rig: (VOLUMES, text(rig.volume(role="Primary"), instead={"group": "0"})),
    "an unknown field": lambda rig: (VOLUMES, json.dumps(rig.volume(role="Primary") | {"force": True}).encode()),
    "an unknown field, deeper": lambda rig: (
        VOLUMES,
        json.dumps(rig.volume(members=[{"node": "mk1", "address": "10.0.0.81", "x": 1}] * 2)).encode(),
    ),
    "no member": lambda rig: (VOLUMES, json.dumps(rig.volume(members=[])).encode()),
    "an unknown state": lambda rig: (DOMAINS, json.dumps(rig.domain(state="Destroyed")).encode()),
    "an unknown kind": lambda rig: (
        "/v1/operations",
        json.dumps({"id": "x", "term": TERM, "body": {"kind": "shell", "resource": RESOURCE, "uid": VOLUME}}).encode(),
    ),
    "a term below none": lambda rig: (HOST, text(rig.host_wish(), instead={"term": "-1"})),
    "a port that is none": lambda rig: (HOST, text(rig.host_wish(), instead={"relocation_port": "65536"})),
    "no size": lambda rig: (VOLUMES, text(rig.volume(role="Primary"), instead={"size": "0"})),
    "a rate of many digits": lambda rig: (
        VOLUMES, text(rig.volume(role="Primary"), instead={"resync_rate": f'"{"9" * 60_000}"'}),
    ),
    "a key of many letters": lambda rig: (VOLUMES, b'{"' + b"k" * 60_000 + b'": 1}'),
    "thousands of keys": lambda rig: (
        VOLUMES, b"{" + b",".join(b'"%d":0' % number for number in range(6_000)) + b"}",
    ),
}  # fmt: skip

HUGE = ("9" * 20, "9" * 400, "9" * 5000, "-" + "9" * 400)
NUMBERS = {
    HOST: ("term", "relocation_port"),
    VOLUMES: ("term", "minor", "port", "size"),
    DOMAINS: ("term", "epoch", "run"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_request_is_refused(rig: Rig, name: str) -> None:
    path, body = BROKEN[name](rig)
    with rig.unchanged():
        status, answer = rig.ask("POST" if path == "/v1/operations" else "PUT", path, body)
    assert (status, answer["reason"]) == (422, "InvalidRequest"), answer
    assert 20 < len(answer["message"]) < 4000, answer["message"][:200]
    assert answer["message"].isprintable()


@pytest.mark.parametrize("path", NUMBERS)
def test_numbers_beyond_all_reason_are_refused(rig: Rig, path: str) -> None:
    good = {HOST: rig.host_wish(), VOLUMES: rig.volume(role="Primary"), DOMAINS: rig.domain()}[path]
    with rig.unchanged():
        for field in NUMBERS[path]:
            for number in HUGE:
                status, answer = rig.ask("PUT", path, text(good, instead={field: number}))
                assert status in (409, 422), (field, number[:30], answer)
                assert rig.state()["term"] == TERM, "a term that no controller can reach locks all of them out"


def test_numbers_deeper_in_a_domain_are_refused(rig: Rig) -> None:
    disk = {"resource": RESOURCE, "minor": 10**30, "vdev": "xvda"}
    with rig.unchanged():
        for config in ({"memory_mib": 10**30}, {"vcpus": 10**30}, {"max_memory_mib": 10**30}, {"disks": [disk]}):
            status, answer = rig.ask("PUT", DOMAINS, rig.domain(epoch=4, config=config))
            assert status == 422, (config, answer)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        JSON | {"Content-Encoding": "gzip"},
        JSON | {"Content-Encoding": "deflate"},
    ],
    ids=lambda one: " ".join(one.values()),
)
def test_other_kinds_of_bodies_are_refused(rig: Rig, headers: dict[str, str]) -> None:
    with rig.unchanged():
        status, answer = rig.ask("PUT", HOST, rig.host_wish(relocation_enabled=False), headers=headers)
    assert (status, answer["reason"]) == (415, "UnsupportedMediaType")
    assert "application/json" in answer["message"]


def test_a_body_that_unpacks_to_a_gigabyte_is_not_unpacked(rig: Rig) -> None:
    import gzip

    bomb = gzip.compress(b" " * (64 << 20))
    with rig.unchanged():
        status, _ = rig.ask("PUT", HOST, bomb, headers=JSON | {"Content-Encoding": "gzip"})
    assert status == 415


def head(path: str, *fields: str) -> bytes:
    lines = [f"PUT {path} HTTP/1.1", "Host: mk1", "Content-Type: application/json", "Connection: close", *fields]
    return "\r\n".join([*lines, "", ""]).encode()


def test_a_body_that_says_it_is_too_long_is_not_read(rig: Rig) -> None:
    with rig.unchanged():
        answer = rig.raw(head(HOST, f"Content-Length: {1 << 40}"), b"{")
    assert b" 413 " in answer.split(b"\r\n")[0]
    assert str(LIMIT).encode() in answer


def test_a_body_that_grows_too_long_in_pieces_is_cut_off(rig: Rig) -> None:
    piece = b"%x\r\n" % 65536 + b" " * 65536 + b"\r\n"
    with rig.unchanged():
        answer = rig.raw(head(HOST, "Transfer-Encoding: chunked"), *[piece] * 24, b"0\r\n\r\n")
    assert b" 413 " in answer.split(b"\r\n")[0]


MALFORMED = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20 + b"\r\n\r\n",
    "another version": b"GET /v1/state HTTP/9.9\r\nHost: mk1\r\n\r\n",
    "a header without end": b"GET /v1/state HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    "ten thousand headers": b"GET /v1/state HTTP/1.1\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
    "a path without end": b"GET /" + b"v" * 100_000 + b" HTTP/1.1\r\n\r\n",
    "a negative length": head(HOST, "Content-Length: -5"),
    "two lengths": head(HOST, "Content-Length: 5", "Content-Length: 6") + b"{}   ",
    "a length that is no number": head(HOST, "Content-Length: 0x10"),
    "length and chunks": head(HOST, "Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "chunks that are none": head(HOST, "Transfer-Encoding: chunked") + b"zz\r\n\r\n",
    "a NUL in a header": b"GET /v1/state HTTP/1.1\r\nHost: mk\x001\r\n\r\n",
    "a bare line feed in a header": b"GET /v1/state HTTP/1.1\r\nHost: mk1\nX: y\r\n\r\n",
    "a method of letters and signs": b"G\x01T /v1/state HTTP/1.1\r\nHost: mk1\r\n\r\n",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_not_http_is_refused(rig: Rig, name: str) -> None:
    with rig.unchanged():
        answer = rig.raw(MALFORMED[name])
    status = answer.split(b" ", 2)[1:2]
    assert status in ([], [b"400"], [b"413"], [b"414"], [b"431"], [b"505"], [b"422"]), answer[:300]
    assert b"Traceback" not in answer
    assert b".py" not in answer


def test_a_request_behind_another_is_not_taken_for_it(rig: Rig) -> None:
    """Two bodies in one connection: the second is a request of its own, refused for itself."""
    body = json.dumps({"term": TERM, "uid": VM, "epoch": 1}).encode()
    one = head(DOMAINS, f"Content-Length: {len(body)}").replace(b"Connection: close\r\n", b"") + body
    with rig.unchanged():
        answer = rig.raw(one + head("/nowhere", "Content-Length: 2") + b"{}")
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"422", b"404"]


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/nowhere", 404, "/nowhere"),
        ("GET", "/v1/volumes/a/b", 404, "/v1/volumes/a/b"),
        ("PATCH", "/v1/host", 405, "PUT"),
        ("POST", f"/v1/volumes/{RESOURCE}", 405, "DELETE, PUT"),
        ("TRACE", "/v1/state", 405, "GET"),
    ],
)
def test_where_nothing_is_says_what_is(rig: Rig, method: str, path: str, status: int, words: str) -> None:
    with rig.unchanged():
        found, answer = rig.ask(method, path, {})
    assert found == status
    assert words in answer["message"]

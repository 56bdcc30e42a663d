"""Names that are options, paths, lines or nothing, in every field that holds one and in the path of the URL."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from rig import NAME, OTHER, RESOURCE, TERM, VM, VOLUME, Body, Rig

HOSTILE = (
    "-f", "-fq", "--forced", "-", "../x", "..", ".", "a/b", "/etc/passwd\n", "", " ", "a b", "a\n", "\na", "a\nb",
    "a\rb", "a\0b", "\0", "ü", "a\u202eb", "\u2010f", "x" * 300, "$(id)", "`id`", "a;id", "a|id", "a'b", 'a"b', "a\\b",
    "a%00b", "*", "a{b}", "a,b", "a=b",
)  # fmt: skip
FREE = {"cmdline", "url"}  # text, of which a good deal is allowed

Place = tuple[str | int, ...]


def requests(rig: Rig) -> dict[str, tuple[str, str, Body]]:
    """One good request of every kind; each would do something if a name in it were taken."""
    full = {"kernel": "/boot/vmlinuz", "ramdisk": "/boot/initrd", "bootloader": "pygrub", "cmdline": "root=/dev/xvda"}
    arriving = rig.domain(uid=OTHER, name="other", epoch=9)
    leaving = rig.domain(config=full)
    operations: dict[str, Body] = {
        "initial-sync": {"kind": "initial-sync", "resource": RESOURCE, "uid": VOLUME},
        "write-content": {"kind": "write-content", "resource": RESOURCE, "uid": VOLUME, "filesystem": "ext4"},
        "migrate-send": {"kind": "migrate-send", "domain": leaving, "target": "mk2", "target_address": "127.0.0.1"},
        "migrate-receive": {"kind": "migrate-receive", "domain": arriving, "source": "mk2"},
    }
    return {
        "host": ("PUT", "/v1/host", rig.host_wish(relocation_allow_from=["mk2"])),
        "volume": (
            "PUT", f"/v1/volumes/{RESOURCE}", rig.volume(role="Primary", metadata_group="vg0", verify_alg="sha1"),
        ),
        "verdict": (
            "PUT", f"/v1/volumes/{RESOURCE}/verdict",
            {
                "term": TERM, "uid": VOLUME, "resource": RESOURCE,
                "verdict": {"number": 1, "survivor": "mk1", "stale": "mk2", "reason": "HostOff"},
            },
        ),
        "volume's removal": (
            "DELETE", f"/v1/volumes/{RESOURCE}", {"term": TERM, "uid": VOLUME, "policy": "Delete"},
        ),
        "domain": ("PUT", f"/v1/domains/{NAME}", rig.domain(state="Stopped", config=full)),
        "domain's removal": ("DELETE", f"/v1/domains/{NAME}", {"term": TERM, "uid": VM, "epoch": 3}),
        "preflight": ("POST", "/v1/preflight", {"side": "target", "domain": arriving}),
        "cancellation": ("DELETE", "/v1/operations/sync", {"term": TERM, "uid": VOLUME}),
        **{
            kind: ("POST", "/v1/operations", {"id": "move-1", "term": TERM, "body": body})
            for kind, body in operations.items()
        },
    }  # fmt: skip


def texts(value: Any, place: Place = ()) -> Iterator[Place]:
    """Where in a body a text stands."""
    if isinstance(value, str):
        yield place
    elif isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from texts(one, (*place, key))


def put(body: Body, place: Place, value: Any) -> Body:
    made = copy.deepcopy(body)
    holder: Any = made
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    return made


KINDS = (
    "host", "volume", "verdict", "volume's removal", "domain", "domain's removal", "preflight", "cancellation",
    "initial-sync", "write-content", "migrate-send", "migrate-receive",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_names_are_refused_in_every_field(rig: Rig, kind: str) -> None:
    method, path, body = requests(rig)[kind]
    places = [place for place in texts(body) if place[-1] not in FREE]
    assert places
    began = len(rig.argv)
    with rig.unchanged():
        for place in places:
            for value in HOSTILE:
                if value == "" and place[-1] == "relocation_address":
                    continue  # every address of the host
                status, answer = rig.ask(method, path, put(body, place, value))
                assert (status, answer["reason"]) == (422, "InvalidRequest"), (place, value, answer)
                assert answer["message"].isprintable(), (place, value, answer)
    assert not [one for one in rig.argv[began:] for word in one if word in HOSTILE and word not in ("", "-", "-f")]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("host", "preflight")])
def test_hostile_names_are_refused_in_the_path(rig: Rig, kind: str) -> None:
    method, path, body = requests(rig)[kind]
    name = path.split("/")[3] if method != "POST" else ""
    with rig.unchanged():
        for value in HOSTILE:
            hostile = quote(value, safe="")
            place = path.replace(f"/{name}", f"/{hostile}") if name else f"{path}/{hostile}"
            status, answer = rig.ask(method, place, body)
            assert status in (404, 405, 422), (value, status, answer)
            assert answer["message"].isprintable(), (value, answer)


def test_text_that_ends_a_line_is_refused_where_text_is_allowed(rig: Rig) -> None:
    with rig.unchanged():
        for text in ("a\nb", "a\rb", "a\0b", "\x1b[2J", "x" * 10_000):
            wish = rig.domain(state="Stopped", config={"cmdline": text})
            assert rig.ask("PUT", f"/v1/domains/{NAME}", wish)[0] == 422

"""Whatever a tool says, a parser reads it or says Unreadable: recorded output, mutated, and arbitrary text."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable

import pytest
from drbd_facts import EXPECTED_9, EXPECTED_84, HOWTO, NINE
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import SAMPLES, of_kind

from agent.drivers.drbd_files import parse_config
from agent.drivers.drbd_parse import parse_dump, parse_event, parse_generations, parse_proc
from agent.drivers.errors import Unreadable
from agent.drivers.lvm import parse_lvs, parse_vgs
from agent.drivers.xen_parse import parse_backends, parse_info, parse_list

LVS = '{"report":[{"lv":[{"vg_name":"vg0","lv_name":"a","lv_size":"4194304","lv_attr":"-wi-ao----","lv_tags":"xentandem.uid=1,x","lv_device_open":"open"}]}]}'  # noqa: E501
VGS = '{"report":[{"vg":[{"vg_name":"vg0","vg_size":"1069547520","vg_free":"4194304","vg_extent_size":"4194304"}]}]}'
BACKENDS = '/local/domain/0/backend/vbd/7 = ""\n/local/domain/0/backend/vbd/7/769/params = "/dev/drbd1"\n'


@functools.cache
def texts(kind: str) -> list[str]:
    return sorted({text for _, text in of_kind(kind)})


PARSERS: dict[str, tuple[Callable[[str], object], Callable[[], list[str]]]] = {
    "events2": (parse_event, lambda: texts("event")),
    "dump": (parse_dump, lambda: [*texts("dump"), NINE]),
    "proc": (parse_proc, lambda: texts("proc")),
    "get-gi": (parse_generations, lambda: texts("generations")),
    "config": (functools.partial(parse_config, "x.res"), lambda: [EXPECTED_84, EXPECTED_9, HOWTO]),
    "lvs": (parse_lvs, lambda: [LVS]),
    "vgs": (parse_vgs, lambda: [VGS]),
    "xl list": (parse_list, lambda: texts("list")),
    "xl info": (parse_info, lambda: [(SAMPLES / f"xl-info.running-on-mk1.mk{n}.txt").read_text() for n in (1, 2)]),
    "xenstore-ls": (parse_backends, lambda: [BACKENDS]),
}


@st.composite
def mutated(draw: st.DrawFn, sources: list[str]) -> str:
    """A recorded text, with a few places cut out, doubled or overwritten."""
    text = draw(st.sampled_from(sources))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 40)))
        text = text[:start] + draw(st.one_of(st.text(max_size=12), st.just(text[start:end] * 2))) + text[end:]
    return text


@pytest.mark.parametrize("name", PARSERS)
def test_the_unmutated_texts_are_read(name: str) -> None:
    parse, sources = PARSERS[name]
    assert sources()
    for text in sources():
        parse(text)


@pytest.mark.parametrize("name", PARSERS)
def test_a_mutated_text_is_read_or_unreadable(name: str) -> None:
    parse, sources = PARSERS[name]

    @settings(max_examples=300, deadline=None)
    @given(mutated(sources()))
    def check(text: str) -> None:
        with contextlib.suppress(Unreadable):
            parse(text)

    check()


@pytest.mark.parametrize("name", PARSERS)
def test_arbitrary_text_is_read_or_unreadable(name: str) -> None:
    parse, _ = PARSERS[name]

    @settings(max_examples=100, deadline=None)
    @given(st.text(max_size=200))
    def check(text: str) -> None:
        with contextlib.suppress(Unreadable):
            parse(text)

    check()


@pytest.mark.parametrize("parse", [parse_lvs, parse_vgs])
def test_arbitrary_json_is_read_or_unreadable(parse: Callable[[str], object]) -> None:
    scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
    values = st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["report", "lv", "vg", "lv_name", "vg_name", "lv_size"]), inner, max_size=4
            )
        ),
    )

    @settings(max_examples=300, deadline=None)
    @given(values)
    def check(value: object) -> None:
        with contextlib.suppress(Unreadable):
            parse(json.dumps(value))

    check()


@pytest.mark.parametrize("name", ["dump", "lvs", "vgs"])
def test_no_cut_text_is_taken_for_a_whole_one(name: str) -> None:
    """(xl's list has no end mark: that it is whole is told by xl's exit status.)"""
    parse, sources = PARSERS[name]
    for source in sources():
        for cut in range(len(source.rstrip()) - 1):
            with pytest.raises(Unreadable):
                parse(source[:cut])


@pytest.mark.parametrize("source", [EXPECTED_84, EXPECTED_9, HOWTO])
def test_no_resource_of_a_cut_file_lacks_what_it_takes(source: str) -> None:
    resources, _ = parse_config("x.res", source)
    for cut in range(len(source)):
        with contextlib.suppress(Unreadable):
            assert set(parse_config("x.res", source[:cut])[0]) <= set(resources)


def test_sections_without_end_are_unreadable() -> None:
    with pytest.raises(Unreadable):
        parse_config("x.res", "resource a { " + "on b { " * 5000)

"""The relocation endpoint: what it was told to expect passes, everything else is refused and logged."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from ports import free_port

from agent import pki
from agent.core import TlsFiles
from agent.promises import Promises
from agent.protocol import HostDesired, PreflightRequest
from agent.tls import client_context
from tests.agent_migration.pair import LIMIT, Pair, until
from tests.agent_migration.vm_facts import desired, host


async def ask(port: int, files: TlsFiles, line: bytes) -> dict[str, Any]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context(files))
    try:
        writer.write(line)
        answer = json.loads(await asyncio.wait_for(reader.readline(), LIMIT))
        assert isinstance(answer, dict)
        return answer
    finally:
        writer.transport.abort()


def question(kind: str = "stream", **more: Any) -> bytes:
    return json.dumps({"version": 1, "kind": kind, "operation": "move", **more}).encode() + b"\n"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (question(), "NotExpected"),
        (question("released", epoch=2), "NotExpected"),
        (question("released"), "NotUnderstood"),
        (question("shell"), "NotUnderstood"),
        (b'{"version": 2, "kind": "stream", "operation": "move"}\n', "NotUnderstood"),
        (b"GET / HTTP/1.1\n", "NotUnderstood"),
        (b"[1, 2]\n", "NotUnderstood"),
        (b'{"version": 1, "kind": "stream", "operation": "' + b"x" * 9000 + b'"}\n', "NotUnderstood"),
        (b'{"version": 1, "kind": "stream"}\n', "NotUnderstood"),
    ],
)
async def test_what_nobody_expects_is_refused(pair: Pair, line: bytes, reason: str) -> None:
    answer = await ask(pair.ports["mk2"], pair.tls["mk1"], line)
    assert answer["accepted"] is False
    assert answer["reason"] == reason


async def test_only_the_operations_source_is_let_in(running: Pair) -> None:
    await running.receive()
    for files in (running.tls["mk2"], pki.issue_controller(running.authority, running.directory / "controller")):
        answer = await ask(running.ports["mk2"], files, question())
        assert (answer["accepted"], answer["reason"]) == (False, "WrongSource")
        answer = await ask(running.ports["mk2"], files, question("released", epoch=2))
        assert (answer["accepted"], answer["reason"]) == (False, "WrongSource")
    answer = await ask(running.ports["mk2"], running.tls["mk1"], question("released", epoch=1))
    assert (answer["accepted"], answer["reason"]) == (False, "EpochTooOld")
    await running.send()
    await running.ended("mk2", "move", "Succeeded")


async def test_a_second_stream_for_the_same_operation_is_refused(running: Pair) -> None:
    running.simulation.slow_link(30e6)
    await running.move()
    await running.phase("mk2", "Receiving")
    answer = await ask(running.ports["mk2"], running.tls["mk1"], question())
    assert answer["reason"] == "AlreadyConnected"
    running.simulation.slow_link(400e6)
    await running.ended("mk2", "move", "Succeeded")
    answer = await ask(running.ports["mk2"], running.tls["mk1"], question("released", epoch=2))
    assert answer == {"accepted": True}, "told again after the end: heard"
    await running.runs_only_on("mk2")


@pytest.mark.parametrize(
    ("said", "heard"), [({}, False), ({"zeros": False}, False), ({"zeros": True}, True), ({"zeros": "true"}, False)]
)
async def test_a_stream_that_is_not_one_harms_nothing(running: Pair, said: dict[str, Any], heard: bool) -> None:
    """The right node, the right operation, the wrong bytes: the receiver fails, nothing is left, the guest runs on."""
    await running.receive()
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", running.ports["mk2"], ssl=client_context(running.tls["mk1"])
    )
    writer.write(question(**said))
    assert json.loads(await reader.readline()) == {"accepted": True, "zeros": heard}
    writer.write(b"not a saved domain" * 1000)
    writer.write_eof() if writer.can_write_eof() else writer.close()
    with suppress(ConnectionError, ssl.SSLError):
        await asyncio.wait_for(reader.read(), LIMIT)
    writer.transport.abort()
    await running.ended("mk2", "move", "Failed")
    await running.runs_only_on("mk1")


async def test_a_stream_of_frames_that_are_none_harms_nothing(running: Pair) -> None:
    await running.receive()
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", running.ports["mk2"], ssl=client_context(running.tls["mk1"])
    )
    writer.write(question(zeros=True))
    await reader.readline()
    writer.write(bytes(4))
    failed = await running.ended("mk2", "move", "Failed")
    writer.transport.abort()
    assert failed.refusal is not None
    assert "the stream broke: a frame of 0 bytes: 0x00000000" in failed.refusal.message
    await running.runs_only_on("mk1")


async def first_words(port: int, context: ssl.SSLContext) -> bytes:
    """What the endpoint answers; ConnectionError when it says nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write(question())
    if not (line := await asyncio.wait_for(reader.readline(), LIMIT)):
        raise ConnectionResetError("closed without a word")
    return line


async def test_without_our_certificate_there_is_no_conversation(pair: Pair, tmp_path: Path) -> None:
    stranger = pki.issue_agent(pki.create_authority(tmp_path / "other-ca"), "mk1", tmp_path / "stranger")
    trusting = client_context(pair.tls["mk1"])
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname = False
    bare.verify_mode = ssl.CERT_NONE
    foreign = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    foreign.check_hostname = False
    foreign.verify_mode = ssl.CERT_NONE
    foreign.load_cert_chain(stranger.certificate, stranger.key)
    old = client_context(pair.tls["mk1"])
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    for context in (bare, foreign, old):
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await first_words(pair.ports["mk2"], context)
    with socket.create_connection(("127.0.0.1", pair.ports["mk2"]), timeout=LIMIT) as plain:
        plain.sendall(question())
    assert b"NotExpected" in await first_words(pair.ports["mk2"], trusting), "and it still serves"


async def wish_host(pair: Pair, name: str, wanted: HostDesired) -> None:
    pair.at(name).observer.put_host(term=1, desired=wanted)
    await pair.at(name).migration.apply()


async def test_the_listener_follows_the_hosts_wish(pair: Pair) -> None:
    port = pair.ports["mk2"]
    on = host(relocation_address="127.0.0.1", relocation_port=port)
    await wish_host(pair, "mk2", on)
    assert pair.agents["mk2"].relocation_port == port
    await wish_host(pair, "mk2", host(relocation_enabled=False))
    assert pair.agents["mk2"].relocation_port == 0
    with pytest.raises(ConnectionError):
        await asyncio.open_connection("127.0.0.1", port)
    await wish_host(pair, "mk2", on)
    assert (await ask(port, pair.tls["mk1"], question()))["reason"] == "NotExpected"


async def test_a_port_that_is_taken_is_tried_again(pair: Pair) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        await wish_host(pair, "mk2", host(relocation_address="127.0.0.1", relocation_port=port))
        assert pair.agents["mk2"].relocation_port == 0
    await until(lambda: pair.agents["mk2"].relocation_port == port, "the listener")
    assert (await ask(port, pair.tls["mk1"], question()))["reason"] == "NotExpected"


async def test_certificates_are_renewed_while_a_guest_moves(running: Pair) -> None:
    """The stream goes on with the connection it has; who comes next is met with the renewed one."""
    running.simulation.slow_link(30e6)
    await running.move()
    await running.phase("mk2", "Receiving")
    files = {name: pki.issue_agent(running.authority, name, running.directory / "pki" / name) for name in running.tls}
    _, writer = await asyncio.open_connection("127.0.0.1", running.ports["mk2"], ssl=client_context(files["mk1"]))
    shown = x509.load_der_x509_certificate(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
    writer.transport.abort()
    assert shown == x509.load_pem_x509_certificate(files["mk2"].certificate.read_bytes())
    running.simulation.slow_link(400e6)
    await running.ended("mk2", "move", "Succeeded")
    await running.ended("mk1", "move", "Succeeded")
    await running.move("back", to="mk1", epoch=2)
    await running.ended("mk1", "back", "Succeeded")
    await running.runs_only_on("mk1")


# --- another endpoint while the agent runs -----------------------------------------------------------------------


def listening(pair: Pair, name: str) -> bool:
    return pair.at(name).observer.state.facts.relocation_listening


async def closed(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        return True
    writer.transport.abort()
    return False


def wish(pair: Pair, name: str, **changes: Any) -> HostDesired:
    """As the controller's PutHost: journalled."""
    wanted = host(relocation_address="127.0.0.1", **changes)
    Promises(pair.at(name).journal).desire(pair.at(name), wanted)
    return wanted


async def test_that_it_listens_is_told_at_once(pair: Pair) -> None:
    assert listening(pair, "mk2")
    await wish_host(pair, "mk2", host(relocation_enabled=False))
    assert not listening(pair, "mk2")
    await wish_host(pair, "mk2", host(relocation_address="127.0.0.1", relocation_port=free_port()))
    assert listening(pair, "mk2")
    await wish_host(pair, "mk2", host(relocation_address="192.0.2.1", relocation_port=pair.ports["mk2"]))
    assert not listening(pair, "mk2"), "not an address of this machine"
    report = await pair.at("mk2").domains.preflight(PreflightRequest(side="target", domain=desired(epoch=2)))
    assert "RelocationNotListening" in [one.reason for one in report.refusals]
    assert any("192.0.2.1" in one.message for one in report.refusals)


@pytest.mark.parametrize("changes", [{"relocation_port": 0}, {"relocation_enabled": False}])
async def test_a_move_ends_where_it_was_told_to_come(running: Pair, changes: dict[str, Any]) -> None:
    """The XenNode changes while the memory is copied: the source still has to tell the target that it let go."""
    old, new = running.ports["mk2"], free_port()
    running.simulation.slow_link(60e6)
    await running.move()
    await running.phase("mk2", "Receiving")
    enabled = changes.get("relocation_enabled", True)
    wish(running, "mk2", relocation_enabled=enabled, relocation_port=new)
    await running.at("mk2").migration.apply()
    assert listening(running, "mk2") is enabled
    running.simulation.slow_link(400e6)
    await running.ended("mk2", "move", "Succeeded")
    await running.ended("mk1", "move", "Succeeded")
    await running.runs_only_on("mk2")
    await until(lambda: closed(old), "the end of the old endpoint")
    assert running.agents["mk2"].relocation_port == (new if enabled else 0)
    assert await closed(new) is not enabled


async def test_a_restarted_target_hears_where_it_was_told_to_come(running: Pair) -> None:
    """The XenNode changes, and the target's agent dies just when it is told that the source let go."""
    old, new = running.ports["mk2"], free_port()
    running.hosts["mk2"].die_at_journal(
        lambda section, key, value: section == "operations" and bool(value["notes"].get("released")), "before"
    )
    await running.move()
    await running.phase("mk2", "Receiving")
    wish(running, "mk2", relocation_port=new)
    await running.at("mk2").migration.apply()
    await running.hosts["mk2"].dead.wait()
    await running.start("mk2")
    assert running.agents["mk2"].relocation_port == new
    await running.ended("mk2", "move", "Succeeded")
    await running.runs_only_on("mk2")
    await until(lambda: closed(old), "the end of the old endpoint")

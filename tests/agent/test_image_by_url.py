"""An image by https: a server of the test's own, with a certificate authority that the host trusts."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from agent_facts import UID
from aiohttp import web
from fleet import Fleet, ready, until

from agent import download, pki
from agent.download import DownloadFailed
from agent.images import NotRaw
from agent.protocol import OperationState
from agent.real_host import RealHost

IMAGE = bytes(range(256)) * 12_000  # several chunks
DIGEST = hashlib.sha256(IMAGE).hexdigest()
LIMIT = 1 << 30
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Answers each path by its handler; `asked` has the Range of every request."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.handlers: dict[str, Handler] = {}
        self.asked: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.headers.get("Range", "all"))
        assert request.headers["Accept-Encoding"] == "identity"
        if (handler := self.handlers.get(request.path)) is None:
            raise web.HTTPNotFound
        return await handler(request)

    def serve(self, path: str, data: bytes, **headers: str) -> str:
        async def whole(request: web.Request) -> web.StreamResponse:
            return web.Response(body=data, headers=headers)

        return self.on(path, whole)

    def redirect(self, path: str, to: str) -> str:
        async def there(request: web.Request) -> web.StreamResponse:
            raise web.HTTPFound(to)

        return self.on(path, there)

    def cutting(self, path: str, data: bytes, *, cuts: int, tag: str | None = '"1"', ranges: bool = True) -> str:
        """The connection breaks in the middle of what is asked for, the first `cuts` times."""
        left = cuts

        async def part(request: web.Request) -> web.StreamResponse:
            nonlocal left
            wanted = request.http_range.start or 0 if ranges else 0
            assert wanted == 0 or request.headers["If-Range"] == tag
            headers = {"Content-Length": str(len(data) - wanted)} | ({"ETag": tag} if tag else {})
            if wanted:
                headers["Content-Range"] = f"bytes {wanted}-{len(data) - 1}/{len(data)}"
            response = web.StreamResponse(status=206 if wanted else 200, headers=headers)
            await response.prepare(request)
            middle = (wanted + len(data)) // 2 if left else len(data)
            await response.write(data[wanted:middle])
            if left:
                left -= 1
                assert request.transport is not None
                request.transport.close()  # after what was written: the client has the first half
            return response

        return self.on(path, part)

    def on(self, path: str, handler: Handler) -> str:
        self.handlers[path] = handler
        return self.base + path


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    authority = pki.create_authority(tmp_path / "image-ca")
    files = pki.issue_agent(authority, "images", tmp_path / "images", addresses=["127.0.0.1"])
    monkeypatch.setenv("SSL_CERT_FILE", str(files.authority))
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.01)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(files.certificate, files.key)
    serving = Server("")
    app = web.Application()
    app.router.add_get("/{path:.*}", serving.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    serving.base = f"https://127.0.0.1:{runner.addresses[0][1]}"
    yield serving
    await runner.cleanup()


@pytest.fixture
def host(tmp_path: Path) -> RealHost:
    return RealHost(tmp_path / "state")


async def fetch(host: RealHost, tmp_path: Path, url: str, limit: int = LIMIT) -> bytes:
    path = tmp_path / "state" / "images" / "one"
    try:
        size, digest = await host.fetch_image(url, str(path), limit, timeout=20)
    except BaseException:
        assert not path.exists(), "what is not whole is not left behind"
        raise
    data = path.read_bytes()
    assert (size, digest) == (len(data), hashlib.sha256(data).hexdigest())
    assert path.stat().st_mode & 0o777 == 0o600
    return data


# --- the download itself, by the real host ------------------------------------------------------------------------


async def test_the_whole_image_becomes_a_file(host: RealHost, server: Server, tmp_path: Path) -> None:
    assert await fetch(host, tmp_path, server.serve("/guest.img", IMAGE), len(IMAGE)) == IMAGE
    assert await fetch(host, tmp_path, server.serve("/short.img", b"x"), len(IMAGE)) == b"x", "nothing of the old one"


async def test_what_the_server_refuses_is_said(host: RealHost, server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match="/nothing: HTTP 404 Not Found"):
        await fetch(host, tmp_path, f"{server.base}/nothing")
    assert server.asked == ["all"], "asking again would not help"


async def test_a_server_in_trouble_is_asked_again(host: RealHost, server: Server, tmp_path: Path) -> None:
    async def troubled(request: web.Request) -> web.StreamResponse:
        return web.Response(body=IMAGE) if len(server.asked) > 2 else web.Response(status=503)

    assert await fetch(host, tmp_path, server.on("/guest.img", troubled)) == IMAGE

    async def dead(request: web.Request) -> web.StreamResponse:
        return web.Response(status=503)

    with pytest.raises(DownloadFailed, match="HTTP 503 Service Unavailable, 5 times"):
        await fetch(host, tmp_path, server.on("/dead.img", dead))


async def test_only_https_is_followed(host: RealHost, server: Server, tmp_path: Path) -> None:
    there = server.serve("/guest.img", IMAGE)
    assert await fetch(host, tmp_path, server.redirect("/latest", "/guest.img")) == IMAGE
    assert await fetch(host, tmp_path, server.redirect("/mirror", there)) == IMAGE
    for bad in ("http://127.0.0.1:1/guest.img", "file:///etc/shadow"):
        with pytest.raises(DownloadFailed, match=f"leads to {bad}: an image is fetched by https:// only"):
            await fetch(host, tmp_path, server.redirect("/bad", bad))
    with pytest.raises(DownloadFailed, match="leads on and on"):
        await fetch(host, tmp_path, server.redirect("/round", "/round"))


async def test_an_unknown_certificate_is_not_believed(
    host: RealHost, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.serve("/guest.img", IMAGE)
    pki.create_authority(tmp_path / "other-ca")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "other-ca" / "ca.crt"))
    with pytest.raises(DownloadFailed, match="its certificate is not believed"):
        await fetch(host, tmp_path, url)
    assert server.asked == []


async def test_a_cut_is_taken_up_where_it_was(host: RealHost, server: Server, tmp_path: Path) -> None:
    assert await fetch(host, tmp_path, server.cutting("/guest.img", IMAGE, cuts=2)) == IMAGE
    assert server.asked[0] == "all"
    first, second = (int(asked.removeprefix("bytes=").removesuffix("-")) for asked in server.asked[1:])
    assert 0 < first < second < len(IMAGE)


async def test_a_cut_without_a_version_or_ranges_begins_again(host: RealHost, server: Server, tmp_path: Path) -> None:
    assert await fetch(host, tmp_path, server.cutting("/guest.img", IMAGE, cuts=1, tag=None)) == IMAGE
    assert server.asked == ["all", "all"]
    assert await fetch(host, tmp_path, server.cutting("/plain.img", IMAGE, cuts=1, ranges=False)) == IMAGE


async def test_an_image_that_changed_meanwhile_begins_again(host: RealHost, server: Server, tmp_path: Path) -> None:
    """If-Range: the server answers 200 with all of the new one."""
    other = IMAGE[::-1]
    url = server.cutting("/guest.img", IMAGE, cuts=1)
    first = server.handlers["/guest.img"]

    async def changing(request: web.Request) -> web.StreamResponse:
        return await first(request) if len(server.asked) == 1 else web.Response(body=other, headers={"ETag": '"2"'})

    server.on("/guest.img", changing)
    assert await fetch(host, tmp_path, url) == other


async def test_a_link_that_is_cut_each_time_ends_with_a_reason(host: RealHost, server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match=r"the connection broke after \d+ bytes, 5 times"):
        await fetch(host, tmp_path, server.cutting("/guest.img", IMAGE, cuts=9))


async def test_what_is_too_large_is_refused_before_or_at_the_size(
    host: RealHost, server: Server, tmp_path: Path
) -> None:
    with pytest.raises(DownloadFailed, match=f"has {len(IMAGE)} bytes, the volume has room for 1000000") as caught:
        await fetch(host, tmp_path, server.serve("/guest.img", IMAGE), 1_000_000)
    assert caught.value.reason == "ImageTooLarge"

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        while True:
            await response.write(IMAGE)

    with pytest.raises(DownloadFailed, match=r"has at least \d+ bytes, the volume has room for 1000000"):
        await fetch(host, tmp_path, server.on("/endless", endless), 1_000_000)


async def test_a_silent_server_is_given_up(
    host: RealHost, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "SILENCE_SECONDS", 0.1)
    monkeypatch.setattr(download, "ATTEMPTS", 2)

    async def silent(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"x")
        await asyncio.sleep(1)
        return response

    with pytest.raises(DownloadFailed, match=r"no answer for 0\.1 s, 2 times"):
        await fetch(host, tmp_path, server.on("/silent", silent))


async def test_who_is_cancelled_leaves_nothing(host: RealHost, server: Server, tmp_path: Path) -> None:
    begun, path = asyncio.Event(), tmp_path / "state" / "images" / "one"

    async def halfway(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(IMAGE))})
        await response.prepare(request)
        await response.write(IMAGE[: len(IMAGE) // 2])
        begun.set()
        await asyncio.sleep(5)
        return response

    task = asyncio.create_task(fetch(host, tmp_path, server.on("/halfway", halfway)))
    await begun.wait()

    async def some_of_it() -> bool:
        return path.exists() and path.stat().st_size > 0

    await until(some_of_it, "the first bytes")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not path.exists()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (gzip.compress(IMAGE), "compressed by gzip"),
        (b"QFI\xfb\0\0\0\3" + bytes(512), "a qcow2 image"),
        (b"\xfd7zXZ\0" + bytes(512), "compressed by xz"),
    ],
)
async def test_what_is_not_raw_is_refused(
    host: RealHost, server: Server, tmp_path: Path, data: bytes, said: str
) -> None:
    with pytest.raises(NotRaw, match=f"is {said}: only raw images are written"):
        await fetch(host, tmp_path, server.serve("/guest.img", data))


async def test_a_server_that_compresses_is_refused(host: RealHost, server: Server, tmp_path: Path) -> None:
    url = server.serve("/guest.img", gzip.compress(IMAGE), **{"Content-Encoding": "gzip"})
    with pytest.raises(DownloadFailed, match="comes with Content-Encoding gzip"):
        await fetch(host, tmp_path, url)


# --- a volume made of it ------------------------------------------------------------------------------------------


async def content(fleet: Fleet, operation: str, url: str, digest: str = DIGEST) -> OperationState:
    """How the operation ended."""
    image = {"url": url, "sha256": digest}
    body = {"kind": "write-content", "resource": "vm_shaolin", "uid": UID, "image": image}
    status, answer = await fleet.operate("mk1", operation, body)
    assert status == 200, answer

    async def over() -> bool:
        return (await fleet.state("mk1")).operations[operation].outcome is not None

    await until(over, f"the end of {operation}")
    return (await fleet.state("mk1")).operations[operation]


def left_over(fleet: Fleet) -> list[str]:
    folder = fleet.simulation.hosts["mk1"].directory / "files" / "var" / "lib" / "xentandem" / "images"
    return os.listdir(folder) if folder.exists() else []


async def test_a_volume_gets_its_image(fleet: Fleet, server: Server) -> None:
    await ready(fleet)
    await fleet.put_volume_ok("mk1", role="Primary")
    ended = await content(fleet, "content-1", server.cutting("/guest.img", IMAGE, cuts=1))
    assert ended.outcome == "Succeeded", ended
    assert [step.name for step in ended.steps] == ["Starting", "Fetching", "Writing", "Done"]
    volume = await fleet.volume("mk1")
    assert (volume.content, volume.content_detail) == ("written", f"image sha256:{DIGEST}")
    device = fleet.simulation.hosts["mk1"].open_device("/dev/drbd1")
    assert await device.read(0, len(IMAGE)) == IMAGE
    device.close()
    assert left_over(fleet) == []
    assert fleet.simulation.truth.replicas_identical("vm_shaolin")


async def test_a_volume_is_not_touched_by_what_is_not_its_image(fleet: Fleet, server: Server) -> None:
    await ready(fleet)
    await fleet.put_volume_ok("mk1", role="Primary")

    async def large(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(600 << 20)})  # the volume has 512 MiB
        await response.prepare(request)
        return response

    for number, (url, reason) in enumerate(
        [
            (server.serve("/other.img", IMAGE[:-1]), "DigestMismatch"),
            (f"{server.base}/nothing", "FetchFailed"),
            (server.redirect("/plain", "http://127.0.0.1:1/"), "FetchFailed"),
            (server.on("/large.img", large), "ImageTooLarge"),
            (server.serve("/guest.img.gz", gzip.compress(IMAGE)), "ImageNotRaw"),
            (server.cutting("/cut.img", IMAGE, cuts=9), "FetchFailed"),
        ]
    ):
        ended = await content(fleet, f"content-{number}", url)
        assert (ended.outcome, ended.refusal and ended.refusal.reason) == ("Failed", reason)
        volume = await fleet.volume("mk1")
        assert (volume.content, volume.content_detail) == ("none", "")
        assert left_over(fleet) == []
    device = fleet.simulation.hosts["mk1"].open_device("/dev/drbd1")
    assert await device.read(0, len(IMAGE)) == bytes(len(IMAGE))
    device.close()
    ended = await content(fleet, "content-9", server.serve("/guest.img", IMAGE))
    assert ended.outcome == "Succeeded", "and it may be put right"

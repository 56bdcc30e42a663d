"""An image from an https server: nothing but https is followed, a cut is taken up again, the digest is made on the way.

Who the server is, is checked with the host's own certificate authorities (update-ca-certificates(8)).
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from urllib.parse import urljoin

import aiohttp
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from agent.images import require_raw, shown

ATTEMPTS = 5
PAUSE_SECONDS = 1.0  # before the second attempt; doubled each time
SILENCE_SECONDS = 60.0  # without a byte: the connection is dead
CONNECT_SECONDS = 30.0
REDIRECTS = 5
_CHUNK = 1 << 20

Write = Callable[[int, bytes], Awaitable[None]]
"""`bytes` at that offset. It may begin again at 0: what was written before is void then."""


class DownloadFailed(Exception):
    """No image came, and why. `reason` is FetchFailed, or ImageTooLarge."""

    def __init__(self, message: str, reason: str = "FetchFailed") -> None:
        super().__init__(message)
        self.reason = reason


class _Cut(Exception):
    """Worth another attempt."""


class Download:
    """One image. `run` once."""

    def __init__(self, url: str, write: Write, limit: int) -> None:
        self._url, self._write, self._limit = url, write, limit
        self._shown = shown(url)
        self._size, self._digest = 0, hashlib.sha256()
        self._same = ""  # what the server calls this version of the image: the rest of another one is of no use

    async def run(self) -> tuple[int, str]:
        """(bytes, sha256 hex). Raises DownloadFailed, agent.images.NotRaw, and what `write` raises."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
        connector = aiohttp.TCPConnector(ssl=ssl.create_default_context())
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False, trust_env=True
        ) as session:
            try:
                async for attempt in AsyncRetrying(
                    retry=retry_if_exception_type(_Cut),
                    stop=stop_after_attempt(ATTEMPTS),
                    wait=wait_exponential(multiplier=PAUSE_SECONDS),
                    reraise=True,
                ):
                    with attempt:
                        await self._attempt(session)
            except _Cut as error:
                raise DownloadFailed(f"{self._shown}: {error}, {ATTEMPTS} times") from error
        return self._size, self._digest.hexdigest()

    async def _attempt(self, session: aiohttp.ClientSession) -> None:
        try:
            async with await self._answer(session) as response:
                await self._take(response)
        except aiohttp.ClientConnectorCertificateError as error:
            raise DownloadFailed(
                f"{self._shown}: its certificate is not believed: {error.certificate_error}"
            ) from error
        except TimeoutError as error:
            raise _Cut(f"no answer for {SILENCE_SECONDS:g} s") from error
        except aiohttp.ClientPayloadError as error:
            raise _Cut(f"the connection broke after {self._size} bytes") from error
        except aiohttp.InvalidURL:
            raise DownloadFailed(f"{self._shown}: this is no address") from None
        except aiohttp.ClientError as error:
            raise _Cut(str(error) or type(error).__name__) from error

    async def _answer(self, session: aiohttp.ClientSession) -> aiohttp.ClientResponse:
        """The response that brings bytes, behind redirections. aiohttp itself would follow them away from https."""
        headers = {"Accept-Encoding": "identity"}
        if self._size and self._same:
            headers |= {"Range": f"bytes={self._size}-", "If-Range": self._same}
        url = self._url
        for _ in range(REDIRECTS + 1):
            if not url.lower().startswith("https://"):
                raise DownloadFailed(f"{self._shown} leads to {shown(url)}: an image is fetched by https:// only")
            response = await session.get(url, headers=headers, allow_redirects=False)
            if response.status not in (301, 302, 303, 307, 308):
                return response
            response.close()
            url = urljoin(url, response.headers.get("Location", ""))
        raise DownloadFailed(f"{self._shown} leads on and on, to {shown(url)} at last")

    async def _take(self, response: aiohttp.ClientResponse) -> None:
        if response.status == HTTPStatus.PARTIAL_CONTENT and self._continues(response):
            left = self._limit - self._size
        elif response.status == HTTPStatus.OK:
            self._size, self._digest, left = 0, hashlib.sha256(), self._limit
        else:
            said = f"HTTP {response.status} {response.reason or ''}".strip()
            passes = response.status in (408, 429) or response.status >= HTTPStatus.INTERNAL_SERVER_ERROR
            raise _Cut(said) if passes else DownloadFailed(f"{self._shown}: {said}")
        if (coding := response.headers.get("Content-Encoding", "identity")) != "identity":
            raise DownloadFailed(f"{self._shown}: comes with Content-Encoding {coding}; serve the image as it is")
        self._same = _version(response)
        if (response.content_length or 0) > left:
            raise self._too_large(self._size + (response.content_length or 0))
        async for chunk in response.content.iter_chunked(_CHUNK):
            if not self._size:
                require_raw(chunk)
            if self._size + len(chunk) > self._limit:
                raise self._too_large(self._size + len(chunk), "at least ")
            await self._write(self._size, chunk)
            self._digest.update(chunk)
            self._size += len(chunk)

    def _continues(self, response: aiohttp.ClientResponse) -> bool:
        found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        return bool(self._size) and found is not None and int(found[1]) == self._size

    def _too_large(self, size: int, about: str = "") -> DownloadFailed:
        return DownloadFailed(
            f"{self._shown} has {about}{size} bytes, the volume has room for {self._limit}", "ImageTooLarge"
        )


def _version(response: aiohttp.ClientResponse) -> str:
    """For If-Range (RFC 9110, 13.1.5): a strong entity tag, else the date; "" when there is neither."""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")


async def download(url: str, write: Write, limit: int, seconds: float) -> tuple[int, str]:
    """(bytes, sha256 hex) of the image, at most `limit` bytes, within that time. Raises as `Download.run`."""
    try:
        async with asyncio.timeout(seconds):
            return await Download(url, write, limit).run()
    except TimeoutError as error:
        raise DownloadFailed(f"{shown(url)}: not all of it came within {seconds:g} s") from error

"""One HTTP session: requests and their bodies, bounded in time, with every library error translated.

The only file of the device that imports aiohttp. No retries, no ranges: those are fetch.py's.
"""

import asyncio
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import quote, unquote

import aiohttp
import yarl

from slipstream.delta.errors import FormatError, Unavailable, UsageError
from slipstream.delta.limits import (
    CONNECT_TIMEOUT_S,
    RATE_FLOOR_BYTES_PER_S,
    RATE_FLOOR_WINDOW_S,
    READ_GAP_TIMEOUT_S,
    READ_PIECE_BYTES,
    REDIRECTS_MAX,
    RESPONSE_TIMEOUT_S,
)
from slipstream.installer.ports import Clock
from slipstream.installer.response import Interrupted

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class TooSlow(Interrupted):
    """Fewer bytes than the rate floor over a whole window: what it brought is no progress."""


@dataclass(slots=True)
class Counters:
    """What crossed the link. Bytes are body bytes as received, the skipped ones among them.

    `requests` does not count that aiohttp itself repeats a GET once when the connection dies
    before any answer.
    """

    bytes_received: int = 0
    bytes_skipped: int = 0
    requests: int = 0
    retries: int = 0


class RateFloor:
    """Whether a transfer is a trickle. Pure: it is told how long was waited for how many bytes.

    Only time spent waiting for the network counts, so that a slow consumer is not held against
    the server.
    """

    def __init__(self) -> None:
        self._waited_s = 0.0
        self._received = 0

    def too_slow(self, waited_s: float, received: int) -> bool:
        """Note one read; True when a window ended below the floor."""
        self._waited_s += waited_s
        self._received += received
        if self._waited_s < RATE_FLOOR_WINDOW_S:
            return False
        slow = self._received < RATE_FLOOR_BYTES_PER_S * self._waited_s
        self._waited_s, self._received = 0.0, 0
        return slow


class Reply:
    """A response whose header has arrived. Exactly one of finish() and close() ends it."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        where: str,
        clock: Clock,
        counters: Counters,
        *,
        silence_s: float | None = None,
    ) -> None:
        """`silence_s`: a stream that is silent for so long is dead; it has no rate floor."""
        self._response = response
        self._clock = clock
        self._counters = counters
        self._gap_s = silence_s or READ_GAP_TIMEOUT_S
        self._rate = None if silence_s else RateFloor()
        self._slow = False
        self.where = where
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def read(self, size_max: int = READ_PIECE_BYTES) -> bytes:
        """The next 1 to `size_max` bytes of the body, empty at its proper end.

        Raises Interrupted when the connection is cut or stalls, TooSlow below the rate floor.
        """
        if self._slow:
            raise TooSlow(
                "the transfer is too slow",
                where=self.where,
                expected=f"at least {RATE_FLOOR_BYTES_PER_S} bytes/s over {RATE_FLOOR_WINDOW_S:.0f} s",
            )
        began = self._clock.monotonic()
        try:
            # Not aiohttp's sock_read, which also runs while nobody reads.
            async with asyncio.timeout(self._gap_s):
                piece = await self._response.content.read(size_max)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Interrupted(_reason(error), where=self.where) from error
        self._counters.bytes_received += len(piece)
        # Told at the next read: the bytes that came are good.
        if self._rate is not None:
            self._slow = self._rate.too_slow(self._clock.monotonic() - began, len(piece))
        return piece

    async def read_whole(self, size_max: int) -> bytes:
        """The whole body; Unavailable when it is longer than `size_max`. Ends the reply."""
        data = bytearray()
        try:
            while piece := await self.read():
                data += piece
                if len(data) > size_max:
                    raise Unavailable(
                        "body too large", where=self.where, expected=f"at most {size_max} bytes"
                    )
        except BaseException:
            self.close()
            raise
        self.finish()
        return bytes(data)

    def finish(self) -> None:
        """The body was read to its end: the connection serves the next request."""
        self._response.release()

    def close(self) -> None:
        """Drop the connection with whatever the server still sends."""
        self._response.close()


class Link:
    """Keep-alive HTTP to one base URL (which may have a path). Use as an async context manager.

    `authorization` is a whole header value; it is sent to the base URL's own scheme, host and
    port only. TLS certificates are verified against the system's authorities, or those in
    `ca_file` (PEM) alone. Raises UsageError for a base URL or CA file that cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        *,
        clock: Clock,
        authorization: str | None = None,
        ca_file: Path | None = None,
    ) -> None:
        self._base = _parse_base(base_url)
        self._origin = _origin(self._base)
        self._clock = clock
        self._authorization = authorization
        self._tls = _tls(ca_file)
        self._session: aiohttp.ClientSession | None = None
        self.counters = Counters()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def url(self, path: str) -> str:
        """The address of a relative path. FormatError for a path that could lead elsewhere.

        Percent-escapes stay as they are; what needs escaping and is not gets escaped.
        """
        if any(unquote(part) in {"", ".", ".."} for part in path.split("/")):
            raise FormatError("not a path below the server's folder", got=repr(path[:200]))
        if not path.isprintable() or "\\" in path or "://" in path:
            raise FormatError("not a plain path", got=repr(path[:200]))
        # The caller escapes what must not be read as a "/": TUF role names may hold one (%2F).
        path = _STRAY_PERCENT.sub("%25", path)
        return f"{self._base}/{quote(path, safe='/%~!$&()*+,;=:@')}"

    async def get(self, path: str, headers: Mapping[str, str]) -> Reply:
        """GET with redirects followed. Raises Interrupted when no response came, Unavailable
        when another attempt would not help."""
        url = yarl.URL(self.url(path), encoded=True)
        for _ in range(REDIRECTS_MAX + 1):
            reply = await self._request("GET", url, headers, None)
            if reply.status not in _REDIRECTS:
                return reply
            location = reply.headers.get("Location", "")
            reply.close()
            url = _redirected(url, location)
        raise Unavailable("too many redirects", where=str(url), expected=f"{REDIRECTS_MAX} at most")

    async def post(self, path: str, body: bytes) -> Reply:
        """POST a JSON body. Redirects are not followed: the credential belongs to one server."""
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        return await self._request("POST", yarl.URL(self.url(path), encoded=True), headers, body)

    async def listen(self, path: str, silence_s: float) -> Reply:
        """GET a stream that never ends, and is never silent for so long. No redirects."""
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
        url = yarl.URL(self.url(path), encoded=True)
        return await self._request("GET", url, headers, None, silence_s=silence_s)

    async def _request(
        self,
        method: str,
        url: yarl.URL,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        silence_s: float | None = None,
    ) -> Reply:
        headers = dict(headers)
        if self._authorization is not None and _origin(url) == self._origin:
            headers["Authorization"] = self._authorization
        self.counters.requests += 1
        where = str(url)
        try:
            async with asyncio.timeout(RESPONSE_TIMEOUT_S):
                response = await self._open_session().request(
                    method, url, headers=headers, data=body, allow_redirects=False
                )
        except aiohttp.ClientConnectorCertificateError as error:
            raise Unavailable(
                "the server's certificate is not trusted",
                where=where,
                got=_reason(error),
                hint="Check the device's clock, the server's name and the CA file",
            ) from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise Interrupted(_reason(error), where=where) from error
        return Reply(response, where, self._clock, self.counters, silence_s=silence_s)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._tls, limit=4),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
                auto_decompress=False,  # encoded bodies are refused, never inflated
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "slipstream"},
                read_bufsize=READ_PIECE_BYTES,
            )
        return self._session


def _parse_base(text: str) -> str:
    try:
        url = yarl.URL(text)
        usable = url.scheme in _DEFAULT_PORTS and bool(url.host)
    except ValueError:
        usable = False
    else:
        usable = usable and not (url.user or url.password or url.query_string or url.fragment)
    if not usable:
        raise UsageError(
            "not a server address",
            expected="http:// or https://, a host, and at most a path",
            got=repr(text[:200]),
        )
    return text.rstrip("/")


def _origin(url: yarl.URL | str) -> tuple[str, str | None, int | None]:
    url = yarl.URL(url)
    return url.scheme, url.host, url.port or _DEFAULT_PORTS.get(url.scheme)


def _redirected(url: yarl.URL, location: str) -> yarl.URL:
    try:
        target = url.join(yarl.URL(location))
    except ValueError:
        target = yarl.URL()
    downgraded = url.scheme == "https" and target.scheme != "https"
    if not location or target.scheme not in _DEFAULT_PORTS or not target.host or downgraded:
        raise Unavailable(
            "a redirect that cannot be followed", where=str(url), got=repr(location[:200])
        )
    return target.with_user(None)


def _tls(ca_file: Path | None) -> ssl.SSLContext | Literal[True]:
    """What aiohttp verifies certificates with; True is its own context of the system's
    authorities, which it has loaded already: loading them takes 25 ms."""
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise UsageError("CA file cannot be used", where=ca_file, got=str(error)) from error


def _reason(error: BaseException) -> str:
    # Several timeouts of aiohttp and asyncio have no text of their own.
    if isinstance(error, TimeoutError):
        return str(error) or "the server does not answer in time"
    if isinstance(error, aiohttp.ClientConnectorError):
        # aiohttp's own text is "Cannot connect to host H:P ssl:default [...]".
        why = (error.os_error.strerror or str(error.os_error))[:200]
        return (
            f"the server {error.host}:{error.port} cannot be reached ({why}): check the network, "
            "that the server runs, and server.url"
        )
    return str(error)[:300] or type(error).__name__

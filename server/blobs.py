"""The repository's files over HTTP: digests as ETags, single and multiple ranges, sendfile.

aiohttp's own FileResponse knows neither If-Range with an ETag nor more than one range.

    /metadata/...   asked for anew each time (no-cache), ETag = SHA-256 of the content
    /targets/...    immutable; the name carries the digest, which is the ETag
    /blobs/...      immutable; likewise

Only names that the repository layout can have are opened, one path component at a time and
never through a symbolic link: there is no path to traverse and no folder to list.
"""

import asyncio
import hashlib
import os
import re
import secrets
import stat
from collections import OrderedDict
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import assert_never

from aiohttp import web
from multidict import CIMultiDict

from slipstream.delta.byterange import ByteRange
from slipstream.delta.limits import (
    SEND_PIECE_BYTES,
    SEND_PIECE_TIMEOUT_S,
    TARGETS_BYTES_MAX,
    TLS_PIECE_BYTES,
)
from slipstream.server.metrics import Metrics
from slipstream.server.ranges import (
    NotModified,
    PreconditionFailed,
    Send,
    Unsatisfiable,
    Validators,
    answer,
)
from slipstream.server.wire import refusal

_COMPONENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]*")  # no leading dot: neither .. nor hidden
_DIGEST = re.compile(r"([0-9a-f]{64})\.[A-Za-z0-9._+~-]+")
_DEPTH_MAX = 8
_SMALL_BYTES = 64 * 1024  # below, one read and one write cost less than sendfile's switching
_DIGESTS_MAX = 1024  # files whose digest is remembered
_BINARY = "application/octet-stream"
_IMMUTABLE = "public, max-age=31536000, immutable"
_PRIVATE = "private, max-age=31536000, immutable"  # asked for with credentials
_CHANGING = "no-cache"


@dataclass(frozen=True, slots=True)
class _Opened:
    file: FileIO
    validators: Validators
    folder: str  # whose bytes they are counted as
    content_type: str
    cache_control: str
    disposition: str | None = None


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of a body: some bytes of our own, then a range of the file."""

    ours: bytes
    span: ByteRange


class Files:
    """Serves one folder, `public`, which may be replaced as a whole while the server runs."""

    def __init__(self, public: Path, metrics: Metrics) -> None:
        self._public = public
        self._metrics = metrics
        # (device, inode, mtime, size) -> digest, for files that do not carry it in their name
        self._digests: OrderedDict[tuple[int, int, int, int], str] = OrderedDict()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/metadata/{path:.+}", self._serve_metadata),
            web.get("/targets/{path:.+}", self._serve_targets),
            web.get("/blobs/{path:.+}", self._serve_blobs),
        ]

    async def _serve_metadata(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(request, "metadata", immutable=False)

    async def _serve_targets(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(request, "targets", immutable=True)

    async def _serve_blobs(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(request, "blobs", immutable=True)

    async def _serve(
        self, request: web.Request, folder: str, *, immutable: bool
    ) -> web.StreamResponse:
        opened = await self._open(folder, request.match_info["path"], immutable=immutable)
        if opened is None:
            raise refusal(web.HTTPNotFound, "no such file")
        with opened.file:
            return await self._answer(request, opened)

    async def send_artifact(
        self, request: web.Request, sha256: str, *, etag: str, size: int, file_name: str
    ) -> web.StreamResponse:
        """Answer a GET or HEAD with the artifact of that digest, as `file_name`. 404 without it."""
        file = open_below(self._public, ("blobs", f"{sha256}.artifact"))
        if file is None:
            raise refusal(web.HTTPNotFound, "the artifact is not in the repository")
        with file:
            status = os.fstat(file.fileno())
            if status.st_size != size:
                raise refusal(web.HTTPNotFound, "the artifact is damaged in the repository")
            opened = _Opened(
                file,
                Validators(size, etag, int(status.st_mtime), immutable=True),
                "blobs",
                _BINARY,
                _PRIVATE,
                f'attachment; filename="{file_name}"',
            )
            return await self._answer(request, opened)

    async def _open(self, folder: str, path: str, *, immutable: bool) -> _Opened | None:
        parts = path.split("/")
        if len(parts) > _DEPTH_MAX or not all(map(_COMPONENT.fullmatch, parts)):
            return None
        named = _DIGEST.fullmatch(parts[-1])
        if immutable and named is None:
            return None  # whatever it is, it could change, and caches would keep it for a year
        file = open_below(self._public, (folder, *parts))
        if file is None:
            return None
        try:
            status = os.fstat(file.fileno())
            if named is not None and immutable:
                etag = named[1]
            elif status.st_size <= TARGETS_BYTES_MAX:
                etag = await self._digest(file, status)
            else:
                file.close()
                return None
        except BaseException:
            file.close()
            raise
        return _Opened(
            file,
            Validators(status.st_size, etag, int(status.st_mtime), immutable),
            folder,
            "application/json" if path.endswith(".json") else _BINARY,
            _IMMUTABLE if immutable else _CHANGING,
        )

    async def _digest(self, file: FileIO, status: os.stat_result) -> str:
        key = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
        digest = self._digests.get(key)
        if digest is None:
            raw = await asyncio.to_thread(os.pread, file.fileno(), status.st_size, 0)
            digest = hashlib.sha256(raw).hexdigest()
            self._digests[key] = digest
            if len(self._digests) > _DIGESTS_MAX:
                self._digests.popitem(last=False)
        return digest

    async def _answer(self, request: web.Request, opened: _Opened) -> web.StreamResponse:
        file = opened.validators
        headers = CIMultiDict(
            {
                "ETag": f'"{file.etag}"',
                "Last-Modified": file.last_modified,
                "Cache-Control": opened.cache_control,
                "Accept-Ranges": "bytes",
                "X-Content-Type-Options": "nosniff",
            }
        )
        if opened.disposition is not None:
            headers["Content-Disposition"] = opened.disposition
        decided = answer(request.method, request.headers, file)
        match decided:
            case NotModified():
                return web.Response(status=304, headers=headers)
            case PreconditionFailed():
                raise refusal(web.HTTPPreconditionFailed, "the file is another one")
            case Unsatisfiable():
                size = f"bytes */{file.size}"
                raise refusal(
                    web.HTTPRequestRangeNotSatisfiable, "no such range", {"Content-Range": size}
                )
            case Send(ranges):
                return await self._send(request, opened, ranges, headers)
            case _:
                assert_never(decided)

    async def _send(
        self,
        request: web.Request,
        opened: _Opened,
        ranges: tuple[ByteRange, ...],
        headers: CIMultiDict[str],
    ) -> web.StreamResponse:
        size = opened.validators.size
        content_type = opened.content_type
        parts = [_Part(b"", span) for span in ranges or (ByteRange(0, size),)]
        if len(ranges) == 1:
            headers["Content-Range"] = _content_range(ranges[0], size)
        elif ranges:
            boundary = secrets.token_hex(16)  # random, so that no file contains it on purpose
            parts = _multipart(ranges, boundary, content_type, size)
            content_type = f"multipart/byteranges; boundary={boundary}"
        headers["Content-Type"] = content_type
        response = web.StreamResponse(status=206 if ranges else 200, headers=headers)
        response.content_length = sum(len(part.ours) + part.span.size for part in parts)
        await response.prepare(request)
        if request.method != "HEAD":
            try:
                for part in parts:
                    async with asyncio.timeout(SEND_PIECE_TIMEOUT_S):
                        await response.write(part.ours)
                    await self._send_range(request, response, opened, part.span)
            except TimeoutError:
                # A close would wait, for ever, until the client takes what is buffered.
                if request.transport is not None:
                    request.transport.abort()
                raise
        await response.write_eof()
        return response

    async def _send_range(
        self,
        request: web.Request,
        response: web.StreamResponse,
        opened: _Opened,
        span: ByteRange,
    ) -> None:
        file = opened.file
        offset = span.offset
        # Over TLS sendfile would read 16 KiB at a time, each in a thread.
        is_tls = request.transport is not None and (
            request.transport.get_extra_info("sslcontext") is not None
        )
        piece_bytes = TLS_PIECE_BYTES if is_tls else SEND_PIECE_BYTES
        while offset < span.end:
            count = min(piece_bytes, span.end - offset)
            # A client that takes no bytes would hold its handler, and so a shutdown, for ever.
            async with asyncio.timeout(SEND_PIECE_TIMEOUT_S):
                if is_tls or span.size <= _SMALL_BYTES:
                    piece = os.pread(file.fileno(), count, offset)
                    await response.write(piece)
                    sent = len(piece)
                else:
                    if request.transport is None:
                        raise ConnectionResetError("the client is gone")
                    loop = asyncio.get_running_loop()
                    sent = await loop.sendfile(request.transport, file, offset, count)
            self._metrics.count_bytes(opened.folder, sent)
            if sent != count:
                # The length is already promised; only a cut tells the client that it is wrong.
                raise ConnectionAbortedError("the file became shorter while it was sent")
            offset += sent


def open_below(root: Path, parts: tuple[str, ...]) -> FileIO | None:
    """Open a regular file below `root`, following no symbolic link below it; None if there is none.

    `root` itself may be a link, so that a new repository can be switched to in one step.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        folder = os.open(root, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        for part in parts[:-1]:
            inner = os.open(part, flags | os.O_DIRECTORY, dir_fd=folder)
            os.close(folder)
            folder = inner
        # A FIFO would block the whole server when opened otherwise.
        descriptor = os.open(parts[-1], flags | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        return None
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    return FileIO(descriptor)


def _content_range(span: ByteRange, size: int) -> str:
    return f"bytes {span.offset}-{span.end - 1}/{size}"


def _multipart(
    ranges: tuple[ByteRange, ...], boundary: str, content_type: str, size: int
) -> list[_Part]:
    """The parts of a multipart/byteranges body (RFC 9110, 14.6)."""
    parts = []
    for number, span in enumerate(ranges):
        line_end = "\r\n" if number else ""
        head = (
            f"{line_end}--{boundary}\r\n"
            f"Content-Type: {content_type}\r\n"
            f"Content-Range: {_content_range(span, size)}\r\n\r\n"
        )
        parts.append(_Part(head.encode(), span))
    parts.append(_Part(f"\r\n--{boundary}--\r\n".encode(), ByteRange(0, 0)))
    return parts

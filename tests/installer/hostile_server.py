"""An HTTP server on loopback that misbehaves on order, down to the byte.

Raw asyncio streams, because a server library would not send what must be sent here. Each
request takes the next fault of the script; when the script is over the server is a good one.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes over the wire. `cut` is a byte of the whole response, `cut_body` of its body."""

    status: int
    headers: dict[str, str]
    body: bytes
    cut: int | None = None
    cut_body: int | None = None
    reset: bool = False
    stall_body: int | None = None
    drip: tuple[int, float] | None = None  # so many bytes every so many seconds
    drip_head: bool = False
    chunked: bool = False
    endless: bool = False
    close: bool = False

    def with_headers(self, **headers: str | None) -> "Answer":
        merged = dict(self.headers)
        for name, value in headers.items():
            name = name.replace("_", "-")
            merged.pop(name, None)
            if value is not None:
                merged[name] = value
        return replace(self, headers=merged)


Fault = Callable[[Answer], Answer]


def good(answer: Answer) -> Answer:
    return answer


@dataclass
class HostileServer:
    """Serves `files` (path without the leading slash). `ranges=False`: always the whole file."""

    files: dict[str, bytes]
    script: list[Fault] = field(default_factory=list)
    ranges: bool = True
    etags: bool = True
    requests: list[Request] = field(default_factory=list)
    accepted: int = 0
    body_bytes_sent: int = 0
    etag_prefix: str = ""

    async def __aenter__(self) -> Self:
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def port(self) -> int:
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def plan(self, faults: Iterable[Fault]) -> None:
        self.script[:] = faults

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.accepted += 1
        connection = self.accepted
        try:
            while await self._exchange(reader, writer, connection):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int
    ) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head[1:] if line)
        }
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        request = Request(method, target.lstrip("/"), headers, body, connection)
        self.requests.append(request)
        fault = self.script.pop(0) if self.script else good
        answer = fault(self.answer(request))
        return await self._send(writer, answer)

    def answer(self, request: Request) -> Answer:
        """What a good server says."""
        data = self.files.get(request.path)
        if data is None:
            return _sized(404, {"Content-Type": "text/plain"}, b"no such file\n")
        etag = f'"{self.etag_prefix}{len(data)}-{request.path}"'
        headers = {"Content-Type": "application/octet-stream"}
        if self.etags:
            headers["ETag"] = etag
        wanted = request.headers.get("range")
        if wanted is None or not self.ranges:
            return _sized(200, headers, data)
        if request.headers.get("if-range", etag) != etag:
            return _sized(200, headers, data)
        first_text, _, last_text = wanted.removeprefix("bytes=").partition("-")
        first = int(first_text)
        last = min(int(last_text) if last_text else len(data) - 1, len(data) - 1)
        if first >= len(data):
            return _sized(416, headers | {"Content-Range": f"bytes */{len(data)}"}, b"")
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return _sized(206, headers, data[first : last + 1])

    async def _send(self, writer: asyncio.StreamWriter, answer: Answer) -> bool:
        head, body = dump(answer)
        limit = len(head) + len(body)
        if answer.cut is not None:
            limit = min(limit, answer.cut)
        if answer.cut_body is not None:
            limit = min(limit, len(head) + answer.cut_body)
        raw = (head + body)[:limit]
        fast = len(raw)
        if answer.stall_body is not None:
            fast = min(fast, len(head) + answer.stall_body)
        if answer.drip is not None:
            fast = 0 if answer.drip_head else min(fast, len(head))
        self.body_bytes_sent += max(0, fast - len(head))
        writer.write(raw[:fast])
        await writer.drain()
        if answer.drip is not None:
            size, seconds = answer.drip
            for at in range(fast, len(raw), size):
                writer.write(raw[at : at + size])
                self.body_bytes_sent += size
                await writer.drain()
                await asyncio.sleep(seconds)
        elif fast < len(raw):
            await asyncio.sleep(1e6)  # stalls until the client gives up
        while answer.endless:
            writer.write(b"10000\r\n" + bytes(65536) + b"\r\n")
            self.body_bytes_sent += 65536
            await writer.drain()
        if answer.reset:
            sock: socket.socket = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return False
        return limit == len(head) + len(body) and not answer.close


def dump(answer: Answer) -> tuple[bytes, bytes]:
    """Head and body as they go over the wire."""
    headers = dict(answer.headers)
    body = answer.body
    if answer.chunked or answer.endless:
        headers.pop("Content-Length", None)
        headers["Transfer-Encoding"] = "chunked"
        half = len(body) // 2
        parts = [part for part in (body[:half], body[half:]) if part]
        body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
        body += b"" if answer.endless else b"0\r\n\r\n"
    if answer.close:
        headers["Connection"] = "close"
    lines = [f"HTTP/1.1 {answer.status} Reason", *(f"{k}: {v}" for k, v in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"), body


def _sized(status: int, headers: dict[str, str], body: bytes) -> Answer:
    return Answer(status, {**headers, "Content-Length": str(len(body))}, body)

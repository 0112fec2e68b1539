"""Many devices on few connections: requests prepared beforehand, sent back to back or at a rate.

Speaks just enough HTTP/1.1 to be cheap: what it costs, the server beside it cannot have.
"""

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

ADDRESSES = 32


def poll_bytes(device: str, token: str, **more: object) -> bytes:
    """One poll as it goes over the wire."""
    return post_bytes("/v1/poll", token, {"device": device, "product": "gateway", **more})


def post_bytes(
    path: str, token: str, value: object, *, method: str = "POST", scheme: str = "Bearer"
) -> bytes:
    """A POST, or PUT, of JSON with a token."""
    body = json.dumps(value).encode()
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: fleet\r\nAuthorization: {scheme} {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def get_bytes(path: str, token: str) -> bytes:
    """A GET of hawkBit's DDI."""
    head = f"GET {path} HTTP/1.1\r\nHost: fleet\r\nAuthorization: TargetToken {token}\r\n\r\n"
    return head.encode()


@dataclass
class Times:
    """How long answers took, in seconds, from the moment that each was due."""

    taken: list[float] = field(default_factory=list)
    wrong: int = 0  # answers that were not 200

    def percentile(self, percent: float) -> float:
        """In milliseconds."""
        found = sorted(self.taken)
        return 1e3 * found[min(len(found) - 1, int(len(found) * percent / 100))]


class Connection(asyncio.Protocol):
    """One kept connection with one request on its way."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._buffer = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(rest) >= size and self._answer is not None:
            self._buffer = rest[size:]
            self._answer.set_result((int(head[9:12]), rest[:size]))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionError("the server closed"))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body."""
        assert self.transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._answer


async def connect(port: int, number: int) -> list[Connection]:
    """So many connections to the server, from ADDRESSES addresses: a fleet has more than one."""
    loop = asyncio.get_running_loop()
    made = []
    for one in range(number):
        local = (f"127.0.0.{2 + one % ADDRESSES}", 0)
        made.append(await loop.create_connection(Connection, "127.0.0.1", port, local_addr=local))
    return [protocol for _, protocol in made]


def close(connections: list[Connection]) -> None:
    """End them."""
    for one in connections:
        if one.transport is not None:
            one.transport.close()


async def back_to_back(
    port: int, request: Callable[[int], bytes], count: int, connections: int = 32
) -> tuple[Times, float]:
    """`count` requests as fast as they are answered: their times, and seconds for all."""
    times, numbers = Times(), iter(range(count))

    async def run(one: Connection) -> None:
        for number in numbers:
            begun = time.perf_counter()
            status, _ = await one.ask(request(number))
            times.taken.append(time.perf_counter() - begun)
            times.wrong += status != 200

    opened = await connect(port, connections)
    begun = time.perf_counter()
    await asyncio.gather(*(run(one) for one in opened))
    taken = time.perf_counter() - begun
    close(opened)
    return times, taken


async def at_a_rate(
    port: int, request: Callable[[int], bytes], per_s: float, seconds: float, connections: int = 64
) -> Times:
    """Requests at random moments, `per_s` on average, whether or not those before are answered.

    A request that finds no free connection waits, and its waiting counts.
    """
    times, chance = Times(), random.Random(1)
    free: asyncio.Queue[Connection] = asyncio.Queue()
    opened = await connect(port, connections)
    for one in opened:
        free.put_nowait(one)

    async def run(number: int, due: float) -> None:
        one = await free.get()
        status, _ = await one.ask(request(number))
        times.taken.append(time.perf_counter() - due)
        times.wrong += status != 200
        free.put_nowait(one)

    tasks = set()
    for number, due in enumerate(_moments(chance, per_s, seconds)):
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(run(number, due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    close(opened)
    return times


def _moments(chance: random.Random, per_s: float, seconds: float) -> Iterator[float]:
    due = begun = time.perf_counter()
    while (due := due + chance.expovariate(per_s)) < begun + seconds:
        yield due

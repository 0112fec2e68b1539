"""The device's ear: the stream as it comes, its breaks, the wait that it ends, and a real server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import requests
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from slipstream.delta.errors import Unavailable
from slipstream.delta.limits import WAKE_LINE_BYTES_MAX, WAKE_SPACING_S
from slipstream.installer.agent import Agent
from slipstream.installer.clock import SystemClock
from slipstream.installer.poll import Offer, PollAnswer, Server
from slipstream.installer.wake import Bell, Events
from slipstream.server.app import Settings
from tests.installer.test_agent import FakeServer, Rig
from tests.installer.virtual_time import LoopClock, run
from tests.server.conftest import NOW, OPERATOR_TOKEN, QUICK, Folder
from tests.server.serving import serving

WAKE = b'event: wake\ndata: {"within_s": 40}\n\n'
STREAM = b": listening\n\n" + WAKE + b"event: other\r\ndata:x\r\ndata: y\r\n\r\n\ndata: z\n\n"
SAID = [("wake", '{"within_s": 40}'), ("other", "x\ny"), ("message", "z")]
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@given(st.lists(st.integers(0, len(STREAM)), max_size=9))
def test_a_stream_in_whatever_pieces(cuts: list[int]) -> None:
    events, places = Events(), [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[begin:end] for begin, end in pairwise(places)]
    assert [one for piece in pieces for one in events.feed(piece)] == SAID


@given(st.binary(max_size=300))
def test_whatever_comes_is_events_or_none(raw: bytes) -> None:
    list(Events().feed(raw))


def test_an_endless_line_ends_the_stream() -> None:
    events = Events()
    list(events.feed(b"a" * WAKE_LINE_BYTES_MAX))
    with pytest.raises(Unavailable, match="not a stream of events"):
        list(events.feed(b"a"))


@asynccontextmanager
async def bell_of(answer: Answer) -> AsyncIterator[tuple[Bell, LoopClock]]:
    """A bell that listens to a server that answers so, in virtual time."""
    app, clock = web.Application(), LoopClock()
    app.router.add_get("/v1/wake", answer)
    async with TestServer(app) as server, Server(str(server.make_url("")), "t", clock=clock) as far:
        bell = Bell(far, clock, lambda: 0.5)
        task = asyncio.create_task(bell.listen())
        try:
            yield bell, clock
        finally:
            task.cancel()


async def stream(request: web.Request, *pieces: bytes, silence_s: float = 0.0) -> web.Response:
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    for piece in pieces:
        await answer.write(piece)
    await asyncio.sleep(silence_s)
    return answer  # type: ignore[return-value] # aiohttp takes any


def test_the_wait_ends_within_the_span_that_the_server_says() -> None:
    async def main() -> None:
        async def answer(request: web.Request) -> web.StreamResponse:
            assert request.headers["Authorization"] == "Bearer t"
            await asyncio.sleep(100)
            return await stream(request, WAKE, silence_s=50)

        # (No answer for 100 s is no answer: it is asked again. What comes at once is heard.)
        async def at_once(request: web.Request) -> web.StreamResponse:
            return await stream(request, b": hello\n\n", WAKE, silence_s=30)

        async with bell_of(answer) as (bell, clock):
            began = clock.monotonic()
            assert not await bell.rest(300, 1000)
            assert clock.monotonic() - began == pytest.approx(300, abs=1)
        async with bell_of(at_once) as (bell, clock):
            began = clock.monotonic()
            assert await bell.rest(300, 1000)
            assert clock.monotonic() - began == pytest.approx(0.5 * 40, abs=1)

    run(main())


def test_who_has_just_polled_waits_a_little() -> None:
    async def main() -> None:
        async def answer(request: web.Request) -> web.StreamResponse:
            return await stream(request, b'event: wake\ndata: {"within_s": -7}\n\n', silence_s=99)

        async with bell_of(answer) as (bell, clock):
            began = clock.monotonic()
            assert await bell.rest(300, 2)
            assert clock.monotonic() - began == pytest.approx(WAKE_SPACING_S - 2, abs=0.5)
            assert not await bell.rest(5, 0)  # it rang once

    run(main())


@pytest.mark.parametrize("kind", ["refused", "missing", "cut", "silent"])
def test_without_a_stream_the_wait_is_as_long_as_without_a_bell(kind: str) -> None:
    asked: list[float] = []

    async def main() -> None:
        async def answer(request: web.Request) -> web.StreamResponse:
            asked.append(asyncio.get_running_loop().time())
            match kind:
                case "refused":
                    raise web.HTTPServiceUnavailable(headers={"Retry-After": "2000"})
                case "missing":
                    raise web.HTTPNotFound
                case "silent":
                    return await stream(request, b": listening\n\n", silence_s=5000)
            return await stream(request, b": listening\n\n")

        async with bell_of(answer) as (bell, _):
            assert not await bell.rest(6000, 1000)

    run(main())
    gaps = [later - sooner for sooner, later in pairwise(asked)]
    if kind == "refused":
        assert min(gaps) >= 2000
    elif kind == "silent":
        assert 120 <= gaps[0] <= 140  # two heartbeats missed
    else:
        assert gaps[0] < 20
        assert gaps[-1] > 800  # ever less often
    assert 3 <= len(asked) < 100


class Ear:
    """What the agent needs of a bell: it always rings."""

    def __init__(self) -> None:
        self.rested: list[float] = []

    async def rest(self, seconds: float, since_poll_s: float) -> bool:
        self.rested.append(seconds)
        return True


@pytest.mark.parametrize("failures", [0, 1])
def test_an_idle_agent_can_be_woken_and_one_that_failed_waits(
    tmp_path: Path, failures: int
) -> None:
    rig, ear = Rig(tmp_path, FakeServer()), Ear()
    agent: Agent = rig.agent
    agent.bell = ear  # type: ignore[assignment]
    asyncio.run(agent.round())
    agent.failures = failures
    asyncio.run(agent._rest(900))
    assert ear.rested == ([900] if failures == 0 else [])
    assert ("the server has news" in rig.said) == (failures == 0)
    if failures:
        assert rig.lab.clock.slept_s[-1] == 900


def test_a_device_that_waits_for_its_window_hears_that_it_is_forced(tmp_path: Path) -> None:
    rig, ear = Rig(tmp_path, server := FakeServer()), Ear()
    shut = '[agent]\n[[agent.window]]\ndays = ["Sun"]\nstart_time = "03:00"\nlength_minutes = 1\n'
    rig.lab.config_path.write_text(rig.lab.config_path.read_text() + shut)
    rig.publish(1)
    agent = rig.restart()
    agent.bell = ear  # type: ignore[assignment]
    server.answer = PollAnswer(Offer("1.0", 1), 900, "")
    asyncio.run(agent.round())
    assert rig.reboots == 0  # installed, and waits for Sunday
    server.answer = PollAnswer(Offer("1.0", 1, forced=True), 900, "")
    asyncio.run(agent.round())
    assert rig.reboots == 0  # it polled a moment ago
    asyncio.run(agent._rest(3600))
    asyncio.run(agent.round())
    assert (len(ear.rested), rig.reboots) == (1, 1)


def test_a_real_server_wakes_a_device(tmp_path: Path) -> None:
    public = tmp_path / "repo" / "public"
    for name in ("metadata", "targets", "blobs"):
        (public / name).mkdir(parents=True)
    folder = Folder(public)
    folder.release("2.0", 2)
    folder.full("2.0", "rootfs", "2" * 64, b"x")
    folder.write()
    url = f"sqlite+aiosqlite:///{tmp_path / 'fleet.sqlite'}"
    known = Settings(public, url, OPERATOR_TOKEN, now=lambda: NOW, password_hasher=QUICK)
    operator = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
    plan = {
        "name": "one",
        "product": "gateway",
        "release": "2.0",
        "counter": 2,
        "phases": [{"percent": 100}],
    }
    with capture_logs(), serving(known) as address:

        def ask(path: str, body: object) -> requests.Response:
            where = f"{address}api/v1/{path}"
            answer = requests.post(where, json=body, headers=operator, timeout=30)
            answer.raise_for_status()
            return answer

        token = ask("devices", {"id": "d1", "product": "gateway"}).json()["token"]

        async def main() -> None:
            async with Server(address, token, clock=SystemClock()) as server:
                bell = Bell(server, SystemClock(), lambda: 0.0)
                task = asyncio.create_task(bell.listen())
                wait = asyncio.create_task(bell.rest(60, 1000))
                await asyncio.to_thread(ask, "rollouts", plan)
                assert await wait
                task.cancel()

        asyncio.run(main())

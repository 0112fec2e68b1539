"""The link: addresses, redirects, credentials, connections, and what is too slow."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.delta.byterange import ByteRange
from slipstream.delta.errors import FormatError, Unavailable, UsageError
from slipstream.delta.limits import RATE_FLOOR_BYTES_PER_S, RATE_FLOOR_WINDOW_S
from slipstream.installer.fetch import HttpFetcher
from slipstream.installer.link import Link, RateFloor
from slipstream.installer.response import Interrupted
from tests.installer.hostile_server import Answer, Fault, HostileServer
from tests.installer.test_fetch import BIG, FILES, SMALL, pair, streamed
from tests.installer.virtual_time import LoopClock, run


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../b",
        "a//b",
        "./a",
        "http://evil/x",
        "a\\b",
        "a\nb",
        "a/",
        "%2e%2E/x",
    ],
)
def test_only_plain_relative_paths(path: str) -> None:
    async def check() -> None:
        async with pair() as (server, fetcher):
            with pytest.raises(FormatError):
                await fetcher.fetch(path, size_max=10)
            assert server.accepted == 0

    run(check())


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://h/",
        "file:///etc",
        "//h",
        "h",
        "http://",
        "http://u:p@h/",
        "http://h/?q",
        "http://h/#f",
    ],
)
def test_bad_base_urls(url: str) -> None:
    async def check() -> None:
        with pytest.raises(UsageError):
            HttpFetcher(url, clock=LoopClock())

    run(check())


def test_odd_names_stay_names_below_a_base_path() -> None:
    async def check() -> None:
        files = {"repo/pub/a%20b%3Fc%23d%25.json": b"1", "repo/pub/1...%2Frole.json": b"2"}
        async with (
            HostileServer(files) as server,
            HttpFetcher(f"{server.url}/repo/pub/", clock=LoopClock()) as fetcher,
        ):
            assert await fetcher.fetch("a b?c#d%.json", size_max=9) == b"1"
            assert await fetcher.fetch("1...%2Frole.json", size_max=9) == b"2"

    run(check())


def redirect(location: str, code: int = 302) -> Fault:
    return lambda a: Answer(code, {"Location": location, "Content-Length": "0"}, b"")


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_keep_the_credential_at_home(code: int) -> None:
    async def check() -> None:
        async with HostileServer(dict(FILES)) as home, HostileServer(dict(FILES)) as other:
            async with HttpFetcher(
                home.url, clock=LoopClock(), authorization="Bearer secret"
            ) as fetcher:
                home.plan([redirect(f"{other.url}/blobs/big.payload", code)])
                data = await streamed(fetcher, "blobs/big.payload", ByteRange(3, 100))
                assert data == BIG[3:103]
                home.plan([redirect("/metadata/small.json", code)])
                assert await fetcher.fetch("elsewhere", size_max=1000) == SMALL
            assert {r.headers.get("authorization") for r in home.requests} == {"Bearer secret"}
            assert other.requests[0].headers["range"] == "bytes=3-102"
            assert [r.headers.get("authorization") for r in other.requests] == [None]

    run(check())


@pytest.mark.parametrize("location", ["", "file:///etc/passwd", "ftp://h/x", "javascript:1"])
def test_redirects_to_nowhere(location: str) -> None:
    async def check() -> None:
        async with pair() as (server, fetcher):
            server.plan([redirect(location)])
            with pytest.raises(Unavailable, match="redirect"):
                await fetcher.fetch("metadata/small.json", size_max=1000)

    run(check())


def test_redirect_loops_end() -> None:
    async def check() -> None:
        async with pair() as (server, fetcher):
            server.plan([redirect("/metadata/small.json")] * 100)
            with pytest.raises(Unavailable, match="too many redirects"):
                await fetcher.fetch("metadata/small.json", size_max=1000)
            assert len(server.requests) == 4

    run(check())


# --- the rate floor


def test_rate_is_judged_over_a_whole_window() -> None:
    window = int(RATE_FLOOR_WINDOW_S)
    good = RateFloor()
    assert not any(good.too_slow(1.0, RATE_FLOOR_BYTES_PER_S) for _ in range(10 * window))
    bad = RateFloor()
    told = [bad.too_slow(1.0, RATE_FLOOR_BYTES_PER_S - 1) for _ in range(2 * window)]
    assert told == ([False] * (window - 1) + [True]) * 2
    burst = RateFloor()
    burst.too_slow(0.0, RATE_FLOOR_BYTES_PER_S * window)
    assert [burst.too_slow(1.0, 0) for _ in range(2 * window)].index(True) == 2 * window - 1


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 100_000)), max_size=50))
def test_below_the_floor_it_always_ends(reads: list[tuple[float, int]]) -> None:
    rate = RateFloor()
    slow = [rate.too_slow(waited, received) for waited, received in reads]
    average_is_low = sum(r for _, r in reads) < RATE_FLOOR_BYTES_PER_S * (
        sum(w for w, _ in reads) - RATE_FLOOR_WINDOW_S - 100
    )
    if average_is_low:
        assert any(slow)


# --- connections


def test_connections_are_reused() -> None:
    async def check() -> None:
        async with pair() as (server, fetcher):
            for offset in range(0, 200_000, 10_000):
                await streamed(fetcher, "blobs/big.payload", ByteRange(offset, 5000))
                await fetcher.fetch("metadata/small.json", size_max=1000)
            assert len(server.requests) == 40
            assert server.accepted == 1

    run(check())


def test_an_abandoned_stream_drops_its_connection_only() -> None:
    async def check() -> None:
        async with pair() as (server, fetcher):
            stream = fetcher.stream("blobs/big.payload", ByteRange(0, len(BIG)))
            await anext(stream)
            await stream.aclose()
            assert await fetcher.fetch("metadata/small.json", size_max=1000) == SMALL
            assert server.accepted == 2

    run(check())


def test_closing_twice_is_fine() -> None:
    async def check() -> None:
        async with pair() as (_, fetcher):
            with contextlib.suppress(Unavailable):
                await fetcher.fetch("none", size_max=10)
            await fetcher.close()
            await fetcher.close()

    run(check())


def test_a_server_that_is_not_there_is_said_in_plain_words() -> None:
    async def check() -> None:
        link = Link("http://127.0.0.1:1", clock=LoopClock())
        async with link:
            with pytest.raises(Interrupted) as caught:
                await link.get("x", {})
        text = str(caught.value)
        assert "127.0.0.1:1 cannot be reached (" in text
        assert "check the network" in text
        assert "ssl:default" not in text

    run(check())

"""HttpFetcher through a server that misbehaves at every byte, in virtual time."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta.byterange import ByteRange
from slipstream.delta.errors import FormatError, Unavailable, UsageError
from slipstream.delta.limits import (
    RATE_FLOOR_BYTES_PER_S,
    RETRY_ATTEMPTS_MAX,
    RETRY_DELAY_MAX_S,
    WHOLE_RESTARTS_MAX,
)
from slipstream.installer.fetch import Changed, HttpFetcher, NotFound
from tests.installer.hostile_server import Answer, Fault, HostileServer, dump
from tests.installer.virtual_time import LoopClock, run

SMALL = bytes(range(256)) * 3
BIG = random.Random(1).randbytes(300_000)
FILES = {"metadata/small.json": SMALL, "blobs/big.payload": BIG}


@asynccontextmanager
async def pair(**options: Any) -> AsyncIterator[tuple[HostileServer, HttpFetcher]]:
    async with (
        HostileServer(dict(FILES), **options) as server,
        HttpFetcher(server.url, clock=LoopClock(), chance=lambda: 0.5) as fetcher,
    ):
        yield server, fetcher


async def streamed(fetcher: HttpFetcher, path: str, rng: ByteRange) -> bytes:
    return b"".join([piece async for piece in fetcher.stream(path, rng)])


# --- the table of faults: name -> (fault, bytes it may cost beyond the wanted ones)


def cut_body(fraction: float) -> Fault:
    return lambda a: replace(a, cut_body=int(len(a.body) * fraction))


def cut_last_byte(a: Answer) -> Answer:
    return replace(a, cut_body=max(0, len(a.body) - 1))


def status(code: int, **headers: str) -> Fault:
    body = b"" if code == 304 else b"oops"
    return lambda _: Answer(code, {"Content-Length": str(len(body))}, body).with_headers(**headers)


def headers(**changes: str | None) -> Fault:
    return lambda a: a.with_headers(**changes)


def raw_body(code: int, body: bytes, **more: str) -> Fault:
    return lambda a: Answer(
        code,
        {"Content-Length": str(len(body)), **{k.replace("_", "-"): v for k, v in more.items()}},
        body,
    )


def shifted_range(a: Answer) -> Answer:
    return replace(a, status=206).with_headers(Content_Range=f"bytes 7-{6 + len(a.body)}/9999999")


PAGE = b"<html><body>Please log in</body></html>"

FAULTS: dict[str, Fault] = {
    "no answer, closed": lambda a: replace(a, cut=0),
    "no answer, reset": lambda a: replace(a, cut=0, reset=True),
    "cut in the status line": lambda a: replace(a, cut=10),
    "cut in the header": lambda a: replace(a, cut=40),
    "cut before the body": cut_body(0.0),
    "cut early": cut_body(0.1),
    "cut in the middle": cut_body(0.5),
    "reset in the middle": lambda a: replace(a, cut_body=len(a.body) // 2, reset=True),
    "cut at the last byte": cut_last_byte,
    "cut chunks in the middle": lambda a: replace(a, chunked=True, cut_body=len(a.body) // 2),
    "cut before the last chunk": lambda a: replace(a, chunked=True, cut_body=len(a.body) - 1),
    "stall before the header": lambda a: replace(a, drip=(1, 1e6), drip_head=True),
    "stall before the body": lambda a: replace(a, stall_body=0),
    "stall in the middle": lambda a: replace(a, stall_body=len(a.body) // 2),
    "stall at the last byte": lambda a: replace(a, stall_body=len(a.body) - 1),
    "trickled header": lambda a: replace(a, drip=(1, 29.0), drip_head=True),
    "trickled body": lambda a: replace(a, drip=(1, 29.0)),
    "below the rate floor": lambda a: replace(a, drip=(RATE_FLOOR_BYTES_PER_S * 4, 10.0)),
    "408": status(408),
    "416": status(416),
    "425": status(425),
    "429": status(429),
    "429 with seconds": status(429, Retry_After="7"),
    "500": status(500),
    "502": status(502),
    "503": status(503),
    "503 with seconds": status(503, Retry_After="3"),
    "503 with a date": status(503, Retry_After="Thu, 01 Jan 2026 00:01:00 GMT"),
    "503 with nonsense": status(503, Retry_After="soon"),
    "504": status(504),
    "204": lambda a: Answer(204, {}, b""),
    "proxy page": raw_body(200, PAGE, Content_Type="text/html; charset=utf-8"),
    "gzip": headers(Content_Encoding="gzip"),
    "unknown encoding": headers(Content_Encoding="x-proxy"),
    "wrong Content-Range": shifted_range,
    "garbled Content-Range": lambda a: replace(a, status=206).with_headers(Content_Range="bytes"),
    "206 without Content-Range": lambda a: replace(a, status=206).with_headers(Content_Range=None),
    "Content-Length one more": lambda a: replace(
        a.with_headers(Content_Length=str(len(a.body) + 1)), close=True
    ),
    "not HTTP": lambda a: replace(a, status=0, cut=5),
    "multipart": lambda a: replace(a, status=206).with_headers(
        Content_Range=None, Content_Type="multipart/byteranges; boundary=x"
    ),
    # These are odd but right: they must cost nothing but the connection.
    "chunked": lambda a: replace(a, chunked=True),
    "connection closed after": lambda a: replace(a, close=True),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_while_a_small_file_is_fetched(name: str) -> None:
    async def check() -> None:
        async with pair() as (server, fetcher):
            server.plan([FAULTS[name]])
            data = await fetcher.fetch("metadata/small.json", size_max=10_000)
            assert data == SMALL
            # A length that was a lie leaves nothing to build on: the file is fetched anew.
            fetches = 2 if name == "Content-Length one more" else 1
            assert fetcher.counters.bytes_received <= fetches * len(SMALL) + len(PAGE)

    run(check())


@pytest.mark.parametrize("phase", ["first range", "middle", "last byte"])
@pytest.mark.parametrize("name", FAULTS)
def test_fault_in_a_stream(name: str, phase: str) -> None:
    async def check() -> None:
        async with pair() as (server, fetcher):
            rng = ByteRange(1000, 200_000)
            leads = {"first range": [], "middle": [cut_body(0.5)], "last byte": [cut_last_byte]}
            server.plan([*leads[phase], FAULTS[name]])
            data = await streamed(fetcher, "blobs/big.payload", rng)
            assert data == BIG[rng.offset : rng.end]
            # Nothing that was received is asked for again.
            assert fetcher.counters.bytes_received <= rng.size + len(PAGE)
            assert fetcher.counters.retries <= 2 + len(server.requests)

    run(check())


def test_every_request_asks_for_identity_and_if_range() -> None:
    async def check() -> None:
        async with pair() as (server, fetcher):
            server.plan([cut_body(0.5), cut_body(0.5)])
            await streamed(fetcher, "blobs/big.payload", ByteRange(0, len(BIG)))
            assert [r.headers["accept-encoding"] for r in server.requests] == ["identity"] * 3
            assert [r.headers["range"] for r in server.requests] == [
                "bytes=0-299999",
                "bytes=150000-299999",
                "bytes=225000-299999",
            ]
            etag = server.answer(server.requests[0]).headers["ETag"]
            assert [r.headers.get("if-range") for r in server.requests] == [None, etag, etag]

    run(check())


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("reset", [False, True])
def test_cut_at_every_byte_of_a_small_response(*, chunked: bool, reset: bool) -> None:
    body = b"0123456789abcdef"

    async def check() -> None:
        async with (
            HostileServer({"f": body}) as server,
            HttpFetcher(server.url, clock=LoopClock(), chance=lambda: 0.0) as fetcher,
        ):
            shaped = replace(
                Answer(200, {"ETag": '"x"', "Content-Length": "16"}, body), chunked=chunked
            )
            length = sum(map(len, dump(shaped)))
            for at in range(length):
                server.plan([lambda _, at=at: replace(shaped, cut=at, reset=reset)])
                server.etag_prefix = ""
                got = await fetcher.fetch("f", size_max=100)
                assert got == body, at
                assert not server.script

    run(check())


def test_cut_at_every_byte_of_a_range() -> None:
    body = bytes(range(64))

    async def check() -> None:
        async with (
            HostileServer({"f": body}) as server,
            HttpFetcher(server.url, clock=LoopClock(), chance=lambda: 0.0) as fetcher,
        ):
            for at in range(300):
                before = fetcher.counters.bytes_received
                server.plan([lambda a, at=at: replace(a, cut=at)])
                assert await streamed(fetcher, "f", ByteRange(8, 50)) == body[8:58], at
                assert fetcher.counters.bytes_received - before == 50

    run(check())


@settings(max_examples=40, deadline=None)
@given(
    names=st.lists(st.sampled_from(sorted(FAULTS)), max_size=6),
    start=st.integers(0, 1000),
    size=st.integers(1, 5000),
    ranges=st.booleans(),
    etags=st.booleans(),
)
def test_any_sequence_of_faults(
    names: list[str], start: int, size: int, *, ranges: bool, etags: bool
) -> None:
    async def check() -> None:
        async with pair(ranges=ranges, etags=etags) as (server, fetcher):
            server.plan([FAULTS[name] for name in names])
            rng = ByteRange(start, size)
            assert await streamed(fetcher, "blobs/big.payload", rng) == BIG[start : start + size]
            assert await fetcher.fetch("metadata/small.json", size_max=len(SMALL)) == SMALL

    run(check())


# --- the server without ranges


def test_without_ranges_it_skips_and_reads_on() -> None:
    async def check() -> None:
        async with pair(ranges=False) as (server, fetcher):
            for offset in (10_000, 10_100, 50_000, 250_000):
                rng = ByteRange(offset, 100)
                assert await streamed(fetcher, "blobs/big.payload", rng) == BIG[offset : rng.end]
            assert len(server.requests) == 1
            assert fetcher.counters.bytes_received == 250_100
            assert fetcher.counters.bytes_skipped == 250_100 - 400
            # Backwards costs a new start; another file as well.
            assert await streamed(fetcher, "blobs/big.payload", ByteRange(0, 5)) == BIG[:5]
            assert await fetcher.fetch("metadata/small.json", size_max=1000) == SMALL
            assert len(server.requests) == 3

    run(check())


def test_without_ranges_cuts_do_not_loop_for_ever() -> None:
    async def check() -> None:
        async with pair(ranges=False) as (server, fetcher):
            server.plan([(lambda a, n=n: replace(a, cut_body=1000 * n)) for n in range(1, 100)])
            with pytest.raises(Unavailable, match="without ranges"):
                await streamed(fetcher, "blobs/big.payload", ByteRange(0, len(BIG)))
            assert len(server.requests) == WHOLE_RESTARTS_MAX + 2

    run(check())


# --- versions of a file are never mixed


def test_changed_file_ends_a_stream() -> None:
    async def check() -> None:
        async with pair() as (server, fetcher):

            def cut_and_change(a: Answer) -> Answer:
                server.files["blobs/big.payload"] = bytes(len(BIG))
                server.etag_prefix = "new"
                return replace(a, cut_body=1000)

            server.plan([cut_and_change])
            got = bytearray()

            async def consume() -> None:
                async for piece in fetcher.stream("blobs/big.payload", ByteRange(0, len(BIG))):
                    got.extend(piece)

            with pytest.raises(Changed):
                await consume()
            assert bytes(got) == BIG[:1000]

    run(check())


@pytest.mark.parametrize("etags", [False, True])
def test_changed_small_file_is_fetched_anew(*, etags: bool) -> None:
    async def check() -> None:
        async with pair(etags=etags) as (server, fetcher):

            def cut_and_change(a: Answer) -> Answer:
                server.files["metadata/small.json"] = b"y" * len(SMALL)
                server.etag_prefix = "new"
                return replace(a, cut_body=100)

            server.plan([cut_and_change])
            got = await fetcher.fetch("metadata/small.json", size_max=1000)
            assert got == b"y" * len(SMALL)

    run(check())


def test_changed_etag_in_a_partial_answer_is_noticed() -> None:
    async def check() -> None:
        async with pair() as (server, fetcher):
            server.plan([cut_body(0.5), headers(ETag='"other"')])
            with pytest.raises(Changed):
                await streamed(fetcher, "blobs/big.payload", ByteRange(0, 1000))

    run(check())


# --- what is not retried, and what is given up


@pytest.mark.parametrize("code", [403, 404, 410])
def test_not_found_is_told_at_once(code: int) -> None:
    async def check() -> None:
        async with pair() as (server, fetcher):
            server.plan([status(code)])
            with pytest.raises(NotFound, match=str(code)):
                await fetcher.fetch("metadata/small.json", size_max=1000)
            assert fetcher.counters.retries == 0

    run(check())


@pytest.mark.parametrize("code", [304, 400, 401, 405, 407, 451])
def test_refusals_are_not_retried(code: int) -> None:
    async def check() -> None:
        async with pair() as (server, fetcher):
            server.plan([status(code)])
            with pytest.raises(Unavailable, match=str(code)):
                await fetcher.fetch("metadata/small.json", size_max=1000)
            assert len(server.requests) == 1

    run(check())


FOR_EVER = [name for name in FAULTS if name not in {"chunked", "connection closed after"}]


@pytest.mark.parametrize("name", FOR_EVER)
def test_a_fault_for_ever_ends(name: str) -> None:
    async def check() -> None:
        async with pair(etags=False) as (server, fetcher):
            server.plan([FAULTS[name]] * 400)
            if name == "below the rate floor":  # for so small a file that is just slow
                assert await fetcher.fetch("metadata/small.json", size_max=1000) == SMALL
            else:
                with pytest.raises(Unavailable, match=r"http://127\.0\.0\.1"):  # it says where
                    await fetcher.fetch("metadata/small.json", size_max=1000)
            assert fetcher.counters.requests <= RETRY_ATTEMPTS_MAX + 1
            assert len(server.requests) <= 2 * fetcher.counters.requests

    run(check())


def test_a_byte_a_connection_is_given_up_in_the_end() -> None:
    async def check() -> None:
        async with pair() as (server, fetcher):
            server.plan([lambda a: replace(a, cut_body=1)] * 10_000)
            with pytest.raises(Unavailable):
                await streamed(fetcher, "blobs/big.payload", ByteRange(0, 100_000))
            assert len(server.requests) == 64 + 100_000 // 4096

    run(check())


def test_trickle_that_makes_progress_is_given_up() -> None:
    async def check() -> None:
        async with pair() as (server, fetcher):
            server.plan([FAULTS["trickled body"]] * 100)
            with pytest.raises(Unavailable, match="slow"):
                await streamed(fetcher, "blobs/big.payload", ByteRange(0, 100_000))
            assert len(server.requests) == RETRY_ATTEMPTS_MAX

    run(check())


def test_a_slow_consumer_is_not_held_against_the_server() -> None:
    async def check() -> None:
        async with pair() as (_, fetcher):
            got = bytearray()
            async for piece in fetcher.stream("blobs/big.payload", ByteRange(0, len(BIG))):
                got += piece
                await asyncio.sleep(1000)
            assert got == BIG
            assert fetcher.counters.retries == 0

    run(check())


def test_endless_bodies() -> None:
    async def check() -> None:
        async with pair() as (server, fetcher):
            server.plan([lambda a: replace(a, endless=True)])
            with pytest.raises(Unavailable, match="too large"):
                await fetcher.fetch("metadata/small.json", size_max=100_000)
            server.plan([lambda a: replace(a, endless=True)])
            data = await streamed(fetcher, "blobs/big.payload", ByteRange(5, 1000))
            assert data == BIG[5:1005]
            assert fetcher.counters.bytes_received < 400_000

    run(check())


def test_sizes_are_exact() -> None:
    async def check() -> None:
        async with pair() as (server, fetcher):
            with pytest.raises(Unavailable, match="too large"):
                await fetcher.fetch("metadata/small.json", size_max=len(SMALL) - 1)
            assert await fetcher.fetch("metadata/small.json", size_max=9999, size=768) == SMALL
            for size in (len(SMALL) - 1, len(SMALL) + 1):
                for fault in ("chunked", "connection closed after"):
                    server.plan([FAULTS[fault]] * 20)
                    with pytest.raises(Unavailable, match=r"size|large"):
                        await fetcher.fetch("metadata/small.json", size_max=9999, size=size)
            server.plan([lambda a: replace(a.with_headers(Content_Length=None), close=True)])
            assert await fetcher.fetch("metadata/small.json", size_max=9999, size=768) == SMALL

    run(check())


def test_body_that_only_ends_with_its_connection_is_not_believed() -> None:
    async def check() -> None:
        async with pair() as (server, fetcher):
            server.plan([lambda a: replace(a.with_headers(Content_Length=None), close=True)])
            assert await fetcher.fetch("metadata/small.json", size_max=1000) == SMALL
            assert len(server.requests) == 2

    run(check())


# --- waiting


def test_retry_after_is_waited_for_or_handed_on() -> None:
    async def check() -> None:
        clock = LoopClock()
        async with (
            HostileServer(dict(FILES)) as server,
            HttpFetcher(server.url, clock=clock, chance=lambda: 0.0) as fetcher,
        ):
            server.plan([status(503, Retry_After="7"), status(429, Retry_After="11")])
            await fetcher.fetch("metadata/small.json", size_max=1000)
            assert clock.slept_s == [7.0, 11.0]
            server.plan([status(503, Retry_After="100000")])
            with pytest.raises(Unavailable) as failure:
                await fetcher.fetch("metadata/small.json", size_max=1000)
            assert failure.value.retry_after_s == 3600.0
            assert len(clock.slept_s) == 2

    run(check())


def test_delays_grow_with_jitter_up_to_the_cap() -> None:
    async def check() -> None:
        clock = LoopClock()
        async with (
            HostileServer(dict(FILES)) as server,
            HttpFetcher(server.url, clock=clock, chance=lambda: 0.5) as fetcher,
        ):
            server.plan([status(500)] * 100)
            with pytest.raises(Unavailable):
                await fetcher.fetch("metadata/small.json", size_max=1000)
            assert clock.slept_s == [0.25 * 2**n for n in range(RETRY_ATTEMPTS_MAX - 1)]
            assert max(clock.slept_s) <= RETRY_DELAY_MAX_S

    run(check())


def test_no_server_at_all() -> None:
    async def check() -> None:
        async with HostileServer({}) as server:
            url = server.url
        async with HttpFetcher(url, clock=LoopClock(), chance=lambda: 0.0) as fetcher:
            with pytest.raises(Unavailable, match=r"127\.0\.0\.1"):
                await fetcher.fetch("metadata/small.json", size_max=1000)

    run(check())


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


# --- addresses and redirects


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


def test_closing_twice_is_fine() -> None:
    async def check() -> None:
        async with pair() as (_, fetcher):
            with contextlib.suppress(Unavailable):
                await fetcher.fetch("none", size_max=10)
            await fetcher.close()
            await fetcher.close()

    run(check())

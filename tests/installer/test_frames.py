"""FrameSource over a hostile server and a spool that is cut: every byte once, in order."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta.byterange import ByteRange
from slipstream.delta.codec import Codec
from slipstream.delta.digest import Digest
from slipstream.delta.errors import DigestMismatch, FormatError, Unavailable
from slipstream.delta.frame import Frame, FrameKind, Stream, make_frame
from slipstream.delta.limits import READ_OVER_BYTES_MAX
from slipstream.delta.payload import Index, dump_index, parse_index
from slipstream.installer import frames as module
from slipstream.installer.fetch import HttpFetcher
from slipstream.installer.frames import FrameSource, plan_runs
from slipstream.installer.spool import Spool
from tests.installer.hostile_server import Answer, Fault, HostileServer
from tests.installer.virtual_time import LoopClock, run

PATH = "blobs/x.payload"


@dataclass(frozen=True)
class Payload:
    index: Index
    encoded: tuple[bytes, ...]

    @property
    def raw(self) -> bytes:
        return self.index.raw + b"".join(self.encoded)

    @property
    def files(self) -> dict[str, bytes]:
        return {PATH: self.raw}

    def wanted(self, numbers: Sequence[int]) -> list[tuple[int, bytes]]:
        return [(number, self.encoded[number]) for number in numbers]


def make_payload(sizes: Sequence[int], seed: int = 1) -> Payload:
    """Stored frames of these sizes; a size of 0 makes a frame of zeros."""
    rng = random.Random(seed)
    frames: list[Frame] = []
    encoded: list[bytes] = []
    target = body = 0
    for size in sizes:
        data = rng.randbytes(size)
        encoded.append(data)
        if size:
            stream = Stream(Codec.NONE, size, size)
            place = ByteRange(target, size)
            frames.append(
                make_frame(
                    FrameKind.DATA,
                    place,
                    encoded_offset=body,
                    digest=Digest.of(data),
                    streams=[stream],
                )
            )
        else:
            place = ByteRange(target, 4096)
            frames.append(make_frame(FrameKind.ZERO, place, encoded_offset=body))
        target += place.size
        body += size
    raw = dump_index(0, None, target, Digest.of(b"target"), frames)
    return Payload(parse_index(raw), tuple(encoded))


SIZES = [1000, 0, 1, 20_000, 0, 0, 300, 50_000, 7, 0]
PAYLOAD = make_payload(SIZES)
ALL = range(len(SIZES))


async def collect(source: FrameSource, *, release: bool = True) -> list[tuple[int, bytes]]:
    got = []
    async for number, encoded in source:
        got.append((number, encoded))
        if release:
            source.release(number)
    return got


def fetcher_of(server: HostileServer) -> HttpFetcher:
    return HttpFetcher(server.url, clock=LoopClock(), chance=lambda: 0.5)


# --- planning


def test_neighbours_are_one_request_and_far_frames_are_not() -> None:
    sizes = [10, 20, READ_OVER_BYTES_MAX, 30, READ_OVER_BYTES_MAX + 1, 40, 0, 50]
    payload = make_payload(sizes)
    frames = payload.index.frames
    runs = plan_runs(frames, [0, 1, 3, 5, 6, 7])
    assert [r.frames for r in runs] == [(0, 1, 3), (5, 7)]
    assert [(r.span.offset, r.span.size) for r in runs] == [
        (0, 60 + READ_OVER_BYTES_MAX),
        (61 + 2 * READ_OVER_BYTES_MAX, 90),
    ]
    assert plan_runs(frames, []) == ()
    assert plan_runs(frames, [6]) == ()


@given(sizes=st.lists(st.integers(0, 40_000), min_size=1, max_size=12), data=st.data())
@settings(max_examples=50, deadline=None)
def test_plans_cover_what_is_missing(sizes: list[int], data: st.DataObject) -> None:
    frames = make_payload(sizes).index.frames
    missing = sorted(data.draw(st.sets(st.integers(0, len(sizes) - 1))))
    runs = plan_runs(frames, missing)
    assert [n for r in runs for n in r.frames] == [n for n in missing if sizes[n]]
    for r in runs:
        assert r.span.offset == frames[r.frames[0]].encoded.offset
        assert r.span.end == frames[r.frames[-1]].encoded.end


# --- delivery


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("wanted", [list(ALL), [0], [1], [], [3, 7], [0, 1, 6, 8, 9], [9]])
def test_wanted_frames_in_order(tmp_path: Path, wanted: list[int], *, ranges: bool) -> None:
    async def check() -> None:
        async with (
            HostileServer(PAYLOAD.files, ranges=ranges) as server,
            fetcher_of(server) as fetcher,
        ):
            spool = Spool(tmp_path, PAYLOAD.index.digest)
            async with FrameSource(fetcher, PATH, PAYLOAD.index, wanted, spool) as source:
                assert await collect(source) == PAYLOAD.wanted(wanted)
            assert source.bytes_fetched == sum(SIZES[n] for n in wanted)
            assert source.bytes_refetched == 0
            if ranges:
                received = fetcher.counters.bytes_received
                assert received == source.bytes_fetched + source.bytes_read_over
            else:
                assert len(server.requests) <= 1
            spool.discard()
            assert not list(tmp_path.iterdir())

    run(check())


def test_frames_out_of_order_are_refused(tmp_path: Path) -> None:
    async def check() -> None:
        async with HostileServer({}) as server, fetcher_of(server) as fetcher:
            spool = Spool(tmp_path, PAYLOAD.index.digest)
            for wanted in ([2, 1], [3, 3]):
                with pytest.raises(FormatError, match="order"):
                    FrameSource(fetcher, PATH, PAYLOAD.index, wanted, spool)
            spool.close()

    run(check())


def cut_body(size: int) -> Fault:
    return lambda a: replace(a, cut_body=size)


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 80_000), max_size=5),
    reopens=st.lists(st.integers(0, 9), max_size=3),
)
def test_cuts_and_restarts_fetch_nothing_twice(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], reopens: list[int]
) -> None:
    """The link is cut and the installer starts again: all bytes together come once."""
    folder = tmp_path_factory.mktemp("spool")

    async def check() -> None:
        async with HostileServer(PAYLOAD.files) as server, fetcher_of(server) as fetcher:
            server.plan([cut_body(size) for size in cuts])
            for taken in reopens:
                spool = Spool(folder, PAYLOAD.index.digest)
                async with FrameSource(fetcher, PATH, PAYLOAD.index, ALL, spool) as source:
                    for _ in range(taken):
                        await anext(source)
                spool.close()
            spool = Spool(folder, PAYLOAD.index.digest)
            async with FrameSource(fetcher, PATH, PAYLOAD.index, ALL, spool) as source:
                assert await collect(source, release=False) == PAYLOAD.wanted(ALL)
            spool.close()
            # A piece that was read when the source was closed is lost: one piece a restart.
            assert fetcher.counters.bytes_received <= sum(SIZES) + len(reopens) * 65_536

    run(check())


def test_kill_at_every_byte_of_the_spool(tmp_path: Path) -> None:
    """After SIGKILL the spool holds a prefix of what was written; nothing of it comes again."""
    payload = make_payload([40, 0, 30, 50], seed=7)
    whole = Spool(tmp_path / "whole", payload.index.digest)

    async def fill() -> None:
        async with (
            HostileServer(payload.files) as server,
            fetcher_of(server) as fetcher,
            FrameSource(fetcher, PATH, payload.index, range(4), whole) as source,
        ):
            await collect(source, release=False)

    run(fill())
    (segment,) = (tmp_path / "whole").iterdir()
    raw = segment.read_bytes()

    async def check() -> None:
        async with HostileServer(payload.files) as server, fetcher_of(server) as fetcher:
            for length in range(len(raw) + 1):
                before = fetcher.counters.bytes_received
                folder = tmp_path / str(length)
                folder.mkdir()
                (folder / segment.name).write_bytes(raw[:length])
                spool = Spool(folder, payload.index.digest)
                async with FrameSource(fetcher, PATH, payload.index, range(4), spool) as source:
                    assert await collect(source, release=False) == payload.wanted(range(4))
                headers = 40 + 8 * sum(length >= 40 + at for at in (8, 56, 94))
                had = max(0, length - headers)
                spent = fetcher.counters.bytes_received - before
                assert 120 - had - 8 <= spent <= 120 - had + 8
                assert spent == source.bytes_fetched == 120 - source.bytes_reused
                spool.close()

    run(check())
    whole.close()


def test_power_cut_that_left_garbage_costs_one_frame(tmp_path: Path) -> None:
    async def check() -> None:
        async with HostileServer(PAYLOAD.files) as server, fetcher_of(server) as fetcher:
            spool = Spool(tmp_path, PAYLOAD.index.digest)
            spool.begin(0, 1000)
            spool.append(PAYLOAD.encoded[0])
            spool.finish()
            spool.begin(2, 1)
            spool.append(b"X" if PAYLOAD.encoded[2] != b"X" else b"Y")  # whole and wrong
            spool.finish()
            spool.begin(3, 20_000)
            spool.append(bytes(5000))  # begun and wrong: zeros where data never arrived
            spool.close()
            spool = Spool(tmp_path, PAYLOAD.index.digest)
            async with FrameSource(fetcher, PATH, PAYLOAD.index, ALL, spool) as source:
                assert await collect(source) == PAYLOAD.wanted(ALL)
            assert fetcher.counters.bytes_received <= sum(SIZES) - 1000 + 20_000
            spool.close()

    run(check())


def flip(at: int) -> Fault:
    def fault(a: Answer) -> Answer:
        body = bytearray(a.body)
        body[at] ^= 1
        return replace(a, body=bytes(body))

    return fault


def test_wrong_digest_is_fetched_once_more(tmp_path: Path) -> None:
    async def check() -> None:
        async with HostileServer(PAYLOAD.files) as server, fetcher_of(server) as fetcher:
            server.plan([flip(1500)])  # in frame 3
            spool = Spool(tmp_path, PAYLOAD.index.digest)
            async with FrameSource(fetcher, PATH, PAYLOAD.index, ALL, spool) as source:
                assert await collect(source) == PAYLOAD.wanted(ALL)
            assert source.bytes_refetched == SIZES[3]
            assert source.bytes_fetched == sum(SIZES) + SIZES[3]
            spool.close()

    run(check())


def test_wrong_digest_twice_is_rejected_after_the_frames_before(tmp_path: Path) -> None:
    async def check() -> None:
        files = PAYLOAD.files
        bad = bytearray(files[PATH])
        bad[len(PAYLOAD.index.raw) + 1500] ^= 1
        async with HostileServer({PATH: bytes(bad)}) as server, fetcher_of(server) as fetcher:
            spool = Spool(tmp_path, PAYLOAD.index.digest)
            got = []

            async def consume(source: FrameSource) -> None:
                async for number, encoded in source:
                    got.append((number, encoded))

            async with FrameSource(fetcher, PATH, PAYLOAD.index, ALL, spool) as source:
                with pytest.raises(DigestMismatch, match="frame 3") as failure:
                    await consume(source)
            assert got == PAYLOAD.wanted([0, 1, 2])
            assert failure.value.where == PATH
            assert failure.value.expected == PAYLOAD.index.frames[3].digest
            assert len(server.requests) == 2
            assert 3 not in spool
            spool.close()

    run(check())


def test_changed_file_costs_the_begun_frame_only(tmp_path: Path) -> None:
    """Two replicas with the same bytes and other ETags: never mixed, and it ends well."""

    async def check() -> None:
        async with HostileServer(PAYLOAD.files) as server, fetcher_of(server) as fetcher:

            def cut_and_change(a: Answer) -> Answer:
                server.etag_prefix += "n"
                return replace(a, cut_body=min(len(a.body), 9000))

            server.plan([cut_and_change] * 4)
            spool = Spool(tmp_path, PAYLOAD.index.digest)
            async with FrameSource(fetcher, PATH, PAYLOAD.index, [0, 2, 3], spool) as source:
                assert await collect(source) == PAYLOAD.wanted([0, 2, 3])
            assert 0 < source.bytes_refetched <= 4 * 9000
            # A server that changes the file each time is given up, and what is whole is kept.
            server.plan([cut_and_change] * 100)
            async with FrameSource(fetcher, PATH, PAYLOAD.index, ALL, spool) as source:
                with pytest.raises(Unavailable):
                    await collect(source)
            server.plan([])
            async with FrameSource(fetcher, PATH, PAYLOAD.index, ALL, spool) as source:
                assert await collect(source) == PAYLOAD.wanted(ALL)
            spool.close()

    run(check())


def test_unavailable_keeps_what_came(tmp_path: Path) -> None:
    async def check() -> None:
        async with HostileServer(PAYLOAD.files) as server, fetcher_of(server) as fetcher:
            server.plan([cut_body(30_000), *([cut_body(0)] * 8)])
            spool = Spool(tmp_path, PAYLOAD.index.digest)
            async with FrameSource(fetcher, PATH, PAYLOAD.index, ALL, spool) as source:
                with pytest.raises(Unavailable):
                    await collect(source, release=False)
            async with FrameSource(fetcher, PATH, PAYLOAD.index, ALL, spool) as source:
                assert await collect(source) == PAYLOAD.wanted(ALL)
            assert fetcher.counters.bytes_received == sum(SIZES)
            spool.close()

    run(check())


def test_release_after_leaving_touches_nothing(tmp_path: Path) -> None:
    """A checkpoint may end when its source was left: another may use the spool by then."""

    async def check() -> None:
        async with HostileServer(PAYLOAD.files) as server, fetcher_of(server) as fetcher:
            spool = Spool(tmp_path, PAYLOAD.index.digest)
            async with FrameSource(fetcher, PATH, PAYLOAD.index, ALL, spool) as source:
                await collect(source, release=False)
            held = spool.frames
            source.release(len(SIZES))
            assert spool.frames == held != ()
            spool.close()

    run(check())


def test_one_stream_over_many_stretches_of_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FRAMES_AT_ONCE", 2)

    async def check() -> None:
        async with HostileServer(PAYLOAD.files) as server, fetcher_of(server) as fetcher:
            spool = Spool(tmp_path, PAYLOAD.index.digest)
            async with FrameSource(fetcher, PATH, PAYLOAD.index, ALL, spool) as source:
                assert await collect(source) == PAYLOAD.wanted(ALL)
            assert fetcher.counters.requests == 1
            spool.close()

    run(check())


# --- the bound


def test_spool_is_bounded_and_pressure_frees_it(tmp_path: Path) -> None:
    payload = make_payload([30_000] * 40)
    bound = 200_000

    async def check() -> None:
        async with HostileServer(payload.files) as server, fetcher_of(server) as fetcher:
            spool = Spool(tmp_path, payload.index.digest)
            async with FrameSource(
                fetcher, PATH, payload.index, range(40), spool, spool_bytes_max=bound
            ) as source:
                got = []
                async for number, encoded in source:
                    await asyncio.sleep(1)  # a slow writer: the fetcher runs ahead
                    assert spool.held_bytes <= bound + 30_008
                    got.append((number, encoded))
                    if source.pressure:
                        source.release(number + 1)
            assert got == payload.wanted(range(40))
            assert fetcher.counters.bytes_received == 40 * 30_000
            spool.close()

    run(check())


def test_consumer_that_cannot_checkpoint_is_not_starved(tmp_path: Path) -> None:
    payload = make_payload([30_000] * 10)

    async def check() -> None:
        async with HostileServer(payload.files) as server, fetcher_of(server) as fetcher:
            spool = Spool(tmp_path, payload.index.digest)
            async with FrameSource(
                fetcher, PATH, payload.index, range(10), spool, spool_bytes_max=50_000
            ) as source:
                assert await collect(source, release=False) == payload.wanted(range(10))
                assert source.pressure
            spool.close()

    run(check())


# --- a real process, really killed

CHILD = """
import asyncio, sys
from pathlib import Path
from slipstream.delta.payload import parse_index
from slipstream.installer.fetch import HttpFetcher
from slipstream.installer.frames import FrameSource
from slipstream.installer.spool import Spool
import datetime, time

class Clock:
    def now(self): return datetime.datetime.now(datetime.UTC)
    def monotonic(self): return time.monotonic()
    async def sleep(self, seconds): await asyncio.sleep(seconds)

async def main(url, index_file, folder):
    index = parse_index(Path(index_file).read_bytes())
    async with HttpFetcher(url, clock=Clock()) as fetcher:
        spool = Spool(Path(folder), index.digest)
        async with FrameSource(fetcher, "blobs/x.payload", index, range(len(index.frames)), spool) as source:
            async for number, _ in source:
                print(number, flush=True)
        spool.close()

asyncio.run(main(*sys.argv[1:]))
"""


def test_sigkill_in_the_stream_costs_at_most_a_frame(tmp_path: Path) -> None:
    payload = make_payload([10_000] * 30)
    index_file = tmp_path / "index"
    index_file.write_bytes(payload.index.raw)

    async def start(url: str) -> asyncio.subprocess.Process:
        arguments = (url, str(index_file), str(tmp_path / "spool"))
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", CHILD, *arguments, stdout=subprocess.PIPE
        )

    async def check() -> None:
        async with HostileServer(payload.files) as server:
            # The server stalls in the middle of a frame, then the child is killed.
            for sent, frames in ((35_000, 3), (115_000, 14)):
                server.plan([lambda a, sent=sent: replace(a, stall_body=sent)])
                child = await start(server.url)
                assert child.stdout is not None
                for number in range(frames):
                    assert int(await child.stdout.readline()) == number
                os.kill(child.pid, signal.SIGKILL)
                await child.communicate()
            child = await start(server.url)
            out, _ = await child.communicate()
            assert child.returncode == 0
            assert [int(line) for line in out.split()] == list(range(30))
            assert server.body_bytes_sent <= 30 * 10_000 + 2 * 10_000

    asyncio.run(check())

"""Streams behind a prefix: round trips, what the prefix saves, and streams that lie."""

import random
import subprocess
import sys
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta import prefix
from slipstream.delta.byterange import ByteRange
from slipstream.delta.codec import Codec, codec_memory_bytes, compress, decompress
from slipstream.delta.decode import decode_frame
from slipstream.delta.digest import Digest
from slipstream.delta.encode import encode_window
from slipstream.delta.errors import FormatError
from slipstream.delta.frame import Frame, FrameKind, Part, Stream, make_frame
from slipstream.delta.frame_table import read_table, write_table
from slipstream.delta.limits import FRAME_SOURCE_BYTES_MAX, KIB, MIB
from slipstream.delta.partition import Partition
from slipstream.delta.prefix import can_prefix, compress_behind
from slipstream.delta.profile import PROFILES
from slipstream.delta.stream_table import StreamTable

PREFIXED = Codec.LZMA2_PREFIX
NOISE = random.Random(1).randbytes(300 * KIB)


def test_this_machine_can() -> None:
    assert can_prefix()


LARGE = {
    "nothing": b"",
    "noise": NOISE,
    "part": NOISE[5000:90_000],
    "chunk": NOISE[: 64 * KIB],
    "more than a chunk": NOISE[: 64 * KIB + 1],
    "zeros": bytes(MIB),
}


@settings(deadline=None)
@given(
    data=st.binary(max_size=300) | st.sampled_from(sorted(LARGE)),
    behind=st.binary(min_size=1, max_size=300)
    | st.sampled_from(sorted(LARGE.keys() - {"nothing"})),
)
def test_round_trip(data: bytes | str, behind: bytes | str) -> None:
    data = LARGE[data] if isinstance(data, str) else data
    behind = LARGE[behind] if isinstance(behind, str) else behind
    encoded = compress_behind(data, behind)
    assert decompress(PREFIXED, encoded, len(data), behind) == data
    assert compress_behind(data, behind) == encoded


@pytest.mark.parametrize("at", [0, 1, 64 * KIB - 1, 200 * KIB])
def test_what_stands_in_the_prefix_takes_next_to_nothing(at: int) -> None:
    data = NOISE[at : at + 50_000]
    assert len(compress_behind(data, NOISE)) < 100
    assert len(compress(Codec.LZMA2, data)) > 50_000


def test_another_prefix_gives_other_bytes_or_an_error() -> None:
    encoded = compress_behind(NOISE[:50_000], NOISE)
    assert decompress(PREFIXED, encoded, 50_000, NOISE[::-1]) != NOISE[:50_000]
    with pytest.raises(FormatError, match="broken LZMA2_PREFIX stream"):
        decompress(PREFIXED, encoded, 50_000, b"short")
    with pytest.raises(FormatError, match="broken LZMA2_PREFIX stream"):
        decompress(PREFIXED, encoded, 50_000)


def test_streams_that_lie_about_their_length() -> None:
    encoded = compress_behind(NOISE[:5000] + b"end", NOISE)
    for size in (5002, 5004):
        with pytest.raises(FormatError):
            decompress(PREFIXED, encoded, size, NOISE)
    for cut in range(len(encoded)):
        with pytest.raises(FormatError):
            decompress(PREFIXED, encoded[:cut], 5003, NOISE)
    with pytest.raises(FormatError, match="bytes behind its end"):
        decompress(PREFIXED, encoded + b"\0", 5003, NOISE)


def test_memory_is_what_is_declared() -> None:
    behind, data = bytes(8 * MIB), bytes(2 * MIB)
    encoded = compress_behind(data, behind)
    tracemalloc.start()
    try:
        decompress(PREFIXED, encoded, len(data), behind)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= codec_memory_bytes(PREFIXED, len(data), len(behind)) + 2 * len(data)


def _frame(kind: FrameKind, *codecs: Codec, sources: int = 1, size: int = 100) -> Frame:
    return make_frame(
        kind,
        ByteRange(0, size),
        sources=[ByteRange(5 * number, 5) for number in range(sources)],
        digest=Digest.of(b""),
        streams=[Stream(codec, size, size) for codec in codecs],
    )


def test_only_a_prefix_frame_and_extra_may_have_the_codec() -> None:
    none = Codec.NONE
    assert _frame(FrameKind.PREFIX, PREFIXED).source_size == 5
    for kind, codecs, sources in (
        (FrameKind.PREFIX, (Codec.LZMA2,), 1),
        (FrameKind.PREFIX, (PREFIXED,), 0),
        (FrameKind.PREFIX, (PREFIXED, PREFIXED), 1),
        (FrameKind.DATA, (PREFIXED,), 0),
        (FrameKind.DIFF, (PREFIXED, none, none), 1),
        (FrameKind.DIFF, (none, PREFIXED, none), 1),
    ):
        with pytest.raises(FormatError, match=r"cannot have|wrong parts"):
            _frame(kind, *codecs, sources=sources)


def test_a_prefix_is_as_short_as_a_frame_may_read() -> None:
    stream = Stream(PREFIXED, 10, 100)
    for size, fits in ((FRAME_SOURCE_BYTES_MAX, True), (FRAME_SOURCE_BYTES_MAX + 1, False)):
        make = lambda size=size: make_frame(  # noqa: E731
            FrameKind.PREFIX,
            ByteRange(0, 100),
            sources=[ByteRange(0, size)],
            digest=Digest.of(b""),
            streams=[stream],
        )
        if fits:
            own = codec_memory_bytes(PREFIXED, 100, size)
            assert make().memory_bytes == 100 + size + 10 + own + 100
        else:
            with pytest.raises(FormatError, match="PREFIX frame reads too much"):
                make()


def test_the_row_of_a_prefix_frame() -> None:
    frame = _frame(FrameKind.PREFIX, PREFIXED, sources=3)
    rows, digests = write_table([frame])
    assert rows[0] == FrameKind.PREFIX == 4
    table, sums = read_table(rows, digests, 1, StreamTable(b"", 100))
    assert table[0] == frame
    assert sums.memory_bytes == frame.memory_bytes


def _window(profile: str, target: bytes, source: bytes) -> list[Frame]:
    sources = (ByteRange(7, len(source)),)
    partition = Partition((Part(len(target), len(target)),))
    frames = encode_window(target, 0, partition, source, sources, PROFILES[profile])
    made = b"".join(
        decode_frame(
            one.frame,
            one.encoded,
            b"".join(source[part.offset - 7 : part.end - 7] for part in one.frame.sources),
        )
        for one in frames
    )
    assert made == target
    return [one.frame for one in frames]


def _shuffled(source: bytes, seed: int) -> bytes:
    """Short phrases of the source in another order: too short for a diagonal."""
    generator = random.Random(seed)
    return b"".join(
        source[at : at + 9] for at in (generator.randrange(len(source)) for _ in range(9000))
    )


@pytest.mark.parametrize("profile", ["small", "balanced"])
def test_many_short_repeats_of_the_source_are_a_prefix_frame(profile: str) -> None:
    source = NOISE[: 64 * KIB]
    target = _shuffled(source, 2)
    frames = _window(profile, target, source)
    assert {frame.kind for frame in frames} == {FrameKind.PREFIX}
    alone = len(compress(Codec.LZMA2, target))
    assert sum(frame.encoded.size for frame in frames) < alone / 2


def test_fresh_bytes_of_a_diff_may_repeat_its_source() -> None:
    source = NOISE[: 256 * KIB]
    target = source[: 120 * KIB] + _shuffled(source[: 64 * KIB], 3) + source[120 * KIB :]
    frames = _window("balanced", target, source)
    extra = [frame.streams[2].codec for frame in frames if frame.kind is FrameKind.DIFF]
    assert PREFIXED in extra or FrameKind.PREFIX in {frame.kind for frame in frames}


@pytest.mark.parametrize("profile", ["fast", "small"])
def test_without_prefixes_there_are_none(
    profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # a profile that takes none, and a machine whose liblzma cannot be called
    monkeypatch.setattr(prefix, "_encoder", lambda: None)
    source = NOISE[: 64 * KIB]
    kinds = {frame.kind for frame in _window(profile, _shuffled(source, 2), source)}
    assert FrameKind.PREFIX not in kinds


def test_decoding_needs_no_liblzma_by_ctypes() -> None:
    """A device has Python's lzma, and nothing else is loaded for it."""
    script = (
        "import sys; import slipstream.delta.decode; "
        "sys.exit('slipstream.delta.prefix' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0

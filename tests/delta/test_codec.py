"""The gate: round trips, and streams that lie about their length."""

import bz2
import contextlib
import lzma
import random
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from functools import cache

import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from slipstream.delta.codec import (
    Codec,
    codec_memory_bytes,
    compress,
    compress_smallest,
    decompress,
    lzma_dict_size,
)
from slipstream.delta.errors import FormatError
from slipstream.delta.limits import CODEC_DECODED_BYTES_MAX, CODEC_WINDOW_BYTES_MAX, MIB

PACKED = [Codec.ZSTD, Codec.LZMA2, Codec.BZ2, Codec.ZLIB]
TEXT = b"".join(b"line %d of a file\n" % number for number in range(300))


def samples() -> list[bytes]:
    noise = random.Random(1).randbytes(70_000)
    return [b"", b"a", b"ab" * 40, bytes(4096), TEXT, noise, noise + TEXT * 5, bytes(300_000)]


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("number", range(8))
def test_round_trip(codec: Codec, number: int) -> None:
    data = samples()[number]
    encoded = compress(codec, data)
    assert decompress(codec, encoded, len(data)) == data
    assert compress(codec, data) == encoded


@pytest.mark.parametrize("codec, levels", [(Codec.ZSTD, (1, 3, 22)), (Codec.LZMA2, (0, 6, 9)), (Codec.BZ2, (1,)), (Codec.ZLIB, (1, 9))])  # fmt: skip
def test_levels(codec: Codec, levels: tuple[int, ...]) -> None:
    for level in levels:
        assert decompress(codec, compress(codec, TEXT, level), len(TEXT)) == TEXT


@pytest.mark.parametrize("level", [1, 19, 22])
def test_zstd_windows_stay_within_the_gate_at_the_largest_size(level: int) -> None:
    data = random.Random(2).randbytes(1000) + bytes(CODEC_DECODED_BYTES_MAX - 1000)
    assert decompress(Codec.ZSTD, compress(Codec.ZSTD, data, level), len(data)) == data


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("shift", [-len(TEXT), -1, 1, 4096])
def test_any_other_size_is_refused(codec: Codec, shift: int) -> None:
    with pytest.raises(FormatError):
        decompress(codec, compress(codec, TEXT), len(TEXT) + shift)


@pytest.mark.parametrize("codec", [Codec.LZMA2, Codec.BZ2, Codec.ZLIB])
def test_too_much_and_too_little_are_told_apart(codec: Codec) -> None:
    encoded = compress(codec, TEXT)
    with pytest.raises(FormatError, match="got more"):
        decompress(codec, encoded, len(TEXT) - 1)
    with pytest.raises(FormatError, match=f"got {len(TEXT)} bytes"):
        decompress(codec, encoded, len(TEXT) + 1)
    with pytest.raises(FormatError, match="cut short"):
        decompress(codec, encoded[:-1], len(TEXT))


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("size", [-1, CODEC_DECODED_BYTES_MAX + 1, 2**63, 2**64 - 1])
def test_impossible_sizes_are_refused_before_decoding(codec: Codec, size: int) -> None:
    with pytest.raises(FormatError, match="impossible length"):
        decompress(codec, compress(codec, b"x"), size)


def test_more_than_the_gate_takes_is_not_encoded() -> None:
    with pytest.raises(FormatError, match="impossible length"):
        compress(Codec.NONE, bytes(CODEC_DECODED_BYTES_MAX + 1))


@pytest.mark.parametrize("codec", Codec)
def test_cut_short_at_every_byte(codec: Codec) -> None:
    encoded = compress(codec, TEXT[:900])
    for size in range(len(encoded)):
        with pytest.raises(FormatError):
            decompress(codec, encoded[:size], 900)


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("junk", [b"\0", b"x", bytes(100), TEXT], ids=len)
def test_bytes_behind_the_end_are_refused(codec: Codec, junk: bytes) -> None:
    with pytest.raises(FormatError):
        decompress(codec, compress(codec, TEXT) + junk, len(TEXT))


@pytest.mark.parametrize("codec", PACKED)
def test_an_empty_stream_is_whole_and_alone_too(codec: Codec) -> None:
    encoded = compress(codec, b"")
    assert decompress(codec, encoded, 0) == b""
    for broken in (encoded + b"x", encoded + encoded, *(encoded[:n] for n in range(len(encoded)))):
        with pytest.raises(FormatError):
            decompress(codec, broken, 0)


@pytest.mark.parametrize("codec", PACKED)
def test_a_second_stream_is_refused(codec: Codec) -> None:
    for first, second in ((TEXT[:500], TEXT[500:]), (TEXT, b""), (b"", TEXT)):
        both = compress(codec, first) + compress(codec, second)
        with pytest.raises(FormatError):
            decompress(codec, both, len(TEXT))


@pytest.mark.parametrize("codec", PACKED)
def test_every_flipped_bit_is_refused_or_decodes_to_the_size(codec: Codec) -> None:
    """The gate promises lengths; that the bytes are right is the digest's promise."""
    encoded = bytearray(compress(codec, TEXT[:300]))
    refused = 0
    for bit in range(8 * len(encoded)):
        encoded[bit // 8] ^= 1 << bit % 8
        try:
            assert len(decompress(codec, bytes(encoded), 300)) == 300
        except FormatError:
            refused += 1
        encoded[bit // 8] ^= 1 << bit % 8
    assert refused


@given(codec=st.sampled_from(PACKED), data=st.binary(max_size=200), size=st.integers(-2, 5000))
@example(Codec.ZSTD, b"\x28\xb5\x2f\xfd", 0)
@settings(max_examples=300, deadline=None)
def test_hostile_bytes_raise_only_format_errors(codec: Codec, data: bytes, size: int) -> None:
    with contextlib.suppress(FormatError):
        assert len(decompress(codec, data, size)) == size


# --- zstd frames that declare what they are not


def zstd_frame(content_size: int, window_descriptor: int | None, body: bytes = b"") -> bytes:
    """A frame header by hand: 8-byte content size, single segment unless a window is given."""
    descriptor = 0b1100_0000 | (0 if window_descriptor is not None else 0b10_0000)
    window = b"" if window_descriptor is None else bytes([window_descriptor])
    header = b"\x28\xb5\x2f\xfd" + bytes([descriptor]) + window
    return header + struct.pack("<Q", content_size) + body


# One raw block, last: 3-byte header (size << 3 | type << 1 | last).
RAW_BLOCK = struct.pack("<I", 4 << 3 | 1)[:3] + b"abcd"


def test_the_frame_made_by_hand_is_good() -> None:
    assert decompress(Codec.ZSTD, zstd_frame(4, None, RAW_BLOCK), 4) == b"abcd"
    assert decompress(Codec.ZSTD, zstd_frame(4, 13 << 3, RAW_BLOCK), 4) == b"abcd"  # 8 MiB


@pytest.mark.parametrize("exponent", [14, 17, 31])
def test_a_window_above_the_limit_is_refused(exponent: int) -> None:
    frame = zstd_frame(4, exponent << 3, RAW_BLOCK)
    with pytest.raises(FormatError, match=r"window|not a zstd frame"):
        decompress(Codec.ZSTD, frame, 4)


@pytest.mark.parametrize("size", [0, 3, 5, 2**33, 2**46, 2**64 - 3, 2**64 - 2, 2**64 - 1])
def test_a_declared_size_that_is_not_the_expected_one_is_refused(size: int) -> None:
    with pytest.raises(FormatError, match="zstd frame"):
        decompress(Codec.ZSTD, zstd_frame(size, None, RAW_BLOCK), 4)


def test_a_frame_that_declares_no_size_is_refused() -> None:
    compressor = zstandard.ZstdCompressor(write_content_size=False)
    encoder = compressor.compressobj()
    frame = encoder.compress(TEXT) + encoder.flush()
    assert zstandard.ZstdDecompressor().decompressobj().decompress(frame) == TEXT
    with pytest.raises(FormatError, match="declares something else"):
        decompress(Codec.ZSTD, frame, len(TEXT))


@pytest.mark.parametrize("size", [0, 8])
def test_skippable_frames_are_refused(size: int) -> None:
    frame = struct.pack("<II", 0x184D2A50, size) + bytes(size)
    with pytest.raises(FormatError, match="zstd frame"):
        decompress(Codec.ZSTD, frame, size)


def test_a_dictionary_id_is_refused() -> None:
    frame = bytearray(zstd_frame(4, None))
    frame[4] |= 1  # one byte of dictionary id, between header descriptor and size
    frame.insert(5, 7)
    assert zstandard.get_frame_parameters(bytes(frame)).dict_id == 7
    with pytest.raises(FormatError, match="dictionary 7"):
        decompress(Codec.ZSTD, bytes(frame) + RAW_BLOCK, 4)


# --- bombs: each stands for 256 MiB, each is refused within a few MiB

BOMB_BYTES = 256 * MIB


@cache
def _zstd_bomb() -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(bytes(BOMB_BYTES))


@cache
def _lzma_bomb() -> bytes:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": lzma_dict_size(65536)}]
    return lzma.compress(bytes(BOMB_BYTES), lzma.FORMAT_RAW, filters=filters)


@cache
def _zlib_bomb() -> bytes:
    encoder = zlib.compressobj(9, wbits=-15)
    return encoder.compress(bytes(BOMB_BYTES)) + encoder.flush()


@cache
def _bz2_bomb() -> bytes:
    return bz2.compress(bytes(BOMB_BYTES))


@pytest.mark.parametrize(
    "codec, bomb, encoded_max",
    [
        (Codec.ZSTD, _zstd_bomb, 10_000),
        (Codec.LZMA2, _lzma_bomb, 50_000),
        (Codec.BZ2, _bz2_bomb, 250),
        (Codec.ZLIB, _zlib_bomb, 300_000),
    ],
    ids=["zstd", "lzma2", "bz2", "zlib"],
)
def test_bombs_stop_at_the_size_that_was_checked(
    codec: Codec, bomb: Callable[[], bytes], encoded_max: int
) -> None:
    encoded = bomb()
    assert len(encoded) <= encoded_max
    for size in (0, 4096, MIB):
        tracemalloc.start()
        try:
            with pytest.raises(FormatError):
                decompress(codec, encoded, size)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 2 * size + 8 * MIB


_CHILD = """
import pathlib, sys
from slipstream.delta.codec import Codec, decompress
from slipstream.delta.errors import FormatError
refused = 0
for line in sys.stdin:
    codec, encoded = line.split()
    for size in (4096, 1 << 20):
        try:
            decompress(Codec[codec], bytes.fromhex(encoded), size)
        except FormatError:
            refused += 1
# Not ru_maxrss: that counts the parent's memory from before exec.
status = pathlib.Path("/proc/self/status").read_text()
print(refused, status.split("VmHWM:")[1].split()[0])
"""


def test_the_whole_process_stays_small_under_all_bombs() -> None:
    """What tracemalloc cannot see: the C libraries' own memory."""
    bombs = {
        Codec.ZSTD: _zstd_bomb(),
        Codec.LZMA2: _lzma_bomb(),
        Codec.BZ2: _bz2_bomb(),
        Codec.ZLIB: _zlib_bomb(),
    }
    lines = "".join(f"{codec.name} {bomb.hex()}\n" for codec, bomb in bombs.items())
    child = subprocess.run(
        [sys.executable, "-c", _CHILD], input=lines, capture_output=True, text=True, check=True
    )
    refused, peak_kib = map(int, child.stdout.split())
    assert refused == 8
    assert peak_kib < 64 * 1024


# --- choosing, and declared memory


def test_the_smallest_codec_wins_and_ties_go_to_the_first() -> None:
    codec, encoded = compress_smallest(TEXT, PACKED)
    sizes = {codec: len(compress(codec, TEXT)) for codec in PACKED}
    assert sizes[codec] == min(sizes.values()) == len(encoded)
    assert decompress(codec, encoded, len(TEXT)) == TEXT
    assert compress_smallest(TEXT, [Codec.ZLIB, Codec.ZLIB])[0] is Codec.ZLIB


def test_what_does_not_shrink_stays_as_it_is() -> None:
    noise = random.Random(3).randbytes(500)
    assert compress_smallest(noise, PACKED) == (Codec.NONE, noise)
    assert compress_smallest(b"", PACKED) == (Codec.NONE, b"")


@pytest.mark.parametrize(
    "size, dictionary",
    [(0, 4096), (1, 4096), (4096, 4096), (4097, 8192), (5 * MIB, 8 * MIB), (16 * MIB, 8 * MIB)],
)
def test_the_lzma_dictionary_follows_from_the_size(size: int, dictionary: int) -> None:
    assert lzma_dict_size(size) == dictionary


@pytest.mark.parametrize("codec", Codec)
def test_declared_memory_grows_with_the_size_and_is_bounded(codec: Codec) -> None:
    needs = [codec_memory_bytes(codec, size) for size in (0, 1, 4096, MIB, 16 * MIB)]
    assert needs == sorted(needs)
    prefixed = codec is Codec.LZMA2_PREFIX  # its dictionary holds all of it
    assert needs[-1] <= (16 * MIB if prefixed else CODEC_WINDOW_BYTES_MAX) + MIB

"""Digest and ByteRange: what cannot be made."""

import hashlib

import pytest

from slipstream.delta.byterange import ByteRange
from slipstream.delta.digest import Digest
from slipstream.delta.errors import DigestMismatch, FormatError
from slipstream.delta.limits import IMAGE_BYTES_MAX


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_digests_are_32_bytes(size: int) -> None:
    with pytest.raises(FormatError, match="32 bytes"):
        Digest(bytes(size))


def test_digest_of_and_hex() -> None:
    digest = Digest.of(b"abc")
    assert digest.raw == hashlib.sha256(b"abc").digest()
    assert digest.hex == str(digest) == hashlib.sha256(b"abc").hexdigest()
    assert Digest.parse_hex(digest.hex) == digest
    assert Digest.of(memoryview(b"abc")) == Digest.of(bytearray(b"abc")) == digest


@pytest.mark.parametrize(
    "text",
    ["", "0" * 63, "0" * 65, "A" * 64, "g" * 64, " " + "0" * 63, "0x" + "0" * 62, "٠" * 64],
)
def test_other_spellings_of_a_digest_are_refused(text: str) -> None:
    with pytest.raises(FormatError, match="hex digits"):
        Digest.parse_hex(text)


def test_check_says_what_was_expected_and_got() -> None:
    Digest.of(b"good").check(b"good", "file")
    with pytest.raises(DigestMismatch) as caught:
        Digest.of(b"good").check(b"bad", "file", "a/b")
    message = str(caught.value)
    assert message.startswith("a/b: file is not what was signed")
    assert Digest.of(b"good").hex in message
    assert Digest.of(b"bad").hex in message


@pytest.mark.parametrize(
    "offset, size",
    [(-1, 1), (0, -1), (IMAGE_BYTES_MAX, 1), (0, IMAGE_BYTES_MAX + 1), (2**64 - 1, 2), (5, 2**64)],
)
def test_ranges_out_of_bounds_are_refused(offset: int, size: int) -> None:
    with pytest.raises(FormatError, match="out of bounds"):
        ByteRange(offset, size)


def test_ranges_at_the_limits() -> None:
    assert ByteRange(IMAGE_BYTES_MAX, 0).end == IMAGE_BYTES_MAX
    assert ByteRange(0, IMAGE_BYTES_MAX).end == IMAGE_BYTES_MAX
    assert ByteRange(3, 4).end == 7


@pytest.mark.parametrize(
    "one, other, overlap",
    [
        ((0, 4), (4, 4), False),
        ((0, 5), (4, 4), True),
        ((4, 4), (0, 5), True),
        ((0, 8), (3, 1), True),
        ((3, 1), (0, 8), True),
        ((0, 1), (9, 1), False),
        ((5, 0), (5, 1), False),
    ],
)
def test_overlap_is_symmetric(one: tuple[int, int], other: tuple[int, int], overlap: bool) -> None:
    assert ByteRange(*one).overlaps(ByteRange(*other)) is overlap
    assert ByteRange(*other).overlaps(ByteRange(*one)) is overlap

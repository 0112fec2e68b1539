"""Profiles: how much effort and device memory a payload takes. Sizes that were measured.

Build machine only; encode.py, windows.py and budget.py work by them.
"""

from dataclasses import dataclass, replace

from slipstream.delta.codec import Codec
from slipstream.delta.errors import UsageError
from slipstream.delta.limits import CHUNK_BYTES, KIB, MIB
from slipstream.delta.sparsify import ALL_ZEROS

# What a device's process holds besides frames: interpreter, libraries, TLS (measured 55 MiB).
DEVICE_BASE_BYTES = 56 * MIB
# Decoding a frame holds its content twice, as much encoded, as much in streams, one of these with
# its codec's dictionary once more, and of the source twice as much (windows.py).
_FRAME_FACTOR = 9
_FRAME_BYTES = 1 * MIB  # numbers of a difference, tables of codecs
_WINDOW_BYTES_MIN = CHUNK_BYTES


def frame_bytes(content_size: int) -> int:
    """Most that decoding a frame of a window of so much content holds, before anything is packed."""
    return _FRAME_FACTOR * content_size + _FRAME_BYTES


# The installer's, with the shortest windows: frames of one, beside what the one before it made.
DEVICE_BYTES_MIN = DEVICE_BASE_BYTES + frame_bytes(_WINDOW_BYTES_MIN) + _WINDOW_BYTES_MIN


def _mebibytes(size: int) -> str:
    """`size` bytes, rounded down: what is too little never reads like enough."""
    return f"{100 * size // MIB / 100:g} MiB"


@dataclass(frozen=True, slots=True)
class Profile:
    """How much effort and device memory a payload takes; sizes in bytes.

    device_bytes   that the installer may hold on the device, all in all
    window_bytes   target bytes that are aligned, and at most coded, together
    source_bytes   source bytes that a window is aligned with, at most (windows.py: twice its own)
    absorb_bytes   a shorter equal stretch between changed ones is coded along with them
    codecs         tried on streams of a delta; the first alone on long streams
    long_level     level of that codec on long streams; None: its smallest
    full_level     zstd level of full payloads
    moves_programs whether addresses in programs are moved before frames read them (references.py): for
                   a device ten times the work of copying them
    zeros_min      shorter zero runs stand among the values of a difference (sparsify.py); of these
                   the best is taken
    guesses_zeros  whether the best of these is guessed by zstd's quickest level, not by coding each
    prefix_bytes   most that these may repeat, where little of a window is known; within the memory
    prefix_over    a diff of more than this share of its content, compressed alone, is also tried as
                   compressed bytes that may repeat the sources (prefix.py); None: no such bytes at all
    candidates     places of the source looked at for each seed (seeds.py), at most
    aheads         how far past a match that saves too little two diagonals are compared: the best of
                   these alignments is taken
    """

    name: str
    window_bytes: int
    source_bytes: int
    absorb_bytes: int
    codecs: tuple[Codec, ...]
    long_level: int | None
    full_level: int
    candidates: int
    aheads: tuple[int, ...]
    zeros_min: tuple[int, ...]
    prefix_over: float | None
    prefix_bytes: int
    guesses_zeros: bool = False
    moves_programs: bool = False
    device_bytes: int = 96 * MIB

    def within(self, memory_bytes: int) -> "Profile":
        """The profile with windows for a device that lets the installer have `memory_bytes`.

        UsageError if that is too little for any.
        """
        room = memory_bytes - DEVICE_BASE_BYTES
        window, source = self.window_bytes, self.source_bytes
        # While a frame is decoded, what the one before it made is written.
        while frame_bytes(window) + window > room and window > _WINDOW_BYTES_MIN:
            window, source = window // 2, source // 2
        if frame_bytes(window) + window > room:
            raise UsageError(
                "too little memory for any payload",
                where="--memory",
                expected=f"at least {_mebibytes(DEVICE_BYTES_MIN)}",
                got=_mebibytes(memory_bytes),
            )
        return replace(self, window_bytes=window, source_bytes=source, device_bytes=memory_bytes)


# Zero runs among the values: least of code is made by 2 and 4, of tables in which every few bytes
# differ by 64, of some differences by none left out. Small Debian pair, balanced: (4, 64) 1,696,166
# bytes, (2, 4, 64) 1,682,537 in a twelfth more time, which is why only `small` tries 2; there
# (1, 2, 4, 64) and all 1,639,269, 3 and 8, too, 1,638,890. Guessing which of (4, 64) it is: 1,699,937
# (squashfs zstd 1,730,885, was 1,729,560). A prefix over a half instead of a quarter: 134 bytes more of
# those, none of these. Together that is a fifth to
# a third less time.
# Each frame learns anew. erofs has changed inodes between the contents of files: with 64 KiB the small
# pair has 1,476 frames and 1,782,477 bytes, with 256 KiB 469 and 1,635,892, with 1 MiB 1,634,567; on
# ext4 256 KiB saves 0.1 %.
_ABSORB_BYTES_SMALL = 256 * KIB

# Against -9e, on the small Debian pair: 0.1 % more bytes for a tenth less of the whole time. Aligning
# once instead of twice: 0.4 % more for a sixth less.
_LZMA_LEVEL = 6
_ZSTD_LEVEL = 9  # of long streams in `fast`: level 19 takes longer than LZMA

_DEFAULTS = Profile(
    name="balanced",
    window_bytes=1 * MIB,
    source_bytes=2 * MIB,
    absorb_bytes=64 * KIB,
    codecs=(Codec.LZMA2,),
    long_level=_LZMA_LEVEL,
    full_level=12,
    candidates=16,
    aheads=(0,),
    zeros_min=(4, 64),
    prefix_over=1 / 2,
    prefix_bytes=0,
    guesses_zeros=True,
)
PROFILES = {
    one.name: one
    for one in (
        replace(
            _DEFAULTS,
            name="small",
            absorb_bytes=_ABSORB_BYTES_SMALL,
            codecs=(Codec.LZMA2, Codec.ZSTD, Codec.BZ2),
            long_level=None,
            full_level=19,
            guesses_zeros=False,
            candidates=64,
            aheads=(0, 64),
            zeros_min=(1, 2, 4, 64, ALL_ZEROS),
            prefix_over=1 / 16,
            prefix_bytes=14 * MIB,
            moves_programs=True,
        ),
        _DEFAULTS,
        replace(
            _DEFAULTS,
            name="fast",
            codecs=(Codec.ZSTD,),
            long_level=_ZSTD_LEVEL,
            full_level=6,
            prefix_over=None,
            guesses_zeros=False,
        ),
    )
}

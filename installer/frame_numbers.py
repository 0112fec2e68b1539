"""Which frames of a payload are needed to make some chunks, by their numbers.

Pure. What is fetched of them is frames.py's business, what is made of them pipe.py's.
"""

from collections.abc import Iterator, Sequence

from slipstream.delta.byterange import ByteRange
from slipstream.delta.frame import Frame
from slipstream.delta.limits import CHUNK_BYTES
from slipstream.delta.payload import Index


def frames_of(index: Index, chunks: set[int]) -> list[int]:
    """Numbers of the frames that making these chunks takes, increasing.

    Those that touch one; and of a long stream all that follow, because its encoder gives the bytes
    of a frame when it has seen more (docs/format.md, 6.4).
    """
    flags = bytearray(-(-index.target_size // CHUNK_BYTES))
    for chunk in chunks:
        flags[chunk] = 1
    wanted = bytearray(len(index.frames))
    stream: list[int] = []  # the frames of a long stream, up to here
    for number, frame in enumerate(index.frames):
        first, last = chunk_span(frame.target)
        wanted[number] = flags.find(1, first, last + 1) >= 0
        part = frame.long_part
        if part is not None:
            stream.append(number)
            if part.ends:
                _want_rest(stream, index.frames, wanted)
                stream.clear()
    return [number for number, is_wanted in enumerate(wanted) if is_wanted]


def long_frames(frames: Sequence[Frame], first: int) -> Iterator[int]:
    """Numbers of the frames of the long stream that `first` is part of, from it on."""
    for number in range(first, len(frames)):
        part = frames[number].long_part
        if part is not None:
            yield number
            if part.ends:
                return


def chunk_span(target: ByteRange) -> tuple[int, int]:
    """First and last chunk that a target range touches."""
    return target.offset // CHUNK_BYTES, (target.end - 1) // CHUNK_BYTES


def _want_rest(stream: list[int], frames: Sequence[Frame], wanted: bytearray) -> None:
    """Want all frames of a long stream from one on that its encoder can be brought to."""
    begin = next((place for place, number in enumerate(stream) if wanted[number]), len(stream))
    while begin < len(stream) and frames[stream[begin]].owed:
        begin -= 1
    for number in stream[begin:]:
        wanted[number] = 1

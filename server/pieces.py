"""The pieces of a plan as frames: encoded in the pool, or there already.

Frames come in the order of the pieces, whatever worked on them, and what an interrupted build
left of them (partial.py) is the same as what would be made.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from slipstream.delta.encode import EncodedFrame, encode_full, encode_window
from slipstream.delta.frame import FrameKind, make_frame
from slipstream.delta.profile import Profile
from slipstream.delta.windows import Piece
from slipstream.server.partial import PartialBuild
from slipstream.server.pool import Pool, Result, in_order, workspace
from slipstream.server.workspace import WorkFiles

_Frames = tuple[EncodedFrame, ...]


@dataclass(frozen=True, slots=True)
class PieceEncoder:
    """Encodes the pieces of one build. `reused` are frames from elsewhere, by target offset."""

    files: WorkFiles
    profile: Profile
    reused: Mapping[int, EncodedFrame]
    done: PartialBuild
    pool: Pool

    def frames(self, pieces: Sequence[Piece]) -> Iterator[EncodedFrame]:
        """All frames, in order. Their `encoded` offsets are 0."""
        calls = (partial(self._start, piece) for piece in pieces)
        for frames in in_order(self.pool, calls):
            yield from frames

    def _start(self, piece: Piece, pool: Pool) -> Result[_Frames]:
        if piece.kind in {FrameKind.ZERO, FrameKind.COPY}:
            frame = make_frame(piece.kind, piece.target, sources=piece.sources)
            return partial(_same, (EncodedFrame(frame, b""),))
        reused = self.reused.get(piece.target.offset)
        if reused is not None:
            return partial(_same, (reused,))
        stands = self.done.take(piece.target)
        if stands is not None:
            return partial(_same, stands)
        return partial(self._kept, pool.submit(_encode, self.files, self.profile, piece))

    def _kept(self, result: Result[_Frames]) -> _Frames:
        frames = result()
        self.done.keep(frames)
        return frames


def _same(frames: _Frames) -> _Frames:
    return frames


def _encode(files: WorkFiles, profile: Profile, piece: Piece) -> _Frames:
    """A task: the frames of one piece."""
    space = workspace(files)
    if piece.partition is None:
        target = space.read(files.source_size + piece.target.offset, piece.target.size)
        return (encode_full(target, piece.target.offset, profile),)
    return encode_window(
        space.read_all(piece.content),
        piece.target.offset,
        piece.partition,
        space.read_all(piece.sources),
        piece.sources,
        profile,
        space.read_all(piece.before),
        piece.before,
    )

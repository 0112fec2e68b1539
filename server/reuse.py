"""Frames of an earlier full payload, taken over where the next release has the same bytes."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from slipstream.delta.decode import decode_frame
from slipstream.delta.encode import EncodedFrame, encode_full
from slipstream.delta.frame import FrameKind
from slipstream.delta.profile import Profile
from slipstream.delta.windows import Piece
from slipstream.server.image import ImageFile
from slipstream.server.patch import read_index

_PROBE_EVERY = 32  # of the frames taken over, one in so many is encoded again to compare


def find_reusable(
    earlier: Path, target: ImageFile, pieces: Sequence[Piece], profile: Profile
) -> dict[int, EncodedFrame]:
    """Data frames of an earlier full payload that make the same bytes, by target offset.

    A payload does not say at what level it was compressed: some frames are encoded again, and
    if one differs nothing is taken, so that the result does not depend on what was there before.
    FormatError for what is no payload; OSError.
    """
    taken: dict[int, EncodedFrame] = {}
    with ImageFile(earlier) as payload:
        index = read_index(payload)
        made: dict[tuple[int, bytes], EncodedFrame] = {}
        for frame in index.frames:
            if frame.kind is FrameKind.DATA:
                encoded = payload.read(len(index.raw) + frame.encoded.offset, frame.encoded.size)
                digest = hashlib.sha256(decode_frame(frame, encoded, b"")).digest()
                made[frame.target.size, digest] = EncodedFrame(frame, encoded)
    for piece in pieces:
        if piece.kind is not FrameKind.DATA:
            continue
        data = target.read(piece.target.offset, piece.target.size)
        one = made.get((len(data), hashlib.sha256(data).digest()))
        if one is None:
            continue
        probe = len(taken) % _PROBE_EVERY == 0
        if probe and encode_full(data, 0, profile).encoded != one.encoded:
            return {}
        taken[piece.target.offset] = replace(one, frame=replace(one.frame, target=piece.target))
    return taken

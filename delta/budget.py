"""What a device has memory for while it decodes a delta (build machine).

What the installer may hold is its process, a cache of unpacked blocks and what unpacking one takes,
one frame, the cursors on long streams, and the encoder of a long stream. A payload declares how
much its frames need (frame_table.py, `TableSums`); what is planned by this file stays below. Sizes
are bytes.
"""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from slipstream.delta import stream_table
from slipstream.delta.byterange import ByteRange
from slipstream.delta.frame import FrameKind, frame_memory_bytes, resume_memory_bytes
from slipstream.delta.limits import (
    CHUNK_BYTES,
    EARLY_BYTES_MAX,
    FRAME_TARGET_BYTES_MAX,
    KIB,
    MIB,
    MOVE_BYTES,
    PACK_AHEAD_BYTES_MAX,
    RESUME_BYTES,
    UNPACK_AHEAD_BYTES,
    UNPACK_CACHE_BYTES,
)
from slipstream.delta.moved import MovedBlock
from slipstream.delta.packing.recipe import decoder_memory_bytes, pack_memory_bytes
from slipstream.delta.profile import DEVICE_BASE_BYTES, Profile, frame_bytes
from slipstream.delta.unfold import OpenBlock, Window

# Content of a long stream that a cursor keeps behind it: as far as source and target may disagree
# about the order of what is in them.
CURSOR_WINDOW_BYTES = 4 * MIB
_LONG_WINDOW_BYTES_MIN = 512 * KIB


def unpacking_bytes(block: OpenBlock) -> int:
    """What unpacking a single block holds."""
    packed = sum(place.size for place in block.places)
    return stream_table.unpacking_bytes(packed, block.content.size)


def moving_bytes(block: MovedBlock) -> int:
    """What moving a block holds, as stream_table.py counts it."""
    return stream_table.unpacking_bytes(block.content.size, block.content.size) + MOVE_BYTES


def cursor_bytes(block: OpenBlock, window_bytes: int) -> int:
    """What a cursor on a long block holds that keeps so much content."""
    return block.memory_bytes + window_bytes + UNPACK_AHEAD_BYTES


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """`profile` says how much there is; `block_bytes` what unpacked blocks take of it."""

    profile: Profile
    block_bytes: int = UNPACK_CACHE_BYTES

    @property
    def room_bytes(self) -> int:
        """For frames, cursors and encoders together."""
        return self.profile.device_bytes - DEVICE_BASE_BYTES - self.block_bytes

    @property
    def copy_bytes(self) -> int:
        """Longest copy frame that holds no more than others: it is there twice."""
        fits = frame_bytes(self.profile.window_bytes) // 2 // CHUNK_BYTES * CHUNK_BYTES
        return min(FRAME_TARGET_BYTES_MAX, fits)

    def with_blocks(
        self, blocks: Sequence[OpenBlock], depth: int, moved: Iterable[MovedBlock] = ()
    ) -> "tuple[MemoryBudget, frozenset[int]]":
        """What is left beside single blocks and moved ones, nested `depth` deep, and which of them are too large
        to be unpacked, by content address: those that leave no room for a frame, or for packing
        the others again."""
        needed = frame_bytes(self.profile.window_bytes)
        for block in blocks:
            if block.recipe is not None:
                packing = self._long_bytes(block) if block.is_long else self._packing_bytes(block)
                needed = max(needed, packing)
        most = (self.room_bytes - needed) // depth
        single = [(unpacking_bytes(one), one.content.offset) for one in blocks if not one.is_long]
        single += [(moving_bytes(one), one.content.offset) for one in moved]
        largest = max((size for size, _ in single if size <= most), default=0)
        budget = MemoryBudget(self.profile, self.block_bytes + depth * largest)
        return budget, frozenset(offset for size, offset in single if size > most)

    def packer_bytes(self, block: OpenBlock) -> int:
        """Most that the packer of a block may hold; not above 0 where it has to stay packed."""
        if block.is_long:
            return self.room_bytes - self._long_bytes(block)
        return self.room_bytes - unpacking_bytes(block) - self._packing_bytes(block)

    def _packing_bytes(self, block: OpenBlock) -> int:
        """What packing a single block in a frame of a whole window holds."""
        held = 0 if block.recipe is None else pack_memory_bytes(block.recipe, block.content.size)
        # Content, what is packed of it, which may be packed twice, and the block alone.
        held += 3 * self.profile.window_bytes + block.content.size + PACK_AHEAD_BYTES_MAX
        return held + 2 * sum(place.size for place in block.places)

    def _long_bytes(self, block: OpenBlock) -> int:
        """What a long block needs at least: beside its encoder the shortest frames, and a source that
        is much like it; or what a device that was interrupted unpacks it with, while no source is
        read."""
        decoding = self._beside_frames_bytes(block) + frame_bytes(_LONG_WINDOW_BYTES_MIN)
        if block.recipe is None:
            return decoding
        # Content, what it is packed to, and its encoded bytes.
        resuming = 3 * _LONG_WINDOW_BYTES_MIN + RESUME_BYTES + EARLY_BYTES_MAX
        resuming += decoder_memory_bytes(block.recipe)
        return max(decoding, resuming + pack_memory_bytes(block.recipe, block.content.size))

    def _beside_frames_bytes(self, block: OpenBlock) -> int:
        """What is there beside the frames of a long block: encoder, and a source that is much like it."""
        held = cursor_bytes(block, min(block.content.size, CURSOR_WINDOW_BYTES))
        return held + self._encoder_bytes(block)

    def long_window_bytes(self, block: OpenBlock) -> int:
        """Content of one frame of a long block."""
        spare = self.room_bytes - self._beside_frames_bytes(block)
        window = self.profile.window_bytes
        while frame_bytes(window) > spare and window > _LONG_WINDOW_BYTES_MIN:
            window //= 2
        return window

    def kept_windows(
        self,
        sources: Iterable[OpenBlock],
        targets: Iterable[OpenBlock],
        closed: Container[int] = (),
    ) -> dict[int, int]:
        """How much content of each long block a cursor keeps, by content address; the `closed` are
        not read at all.

        A target stream may be read anywhere, later, if all of it fits beside a frame: an initrd
        holds the modules that stand in the root file system again. Then sources, as far as there is
        room: the order of files in an initrd may change as a whole.
        """
        of_source, of_target = list(sources), list(targets)
        windows = {
            one.content.offset: min(one.content.size, CURSOR_WINDOW_BYTES)
            for one in (*of_source, *of_target)
            if one.is_long
        }
        left = self.room_bytes - frame_bytes(self.profile.window_bytes)
        # A source has to fit beside the encoder of what is made from it, too: any of them.
        packing = max((self._encoder_bytes(one) for one in of_target if one.is_long), default=0)
        beside = left - packing
        for one in (*of_target, *(one for one in of_source if self._whole_bytes(one) <= beside)):
            needed = self._whole_bytes(one)
            if one.is_long and one.content.offset not in closed and needed <= left:
                windows[one.content.offset] = one.content.size
                left -= needed
        return windows

    def _encoder_bytes(self, block: OpenBlock) -> int:
        """What packing a long block holds besides its frames."""
        if block.recipe is None:
            return 0
        return pack_memory_bytes(block.recipe, block.content.size) + EARLY_BYTES_MAX

    def _whole_bytes(self, block: OpenBlock) -> int:
        """What a cursor holds that keeps all of a block."""
        return cursor_bytes(block, block.content.size)

    def cursors_bytes(self, window: Window) -> int:
        """What all cursors may hold while a frame of this window is decoded; below 0 where already
        the frame is too much."""
        partition = window.partition
        parts, outer = partition.frame_parts, partition.frame_outer
        place = ByteRange(0, partition.target_size)
        packing = frame_memory_bytes(FrameKind.DATA, place, (), (), parts, outer)
        decoding = frame_bytes(partition.content_size)
        long = partition.long_part
        if long is None:  # frames that only copy stand between such, and cursors stay
            decoding = max(decoding, frame_bytes(self.profile.window_bytes))
        elif long.recipe is not None:
            decoding += pack_memory_bytes(long.recipe, long.size)
            # Blocks before it in the same file system are about as large as these.
            largest = max((part.size for part in outer if part.recipe is not None), default=0)
            block_bytes = stream_table.unpacking_bytes(largest, largest) if largest else 0
            resuming = resume_memory_bytes(long, parts, partition.content_size, block_bytes)
            if resuming + EARLY_BYTES_MAX > self.room_bytes:  # no cursor is open then
                return -1
            decoding += EARLY_BYTES_MAX
        return self.room_bytes - max(packing, decoding)

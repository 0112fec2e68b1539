"""Make one image stand in a slot: scan, run a payload through the pipe, read back.

What stands is not fetched and not written. A delta that makes wrong chunks (its source drifted,
or the medium under the source fails) loses nothing: those chunks alone come from the full
payload. So do the chunks of frames that the server has not, or has damaged. The pipe itself is
pipe.py.
"""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from slipstream.delta.digest import Digest
from slipstream.delta.errors import DeviceFault, Rejected, WrongDevice
from slipstream.delta.layout import payload_blob
from slipstream.delta.limits import (
    CHUNK_BYTES,
    MEDIA_ATTEMPTS_MAX,
    MIB,
)
from slipstream.delta.payload import Index
from slipstream.delta.tree import ChunkList
from slipstream.installer.blocking import GoOn, in_thread
from slipstream.installer.frame_numbers import frames_of
from slipstream.installer.frames import FrameSource
from slipstream.installer.journal import Checkpoint, Journal
from slipstream.installer.pipe import FramePipe
from slipstream.installer.ports import Fetcher, SlotTarget
from slipstream.installer.progress import Counts
from slipstream.installer.response import Changed, NotFound, Unusable
from slipstream.installer.scan import missing_chunks, padded_size, wrong_chunks
from slipstream.installer.slot import PIECE_BYTES
from slipstream.installer.spool import Spool, keep_spools, spool_folder

# An event is a line of JSON for whoever watches: one for each chunk cost as much as the scan.
PROGRESS_STEP_BYTES = 4 * MIB

Say = Callable[[str], None]
OnProgress = Callable[[str, int, int, int], None]


@dataclass(frozen=True, slots=True)
class Payloads:
    """What can make the image. `delta` with its open source, or None; `full` fetches on demand.

    `full_digest` is that of the full payload's index.
    """

    delta: tuple[Index, SlotTarget] | None
    full: Callable[[], Awaitable[Index]]
    full_digest: Digest

    @property
    def digests(self) -> tuple[Digest, ...]:
        """Of the indexes of all payloads."""
        return (self.full_digest, *([] if self.delta is None else [self.delta[0].digest]))


@dataclass(frozen=True, slots=True)
class _Lost:
    """What a payload failed for: in words, if the server has it damaged or not at all; and the wrong
    chunks whose content was packed again."""

    damage: str = ""
    repacked: set[int] = field(default_factory=set)


@dataclass(slots=True)
class ImageWriter:
    """Makes one image stand in its place. `run` is the whole of it.

    `spool` is a folder of its own, with a spool for each payload: a drifted delta and the full
    payload after it do not discard each other's frames. `say` gets words for people; `on_progress` a
    stage, bytes done, bytes in all, and, while frames are fetched, the bytes of frames that came so far.
    """

    name: str
    transaction: str
    target: SlotTarget
    chunks: ChunkList
    payloads: Payloads
    fetcher: Fetcher
    journal: Journal
    spool: Path
    say: Say
    on_progress: OnProgress
    counts: Counts = field(default_factory=Counts)

    async def run(self) -> None:
        """S4 and S6: scan, write what is missing, read back.

        A cut in here boots the old release; the scan finds what stands. Raises Rejected,
        Unavailable, DeviceFault.
        """
        keep_spools(self.spool, self.payloads.digests)
        missing = await self._missing()
        self.counts.chunks += self.chunks.count
        self.counts.chunks_standing += self.chunks.count - len(missing)
        for _ in range(MEDIA_ATTEMPTS_MAX):
            await self._write(missing)
            missing = await self._wrong()
            if not missing:
                keep_spools(self.spool, ())
                return
            self.say(f"{self.name}: {len(missing)} chunks were not as written when read back")
        raise DeviceFault(
            "the medium does not keep what is written to it",
            where=self.target.name,
            got=f"{len(missing)} wrong chunks after {MEDIA_ATTEMPTS_MAX} attempts,"
            f" the first at byte {missing[0] * CHUNK_BYTES}",
            hint="Replace the storage; the running slot is not touched",
        )

    async def _missing(self) -> list[int]:
        return await in_thread(
            lambda go_on: missing_chunks(self.target, self.chunks, self._progress("scan", go_on))
        )

    async def _wrong(self) -> list[int]:
        return await in_thread(
            lambda go_on: wrong_chunks(self.target, self.chunks, self._progress("read back", go_on))
        )

    def _progress(self, stage: str, go_on: GoOn) -> Callable[[int], None]:
        """For a pass over the image: a word each PROGRESS_STEP_BYTES and at the end."""
        size = self.chunks.tuple.image_size
        said = 0

        def progress(done: int) -> None:
            nonlocal said
            go_on()
            if done - said >= PROGRESS_STEP_BYTES or done == size:
                said = done
                self.on_progress(stage, done, size, 0)

        return progress

    async def _write(self, missing: list[int]) -> None:
        """Write the missing chunks: from the delta, and what it cannot make from the full payload."""
        left = set(missing)
        if left and self.payloads.delta is not None:
            index, source = self.payloads.delta
            lost = await self._stream_delta(index, source, left)
            if left:
                why = lost.damage or await in_thread(partial(_fault_of_source, index, source))
                self._say_lost(index, left, lost.repacked, why)
        if left:
            await self._stream(await self.payloads.full(), None, left)
        await in_thread(lambda _: self._finish_tail())

    async def _stream_delta(self, index: Index, source: SlotTarget, left: set[int]) -> _Lost:
        """Run the delta. What the server has not, or not as it was signed, is no reason to stop."""
        try:
            return await self._stream(index, source, left)
        except (NotFound, Unusable, Changed, Rejected) as error:
            await in_thread(lambda _: self._discard_delta())
            return _Lost(f"the delta cannot be had: {error}")

    def _discard_delta(self) -> None:
        """Frames of a delta that was given up go as soon as what they made is durable: the full
        payload needs the room."""
        self.target.sync()
        keep_spools(self.spool, (self.payloads.full_digest,))

    def _say_lost(self, index: Index, left: set[int], repacked: set[int], fault: str) -> None:
        """Chunks that the delta could not make, and whose fault it is: the server's or the source's,
        if either has any."""
        if fault:
            why = fault
        elif repacked & left:
            # The same version of a library may be another build: nothing tells beforehand.
            why = (
                f"{len(repacked & left)} of them, packed again on the device by"
                f" {', '.join(index.libraries)}, came out differently"
            )
        else:
            why = "though that is what the delta was made from"
        words = (
            f"{self.name}: {len(left)} {'chunk' if len(left) == 1 else 'chunks'} could not be made from the running slot:"
            f" taken from the full payload ({why})"
        )
        self.say(words)
        self.counts.notes.append(words)

    def _finish_tail(self) -> None:
        """Zero the rest of the last block: the kernel checks whole blocks."""
        size = self.chunks.tuple.image_size
        end = padded_size(self.target, size)
        if end > size:
            self.counts.bytes_written += self.target.write(size, bytes(end - size))

    async def _stream(self, index: Index, source: SlotTarget | None, left: set[int]) -> _Lost:
        """Run a payload; take every chunk that it wrote out of `left`.

        With a source, frames and chunks that come out wrong are left over; without one they
        are Rejected.
        """
        wanted = frames_of(index, left)
        spool = Spool(spool_folder(self.spool, index.digest), index.digest)
        frames = FrameSource(
            self.fetcher,
            payload_blob(index.digest),
            index,
            wanted,
            spool,
            may_lose=source is not None,
        )
        before = self.counts.bytes_fetched

        def progress(done: int) -> None:
            fetched = before + frames.bytes_fetched + frames.bytes_read_over
            self.on_progress("write", done, self.chunks.tuple.image_size, fetched)

        pipe = FramePipe(
            index=index,
            source=source,
            target=self.target,
            chunks=self.chunks,
            left=left,
            on_checkpoint=self._checkpoint,
            on_progress=progress,
        )
        try:
            async with frames:
                await pipe.run(frames)
        except BaseException:
            spool.close()  # what is in it stays for the next attempt
            raise
        finally:
            self.counts.bytes_written += pipe.bytes_written
            self.counts.bytes_fetched += frames.bytes_fetched + frames.bytes_read_over
            self.counts.bytes_refetched += frames.bytes_refetched
            self.counts.bytes_reused += frames.bytes_reused
        spool.discard()
        damage = ""
        if frames.lost:
            first = frames.lost[min(frames.lost)]
            many = len(frames.lost) > 1
            lost = (
                f"{len(frames.lost)} frames of the delta are" if many else "a frame of the delta is"
            )
            damage = f"{lost} damaged on the server: {first}"
        return _Lost(damage, pipe.repacked)

    def _checkpoint(self, frame: int, done_bytes: int) -> None:
        self.journal.checkpoint(Checkpoint(self.transaction, self.name, frame, done_bytes))


def _fault_of_source(index: Index, source: SlotTarget, go_on: GoOn) -> str:
    """Why a delta cannot be made from this source, in words; "" if it is the right one.

    Reads all of it, which takes seconds: only once something is known to be wrong.
    """
    hasher = hashlib.sha256()
    try:
        for offset in range(0, index.source_size, PIECE_BYTES):
            go_on()
            hasher.update(source.read(offset, min(PIECE_BYTES, index.source_size - offset)))
    except (DeviceFault, WrongDevice) as error:
        return f"the running slot cannot be read: {error}"
    if Digest(hasher.digest()) != index.source_digest:
        return "the running slot is not as it was installed: its bytes have changed"
    return ""

"""Opens what is packed in an image: contents go to the scratch file, at addresses of the payload.

Unpacking runs in the pool; contents come back in the order of the image, because their place in
the scratch file is their address. What does not unpack stays closed: its packed bytes are coded as
they are. Not here: packing again (server/prove.py).
"""

import tempfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import IO, NamedTuple

from slipstream.delta.byterange import ByteRange
from slipstream.delta.carve import Carved
from slipstream.delta.errors import FormatError, PackingUnavailable
from slipstream.delta.filemap import Block, Packing
from slipstream.delta.limits import (
    BLOCK_CONTENT_BYTES_MAX,
    KIB,
    LONG_STREAM_BYTES_FREE,
    LONG_STREAM_RATIO_MAX,
    MIB,
    STREAM_SOURCES_MAX,
    UNPACK_MEMORY_BYTES_MAX,
)
from slipstream.delta.packing.headers import gzip_header_size, unpack_memory_bytes
from slipstream.delta.packing.libraries import lz4s
from slipstream.delta.packing.lz4_legacy import legacy_cuts
from slipstream.delta.packing.unpack import UnpackCursor, unpack
from slipstream.delta.partition import Cut
from slipstream.delta.stream_table import STREAMED
from slipstream.delta.unfold import OpenBlock
from slipstream.server.pool import Pool, Result, in_order, workspace
from slipstream.server.progress import Progress, told
from slipstream.server.workspace import WorkFiles

_BATCH_BYTES = 2 * MIB  # packed bytes that one task unpacks
_BATCH_BLOCKS = 256
_HEAD_BYTES = 64 * KIB  # more than any header of a stream
_FEED_BYTES = 64  # marks are as fine as this: half a MiB of zeros in xz at the most
_MARK_BYTES = 16 * KIB  # content between two marks
_CONTENT_BYTES_MIN = 64  # below it a hit of a magic number inside a file is chance


class Candidate(NamedTuple):
    """What may be opened: packed bytes begin with the first of `places` (of the work space).

    `size` is the content's, None where only unpacking tells; `exact` says that the packed bytes
    fill `places`, otherwise they may end before. `name` is that of a stream in a file.
    """

    packing: Packing
    places: tuple[ByteRange, ...]
    size: int | None
    exact: bool
    name: str = ""


def candidates(blocks: Iterable[Block], carved: Iterable[Carved], base: int) -> list[Candidate]:
    """Blocks of a file system at `base`, and what was carved out of the work space, rising."""
    found = [
        Candidate(
            block.packing,
            (ByteRange(block.place.offset + base, block.place.size),),
            block.size,
            exact=True,
        )
        for block in blocks
    ]
    found += [
        Candidate(one.packing, one.places, None, exact=False, name=one.name) for one in carved
    ]
    return sorted(found, key=lambda one: one.places[0])


class Opener:
    """Opens candidates of source and target one after the other; contents follow one another."""

    def __init__(
        self, files: WorkFiles, scratch: IO[bytes], pool: Pool, on_progress: Progress
    ) -> None:
        """`scratch` is the open scratch file of `files`, empty."""
        self._files = files
        self._scratch = scratch
        self._pool = pool
        self._on_progress = on_progress
        self._end = files.base  # address behind the last content

    @property
    def end(self) -> int:
        """Address behind the last content."""
        return self._end

    def keep(self, content: bytes) -> ByteRange:
        """Add content that is nothing unpacked, not empty: its addresses. OSError."""
        self._scratch.write(content)
        place = ByteRange(self._end, len(content))
        self._end = place.end
        return place

    def flush(self) -> None:
        """Let others read what was kept. OSError."""
        self._scratch.flush()

    def open(self, wanted: Sequence[Candidate], what: str) -> list[OpenBlock]:
        """The blocks that could be unpacked, in the order given; places as given, cut to what is
        packed there. `what` names the work where progress is told. OSError."""
        opened: list[OpenBlock] = []
        covered: tuple[ByteRange, ...] = ()
        batches = list(_batches(wanted))
        results = in_order(self._pool, (self._start(batch) for batch in batches))
        sizes = [sum(map(_packed_size, batch)) for batch in batches]
        results = told(results, sizes, what, sum(sizes), self._on_progress)
        for batch, contents in zip(batches, results, strict=True):
            for candidate, unpacked in zip(batch, contents, strict=True):
                begin = ByteRange(candidate.places[0].offset, 1)
                if unpacked is None or any(begin.overlaps(place) for place in covered):
                    continue  # the latter: a magic number inside a stream
                block = self._keep(candidate, unpacked)
                if block is not None:
                    opened.append(block)
                    covered = block.places
        self._scratch.flush()
        return opened

    def _start(self, batch: list[Candidate]) -> "partial[Result[list[_Unpacked | None]]]":
        return partial(_submit_batch, self._files, batch)

    def _keep(self, candidate: Candidate, unpacked: "_Unpacked") -> OpenBlock | None:
        if unpacked.is_long:
            return self._keep_long(candidate)
        places = _cut(candidate.places, unpacked.packed_size)
        if len(places) > STREAM_SOURCES_MAX:
            return None
        self._scratch.write(unpacked.content)
        return self._block(candidate, places, len(unpacked.content), unpacked.header)

    def _keep_long(self, candidate: Candidate) -> OpenBlock | None:
        """Unpack a long stream straight into the scratch file."""
        with tempfile.TemporaryFile(dir=Path(self._scratch.name).parent) as content:
            try:
                stream = _unpack_long(self._files, candidate, content)
            except FormatError:
                return None
            places = _cut(candidate.places, stream.packed_size)
            if len(places) > STREAM_SOURCES_MAX:
                return None
            content.seek(0)
            while piece := content.read(MIB):
                self._scratch.write(piece)
        block = self._block(candidate, places, stream.size, stream.header)
        return replace(block, memory_bytes=stream.memory_bytes, marks=stream.marks)

    def _block(
        self, candidate: Candidate, places: tuple[ByteRange, ...], size: int, header: int
    ) -> OpenBlock:
        content = ByteRange(self._end, size)
        self._end = content.end
        return OpenBlock(
            places, content, candidate.packing, header_bytes=header, name=candidate.name
        )


def _batches(wanted: Sequence[Candidate]) -> Iterator[list[Candidate]]:
    batch: list[Candidate] = []
    size = 0
    for one in wanted:
        batch.append(one)
        size += _packed_size(one)
        if size >= _BATCH_BYTES or len(batch) == _BATCH_BLOCKS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _packed_size(one: Candidate) -> int:
    return sum(place.size for place in one.places)


def _cut(places: Iterable[ByteRange], size: int) -> tuple[ByteRange, ...]:
    """The first `size` bytes of places."""
    first: list[ByteRange] = []
    for place in places:
        part = min(place.size, size)
        if part:
            first.append(ByteRange(place.offset, part))
        size -= part
    return tuple(first)


class _Unpacked(NamedTuple):
    """Content of a candidate; `packed_size` is how much of it the packed stream is.

    A long stream is only said to be one.
    """

    content: bytes
    packed_size: int
    header: int
    is_long: bool


def _submit_batch(
    files: WorkFiles, batch: list[Candidate], pool: Pool
) -> "Result[list[_Unpacked | None]]":
    return pool.submit(_unpack_batch, files, batch)


def _unpack_batch(files: WorkFiles, batch: list[Candidate]) -> "list[_Unpacked | None]":
    """A task: contents of candidates, None for what does not unpack."""
    unpacked: list[_Unpacked | None] = []
    for one in batch:
        try:
            unpacked.append(_unpack_exact(files, one) if one.exact else _unpack_open(files, one))
        except (FormatError, PackingUnavailable):
            unpacked.append(None)
    return unpacked


def _unpack_exact(files: WorkFiles, one: Candidate) -> _Unpacked:
    packed = workspace(files).read_all(one.places)
    size = BLOCK_CONTENT_BYTES_MAX if one.size is None else one.size
    if size > BLOCK_CONTENT_BYTES_MAX:
        raise FormatError("block too large to be unpacked at once", got=size)
    content = unpack(one.packing, packed, size)
    if not content or (one.size is not None and len(content) != one.size):
        raise FormatError("block of another size", expected=one.size, got=len(content))
    return _Unpacked(content, len(packed), 0, is_long=False)


def _unpack_open(files: WorkFiles, one: Candidate) -> _Unpacked:
    """A stream that ends somewhere within its places."""
    head = _head(files, one)
    cursor = UnpackCursor(one.packing, UNPACK_MEMORY_BYTES_MAX)
    content = bytearray()
    for packed in _packed_pieces(files, one.places, _HEAD_BYTES):
        content += cursor.feed(packed, BLOCK_CONTENT_BYTES_MAX + 1)
        while not cursor.eof and len(content) <= BLOCK_CONTENT_BYTES_MAX:
            more = cursor.feed(b"", BLOCK_CONTENT_BYTES_MAX + 1)
            if not more:
                break
            content += more
        if len(content) > BLOCK_CONTENT_BYTES_MAX:
            return _Unpacked(b"", 0, 0, is_long=True)
        if cursor.eof:
            break
    if not cursor.eof or len(content) < _CONTENT_BYTES_MIN:
        raise FormatError("no stream, or one of hardly any content", got=len(content))
    return _Unpacked(bytes(content), cursor.consumed, _header_size(one, head), is_long=False)


class _Long(NamedTuple):
    size: int
    packed_size: int
    header: int
    memory_bytes: int
    marks: tuple[Cut, ...]


def _unpack_long(files: WorkFiles, one: Candidate, content: IO[bytes]) -> _Long:
    """Unpack into `content`, noting how much of it each first part of the packed bytes gives."""
    if one.packing not in STREAMED:
        raise FormatError("packing that only unpacks at once", got=one.packing)
    head = _head(files, one)
    header = _header_size(one, head)
    memory = unpack_memory_bytes(one.packing, head)
    cursor = UnpackCursor(one.packing, memory)
    made = fed = 0
    marks: list[Cut] = []
    for packed in _packed_pieces(files, one.places, MIB):
        for first in range(0, len(packed), _FEED_BYTES):
            piece = packed[first : first + _FEED_BYTES]
            fed += len(piece)
            while some := cursor.feed(piece, MIB):
                content.write(some)
                made += len(some)
                piece = b""
                if made > max(LONG_STREAM_BYTES_FREE, LONG_STREAM_RATIO_MAX * fed):
                    raise FormatError("stream that unpacks to impossibly much", got=made)
            if cursor.eof:
                if one.packing is Packing.LZ4_LEGACY:
                    marks = _legacy_marks(files, one, cursor.consumed)
                inside = tuple(mark for mark in marks if mark.packed < cursor.consumed - header)
                return _Long(made, cursor.consumed, header, memory, inside)
            # Where places meet, too: a stream in the blocks of a file system can be cut only there.
            due = made - (marks[-1].content if marks else 0) >= _MARK_BYTES
            if (due or first + _FEED_BYTES >= len(packed)) and fed > header:
                marks.append(Cut(made, fed - header))
    raise FormatError("packed stream without an end", got=f"{made} bytes of content")


def _legacy_marks(files: WorkFiles, one: Candidate, packed_size: int) -> list[Cut]:
    """Those of a stream whose blocks are far longer than frames are."""
    places = _cut(one.places, packed_size)
    ends = list(accumulate(place.size for place in places))

    def read(offset: int, size: int) -> bytes:
        first = bisect_right(ends, offset)
        left = ends[first] - offset
        rest = (ByteRange(places[first].end - left, left), *places[first + 1 :])
        return workspace(files).read_all(_cut(rest, size))

    library = next(iter(lz4s().values()))
    return [Cut(*cut) for cut in legacy_cuts(library, read, packed_size, ends)]


def _head(files: WorkFiles, one: Candidate) -> bytes:
    return workspace(files).read(one.places[0].offset, min(_HEAD_BYTES, one.places[0].size))


def _header_size(one: Candidate, head: bytes) -> int:
    """Bytes that no recipe makes: those of a gzip header."""
    return gzip_header_size(head) if one.packing is Packing.GZIP else 0


def _packed_pieces(
    files: WorkFiles, places: Iterable[ByteRange], piece_bytes: int
) -> Iterator[bytes]:
    space = workspace(files)
    for place in places:
        for offset in range(place.offset, place.end, piece_bytes):
            yield space.read(offset, min(piece_bytes, place.end - offset))

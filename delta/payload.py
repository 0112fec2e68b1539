"""A payload: an index, then the body that its frames' encoded bytes stand in.

The index says everything (lengths, sources, the digest of every frame, what must be packed again
and how) and is what gets signed; the body is believed frame by frame. A full payload is the same
without a source. Every field is checked here, before anything is allocated for it: who holds an
`Index` need not check again.

Not here: decoding (decode.py), rows (frame_table.py, stream_table.py). Byte by byte:
docs/format.md, 3 and 4.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from construct import (
    Bytes,
    Const,
    ConstructError,
    Int16ul,
    Int32ul,
    Int64ul,
    Struct,
    Terminated,
)

from slipstream.delta.codec import Codec, compress, decompress
from slipstream.delta.digest import DIGEST_BYTES, Digest
from slipstream.delta.errors import FormatError
from slipstream.delta.frame import Frame, FrameKind, Stream, frame_memory_bytes, make_frame
from slipstream.delta.frame_table import FrameTable, read_table, write_table
from slipstream.delta.limits import (
    FRAME_TABLE_BYTES_MAX,
    FRAMES_MAX,
    IMAGE_BYTES_MAX,
    INDEX_BYTES_MAX,
    RECIPES_MAX,
)
from slipstream.delta.moves import Shifts, read_payload_shifts, write_payload_shifts
from slipstream.delta.packing.recipe import Recipe, dump_recipe, parse_recipe
from slipstream.delta.stream_table import (
    PackedStream,
    StreamTable,
    read_streams,
    write_streams,
)

__all__ = [
    "INDEX_PREFIX_BYTES",
    "MAGIC",
    "VERSION",
    "Codec",
    "Frame",
    "FrameKind",
    "FrameTable",
    "Index",
    "Stream",
    "dump_index",
    "frame_memory_bytes",
    "make_frame",
    "parse_index",
    "parse_index_size",
]

# As PNG's: a first byte above 127 and both line ends show a transfer that was not binary.
MAGIC = b"\x89SLP\r\n\x1a\n"
VERSION = 2
INDEX_PREFIX_BYTES = 16

_FULL, _DELTA = 0, 1
_NO_DIGEST = bytes(DIGEST_BYTES)
_PREFIX = struct.Struct("<8sHHI")
_HEADER = Struct(
    "magic" / Const(MAGIC),
    "version" / Const(VERSION, Int16ul),
    "kind" / Int16ul,
    "index_size" / Int32ul,
    "frame_count" / Int32ul,
    "stream_count" / Int32ul,
    "recipe_count" / Int32ul,
    "table_size" / Int32ul,
    "table_encoded_size" / Int32ul,
    "shifts_count" / Int32ul,
    "source_size" / Int64ul,
    "target_size" / Int64ul,
    "body_size" / Int64ul,
    "source_digest" / Bytes(DIGEST_BYTES),
    "target_digest" / Bytes(DIGEST_BYTES),
    Terminated,
)
HEADER_BYTES = 128


@dataclass(frozen=True, slots=True)
class Index:
    """What a payload is, checked. Made by `parse_index`; sizes in bytes.

    `source_digest` is the SHA-256 of the whole source, None for a full payload. `frames` cover
    the target exactly once, in order; `streams` are what else they read from (space.py), `last_reads`
    the last frame that reads each long one. `recipes` are how content is packed again: a device needs the library of each.
    `memory_bytes` is the most that decoding holds. `digest` is the SHA-256 of `raw`, the index as
    it stands: a payload's identity.
    """

    source_size: int
    source_digest: Digest | None
    target_size: int
    target_digest: Digest
    frames: Sequence[Frame] = field(compare=False, repr=False)
    streams: StreamTable = field(compare=False, repr=False)
    last_reads: dict[int, int] = field(compare=False, repr=False)
    recipes: tuple[Recipe, ...]
    memory_bytes: int
    body_size: int
    digest: Digest
    raw: bytes = field(repr=False)

    @property
    def payload_size(self) -> int:
        """Bytes of the whole payload: index and body."""
        return len(self.raw) + self.body_size

    @property
    def libraries(self) -> tuple[str, ...]:
        """Exact libraries, by name and version, that a device must have; sorted."""
        return tuple(sorted({recipe.library for recipe in self.recipes}))


def parse_index_size(prefix: bytes) -> int:
    """Length of the whole index in bytes, from its first INDEX_PREFIX_BYTES; FormatError."""
    if len(prefix) < INDEX_PREFIX_BYTES:
        raise FormatError(
            "payload cut short", expected=f"{INDEX_PREFIX_BYTES} bytes", got=len(prefix)
        )
    magic, version, _, size = _PREFIX.unpack_from(prefix)
    if magic != MAGIC:
        raise FormatError("not a payload", expected=f"magic {MAGIC.hex()}", got=magic.hex())
    if version != VERSION:
        raise FormatError(
            "payload of another version",
            expected=VERSION,
            got=version,
            hint="It was built for a newer or older Slipstream.",
        )
    if not HEADER_BYTES <= size <= INDEX_BYTES_MAX:
        raise FormatError(
            "index of impossible length", expected=f"{HEADER_BYTES}..{INDEX_BYTES_MAX}", got=size
        )
    return int(size)


def parse_index(raw: bytes) -> Index:
    """The index in exactly `raw`, every field checked; FormatError and no other error.

    Memory: `raw`, the decoded table (at most FRAME_TABLE_BYTES_MAX) and a mark for each 1024 bytes of it.
    """
    size = parse_index_size(raw[:INDEX_PREFIX_BYTES])
    if size != len(raw):
        raise FormatError("index of another length than it says", expected=size, got=len(raw))
    header = _parse_header(raw[:HEADER_BYTES])
    source_digest = _parse_source_digest(header)
    for name in ("source_size", "target_size", "body_size"):
        if header[name] > IMAGE_BYTES_MAX:
            raise FormatError(
                f"{name} too large", expected=f"at most {IMAGE_BYTES_MAX}", got=header[name]
            )
    table_end = HEADER_BYTES + header.table_encoded_size
    if table_end > size:
        raise FormatError(
            "frame table past the end of the index", expected=f"at most {size}", got=table_end
        )
    if header.frame_count > FRAMES_MAX or header.table_size > FRAME_TABLE_BYTES_MAX:
        raise FormatError(
            "frame table too large",
            expected=f"at most {FRAMES_MAX} frames, {FRAME_TABLE_BYTES_MAX} bytes",
            got=f"{header.frame_count} frames, {header.table_size} bytes",
        )
    if header.recipe_count > RECIPES_MAX:
        raise FormatError(
            "too many recipes", expected=f"at most {RECIPES_MAX}", got=header.recipe_count
        )
    rows = decompress(Codec.ZSTD, raw[HEADER_BYTES:table_end], header.table_size)
    recipes, position = _parse_recipes(rows, header.recipe_count)
    shifts, position = _parse_shifts(rows, position, header.shifts_count)
    streams, position = read_streams(
        rows,
        position,
        header.stream_count,
        header.source_size + header.target_size,
        shifts,
    )
    table, sums = read_table(
        rows,
        raw[table_end:],
        header.frame_count,
        streams,
        recipes=recipes,
        position=position,
    )
    if (sums.target_size, sums.body_size) != (header.target_size, header.body_size):
        raise FormatError(
            "frames do not cover target and body",
            expected=f"target {header.target_size}, body {header.body_size} bytes",
            got=f"{sums.target_size} and {sums.body_size}",
        )
    return Index(
        source_size=header.source_size,
        source_digest=source_digest,
        target_size=header.target_size,
        target_digest=Digest(header.target_digest),
        frames=table,
        streams=streams,
        last_reads=sums.last_reads,
        recipes=recipes,
        memory_bytes=sums.memory_bytes,
        body_size=header.body_size,
        digest=Digest.of(raw),
        raw=raw,
    )


def dump_index(
    source_size: int,
    source_digest: Digest | None,
    target_size: int,
    target_digest: Digest,
    frames: Iterable[Frame],
    streams: Iterable[PackedStream] = (),
    shifts: Sequence[Shifts] = (),
) -> bytes:
    """The raw index of frames in target order; FormatError for what `parse_index` would refuse.

    `source_digest` None makes a full payload: `source_size` is then 0. `shifts` are those that moved
    streams name.
    """
    held = tuple(frames)
    recipes = _recipes_of(held)
    packed = tuple(streams)
    rows = bytearray(b"".join(dump_recipe(recipe) for recipe in recipes))
    for one in shifts:
        write_payload_shifts(rows, one)
    write_streams(rows, packed)
    frame_rows, digests = write_table(held, recipes)
    rows += frame_rows
    table = compress(Codec.ZSTD, bytes(rows))
    for name, number in (("source_size", source_size), ("target_size", target_size)):
        if not 0 <= number <= IMAGE_BYTES_MAX:
            raise FormatError(f"{name} out of bounds", expected=f"0..{IMAGE_BYTES_MAX}", got=number)
    header: bytes = _HEADER.build(
        {
            "kind": _FULL if source_digest is None else _DELTA,
            "index_size": HEADER_BYTES + len(table) + len(digests),
            "frame_count": len(held),
            "stream_count": len(packed),
            "recipe_count": len(recipes),
            "shifts_count": len(shifts),
            "table_size": len(rows),
            "table_encoded_size": len(table),
            "source_size": source_size,
            "target_size": target_size,
            "body_size": held[-1].encoded.end if held else 0,
            "source_digest": _NO_DIGEST if source_digest is None else source_digest.raw,
            "target_digest": target_digest.raw,
        }
    )
    raw = header + table + digests
    parse_index(raw)  # one set of rules: what is refused when read is not written
    return raw


def _recipes_of(frames: Sequence[Frame]) -> tuple[Recipe, ...]:
    """All recipes of frames, in the order of their first use."""
    used = (part.recipe for frame in frames for part in (*frame.parts, *frame.outer))
    return tuple(dict.fromkeys(recipe for recipe in used if recipe is not None))


def _parse_recipes(rows: bytes, count: int) -> tuple[tuple[Recipe, ...], int]:
    recipes = []
    position = 0
    for _ in range(count):
        recipe, position = parse_recipe(rows, position)
        recipes.append(recipe)
    if len(set(recipes)) != count:
        raise FormatError("recipe that stands twice")
    return tuple(recipes), position


@dataclass(slots=True)
class _Place:
    position: int
    source: int = 0


def _parse_shifts(rows: bytes, position: int, count: int) -> tuple[tuple[Shifts, ...], int]:
    place = _Place(position)
    return read_payload_shifts(rows, place, count), place.position


def _parse_header(raw: bytes) -> Any:
    try:
        return _HEADER.parse(raw)
    except ConstructError as error:
        raise FormatError(f"broken header ({' '.join(str(error).split())})") from error


def _parse_source_digest(header: Any) -> Digest | None:
    if header.kind == _DELTA:
        return Digest(header.source_digest)
    if header.kind != _FULL:
        raise FormatError("unknown payload kind", expected=f"{_FULL} or {_DELTA}", got=header.kind)
    if header.source_size or header.source_digest != _NO_DIGEST:
        raise FormatError("full payload that names a source")
    return None

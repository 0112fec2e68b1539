"""A payload explained: a row for each file, with its kind and why it costs what it does, in words.

Pure: tallies (explain.py) and the maps of both images in, rows out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from slipstream.delta.filemap import Entry, EntryKind, Packing
from slipstream.delta.pairing import pair_entries
from slipstream.delta.payload import Index
from slipstream.server.explain import Tally
from slipstream.server.ownership import UNOWNED

# A payload does not say which: the report of its build does (lacking.py).
_CLOSED = " (no recipe packs it again, or only with more --memory)"
_MUCH = 0.2  # of what is said about: less is no reason


class Kind(Enum):
    """What payload bytes are for."""

    CHANGED = "changed"  # a file that the source has too, under the same or a like path
    NEW = "new"  # a file that it has not
    FILE = "file"  # a file, where the source is not known
    METADATA = "metadata"  # tables of the file system: inodes, directories, bitmaps
    TABLES = "tables"  # the payload's own: frames, streams, digests
    UNATTRIBUTED = "unattributed"  # in no file and no table: padding, or no file system at all


@dataclass(frozen=True, slots=True)
class Row:
    """One file or table, and what it costs.

    `path` is printable; `before` the path of the source file that it was paired with, where that
    is another one. `size` is the file's own, 0 for what has none. Of its content, unpacked where it
    was opened, `differing_bytes` differ from the source and `fresh_bytes` stand in no source. `why`
    says in words what makes it cost so much.
    """

    kind: Kind
    path: str
    size: int
    encoded_bytes: int
    differing_bytes: int
    fresh_bytes: int
    why: str
    before: str | None = None


def rows_of(
    index: Index,
    tallies: Mapping[int, Tally],
    entries: Sequence[Entry],
    sources: Sequence[Entry] | None,
    heads: Mapping[int, Packing],
) -> list[Row]:
    """A row for each owner that costs something, largest first; they add up to the payload.

    `sources` are the entries of the source's map; None: not known. `heads` are the entries whose
    first bytes say that the whole file is packed.
    """
    costly = [owner for owner in tallies if owner != UNOWNED and tallies[owner].encoded]
    pairs = pair_entries(sources or (), [entries[owner] for owner in costly])
    rows = [_index_row(index)]
    for owner, pair in zip(costly, pairs, strict=True):
        before = None if sources is None or pair is None else sources[pair]
        kind = _kind(entries[owner], before, known=sources is not None)
        rows.append(_row(kind, entries[owner], before, tallies[owner], heads.get(owner)))
    rest = tallies.get(UNOWNED, Tally())
    if rest.encoded:
        why = "; ".join(_words(rest))
        rows.append(
            Row(
                Kind.UNATTRIBUTED,
                "(in no file)",
                0,
                rest.encoded,
                rest.differing,
                rest.fresh,
                why,
            )
        )
    return sorted(rows, key=lambda row: (-row.encoded_bytes, row.path))


def totals(rows: Sequence[Row]) -> dict[Kind, int]:
    """Payload bytes of each kind that there is."""
    sums = {kind: sum(row.encoded_bytes for row in rows if row.kind is kind) for kind in Kind}
    return {kind: size for kind, size in sums.items() if size}


def printable(path: str) -> str:
    """A path for people: it may hold any bytes but zero, those that move a cursor too."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in path)


def _index_row(index: Index) -> Row:
    why = f"what each of {len(index.frames)} frames is made of, and its digest"
    return Row(Kind.TABLES, "(payload index)", 0, len(index.raw), 0, 0, why)


def _kind(entry: Entry, before: Entry | None, *, known: bool) -> Kind:
    if entry.kind is EntryKind.TABLE:
        return Kind.METADATA
    if not known:
        return Kind.FILE
    return Kind.NEW if before is None else Kind.CHANGED


def _row(kind: Kind, entry: Entry, before: Entry | None, tally: Tally, head: Packing | None) -> Row:
    words = _words(tally)
    if head is not None and tally.opened < tally.coded * _MUCH:
        words.insert(0, f"its {head.value} content was not opened{_CLOSED}")
    if kind is Kind.NEW:
        words.insert(0, "no file of this name in the source")
    renamed = before is not None and before.path != entry.path
    return Row(
        kind,
        printable(entry.path),
        entry.size,
        tally.encoded,
        tally.differing,
        tally.fresh,
        "; ".join(words),
        printable(before.path) if before is not None and renamed else None,
    )


def _words(tally: Tally) -> list[str]:
    """What became of the content of an owner that is in coded frames."""
    words = []
    for packing, closed in tally.closed.most_common(1):
        if closed >= tally.coded * _MUCH:
            words.append(f"it stands in {packing.value} blocks that were not opened{_CLOSED}")
    if tally.alone and tally.alone >= tally.changed * _MUCH:
        words.append("no similar source found")
    if tally.behind >= tally.coded * _MUCH:
        words.append(
            "much of it is in no stretch of the source, and is compressed behind it:"
            f" {_percent(tally.behind, tally.coded)}"
        )
    elif tally.fresh - tally.alone >= tally.coded * _MUCH:
        words.append(
            f"much of it stands nowhere in the source: {_percent(tally.fresh, tally.coded)}"
        )
    elif tally.changed > tally.alone:
        much = "much of it" if tally.changed >= tally.coded * _MUCH else "it"
        share = _percent(tally.changed, tally.coded)
        words.append(f"{much} changed: {share}, in {_places(tally.places)}")
    return words


def _places(count: int) -> str:
    return "1 place" if count == 1 else f"{count} places"


def _percent(part: int, whole: int) -> str:
    percent = 100 * part / whole
    return f"{percent:.0f} %" if percent >= 1 else "under 1 %"

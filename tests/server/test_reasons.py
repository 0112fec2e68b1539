"""reasons.py: what is said of a file follows from what it costs."""

from collections import Counter

import pytest

from slipstream.delta.filemap import Entry, EntryKind, Packing
from slipstream.server.explain import Tally
from slipstream.server.ownership import UNOWNED
from slipstream.server.reasons import Kind, Row, printable, rows_of, totals
from tests.delta.payloads import Maker

FILE, TABLE = EntryKind.FILE, EntryKind.TABLE
ENTRIES = [
    Entry(FILE, "lib/modules/6.1.20/a.ko", 5000, ()),
    Entry(FILE, "etc/new", 700, ()),
    Entry(TABLE, "inode table", 900, ()),
]
SOURCES = [Entry(FILE, "lib/modules/6.1.19/a.ko", 4800, ())]


def rows(
    tallies: dict[int, Tally],
    sources: list[Entry] | None = SOURCES,
    heads: dict[int, Packing] | None = None,
) -> dict[str, Row]:
    maker = Maker(b"source")
    maker.data(b"target")
    found = rows_of(maker.finish().index, tallies, ENTRIES, sources, heads or {})
    assert found == sorted(found, key=lambda row: -row.encoded_bytes)
    return {row.path: row for row in found}


def tally(encoded: int = 100, coded: int = 1000, **rest: int) -> Tally:
    return Tally(encoded=encoded, coded=coded, **rest)


def test_kinds_follow_from_the_source() -> None:
    tallies = {0: tally(), 1: tally(), 2: tally(), UNOWNED: tally()}
    known, unknown = rows(tallies), rows(tallies, None)

    assert {path: row.kind for path, row in known.items()} == {
        "lib/modules/6.1.20/a.ko": Kind.CHANGED,
        "etc/new": Kind.NEW,
        "inode table": Kind.METADATA,
        "(payload index)": Kind.TABLES,
        "(in no file)": Kind.UNATTRIBUTED,
    }
    assert known["lib/modules/6.1.20/a.ko"].before == "lib/modules/6.1.19/a.ko"
    assert {unknown[path].kind for path in ("lib/modules/6.1.20/a.ko", "etc/new")} == {Kind.FILE}
    assert unknown["lib/modules/6.1.20/a.ko"].before is None


def test_what_costs_nothing_has_no_row() -> None:
    assert set(rows({0: tally(encoded=0), UNOWNED: tally(encoded=0)})) == {"(payload index)"}


def test_totals_add_up() -> None:
    found = rows({0: tally(30), 1: tally(20), 2: tally(7)})

    sums = totals(list(found.values()))
    assert sums[Kind.CHANGED] == 30
    assert sums[Kind.NEW] == 20
    assert sums[Kind.METADATA] == 7
    assert sum(sums.values()) == 57 + found["(payload index)"].encoded_bytes


@pytest.mark.parametrize(
    "given, said",
    [
        (tally(differing=20, places=5), "it changed: 2 %, in 5 places"),
        (tally(differing=1, places=1), "it changed: under 1 %, in 1 place"),
        (tally(differing=300, fresh=40, places=9), "much of it changed: 34 %, in 9 places"),
        (tally(fresh=630, places=1), "much of it stands nowhere in the source: 63 %"),
        (tally(fresh=900, alone=900), "no similar source found"),
        (
            tally(fresh=310, alone=300, differing=10, places=3),
            "no similar source found; much of it changed: 32 %, in 3 places",
        ),
        (tally(), ""),
    ],
)
def test_why(given: Tally, said: str) -> None:
    assert rows({0: given})["lib/modules/6.1.20/a.ko"].why == said


def test_new_files_say_so() -> None:
    given = tally(fresh=900, alone=900)

    why = rows({1: given})["etc/new"].why
    assert why == "no file of this name in the source; no similar source found"


def test_what_was_not_opened_is_named_with_its_packing() -> None:
    closed = Tally(100, 1000, fresh=900, places=1, closed=Counter({Packing.LZO: 900}))

    assert "lzo blocks that were not opened" in rows({0: closed})["lib/modules/6.1.20/a.ko"].why
    packed = rows({0: tally(fresh=900)}, heads={0: Packing.GZIP})["lib/modules/6.1.20/a.ko"]
    assert packed.why.startswith(
        "its gzip content was not opened (no recipe packs it again, or only with"
    )
    opened = rows({0: tally(opened=1000)}, heads={0: Packing.GZIP})
    assert "not opened" not in opened["lib/modules/6.1.20/a.ko"].why


def test_paths_are_made_printable() -> None:
    path = b"a\xff\x1b[2J\n\xe2\x82\xac".decode("utf-8", "surrogateescape")

    assert (
        printable(path)
        == "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}€"
    )

"""`slipstream inspect PAYLOAD --files`: which files its bytes are for, in words, JSON or a picture."""

from collections.abc import Iterator
from typing import Any

from slipstream.cli.progress import megabytes
from slipstream.server.account import Account
from slipstream.server.reasons import Kind, Row, totals
from slipstream.server.treemap import Leaf, draw

# In the order of the legend. Light, so that letters are read on them.
_COLOURS = {
    Kind.CHANGED: "#8fb8de",
    Kind.FILE: "#8fb8de",
    Kind.NEW: "#a9d3a0",
    Kind.METADATA: "#f0cf8a",
    Kind.TABLES: "#c9b6dc",
    Kind.UNATTRIBUTED: "#d3d3d3",
}


def as_json(account: Account) -> dict[str, Any]:
    """Everything, as JSON values."""
    needs = account.forecast
    return {
        "payload_bytes": account.index.payload_size,
        "full_payload_bytes": account.full_bytes,
        "full_payload_is_measured": account.full_is_measured,
        "target_kind": account.target_kind,
        "source_kind": account.source_kind,
        "kinds": {kind.value: size for kind, size in totals(account.rows).items()},
        "device": {
            "memory_bytes": needs.memory_bytes,
            "written_bytes_max": account.index.target_size,
            "written_over_source_bytes": account.written_bytes,
            "packed_again_bytes": sum(needs.packed_bytes.values()),
            "packed_again_s": round(needs.pack_s, 2),
            "packed_again": {str(one): size for one, size in needs.packed_bytes.items()},
            "moved_bytes": needs.moved_bytes,
            "moving_s": round(needs.moving_s, 2),
            "scratch_bytes": needs.scratch_bytes,
            "libraries": list(needs.libraries),
        },
        "files": [
            {
                "path": row.path,
                "kind": row.kind.value,
                "size_bytes": row.size,
                "encoded_bytes": row.encoded_bytes,
                "differing_bytes": row.differing_bytes,
                "fresh_bytes": row.fresh_bytes,
                "before": row.before,
                "why": row.why,
            }
            for row in account.rows
        ],
        "notes": account.notes,
    }


def in_words(account: Account, top: int) -> Iterator[str]:
    """Lines for people: the whole, the kinds, the device, and the `top` largest rows."""
    index, rows = account.index, account.rows
    yield _line("payload", f"{megabytes(index.payload_size)} for {_target(account)}")
    yield _line("full payload", _full(account))
    for kind, size in totals(rows).items():
        count = sum(row.kind is kind for row in rows)
        share = f"{100 * size / index.payload_size:5.1f} %"
        yield _line(kind.value, f"{megabytes(size):>9} {share}  {_count(kind, count)}".rstrip())
    yield from _device_lines(account)
    yield from (_line("note", note) for note in account.notes)
    yield ""
    for row in rows[:top]:
        of = f" ({megabytes(row.size)})" if row.size else ""
        yield f"{megabytes(row.encoded_bytes):>9}  {row.kind.value:<12} {row.path}{of}"
        before = [f"from {row.before}"] if row.before else []
        yield f"{'':>24}{'; '.join([*before, row.why])}".rstrip()
    if len(rows) > top:
        left = sum(row.encoded_bytes for row in rows[top:])
        yield f"{megabytes(left):>9}  {len(rows) - top} more (--top)"


def picture(account: Account) -> str:
    """The rows as a treemap, an SVG."""
    leaves = [
        Leaf(_place(row), row.encoded_bytes, row.kind.value, _resting(row)) for row in account.rows
    ]
    colours = {kind.value: colour for kind, colour in _COLOURS.items()}
    title = f"Payload of {megabytes(account.index.payload_size)} by file"
    about = "" if account.full_is_measured else "about "
    full = f"a full payload: {about}{megabytes(account.full_bytes)}"
    return draw(title, f"makes {_target(account)}; {full}", leaves, colours, megabytes)


def _place(row: Row) -> str:
    """Where a row stands in the picture: the file system's own in a folder beside the files."""
    return f"(file system)/{row.path}" if row.kind is Kind.METADATA else row.path


def _target(account: Account) -> str:
    return f"a target of {megabytes(account.index.target_size)}, {account.target_kind}"


def _full(account: Account) -> str:
    size = megabytes(account.full_bytes)
    if account.full_is_measured:
        return size
    return f"about {size} (estimated from samples; --full FILE takes a real one)"


def _count(kind: Kind, count: int) -> str:
    match kind:
        case Kind.CHANGED | Kind.NEW | Kind.FILE:
            return f"{count} file{'s' if count > 1 else ''}"
        case Kind.METADATA:
            return f"{count} table{'s' if count > 1 else ''} of the file system"
        case Kind.TABLES:
            return "the payload's own"
        case Kind.UNATTRIBUTED:
            return "in no file"


def _device_lines(account: Account) -> Iterator[str]:
    needs = account.forecast
    yield _line("device memory", f"{megabytes(needs.memory_bytes)} besides the process")
    writes = f"{megabytes(account.index.target_size)} at most"
    if account.written_bytes is not None:
        writes += f", {megabytes(account.written_bytes)} to a slot in which the source stands"
    yield _line("device writes", writes)
    packed = sum(needs.packed_bytes.values())
    seconds = f", about {needs.pack_s:.1f} s of one core of a build machine" if packed else ""
    yield _line("packed again", (megabytes(packed) if packed else "nothing") + seconds)
    for recipe, size in sorted(needs.packed_bytes.items(), key=lambda one: -one[1]):
        yield _line("", f"{megabytes(size):>9} {recipe}")
    if needs.moved_bytes:
        amount = f"{megabytes(needs.moved_bytes)} of programs and modules"
        yield _line("numbers moved", f"{amount}, about {needs.moving_s:.1f} s likewise")
    yield _line("scratch", megabytes(needs.scratch_bytes) if needs.scratch_bytes else "none")
    yield _line("libraries", ", ".join(needs.libraries) or "none")


def _resting(row: Row) -> str:
    return f"{row.path}: {megabytes(row.encoded_bytes)}, {row.kind.value}; {row.why}"


def _line(name: str, words: str) -> str:
    return f"{name:<16} {words}"

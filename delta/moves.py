"""What of a source is moved before frames read it, of either kind (docs/format.md, 4.6 and 4.7).

The numbers in the BTF of kernel modules (btf.py), and the addresses in programs (references.py).
"""

from typing import TypeAlias, assert_never

from slipstream.delta.btf import (
    BtfShifts,
    MovedBtf,
    move_btf,
    read_moved,
    read_shifts,
    write_moved,
    write_shifts,
)
from slipstream.delta.errors import FormatError
from slipstream.delta.limits import SHIFT_RANGES_MAX, SHIFTS_MAX
from slipstream.delta.references import (
    ImageShifts,
    MovedReferences,
    move_references,
    read_image_shifts,
    read_moved_references,
    write_image_shifts,
    write_moved_references,
)
from slipstream.delta.rows import Place, read_choice

Moved: TypeAlias = MovedBtf | MovedReferences
Shifts: TypeAlias = BtfShifts | ImageShifts  # what holds for many streams

_BTF, _REFERENCES = 0, 1  # of rows of shifts
MOVED_BTF, MOVED_REFERENCES = 128, 129  # in the place of a stream's packing
MOVED_CODES = (MOVED_BTF, MOVED_REFERENCES)


def move(data: bytes, moved: Moved, shifts: Shifts) -> bytes:
    """The bytes of a stream, moved: as many. For any bytes, by shifts of its kind (`same_kind`)."""
    match moved, shifts:
        case MovedBtf(), BtfShifts():
            return move_btf(data, moved, shifts)
        case MovedReferences(), ImageShifts():
            return move_references(data, moved, shifts)
        case _:
            raise AssertionError(f"{moved} by {type(shifts)}")  # no table of streams has this


def same_kind(moved: Moved, shifts: Shifts) -> bool:
    """Whether both are of the same kind."""
    return isinstance(moved, MovedBtf) == isinstance(shifts, BtfShifts)


def read_payload_shifts(rows: bytes, place: Place, count: int) -> tuple[Shifts, ...]:
    """The `count` rows of shifts of a payload's table; FormatError."""
    if count > SHIFTS_MAX:
        raise FormatError("too many shifts", expected=f"at most {SHIFTS_MAX}", got=count)
    found: list[Shifts] = []
    left = SHIFT_RANGES_MAX
    for _ in range(count):
        kind = read_choice(rows, place, 2, "kind of shifts")
        one = (
            read_shifts(rows, place, left) if kind == _BTF else read_image_shifts(rows, place, left)
        )
        left -= one.count
        found.append(one)
    return tuple(found)


def write_payload_shifts(rows: bytearray, shifts: Shifts) -> None:
    """Append one row as `read_payload_shifts` reads it."""
    match shifts:
        case BtfShifts():
            rows.append(_BTF)
            write_shifts(rows, shifts)
        case ImageShifts():
            rows.append(_REFERENCES)
            write_image_shifts(rows, shifts)
        case _:
            assert_never(shifts)


def code_of(moved: Moved) -> int:
    """What stands in the place of a packing, before the sources."""
    return MOVED_BTF if isinstance(moved, MovedBtf) else MOVED_REFERENCES


def read_stream_moved(code: int, rows: bytes, place: Place) -> Moved:
    """What is moved in a stream, behind its sources; FormatError."""
    return read_moved(rows, place) if code == MOVED_BTF else read_moved_references(rows, place)


def write_stream_moved(rows: bytearray, moved: Moved) -> None:
    """Append what `read_stream_moved` reads."""
    match moved:
        case MovedBtf():
            write_moved(rows, moved)
        case MovedReferences():
            write_moved_references(rows, moved)
        case _:
            assert_never(moved)

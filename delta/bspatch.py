"""Applies bsdiff instructions, every one checked beforehand.

The decoder's core is bsdiff4.core.patch: safe on hostile numbers since 1.3.2, but it takes bytes
outside the source as zeros. Here they are refused: a diff that leaves its source is not what
any encoder makes. The numbers are checked without numpy, which no device needs.
"""

import struct

from bsdiff4 import core

from slipstream.delta.errors import FormatError
from slipstream.delta.frame import CONTROL_BYTES
from slipstream.delta.limits import CONTROL_BYTES_MAX

_INSTRUCTION = struct.Struct("<QQQ")
_SIGN = 1 << 63


def apply_diff(control: bytes, diff: bytes, extra: bytes, source: bytes, size: int) -> bytes:
    """The `size` bytes that the instructions make of `source`; FormatError for a bad instruction.

    `control` holds 24-byte instructions (x, y, z), little endian, each number 63 bits and a sign
    bit, as in Percival's bsdiff: add x bytes of `diff` to x of the source, take y bytes of
    `extra`, move z in the source. `diff` and `extra` are used up exactly.
    """
    _check_control(control, len(diff), len(extra), len(source), size)
    try:
        # Holds the GIL (300 MB/s): frames are bounded, so no longer than 30 ms.
        target: bytes = core.patch(source, size, control, diff, extra)
    except (ValueError, MemoryError) as error:
        raise FormatError(f"diff that cannot be applied ({error})") from error
    return target


def _check_control(
    control: bytes, diff_size: int, extra_size: int, source_size: int, size: int
) -> None:
    if len(control) > CONTROL_BYTES_MAX or len(control) % CONTROL_BYTES:
        raise FormatError(
            "control stream of impossible length",
            expected=f"a multiple of {CONTROL_BYTES}, at most {CONTROL_BYTES_MAX}",
            got=len(control),
        )
    if diff_size + extra_size != size:
        raise FormatError(
            "diff and extra do not make the target", expected=size, got=diff_size + extra_size
        )
    position = diff_used = extra_used = 0
    for number, (add, take, move) in enumerate(_INSTRUCTION.iter_unpack(control)):
        # A negative count has the sign bit set: far above any remaining length.
        if add > diff_size - diff_used or take > extra_size - extra_used:
            raise FormatError(
                "instruction uses more than there is",
                where=f"instruction {number}",
                expected=f"at most {diff_size - diff_used} and {extra_size - extra_used} bytes",
                got=f"{add} and {take}",
            )
        if add > source_size - position:
            raise FormatError(
                "instruction reads outside the source",
                where=f"instruction {number}",
                expected=f"within {source_size} bytes",
                got=f"{position}..{position + add}",
            )
        diff_used += add
        extra_used += take
        position += add + (move if move < _SIGN else _SIGN - move)
        if not 0 <= position <= source_size:
            raise FormatError(
                "instruction leaves the source",
                where=f"instruction {number}",
                expected=f"0..{source_size}",
                got=position,
            )
    if (diff_used, extra_used) != (diff_size, extra_size):
        raise FormatError(
            "instructions do not use up diff and extra",
            expected=f"{diff_size} and {extra_size} bytes",
            got=f"{diff_used} and {extra_used}",
        )

"""Sections behind a stub: their places follow from its header, and what cannot take them is refused."""

import struct

import pytest

from slipstream.delta.errors import FormatError
from slipstream.delta.pe import parse_sections
from slipstream.server.stub import Wanted, parse_header, plan_image
from tests.server.boot_parts import any_kernel

STUB = any_kernel().read_bytes()
HEADER = parse_header(STUB)
WANTED = [Wanted(".osrel", 300, 300), Wanted(".linux", 5000, 100_000, is_code=True)]


def patched(at: int, layout: str, *values: int) -> bytes:
    data = bytearray(STUB)
    struct.pack_into(layout, data, at, *values)
    return bytes(data)


def test_new_sections_stand_behind_those_of_the_stub() -> None:
    plan = plan_image(STUB, WANTED)

    own = parse_sections(STUB)
    sections = parse_sections(plan.head)
    assert sections[: len(own)] == own
    assert [(one.name, one.offset, one.size) for one in sections[len(own) :]] == [
        (".osrel", plan.places[0].offset, 300),
        (".linux", plan.places[1].offset, plan.places[1].end - plan.places[1].offset),
    ]
    assert len(plan.head) == plan.places[0].offset >= max(one.end for one in own)
    assert plan.places[0].end == plan.places[1].offset, "no gap: signatures are over all bytes"
    assert [place.end % 4096 for place in plan.places] == [0, 0]
    rows = [
        struct.unpack_from("<II", plan.head, HEADER.table + (len(own) + n) * 40 + 8) for n in (0, 1)
    ]
    assert [size for size, _ in rows] == [300, 100_000], "in memory"
    assert [address % 4096 for _, address in rows] == [0, 0]
    assert parse_header(plan.head).image_size >= rows[1][1] + 100_000


def test_what_the_stub_itself_is_stays_but_for_its_header() -> None:
    plan = plan_image(STUB, WANTED)

    first = min(one.offset for one in parse_sections(STUB))
    end = max(one.end for one in parse_sections(STUB))
    assert plan.head[first:end] == STUB[first:end]


def test_a_stub_with_a_symbol_table_loses_it() -> None:
    plan = plan_image(patched(HEADER.pe + 12, "<II", len(STUB) - 100, 5), WANTED)

    assert plan == plan_image(STUB, WANTED)


@pytest.mark.parametrize(
    "stub, words",
    [
        (b"", "not a PE file"),
        (b"MZ" + bytes(10), "not a PE file"),
        (b"\x7fELF" + bytes(1000), "not a PE file"),
        (STUB[: HEADER.pe + 100], "cut off"),
        (STUB[:0x280], "section table of the stub is cut off"),
        (STUB[:-0x8000], "the stub is cut off"),
        (patched(0x3C, "<I", 0xFFFFFFF0), "cut off"),
        (patched(HEADER.optional, "<H", 0x10B), "64-bit"),
        (patched(HEADER.optional + 32, "<I", 0), "section alignment"),
        (patched(HEADER.optional + 36, "<I", 513), "file alignment"),
        (patched(HEADER.optional + 60, "<I", 0x200), "cut off"),
        (patched(HEADER.optional + 60, "<I", HEADER.table + (HEADER.sections + 1) * 40), "no room"),
        (patched(HEADER.optional + 68, "<H", 3), "no EFI application"),
        (patched(HEADER.optional + 144, "<II", 0x14000, 1000), "signed"),
        (patched(HEADER.pe + 6, "<H", 0), "section table"),
        (patched(HEADER.table, "<8s", b".linux"), "whole image already"),
        (patched(HEADER.table + HEADER.sections * 40 + 3, "<B", 1), "behind its section table"),
    ],
)  # fmt: skip
def test_a_stub_that_cannot_take_them_is_refused(stub: bytes, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        plan_image(stub, WANTED)


def test_an_image_of_two_gigabytes_is_refused() -> None:
    with pytest.raises(FormatError, match="too much"):
        plan_image(STUB, [Wanted(".initrd", 1 << 31, 1 << 31)])

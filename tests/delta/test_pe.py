"""The section table of PE files: whole, cut at every byte, hostile."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.delta.errors import FormatError
from slipstream.delta.pe import dump_pe, first_section, parse_sections

CONTENTS = {".osrel": b"ID=x\n", ".cmdline": b"quiet", ".linux": b"K" * 100, ".osrel2": b""}


def test_sections_are_where_they_were_put() -> None:
    image = dump_pe(CONTENTS)
    sections = parse_sections(image)
    assert [section.name for section in sections] == list(CONTENTS)
    for section in sections:
        assert image[section.offset : section.end] == CONTENTS[section.name]
    assert sections[-1].end == len(image)
    assert first_section(sections, ".initrd") is None


def test_the_base_profile_ends_at_the_first_profile() -> None:
    image = dump_pe({".osrel": b"1", ".profile": b"ID=x", ".cmdline": b"2"})
    sections = parse_sections(image)
    assert first_section(sections, ".osrel") is not None
    assert first_section(sections, ".cmdline") is None


def test_cut_at_every_byte() -> None:
    image = dump_pe(CONTENTS)
    table_end = parse_sections(image)[0].offset
    for size in range(table_end):
        with pytest.raises(FormatError):
            parse_sections(image[:size])
    assert len(parse_sections(image[:table_end])) == len(CONTENTS)


@given(st.integers(0, 300), st.binary(min_size=1, max_size=8))
def test_hostile_bytes_raise_only_our_errors(offset: int, data: bytes) -> None:
    image = bytearray(dump_pe(CONTENTS))
    image[offset : offset + len(data)] = data
    try:
        sections = parse_sections(bytes(image))
    except FormatError:
        return
    assert all(0 <= section.offset <= section.end for section in sections)


@given(st.binary(max_size=200))
def test_junk_raises_only_our_errors(data: bytes) -> None:
    for head in (data, b"MZ" + data, b"MZ" + bytes(58) + b"\x40\0\0\0PE\0\0" + data):
        try:
            parse_sections(head)
        except FormatError:
            continue

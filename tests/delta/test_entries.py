"""The `custom` objects of targets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.delta.digest import Digest
from slipstream.delta.entries import (
    DeltaEntry,
    FullEntry,
    ReleaseEntry,
    dump_entry,
    parse_delta_entry,
    parse_full_entry,
    parse_release_entry,
)
from slipstream.delta.errors import FormatError

SOURCE, TARGET = Digest.of(b"1"), Digest.of(b"2")
CASES = [
    (ReleaseEntry("gateway", "2.0", 2, "stable"), parse_release_entry),
    (FullEntry("rootfs", TARGET), parse_full_entry),
    (DeltaEntry("rootfs", SOURCE, TARGET, 1000, 2000), parse_delta_entry),
    (
        DeltaEntry("rootfs", SOURCE, TARGET, 1000, 2000, "gzip 1.12, liblzma 5.4.1"),
        parse_delta_entry,
    ),
]


@pytest.mark.parametrize(("entry", "parse"), CASES)
def test_round_trip(entry, parse):
    custom = dump_entry(entry)
    assert parse(custom) == entry
    assert all(isinstance(value, str | int) for value in custom.values())


@pytest.mark.parametrize(("entry", "parse"), CASES)
def test_every_field_is_needed_and_typed(entry, parse):
    custom = dump_entry(entry)
    for name in custom:
        for bad in (None, [], {}, 1.5, "", "A/B", -1):
            if (name, bad) != ("libraries", ""):
                with pytest.raises(FormatError):
                    parse({**custom, name: bad})
        if name != "libraries":
            with pytest.raises(FormatError):
                parse({key: value for key, value in custom.items() if key != name})


def test_a_delta_of_an_older_publisher_needs_no_library():
    entry = DeltaEntry("rootfs", SOURCE, TARGET, 1000, 2000)
    custom = dump_entry(entry)
    del custom["libraries"]
    assert parse_delta_entry(custom) == entry
    assert entry.needs == frozenset()


def test_libraries_are_told_apart():
    entry = DeltaEntry("rootfs", SOURCE, TARGET, 1, 2, "gzip 1.12, libzstd 1.5.4+dfsg2-5")
    assert entry.needs == {"gzip 1.12", "libzstd 1.5.4+dfsg2-5"}


@pytest.mark.parametrize(
    "libraries",
    [
        "gzip",
        " ",
        ", ",
        "gzip 1.12,",
        "gzip 1.12,xz 5",
        "GZIP 1",
        "gzip 1.12\n",
        "é 1",
        "z 1" * 200,
    ],
)
def test_libraries_that_no_publisher_writes_are_refused(libraries):
    with pytest.raises(FormatError, match="libraries"):
        DeltaEntry("rootfs", SOURCE, TARGET, 1, 2, libraries)


@pytest.mark.parametrize(("entry", "parse"), CASES)
def test_fields_of_later_publishers_are_passed_over(entry, parse):
    assert parse({**dump_entry(entry), "later": [1]}) == entry


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@pytest.mark.parametrize("parse", [parse for _, parse in CASES])
@given(custom=JSON)
def test_hostile_values_raise_only_our_errors(parse, custom):
    with pytest.raises(FormatError):
        parse(custom)

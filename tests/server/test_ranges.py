"""Range and conditional headers, as tables."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta.byterange import ByteRange
from slipstream.delta.limits import RANGES_MAX
from slipstream.server.ranges import (
    NotModified,
    PreconditionFailed,
    Send,
    Unsatisfiable,
    Validators,
    answer,
    parse_range,
)

RANGES = [
    (None, None),
    ("", None),
    ("bytes", None),
    ("bytes=", None),
    ("bytes=-", None),
    ("bytes=x-1", None),
    ("bytes=1-x", None),
    ("bytes=5-4", None),
    ("bytes=0-0,", None),
    ("bytes=0--1", None),
    ("bytes=+1-2", None),
    ("bytes=\u0661-2", None),
    ("items=0-1", None),
    ("bytes=0-0", [(0, 1)]),
    ("BYTES=0-0", [(0, 1)]),
    ("bytes = 0-0", [(0, 1)]),
    ("bytes=0-", [(0, 100)]),
    ("bytes=0-99", [(0, 100)]),
    ("bytes=0-100", [(0, 100)]),
    ("bytes=99-", [(99, 1)]),
    ("bytes=100-", []),
    ("bytes=100-200", []),
    ("bytes=-1", [(99, 1)]),
    ("bytes=-100", [(0, 100)]),
    ("bytes=-101", [(0, 100)]),
    ("bytes=-0", []),
    ("bytes=0-1,3-4", [(0, 2), (3, 2)]),
    ("bytes=3-4 ,\t0-1", [(3, 2), (0, 2)]),
    ("bytes=0-1,100-", [(0, 2)]),
    ("bytes=0-1,x", None),
    ("bytes=0-99,0-0", None),
    ("bytes=0-" + "9" * 5000, [(0, 100)]),
    ("bytes=" + "9" * 5000 + "-", []),
    ("bytes=-" + "9" * 5000, [(0, 100)]),
    ("bytes=" + "0" * 5000 + "-0", [(0, 1)]),
    ("bytes=" + ",".join(["0-0"] * RANGES_MAX), None),  # more than the file in sum
    ("bytes=" + ",".join(["0-0"] * (RANGES_MAX + 1)), []),
]


@pytest.mark.parametrize("header, expected", RANGES)
def test_ranges_of_a_hundred_bytes(header, expected):
    got = parse_range(header, 100)
    assert got == (None if expected is None else tuple(ByteRange(*one) for one in expected))


def test_nothing_of_an_empty_file_can_be_satisfied():
    assert parse_range("bytes=0-", 0) == ()
    assert parse_range("bytes=-1", 0) == ()


@settings(deadline=None)  # other work may hold the processor
@given(st.text() | st.from_regex(r"bytes=([0-9]{0,4}-[0-9]{0,4},?){1,9}"), st.integers(0, 9999))
def test_any_header_gives_ranges_within_the_file(header, size):
    for one in parse_range(header, size) or ():
        assert 0 <= one.offset < one.end <= size


A, B = "a" * 64, "b" * 64
THEN = "Sat, 01 Jan 2022 00:00:00 GMT"
BEFORE, AFTER = "Fri, 31 Dec 2021 23:59:59 GMT", "Sat, 01 Jan 2022 00:00:01 GMT"
BLOB = Validators(100, A, 1640995200, immutable=True)
CHANGING = Validators(100, A, 1640995200, immutable=False)
WHOLE, PART = Send(), Send((ByteRange(0, 2),))
RANGE = {"Range": "bytes=0-1"}

CONDITIONS = [
    ({}, WHOLE),
    (RANGE, PART),
    ({"Range": "bytes=100-"}, Unsatisfiable()),
    ({"If-None-Match": f'"{A}"'}, NotModified()),
    ({"If-None-Match": f'W/"{A}"'}, NotModified()),
    ({"If-None-Match": f'"x" , "{A}"'}, NotModified()),
    ({"If-None-Match": f'"x,y", "{A}"'}, NotModified()),
    ({"If-None-Match": "*"}, NotModified()),
    ({"If-None-Match": f'"{B}"'}, WHOLE),
    ({"If-None-Match": A}, WHOLE),
    ({"If-None-Match": ""}, WHOLE),
    ({"If-None-Match": f'"{A}"', **RANGE}, NotModified()),
    ({"If-None-Match": f'"{B}"', "If-Modified-Since": AFTER}, WHOLE),  # the date is not looked at
    ({"If-Modified-Since": THEN}, NotModified()),
    ({"If-Modified-Since": BEFORE}, WHOLE),
    ({"If-Modified-Since": "yesterday"}, WHOLE),
    ({"If-Modified-Since": "Sat, 01 Jan 99999 00:00:00 GMT"}, WHOLE),
    ({"If-Match": f'"{A}"'}, WHOLE),
    ({"If-Match": "*"}, WHOLE),
    ({"If-Match": f'W/"{A}"'}, PreconditionFailed()),
    ({"If-Match": f'"{B}"'}, PreconditionFailed()),
    ({"If-Match": f'"{A}"', "If-Unmodified-Since": BEFORE}, WHOLE),
    ({"If-Unmodified-Since": THEN}, WHOLE),
    ({"If-Unmodified-Since": BEFORE}, PreconditionFailed()),
    ({"If-Range": f'"{A}"', **RANGE}, PART),
    ({"If-Range": f'"{B}"', **RANGE}, WHOLE),
    ({"If-Range": f'W/"{A}"', **RANGE}, WHOLE),
    ({"If-Range": f'"{B}"', "Range": "bytes=100-"}, WHOLE),
    ({"If-Range": THEN, **RANGE}, PART),
    ({"If-Range": AFTER, **RANGE}, WHOLE),
    ({"If-Range": "x", **RANGE}, WHOLE),
]


@pytest.mark.parametrize("headers, expected", CONDITIONS)
def test_conditions(headers, expected):
    assert answer("GET", headers, BLOB) == expected


def test_a_date_says_nothing_of_a_file_that_can_change_within_a_second():
    assert answer("GET", {"If-Range": THEN, **RANGE}, CHANGING) == WHOLE


def test_head_has_no_ranges():
    assert answer("HEAD", RANGE, BLOB) == WHOLE
    assert answer("HEAD", {"If-None-Match": "*"}, BLOB) == NotModified()

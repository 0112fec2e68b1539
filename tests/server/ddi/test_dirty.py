"""Bodies as clients really send them, and as nobody should."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta.errors import FormatError
from slipstream.server.ddi.dirty import parse_dirty

# SWUpdate 2022.12's own spelling, with a place for what it pastes in.
SWUPDATE = (
    '{ "id": 7, "time": "20261127T074416", "status": { "result": { "progress": { "cnt" : 1, '
    '"of" : 1 }, "finished": "failure" }, "execution": "closed", "details" : [ %s ] } }'
)


def details(pasted, *, raw=None):
    found = parse_dirty(raw or (SWUPDATE % pasted).encode("utf-8", "surrogateescape"))
    assert found["id"] == 7
    assert found["status"]["execution"] == "closed"
    assert found["status"]["result"]["finished"] == "failure"
    return found["status"]["details"]


@pytest.mark.parametrize(
    ("pasted", "expected"),
    [
        ('"plain","two"', ["plain", "two"]),
        ('"a\tb\x1b[31mred"', ["a\tb\x1b[31mred"]),
        ('"C:\\windows\\x"', ["C:\\windows\\x"]),
        ('"he said "no" to it","and left"', ['he said "no" to it', "and left"]),
        ('"an end ] } in a "line"","next"', ['an end ] } in a "line"', "next"]),
        ('"nul \x00 here"', ["nul \ufffd here"]),
        ('"half \\ud800 pair"', ["half \ufffd pair"]),
        ('"not \udcff utf-8"', ["not \ufffd utf-8"]),
        ("", []),
        ('"a\tb"c"', ['a\tb"c']),
    ],
)
def test_what_swupdate_pastes_in(pasted, expected):
    assert details(pasted) == expected


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"7",
        b"{",
        b'{"status": ',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'"details":[]}' * 9,
    ],
)
def test_refused(raw):
    with pytest.raises(FormatError):
        parse_dirty(raw)


@settings(deadline=None)  # other work may hold the processor
@given(st.binary(max_size=80) | st.text(max_size=80).map(lambda text: (SWUPDATE % text).encode()))
def test_hostile_bytes_raise_only_our_error(raw):
    try:
        found = parse_dirty(raw)
    except FormatError:
        return
    json.dumps(found, ensure_ascii=False).encode()  # what is stored is UTF-8


@settings(deadline=None)  # other work may hold the processor
@given(
    st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
)
def test_good_json_is_taken_as_it_is(lines):
    body = {"status": {"execution": "closed", "details": lines}}
    assert parse_dirty(json.dumps(body).encode()) == body


def test_ends_without_number_cost_little():
    raw = (SWUPDATE % ('"x" ] } ' * 20_000)).replace('"id": 7', '"id": 7x').encode()
    with pytest.raises(FormatError):
        parse_dirty(raw)

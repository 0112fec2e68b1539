"""Every odd response, as a row: what the headers say the body is."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.delta.errors import Unavailable
from slipstream.installer.response import (
    Changed,
    Extent,
    Interrupted,
    NotFound,
    Remote,
    Wanted,
    WrongSize,
    judge,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MIDDLE = Wanted(10, 20)
REST = Wanted(10)
WHOLE = Wanted(0)
SEEN = Remote('"a"', "Thu, 01 Jan 2026 00:00:00 GMT", 100)
AGAIN = Wanted(10, 20, SEEN)


def cr(text: str, **more: str) -> dict[str, str]:
    return {"Content-Range": text, **{k.replace("_", "-"): v for k, v in more.items()}}


def cl(size: int, **more: str) -> dict[str, str]:
    return {"Content-Length": str(size), **{k.replace("_", "-"): v for k, v in more.items()}}


@pytest.mark.parametrize(
    ("wanted", "status", "headers", "extent"),
    [
        (MIDDLE, 206, cr("bytes 10-19/100"), Extent(10, 20, whole=False, remote=Remote(size=100))),
        (MIDDLE, 206, cr("bytes 10-19/*"), Extent(10, 20, whole=False, remote=Remote())),
        (MIDDLE, 206, cr("bytes 10-14/100"), Extent(10, 15, whole=False, remote=Remote(size=100))),
        (REST, 206, cr("bytes 10-99/100"), Extent(10, 100, whole=False, remote=Remote(size=100))),
        (MIDDLE, 200, cl(100), Extent(0, 100, whole=True, remote=Remote(size=100))),
        (WHOLE, 200, cl(0), Extent(0, 0, whole=True, remote=Remote(size=0))),
        (
            WHOLE,
            200,
            {"Transfer-Encoding": "chunked"},
            Extent(0, None, whole=True, remote=Remote()),
        ),
        (
            WHOLE,
            200,
            cl(5, Transfer_Encoding="chunked"),
            Extent(0, None, whole=True, remote=Remote()),
        ),
        (Wanted(0, size=9), 200, {}, Extent(0, 9, whole=True, remote=Remote())),
        (MIDDLE, 200, {}, Extent(0, None, whole=True, remote=Remote())),
        (
            AGAIN,
            206,
            cr("bytes 10-19/100", ETag='"a"'),
            Extent(10, 20, whole=False, remote=Remote('"a"', None, 100)),
        ),
        (
            AGAIN,
            206,
            cr("bytes 10-19/100", ETag='W/"a"'),
            Extent(10, 20, whole=False, remote=Remote('W/"a"', None, 100)),
        ),
        (WHOLE, 200, cl(3, Content_Encoding="identity"), Extent(0, 3, True, Remote(size=3))),
    ],
)
def test_good(wanted: Wanted, status: int, headers: dict[str, str], extent: Extent) -> None:
    assert judge("u", status, headers, wanted, NOW) == extent


@pytest.mark.parametrize(
    ("wanted", "status", "headers", "error"),
    [
        (MIDDLE, 206, {}, Interrupted),
        (MIDDLE, 206, cr(""), Interrupted),
        (MIDDLE, 206, cr("bytes */100"), Interrupted),
        (MIDDLE, 206, cr("items 10-19/100"), Interrupted),
        (MIDDLE, 206, cr("bytes 10-19/100, 30-39/100"), Interrupted),
        (MIDDLE, 206, cr("bytes 9-19/100"), Interrupted),
        (MIDDLE, 206, cr("bytes 11-19/100"), Interrupted),
        (MIDDLE, 206, cr("bytes 10-20/100"), Interrupted),
        (MIDDLE, 206, cr("bytes 10-9/100"), Interrupted),
        (MIDDLE, 206, cr("bytes 10-19/19"), Interrupted),
        (MIDDLE, 206, cr(f"bytes 10-{10**30}/*"), Interrupted),
        (MIDDLE, 206, cr("bytes 10-19/100", Content_Length="11"), Interrupted),
        (MIDDLE, 206, cr("bytes 10-19/100", Content_Length="x"), Interrupted),
        (MIDDLE, 206, cr("bytes 10-19/100", Content_Encoding="gzip"), Interrupted),
        (MIDDLE, 206, cr("bytes 10-19/100", Content_Type="text/html"), Interrupted),
        (REST, 206, cr("bytes 10-99/*"), Interrupted),
        (WHOLE, 206, cr("bytes 0-99/100"), Interrupted),
        (WHOLE, 200, {}, Interrupted),
        (WHOLE, 200, cl(9, Content_Type="Text/HTML;charset=x"), Interrupted),
        (WHOLE, 200, cl(9, Content_Encoding="br"), Interrupted),
        (MIDDLE, 200, cl(19), WrongSize),
        (Wanted(0, size=5), 200, cl(6), WrongSize),
        (Wanted(0, size_max=5), 200, cl(6), Unavailable),
        (AGAIN, 206, cr("bytes 10-19/100", ETag='"b"'), Changed),
        (AGAIN, 206, cr("bytes 10-19/101"), Changed),
        (AGAIN, 200, cl(100, ETag='"b"'), Changed),
        (AGAIN, 200, cl(100, Last_Modified="Fri, 02 Jan 2026 00:00:00 GMT"), Changed),
        (AGAIN, 416, cr("bytes */5"), Changed),
        (AGAIN, 416, cr("bytes */99"), Changed),
        (AGAIN, 416, cr("bytes */100"), Interrupted),
        (MIDDLE, 416, cr("bytes */10"), Changed),
        (MIDDLE, 416, {}, Interrupted),
        (WHOLE, 403, {}, NotFound),
        (WHOLE, 404, {}, NotFound),
        (WHOLE, 410, {}, NotFound),
        (WHOLE, 401, {}, Unavailable),
        (WHOLE, 304, {}, Unavailable),
        (WHOLE, 400, {}, Unavailable),
        (WHOLE, 204, {}, Interrupted),
        (WHOLE, 429, {}, Interrupted),
        (WHOLE, 500, {}, Interrupted),
        (WHOLE, 599, {}, Interrupted),
    ],
)
def test_odd(
    wanted: Wanted, status: int, headers: dict[str, str], error: type[Unavailable]
) -> None:
    with pytest.raises(Unavailable) as failure:
        judge("u", status, headers, wanted, NOW)
    assert type(failure.value) is error
    assert failure.value.where == "u"


@given(
    status=st.integers(200, 599),
    content_range=st.text(max_size=30) | st.from_regex(r"bytes \d{1,3}-\d{1,3}/(\d{1,3}|\*)\Z"),
    length=st.text(max_size=6) | st.integers(0, 200).map(str),
    start=st.integers(0, 100),
    size=st.none() | st.integers(1, 100),
)
def test_any_headers_give_a_sane_extent_or_our_error(
    status: int, content_range: str, length: str, start: int, size: int | None
) -> None:
    wanted = Wanted(start, None if size is None else start + size)
    headers = {"Content-Range": content_range, "Content-Length": length}
    try:
        extent = judge("u", status, headers, wanted, NOW)
    except Unavailable:
        return
    assert status in {200, 206}
    assert extent.start == (start if status == 206 else 0)
    assert extent.end is None or extent.end >= extent.start
    if status == 206 and wanted.end is not None:
        assert extent.end is not None
        assert start < extent.end <= wanted.end


def test_if_range_carries_strong_validators_only() -> None:
    def sent(remote: Remote | None) -> str | None:
        return Wanted(5, 9, remote).headers.get("If-Range")

    assert sent(None) is None
    assert sent(Remote('"x"', "date")) == '"x"'
    assert sent(Remote('W/"x"', "date")) is None
    assert sent(Remote(None, "date")) == "date"
    assert Wanted(0).headers == {"Accept-Encoding": "identity"}
    assert Wanted(5).headers["Range"] == "bytes=5-"

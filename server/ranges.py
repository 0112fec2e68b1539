"""Conditional and range requests decided without a socket (RFC 9110, sections 13 and 14).

Headers and a file's validators go in, what to answer comes out. blobs.py does the sending.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

from slipstream.delta.byterange import ByteRange
from slipstream.delta.limits import RANGES_MAX

_UNIT = re.compile(r"bytes[ \t]*=(.*)", re.IGNORECASE | re.DOTALL)
_SPEC = re.compile(r"[ \t]*(?:([0-9]+)-([0-9]*)|-([0-9]+))[ \t]*")
_ETAG = re.compile(r'[ \t]*(W/)?"([\x21\x23-\x7e\x80-\xff]*)"[ \t]*(?:,|$)')
_DIGITS_MAX = 18  # below 2^63; a longer number means "to the end" all the same


@dataclass(frozen=True, slots=True)
class Validators:
    """What identifies the bytes of a file."""

    size: int  # bytes
    etag: str  # without quotes; always strong: it is a digest of the content
    modified: int  # seconds since 1970
    immutable: bool  # the name is the digest, so that the date is a strong validator, too

    @property
    def last_modified(self) -> str:
        return format_datetime(datetime.fromtimestamp(self.modified, UTC), usegmt=True)


@dataclass(frozen=True, slots=True)
class NotModified:
    """304: the client has these bytes."""


@dataclass(frozen=True, slots=True)
class PreconditionFailed:
    """412: the client asked for other bytes than there are."""


@dataclass(frozen=True, slots=True)
class Unsatisfiable:
    """416: no asked range lies within the file, or there are too many."""


@dataclass(frozen=True, slots=True)
class Send:
    """200 without ranges, 206 with them; one range plainly, several as multipart/byteranges."""

    ranges: tuple[ByteRange, ...] = ()


Answer = NotModified | PreconditionFailed | Unsatisfiable | Send


def answer(method: str, headers: Mapping[str, str], file: Validators) -> Answer:
    """What a GET or HEAD for `file` gets, in the order of RFC 9110, 13.2.2."""
    if (if_match := headers.get("If-Match")) is not None:
        if not _matches(if_match, file.etag, weak=False):
            return PreconditionFailed()
    elif (since := _parse_date(headers.get("If-Unmodified-Since"))) is not None and (
        file.modified > since
    ):
        return PreconditionFailed()
    if (if_none_match := headers.get("If-None-Match")) is not None:
        if _matches(if_none_match, file.etag, weak=True):
            return NotModified()
    elif (since := _parse_date(headers.get("If-Modified-Since"))) is not None and (
        file.modified <= since
    ):
        return NotModified()
    # Ranges have a meaning for GET alone (RFC 9110, 14.2).
    if method != "GET" or not _range_still_valid(headers.get("If-Range"), file):
        return Send()
    ranges = parse_range(headers.get("Range"), file.size)
    if ranges is None:
        return Send()
    return Send(ranges) if ranges else Unsatisfiable()


def parse_range(header: str | None, size: int) -> tuple[ByteRange, ...] | None:
    """The ranges of a file of `size` bytes that a Range header asks for, in its order.

    None: send the whole file, since there is no header, another unit, bad syntax, or the
    ranges overlap so that they sum up to more than the file. (): none can be satisfied.
    """
    unit = _UNIT.fullmatch(header) if header is not None else None
    if unit is None:
        return None
    # One comma more than allowed is enough to know; the rest is not looked at.
    specs = unit[1].split(",", RANGES_MAX)
    if len(specs) > RANGES_MAX:
        return ()
    ranges: list[ByteRange] = []
    for spec in specs:
        match = _SPEC.fullmatch(spec)
        if match is None:
            return None
        if match[3] is not None:
            wanted = min(_number(match[3]), size)
            first, last = size - wanted, size - 1
        else:
            first = _number(match[1])
            last = min(_number(match[2]), size - 1) if match[2] else size - 1
            if match[2] and _number(match[2]) < first:
                return None  # RFC 9110, 14.1.1: such a header is invalid, not unsatisfiable
        if first <= last and first < size:
            ranges.append(ByteRange(first, last - first + 1))
    if sum(one.size for one in ranges) > size:
        return None
    return tuple(ranges)


def _number(digits: str) -> int:
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= _DIGITS_MAX else 10**_DIGITS_MAX


def _matches(header: str, etag: str, *, weak: bool) -> bool:
    """Whether a list of entity tags names `etag` (RFC 9110, 8.8.3.2)."""
    if header.strip() == "*":
        return True
    position = 0
    while (match := _ETAG.match(header, position)) is not None and match.end() > position:
        if match[2] == etag and (weak or match[1] is None):
            return True
        position = match.end()
    return False


def _range_still_valid(if_range: str | None, file: Validators) -> bool:
    """Whether the client's earlier bytes are of the same file (RFC 9110, 13.1.5)."""
    if if_range is None:
        return True
    if '"' in if_range:
        return if_range.strip() == f'"{file.etag}"'  # strong: W/ never matches
    return file.immutable and _parse_date(if_range) == file.modified


def _parse_date(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        parsed = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=UTC)
    try:
        return int(parsed.timestamp())
    except (OverflowError, ValueError):
        return None

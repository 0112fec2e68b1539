"""What a server's response to a range request means: judged from status and headers alone.

Pure: no socket and no library, so that every odd server is a row in a table of tests. Says
where in the file the body stands; does not read the body.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from slipstream.delta.errors import Unavailable
from slipstream.installer.backoff import parse_retry_after


class NotFound(Unavailable):
    """The server does not have the file, or does not show it to us (403, 404, 410)."""


class Changed(Unavailable):
    """The file is not the one that the first bytes came from: nothing may be put together."""


class Unusable(Unavailable):
    """The server has the file, but cut, grown, or as another, however often it was asked."""


class Interrupted(Unavailable):
    """This attempt failed; the next may succeed. Never leaves the fetcher."""


class WrongSize(Interrupted):
    """The file has another size than was signed, or ends before what was asked for."""


@dataclass(frozen=True, slots=True)
class Remote:
    """Which version of a file the server holds, as far as it says so. `size` is in bytes."""

    etag: str | None = None
    modified: str | None = None
    size: int | None = None

    @property
    def validator(self) -> str | None:
        """What If-Range may carry: a strong ETag, else the date (RFC 9110, 13.1.5)."""
        if self.etag is not None:
            return None if self.etag.startswith("W/") else self.etag
        return self.modified

    def contradicts(self, other: "Remote") -> bool:
        """Whether both cannot be the same version."""
        if self.size is not None and other.size is not None and self.size != other.size:
            return True
        if self.etag is not None and other.etag is not None:
            return self.etag.removeprefix("W/") != other.etag.removeprefix("W/")
        if self.modified is not None and other.modified is not None:
            return self.modified != other.modified
        return False


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for: bytes from `start` to before `end` (None: to the end of the file).

    `seen` is the version that earlier bytes came from; `size` the file's size where the caller
    knows it; `size_max` the most that may be accepted.
    """

    start: int
    end: int | None = None
    seen: Remote | None = None
    size: int | None = None
    size_max: int | None = None

    @property
    def ranged(self) -> bool:
        return self.start > 0 or self.end is not None

    @property
    def headers(self) -> dict[str, str]:
        """Request headers. If-Range makes the server send the whole file if it has changed."""
        headers = {"Accept-Encoding": "identity"}
        if self.ranged:
            last = "" if self.end is None else str(self.end - 1)
            headers["Range"] = f"bytes={self.start}-{last}"
            if self.seen is not None and self.seen.validator is not None:
                headers["If-Range"] = self.seen.validator
        return headers


@dataclass(frozen=True, slots=True)
class Extent:
    """Where the body stands in the file.

    Bytes from `start` to before `end`; an `end` of None is told by the body itself (chunked).
    `whole` means that the server ignored the range.
    """

    start: int
    end: int | None
    whole: bool
    remote: Remote


_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")
_UNSATISFIED = re.compile(r"bytes \*/(\d{1,19})")
_LENGTH = re.compile(r"\d{1,19}")
_NOT_SHOWN = frozenset({403, 404, 410})
_TRY_AGAIN = frozenset({408, 416, 425, 429})


def judge(
    where: str, status: int, headers: Mapping[str, str], wanted: Wanted, now: datetime
) -> Extent:
    """The place of the body in the file.

    Raises NotFound, Changed, Interrupted and its WrongSize (worth another attempt), or Unavailable
    (not worth one).
    `headers` must look names up without regard to case. `now` serves Retry-After dates.
    """
    if status == 416:
        _check_beyond(where, headers, wanted)
    check_status(where, status, headers, now)
    encoding = headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in {"identity", ""}:
        # A range of encoded bytes is a range of another file.
        raise Interrupted(
            "the server encoded the file", where=where, expected="identity", got=repr(encoding[:40])
        )
    content_type = headers.get("Content-Type", "").strip().lower()
    if content_type.startswith(("text/html", "application/xhtml")):
        raise Interrupted(
            "a web page came instead of the file",
            where=where,
            got=content_type[:60],
            hint="A proxy or a captive portal may stand in between",
        )
    extent = _partial(where, headers, wanted) if status == 206 else _whole(where, headers, wanted)
    if wanted.seen is not None and extent.remote.contradicts(wanted.seen):
        raise Changed("the file changed during the download", where=where)
    size = extent.remote.size
    if size is not None:
        if wanted.size is not None and size != wanted.size:
            raise WrongSize("file of a wrong size", where=where, expected=wanted.size, got=size)
        if wanted.size_max is not None and size > wanted.size_max:
            raise Unavailable(
                "file too large", where=where, expected=f"at most {wanted.size_max}", got=size
            )
        if wanted.end is not None and size < wanted.end:
            raise WrongSize(
                "file too short", where=where, expected=f"at least {wanted.end}", got=size
            )
    return extent


def check_status(where: str, status: int, headers: Mapping[str, str], now: datetime) -> None:
    """Raise unless the status is 200 or 206."""
    if status in {200, 206}:
        return
    if status in _NOT_SHOWN:
        raise NotFound("the server does not have the file", where=where, got=f"HTTP {status}")
    if status in _TRY_AGAIN or status >= 500 or 200 < status < 300:
        raise Interrupted(
            "the server did not serve the request",
            where=where,
            got=f"HTTP {status}",
            retry_after_s=parse_retry_after(headers.get("Retry-After"), now),
        )
    hint = "The server wants credentials" if status in {401, 407} else None
    raise Unavailable("the server refused", where=where, got=f"HTTP {status}", hint=hint)


def _check_beyond(where: str, headers: Mapping[str, str], wanted: Wanted) -> None:
    """Changed when a 416 says that the file ends before what is wanted, or has another size."""
    match = _UNSATISFIED.fullmatch(headers.get("Content-Range", "").strip())
    if match is None:
        return
    size = int(match[1])
    seen = None if wanted.seen is None else wanted.seen.size
    if size <= wanted.start or (seen is not None and seen != size):
        raise Changed("the file is shorter than it was", where=where, got=size)


def _partial(where: str, headers: Mapping[str, str], wanted: Wanted) -> Extent:
    text = headers.get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if match is None or not wanted.ranged:
        raise Interrupted(
            "partial content without a usable Content-Range", where=where, got=repr(text[:80])
        )
    first, last = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    wrong = (
        first != wanted.start
        or last < first
        or (wanted.end is not None and last >= wanted.end)
        or (total is not None and last >= total)
        # Asked for all the rest: less than that may be sent, but it must be told how much is left.
        or (wanted.end is None and total is None)
    )
    if wrong:
        asked = f"{wanted.start}-{'' if wanted.end is None else wanted.end - 1}"
        raise Interrupted("wrong range", where=where, expected=asked, got=repr(text[:80]))
    length = _length(where, headers)
    if length is not None and length != last + 1 - first:
        raise Interrupted(
            "Content-Length contradicts Content-Range",
            where=where,
            expected=last + 1 - first,
            got=length,
        )
    return Extent(first, last + 1, whole=False, remote=_remote(headers, total))


def _whole(where: str, headers: Mapping[str, str], wanted: Wanted) -> Extent:
    length = _length(where, headers)
    chunked = "chunked" in headers.get("Transfer-Encoding", "").lower()
    if chunked:
        length = None  # RFC 9112, 6.3: chunked overrides a length
    end = wanted.size if length is None and not chunked else length
    if end is None and not chunked and wanted.end is None:
        raise Interrupted(
            "a body without length or chunks: a cut could not be told from its end", where=where
        )
    return Extent(0, end, whole=True, remote=_remote(headers, length))


def _length(where: str, headers: Mapping[str, str]) -> int | None:
    text = headers.get("Content-Length")
    if text is None:
        return None
    if _LENGTH.fullmatch(text.strip()) is None:
        raise Interrupted("bad Content-Length", where=where, got=repr(text[:40]))
    return int(text)


def _remote(headers: Mapping[str, str], size: int | None) -> Remote:
    return Remote(headers.get("ETag"), headers.get("Last-Modified"), size)

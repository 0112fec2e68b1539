"""JSON as hawkBit's clients send it. SWUpdate pastes log lines into it and escapes nothing.

Good JSON is parsed as it is. What is not is mended where that can be done without guessing at what
decides: only the lines of `details` may be lost, never `execution` or `finished`. Pure.
"""

import json
import re
from typing import Any

from slipstream.delta.errors import FormatError

_BAD_ESCAPE = re.compile(r'\\(?!["\\/bfnrt]|u[0-9a-fA-F]{4})')
_DETAILS = re.compile(r'"details"\s*:\s*\[')
# The array ends where its object does: nothing comes behind it in what these clients send.
_DETAILS_END = re.compile(r"\]\s*\}")
_ENDS_MAX = 16  # a log line may hold what looks like the end; each costs a parse of the body
_BETWEEN = re.compile(r'"\s*,\s*"')
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def parse_dirty(raw: bytes) -> dict[str, Any]:
    """The object in a body; FormatError where even mending gives none.

    Control characters and bytes that are no UTF-8 are taken in strings; NUL and lone surrogates
    become U+FFFD, which every database can store.
    """
    text = raw.decode("utf-8", "replace")
    for attempt in (text, _BAD_ESCAPE.sub(r"\\\\", text)):
        try:
            return _object(json.loads(attempt, strict=False))
        except ValueError:
            continue
        except RecursionError as error:
            raise FormatError("nested too deeply") from error
    return _without_details(text)


def _without_details(text: str) -> dict[str, Any]:
    """`details` cut out as raw text, the rest parsed: quotes in log lines break only that array."""
    begin = _DETAILS.search(text)
    ends = [] if begin is None else _DETAILS_END.finditer(text, begin.end())
    for _, end in zip(range(_ENDS_MAX), ends, strict=False):
        assert begin is not None
        lines = text[begin.end() : end.start()].strip().strip('"')
        try:
            found = json.loads(text[: begin.end()] + text[end.start() :], strict=False)
        except (ValueError, RecursionError):
            continue
        return _object(_put_details(found, _BETWEEN.split(lines)))
    raise FormatError("not JSON", expected='an object such as {"status": {...}}')


def _put_details(found: Any, lines: list[str]) -> Any:
    status = found.get("status") if isinstance(found, dict) else None
    if isinstance(status, dict):
        status["details"] = lines
    return found


def _object(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise FormatError("not a JSON object", got=type(found).__name__)
    cleaned: dict[str, Any] = _storable(found)
    return cleaned


def _storable(value: Any) -> Any:
    match value:
        case str():
            return _UNSTORABLE.sub("\ufffd", value)
        case list():
            return [_storable(one) for one in value]
        case dict():
            return {_storable(key): _storable(one) for key, one in value.items()}
        case _:
            return value

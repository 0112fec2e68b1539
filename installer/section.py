"""A table of the device's TOML file that knows where it stands, for errors.

It hands out values of the kinds that the settings have, checked; what they mean is config.py's
matter. Every error names file, line and key.
"""

import difflib
import re
from collections.abc import Iterable
from datetime import UTC, time, tzinfo
from pathlib import Path
from typing import Any, NoReturn

from slipstream.delta.errors import UsageError
from slipstream.delta.limits import MIB, NAME_CHARS_MAX

LOCALTIME = Path("/etc/localtime")
_SIZES = {"": 1, "KiB": 1024, "MiB": MIB, "GiB": 1024 * MIB}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_DAYS = {name: number for number, day in enumerate(_WEEKDAYS) for name in (day, day[:3])}


class Section:
    """A table of the file that knows where it stands, for errors, and what was asked of it."""

    def __init__(
        self, path: Path, text: str, name: str, table: dict[str, Any], row: int = 0
    ) -> None:
        self._path = path
        self._text = text
        self._name = name
        self._table = table
        self._row = row
        self._asked: set[str] = set()

    def fail(self, key: str | None, what: str, expected: str | None, got: str | None) -> NoReturn:
        """Raise UsageError at `key` of this section."""
        line = _line_of(self._text, self._name, self._row, key)
        full = ".".join(part for part in (self._name, key) if part)
        raise UsageError(
            f"{full}: {what}", where=f"{self._path}:{line}", expected=expected, got=got
        )

    def entries(self) -> tuple[str, ...]:
        return tuple(self._table)

    def finish(self) -> None:
        """Refuse keys that nothing asked for."""
        for key in self._table:
            if key not in self._asked:
                self.refuse(key, self._asked)

    def refuse(self, key: str, known: Iterable[str]) -> NoReturn:
        """Raise UsageError for a key that is not known; with the near name, if there is one."""
        names = sorted(known)
        near = difflib.get_close_matches(key, names, 1)
        what = f"unknown key, did you mean {near[0]}?" if near else "unknown key"
        self.fail(key, what, f"one of {', '.join(names)}", None)

    def tables(self, key: str) -> list["Section"]:
        """The table or the tables of that name; none where it is missing or not a table."""
        value = self._table.get(key)
        if isinstance(value, dict):
            return [Section(self._path, self._text, key, value)]
        rows = value if isinstance(value, list) else []
        return [
            Section(self._path, self._text, key, row, n)
            for n, row in enumerate(rows)
            if isinstance(row, dict)
        ]

    def peek(self, key: str) -> Any:
        self._asked.add(key)
        return self._table.get(key)

    def section(self, key: str, *, optional: bool = False) -> "Section":
        value = self.peek(key)
        if value is None and not optional:
            self.fail(key, "missing", f"a section [{key}]", None)
        value = {} if value is None else value
        if not isinstance(value, dict):
            self.fail(key, "wrong type", "a table", repr(value))
        name = f"{self._name}.{key}" if self._name else key
        return Section(self._path, self._text, name, value)

    def sections(self, key: str) -> list["Section"]:
        value = self.peek(key)
        value = [] if value is None else value
        if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
            self.fail(key, "wrong type", f"tables [[{key}]]", repr(value))
        name = f"{self._name}.{key}" if self._name else key
        return [Section(self._path, self._text, name, row, n) for n, row in enumerate(value)]

    def text(self, key: str, default: str | None) -> str:
        value = self.peek(key)
        if value is None:
            if default is None:
                self.fail(key, "missing", "a string", None)
            return default
        if not isinstance(value, str) or not value:
            self.fail(key, "wrong type", "a string that is not empty", repr(value))
        return str(value)

    def name(self, key: str, default: str | None = None) -> str:
        value = self.text(key, default)
        if not _NAME.fullmatch(value) or len(value) > NAME_CHARS_MAX:
            self.fail(key, "not a name", "letters, digits and . _ + - (at most 64)", repr(value))
        return value

    def path(self, key: str, default: str | None = None) -> Path:
        return self._path.parent / self.text(key, default)

    def path_or_none(self, key: str) -> Path | None:
        return None if self.peek(key) is None else self.path(key)

    def url(self, key: str) -> str:
        value = self.text(key, None)
        if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value):
            self.fail(key, "not an address", "http:// or https://HOST[:PORT][/PATH]", repr(value))
        return value.rstrip("/")

    def one_of(self, key: str, choices: tuple[str, ...], default: str) -> str:
        value = self.text(key, default)
        if value not in choices:
            self.fail(key, "not a choice", " or ".join(choices), repr(value))
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        value = self.peek(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            self.fail(key, "wrong type", "true or false", repr(value))
        return value

    def integer(self, key: str, default: int | None, low: int, high: int) -> int:
        value = self.peek(key)
        value = default if value is None else value
        if type(value) is not int or not low <= value <= high:
            self.fail(key, "not a number in range", f"{low} to {high}", repr(value))
        return int(value)

    def words(self, key: str, default: tuple[str, ...] | None) -> tuple[str, ...]:
        value = self.peek(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, list) or not value or not all(isinstance(w, str) for w in value):
            self.fail(key, "not a command", "a list of strings", repr(value))
        return tuple(value)

    def paths(self, key: str, default: tuple[str, ...]) -> tuple[Path, ...]:
        value = self.peek(key)
        value = default if value is None else value
        if not isinstance(value, list | tuple) or not all(isinstance(p, str) and p for p in value):
            self.fail(key, "wrong type", "a list of paths", repr(value))
        return tuple(self._path.parent / one for one in value)

    def days(self, key: str) -> frozenset[int]:
        """Weekdays by their English names, in full or their first three letters."""
        value = self.peek(key)
        found = [_DAYS.get(str(one).lower()) for one in value] if isinstance(value, list) else []
        days = frozenset(one for one in found if one is not None)
        if not days or None in found:
            self.fail(key, "not weekdays", 'a list such as ["Sat", "Sun"]', repr(value))
        return days

    def time_of_day(self, key: str) -> time:
        value = self.text(key, None)
        if not re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9]", value):
            self.fail(key, "not a time of day", "hh:mm, 00:00 to 23:59", repr(value))
        return time.fromisoformat(value)

    def time_zone(self, key: str, default: str) -> tuple[str, tzinfo]:
        """The zone's name and rules: an IANA name, or "localtime" for /etc/localtime."""
        value = self.text(key, default)
        if value == "UTC":
            return value, UTC
        from zoneinfo import ZoneInfo  # noqa: PLC0415 # most devices need no rules in memory

        try:
            if value == "localtime":
                with LOCALTIME.open("rb") as file:
                    return value, ZoneInfo.from_file(file, value)
            return value, ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            self.fail(
                key,
                "no such time zone",
                "UTC, localtime, or an IANA name such as Europe/Berlin (and tzdata on the device)",
                repr(value),
            )

    def size(self, key: str, default: int | None) -> Any:
        value = self.peek(key)
        if value is None:
            return default
        if type(value) is int and value >= 0:
            return value
        found = (
            re.fullmatch(r"(\d{1,12}) ?(KiB|MiB|GiB|)", value) if isinstance(value, str) else None
        )
        if found is None:
            self.fail(key, "not a size", 'bytes, or a text like "96MiB"', repr(value))
        return int(found[1]) * _SIZES[found[2]]


def _line_of(text: str, section: str, row: int, key: str | None) -> int:
    """Line (from 1) of `key` in the `row`-th table of that name. For messages only.

    Where the key is missing: the line of the table, or of the key that holds it.
    """
    inside = not section
    line_of_section = None if section else 1
    rows = 0
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]", line)
        if header:
            inside = header[1] == section and rows == row
            rows += header[1] == section
            if inside:
                line_of_section = number
            elif key is not None and header[1] == (f"{section}.{key}" if section else key):
                return number
        elif inside and key is not None and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
            return number
    if line_of_section is not None:
        return line_of_section
    parent, _, last = section.rpartition(".")
    return _line_of(text, parent, 0, last)

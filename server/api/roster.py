"""CSV files of devices: read into the same values as a JSON body. Pure."""

import csv
import io
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from slipstream.delta.limits import IMPORT_ROWS_MAX
from slipstream.server.misfit import misfit
from slipstream.server.wire import refusal

_COLUMNS = ("id", "product", "channel", "group", "tags")
_ATTRIBUTE = "attribute."
_T = TypeVar("_T")


def parse_roster(text: str, kind: type[_T]) -> tuple[tuple[int, _T], ...]:
    """The rows of a CSV file (RFC 4180) as values of `kind`, each with the line that it ends on.

    An empty cell says nothing. Refuses with 400 and line and column at the first that is wrong.
    """
    reader = csv.reader(io.StringIO(text), strict=True)
    try:
        header = [one.strip() for one in next(reader, [])]
        _check_header(header)
        rows = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise refusal(
            web.HTTPBadRequest, f"not CSV: {error}", field=f"line {reader.line_num}"
        ) from error
    if not 0 < len(rows) <= IMPORT_ROWS_MAX:
        raise refusal(
            web.HTTPBadRequest, f"expected 1 to {IMPORT_ROWS_MAX} devices, got {len(rows)}"
        )
    made = tuple((line, _parse_row(line, header, cells, kind)) for line, cells in rows)
    _check_distinct(rows, header)
    return made


def _check_header(header: list[str]) -> None:
    for name in header:
        if name not in _COLUMNS and not name.startswith(_ATTRIBUTE):
            expected = ", ".join((*_COLUMNS, "attribute.KEY"))
            raise refusal(
                web.HTTPBadRequest,
                f"no column {name!r:.80}; expected {expected}",
                field="line 1",
            )
        if header.count(name) > 1:
            raise refusal(web.HTTPBadRequest, f"column {name!r:.80} stands twice", field="line 1")
    for name in ("id", "product"):
        if name not in header:
            raise refusal(web.HTTPBadRequest, f"column {name} is missing", field="line 1")


def _check_distinct(rows: list[tuple[int, list[str]]], header: list[str]) -> None:
    place, seen = header.index("id"), dict[str, int]()
    for line, cells in rows:
        first = seen.setdefault(cells[place].strip(), line)
        if first != line:
            raise refusal(
                web.HTTPBadRequest, f"the same id as in line {first}", field=f"line {line}, id"
            )


def _parse_row(line: int, header: list[str], cells: list[str], kind: type[_T]) -> _T:
    if len(cells) != len(header):
        raise refusal(
            web.HTTPBadRequest,
            f"expected {len(header)} cells, got {len(cells)}",
            field=f"line {line}",
        )
    said = {name: cell.strip() for name, cell in zip(header, cells, strict=True) if cell.strip()}
    try:
        return msgspec.convert(_value(said), kind)
    except msgspec.ValidationError as error:
        found = misfit(error, kind)
        column = f", {found.field.removeprefix('$.')}" if found.field != "$" else ""
        raise refusal(web.HTTPBadRequest, found.what, field=f"line {line}{column}") from error


def _value(said: Mapping[str, str]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    attributes: dict[str, str] = {}
    for name, cell in said.items():
        if name.startswith(_ATTRIBUTE):
            attributes[name.removeprefix(_ATTRIBUTE)] = cell
        elif name == "tags":
            value[name] = cell.split()
        else:
            value[name] = cell
    return {**value, "attributes": attributes} if attributes else value

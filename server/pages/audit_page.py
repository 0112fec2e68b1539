"""GET /audit: who did what to what, and whether the log is whole."""

from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web

from slipstream.delta.limits import ROWS_MAX
from slipstream.server.access import Deed
from slipstream.server.api.log import verify
from slipstream.server.chain import Sealed
from slipstream.server.pages.desk import Desk
from slipstream.server.pages.visitor import Visitor
from slipstream.server.pages.words import plain
from slipstream.server.store import audit
from slipstream.server.wire import query_integer

_VALUE_CHARS_MAX = 200  # of one value in a row; the whole of it is in /api/v1/audit


@dataclass(frozen=True, slots=True)
class Row:
    """An act in words; `before` and `after` as (name, value)."""

    id: int
    at: int
    actor: str
    act: str
    object: str
    before: tuple[tuple[str, str], ...]
    after: tuple[tuple[str, str], ...]
    digest: str


@dataclass(frozen=True, slots=True)
class AuditHandler:
    """Answers GET /audit."""

    desk: Desk

    def routes(self) -> list[web.RouteDef]:
        return [self.desk.get("/audit", self._show, Deed.AUDIT)]

    async def _show(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        before = query_integer(request, "before", 0, 0, 10**9) or None
        async with self.desk.database.reading() as connection:
            found = await audit.list_before(connection, before, limit=ROWS_MAX + 1)
            checked = await verify(connection) if "verify" in request.query else None
        rows = [row_of(one) for one in found[:ROWS_MAX]]
        return self.desk.render(
            request,
            visitor,
            "audit.html",
            rows=rows,
            checked=checked,
            next=rows[-1].id if len(found) > ROWS_MAX else None,
        )


def row_of(sealed: Sealed) -> Row:
    """A row of the log in words."""
    one = sealed.entry
    return Row(
        one.id,
        one.at,
        one.actor,
        one.act.replace(".", ": ").replace("_", " "),
        one.object,
        facts_of(one.before),
        facts_of(one.after),
        sealed.digest.hex()[:16],
    )


def facts_of(text: str) -> tuple[tuple[str, str], ...]:
    """JSON of the log as names and values that a person can read."""
    if not text:
        return ()
    value: Any = msgspec.json.decode(text)
    pairs = value.items() if isinstance(value, dict) else (("", value),)
    return tuple(
        (str(name).replace("_", " "), shorten(_said(name, one)))
        for name, one in pairs
        if one not in (None, "", [], {})
    )


def _said(name: str, value: object) -> str:
    """A value in words; states are spelled with spaces everywhere else, too."""
    text = plain(value)
    return text.replace("_", " ") if name in {"status", "state", "role"} else text


def shorten(text: str) -> str:
    """At most _VALUE_CHARS_MAX characters of a text."""
    return text if len(text) <= _VALUE_CHARS_MAX else text[: _VALUE_CHARS_MAX - 1] + "…"

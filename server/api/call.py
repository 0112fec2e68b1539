"""A call as its handler sees it, and what a handler answers.

A handler that only looks is `async (world, call) -> answer`. One that changes something is
`async (world, call) -> act`: what is slow or only reads comes first, and `act(connection)` then
runs in the one transaction that also keeps its row of the audit log and its answer.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.delta.limits import PAGE_ROWS_MAX
from slipstream.server.access import Identity
from slipstream.server.api.passwords import Passwords
from slipstream.server.api.throttle import Throttle
from slipstream.server.catalog import CatalogReader
from slipstream.server.devices import PollLog
from slipstream.server.fleet.board import Board
from slipstream.server.fleet.engine import Engine
from slipstream.server.proxies import Proxies, household
from slipstream.server.store.database import Database
from slipstream.server.wire import Body, refusal

Limit = Annotated[int, msgspec.Meta(ge=1, le=PAGE_ROWS_MAX)]
Cursor = Annotated[str, msgspec.Meta(max_length=256, pattern=r"^[^\x00]*\Z")]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class World:
    """What handlers reach."""

    database: Database
    board: Board
    engine: Engine
    catalog: CatalogReader
    polls: PollLog
    passwords: Passwords
    now: Callable[[], int]  # seconds since 1970
    installation: bytes  # digest of the installation's token
    secure_cookies: bool = False  # sessions travel over HTTPS only
    require_approval: bool = False  # of every rollout, whatever its plan says
    proxies: Proxies = field(default_factory=Proxies)
    throttle: Throttle = field(default_factory=Throttle)

    def address(self, request: web.Request) -> str:
        """Where a request began: whom failed logins are counted for."""
        return household(self.proxies.client(request.remote, request.headers))


@dataclass(frozen=True, slots=True)
class Call:
    """One call: identified, authorised, parsed."""

    identity: Identity
    now: int
    places: Mapping[str, str]  # from the path
    query: Any  # of the route's type
    body: Any
    version: int | None = None  # If-Match
    address: str = ""  # of the client


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is said. `value` None: 204, nothing."""

    value: object = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done(Answer):
    """What a change did, as the audit log and a repeated call shall know it."""

    thing: str
    before: object = None
    after: object = None
    kept: object = None  # instead of `value` for a repeated call, where `value` has a secret
    moves: bool = False  # rollouts, waypoints or budgets: the board is read again
    actor: str | None = None  # who did it, where nobody was known before


Act = Callable[[AsyncConnection], Awaitable[Done]]
Look = Callable[[World, Call], Awaitable[Answer]]
Change = Callable[[World, Call], Awaitable[Act]]


class Page(msgspec.Struct, Generic[_T], frozen=True):
    """A part of a list. `next`: what `after` continues with; null at the end."""

    items: tuple[_T, ...]
    next: str | None


class PageQuery(Body, frozen=True):
    """Which part of a list."""

    after: Cursor = ""
    limit: Limit = 100


def missing(what: str) -> web.HTTPError:
    """404, to be raised."""
    return refusal(web.HTTPNotFound, f"no {what}")


def taken(what: str, field_name: str | None = None) -> web.HTTPError:
    """409, to be raised."""
    return refusal(web.HTTPConflict, what, field=field_name)


def number_after(cursor: str) -> int | None:
    """The row number that a cursor stands for; None for the beginning. Refuses with 400."""
    if cursor and not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 18):
        raise refusal(web.HTTPBadRequest, "not a cursor that this list gave", field="?after")
    return int(cursor) if cursor else None


def page_of(items: tuple[_T, ...], limit: int, key: Callable[[_T], object]) -> Page[_T]:
    """A page whose cursor is the key of its last row."""
    return Page(items, str(key(items[-1])) if len(items) == limit else None)

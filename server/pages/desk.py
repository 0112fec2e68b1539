"""What all pages share: who asks, what is asked of, how an answer is rendered."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import structlog
from aiohttp import web

from slipstream.delta.errors import SlipstreamError, Unavailable, UsageError
from slipstream.server.access import Deed, Forbidden, Identity
from slipstream.server.api.call import Call, Done, World
from slipstream.server.api.door import perform
from slipstream.server.api.route import Nothing
from slipstream.server.api.table import ROUTES
from slipstream.server.catalog import Catalog, CatalogReader
from slipstream.server.devices import PollLog
from slipstream.server.fleet.board import Board
from slipstream.server.metrics import parse_expiry
from slipstream.server.pages import words
from slipstream.server.pages.form import read_form
from slipstream.server.pages.visitor import Visitor, check_form, greet
from slipstream.server.rollout.record import Status
from slipstream.server.store import users
from slipstream.server.store.database import Database
from slipstream.server.wire import error_of, refusal

_log: Any = structlog.get_logger(__name__)
_FOLDER = Path(__file__).parent
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
_PAGES = (
    ("Fleet", "/"),
    ("Devices", "/devices"),
    ("Rollouts", "/rollouts"),
    ("Releases", "/releases"),
    ("Approvals", "/approvals"),
    ("Audit", "/audit"),
)
_OF_PROGRAMS = frozenset({"api", "v1", "metadata", "targets", "blobs", "healthz", "metrics"})
_CALLS = {one.name: one for one in ROUTES}
_STATIC = {
    "style.css": "text/css",
    "htmx.min.js": "text/javascript",
    "live.js": "text/javascript",
}
Handler = Callable[[web.Request, Visitor], Awaitable[web.StreamResponse]]
Act = Callable[[web.Request, Visitor, Mapping[str, str]], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Desk:
    """What the pages ask, and how they answer."""

    world: World
    poll_interval_s: int

    @property
    def database(self) -> Database:
        return self.world.database

    @property
    def board(self) -> Board:
        return self.world.board

    @property
    def polls(self) -> PollLog:
        return self.world.polls

    @property
    def catalog(self) -> CatalogReader:
        return self.world.catalog

    def now(self) -> int:
        """Seconds since 1970."""
        return self.world.now()

    @property
    def online_s(self) -> int:
        """A device heard of within so many seconds is online: it missed at most one poll."""
        return 2 * self.poll_interval_s + 60

    def get(self, path: str, handler: Handler, deed: Deed = Deed.SEE) -> web.RouteDef:
        """A route that shows a page."""

        async def answer(request: web.Request) -> web.StreamResponse:
            visitor = None
            try:
                visitor = await greet(self.world, request)
                if visitor is None:
                    return await self._ask_who(request)
                visitor.require(deed)
                return await handler(request, visitor)
            except (web.HTTPError, SlipstreamError) as error:
                return self._refuse(request, visitor, error)

        return web.get(path, answer)

    def post(self, path: str, act: Act, deed: Deed) -> web.RouteDef:
        """A route that does what a form asks for, and leads on to a page."""

        async def answer(request: web.Request) -> web.StreamResponse:
            visitor = None
            try:
                visitor = await greet(self.world, request)
                if visitor is None:
                    return await self._ask_who(request)
                visitor.require(deed)
                fields = await read_form(request)
                check_form(request, visitor, fields.get("form_token", ""))
                return await act(request, visitor, fields)
            except (web.HTTPError, SlipstreamError) as error:
                return self._refuse(request, visitor, error)

        return web.post(path, answer)

    def render(
        self,
        request: web.Request,
        visitor: Visitor | None,
        template: str,
        *,
        status: int = 200,
        live: str = "",
        **values: Any,
    ) -> web.Response:
        """A page. `live`: the topic of the changes that it follows (feed.py)."""
        text = (
            _environment()
            .get_template(template)
            .render(
                visitor=visitor,
                here=request.path_qs,
                live=live,
                now=self.now(),
                Deed=Deed,
                pages=_PAGES,
                waiting_count=self._waiting_count(),
                **values,
            )
        )
        return web.Response(text=text, status=status, content_type="text/html", headers=HEADERS)

    async def catalog_or_trouble(self) -> tuple[Catalog | None, str | None]:
        """The repository's catalog, and what is wrong with it in words, if anything."""
        try:
            catalog = await self.catalog.read()
        except Unavailable as error:
            return None, str(error)
        expiry = parse_expiry(catalog.expires)
        if expiry is not None and expiry.timestamp() <= self.now():
            return catalog, (
                f"The repository's timestamp expired at {catalog.expires}: devices refuse it."
                " Run slipstream repo refresh."
            )
        if catalog.skipped:
            entries = words.count_words(catalog.skipped, "entry", "entries")
            return catalog, f"{entries} of the repository's metadata make no sense: left out."
        return catalog, None

    async def carry_out(
        self,
        name: str,
        identity: Identity,
        places: Mapping[str, str],
        body: object,
        *,
        version: int | None = None,
        address: str = "",
    ) -> Done:
        """Do what the call of that name in the operators' door does, its audit row included."""
        call = Call(identity, self.now(), places, Nothing(), body, version, address)
        return await perform(self.world, _CALLS[name], call)

    async def _ask_who(self, request: web.Request) -> web.Response:
        """To the login; where nobody can log in, the browser asks for the operator's token."""
        if await self.can_log_in() and request.method == "GET" and request.path != "/live":
            return lead_to(f"/login?to={quote(request.path_qs, safe='')}")
        error = refusal(
            web.HTTPUnauthorized,
            "The operator's token is needed, as the password of any user name.",
            {"WWW-Authenticate": 'Basic realm="slipstream operator", charset="UTF-8"'},
        )
        return self._refuse(request, None, error)

    async def can_log_in(self) -> bool:
        """Whether there is a user with a password: programs have none."""
        async with self.database.reading() as connection:
            known = await users.list_all(connection)
        return any(one.password_hash is not None for one in known)

    async def miss(self, request: web.Request, reason: str) -> web.Response:
        """The page of a path that is none."""
        visitor = None
        with suppress(SlipstreamError):  # it says less to somebody who is not known
            visitor = await greet(self.world, request)
        return self._refuse(request, visitor, refusal(web.HTTPNotFound, reason))

    def _waiting_count(self) -> int:
        """Rollouts that wait for approval, as of the board's last look."""
        return sum(one.status is Status.WAITING for one in self.board.view.by_id.values())

    def _refuse(
        self, request: web.Request, visitor: Visitor | None, error: web.HTTPError | SlipstreamError
    ) -> web.Response:
        match error:
            case web.HTTPError():
                status, reason = error.status, error_of(error)
            case Forbidden():
                status, reason = 403, str(error)
            case UsageError():
                status, reason = 400, str(error)
            case Unavailable():
                status, reason = 503, str(error)
                _log.error("unavailable", path=request.path, reason=reason)
            case _:
                status, reason = 409, str(error)
        response = self.render(
            request, visitor, "error.html", status=status, code=status, reason=reason
        )
        if isinstance(error, web.HTTPError) and "WWW-Authenticate" in error.headers:
            response.headers["WWW-Authenticate"] = error.headers["WWW-Authenticate"]
        if status in {408, 413}:
            response.force_close()  # the rest of the body is not worth reading
        return response


def is_for_people(request: web.Request) -> bool:
    """Whether a browser looks for a page: programs have their own paths, and read JSON."""
    first, second, *_ = (*request.path.split("/")[1:3], "", "")
    return (
        request.method in ("GET", "HEAD")
        and "text/html" in request.headers.get("Accept", "")
        and first not in _OF_PROGRAMS
        and second != "controller"  # of hawkBit's clients, below any tenant
    )


def lead_to(path: str) -> web.Response:
    """Where a browser looks at what a form did: loading that again does nothing again."""
    return web.Response(status=303, headers={**HEADERS, "Location": path})


async def static(request: web.Request) -> web.Response:
    """A file of static/: open to all, there is nothing of the fleet in it."""
    name = request.match_info["name"]
    if name not in _STATIC:
        raise web.HTTPNotFound
    content, digest = _static(name)
    headers = {**HEADERS, "Cache-Control": "no-cache", "ETag": f'"{digest}"'}
    if request.headers.get("If-None-Match") == f'"{digest}"':
        return web.Response(status=304, headers=headers)
    return web.Response(body=content, content_type=_STATIC[name], charset="utf-8", headers=headers)


@lru_cache
def _static(name: str) -> tuple[bytes, str]:
    content = (_FOLDER / "static" / name).read_bytes()
    return content, hashlib.sha256(content).hexdigest()[:32]


@lru_cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        size=words.size_words,
        span=words.span_words,
        age=words.age_words,
        moment=words.moment_words,
        iso=words.iso,
        plural=words.count_words,
        share=words.share_words,
    )
    return environment

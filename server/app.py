"""The application: which path is answered by what, and what must be open meanwhile."""

import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web
from argon2 import PasswordHasher

from slipstream.delta.errors import Unavailable
from slipstream.delta.limits import POLL_INTERVAL_S
from slipstream.server.api.call import World
from slipstream.server.api.door import Door
from slipstream.server.api.openapi import document
from slipstream.server.api.passwords import Passwords
from slipstream.server.api.table import ROUTES
from slipstream.server.blobs import Files
from slipstream.server.catalog import CatalogReader
from slipstream.server.ddi.actions import Actions
from slipstream.server.ddi.door import DdiDoor
from slipstream.server.ddi.downloads import Downloads
from slipstream.server.ddi.settings import DdiSettings
from slipstream.server.ddi.visit import Reception
from slipstream.server.deltas.worker import DeltaService, DeltaSettings
from slipstream.server.devices import PollHandler, PollLog
from slipstream.server.fleet.board import Board
from slipstream.server.fleet.courier import Courier
from slipstream.server.fleet.engine import Engine
from slipstream.server.fleet.loop import Loop
from slipstream.server.fleetlock import FleetLockHandler
from slipstream.server.gate import Gate, GateSettings
from slipstream.server.metrics import CONTENT_TYPE, Metrics
from slipstream.server.pages.desk import Desk, is_for_people
from slipstream.server.pages.feed import Feed
from slipstream.server.pages.handler import Pages
from slipstream.server.reports import ReportHandler
from slipstream.server.store import devices
from slipstream.server.store.database import Database
from slipstream.server.tokens import (
    WrongToken,
    basic_password,
    bearer_token,
    check_token,
    hash_token,
)
from slipstream.server.wake import Waker
from slipstream.server.wire import answer_json, describe_error, refusal

_log: Any = structlog.get_logger(__name__)
_RETRY_AFTER_S = 30
_PATH_CHARS_MAX = 200  # of a path that an error names
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the application has to know. Reads nothing by itself."""

    public: Path  # the repository's public folder
    database_url: str
    operator_token: str
    now: Callable[[], int]  # seconds since 1970
    poll_interval_s: int = POLL_INTERVAL_S
    open_metrics: bool = False  # /metrics without the operator's token
    deltas: DeltaSettings | None = None  # None: none are built here
    secure_cookies: bool = False  # browsers send sessions over HTTPS only
    require_approval: bool = False  # every rollout waits for another person's approval
    password_hasher: PasswordHasher = field(default_factory=PasswordHasher)
    ddi: DdiSettings = field(default_factory=DdiSettings)
    gate: GateSettings = field(default_factory=GateSettings)


SETTINGS: web.AppKey[Settings] = web.AppKey("settings", Settings)
METRICS: web.AppKey[Metrics] = web.AppKey("metrics", Metrics)
CATALOG: web.AppKey[CatalogReader] = web.AppKey("catalog", CatalogReader)
DATABASE: web.AppKey[Database] = web.AppKey("database", Database)
BOARD: web.AppKey[Board] = web.AppKey("board", Board)
ENGINE: web.AppKey[Engine] = web.AppKey("engine", Engine)
COURIER: web.AppKey[Courier] = web.AppKey("courier", Courier)
POLLS: web.AppKey[PollLog] = web.AppKey("polls", PollLog)
LOOPS: web.AppKey[list[Loop]] = web.AppKey("loops", list)
FEED: web.AppKey[Feed] = web.AppKey("feed", Feed)
DESK: web.AppKey[Desk] = web.AppKey("desk", Desk)
WAKER: web.AppKey[Waker] = web.AppKey("waker", Waker)


def make_app(settings: Settings, database: Database) -> web.Application:
    """The application over an open database, which it closes when it ends."""
    gate = Gate(settings.gate)
    app = web.Application(middlewares=[_observe, _explain, gate.middleware()])
    app.on_response_prepare.append(gate.dress)
    app[SETTINGS] = settings
    app[DATABASE] = database
    app[BOARD] = board = Board(database)
    app[METRICS] = metrics = Metrics(lambda: database.statements)
    app[CATALOG] = catalog = CatalogReader(settings.public)
    app[POLLS] = polls = PollLog(database)
    holder = f"{socket.gethostname()[:40]}-{secrets.token_hex(8)}"
    app[ENGINE] = engine = Engine(database, board, settings.now, holder)
    app[COURIER] = courier = Courier(database, settings.now, holder)
    app[FEED] = feed = Feed(database)
    app[WAKER] = waker = Waker(database, board, catalog, polls, settings.now)
    app[LOOPS] = [one.loop for one in (board, engine, polls, courier, feed, waker)]
    app.cleanup_ctx.extend((_database, _poll_log, _rollouts, _feed, _waker))
    app.on_shutdown.append(_end_streams)
    if settings.deltas is not None:
        service = DeltaService(database, board, catalog, settings.deltas, settings.now, holder)
        app.cleanup_ctx.append(partial(_deltas, service))
        app[LOOPS] += service.loops

    digest, now = hash_token(settings.operator_token), settings.now
    interval_s = settings.poll_interval_s
    poll = PollHandler(database, board, polls, catalog, metrics, now, interval_s)
    report = ReportHandler(database, catalog, engine, metrics, now)
    world = World(
        database,
        board,
        engine,
        catalog,
        polls,
        Passwords(settings.password_hasher),
        now,
        digest,
        settings.secure_cookies,
        settings.require_approval,
        settings.gate.proxies,
    )
    app[DESK] = desk = Desk(world, interval_s)
    files = Files(settings.public, metrics)
    reception = Reception(database, settings.ddi, settings.gate.proxies, now)
    actions = Actions(database, board, catalog, reception)
    downloads = Downloads(catalog, files, reception)
    ddi = DdiDoor(
        database, board, engine, polls, catalog, metrics, reception, actions, downloads, interval_s
    )
    app.add_routes(
        [
            web.post("/v1/poll", poll.handle),
            web.post("/v1/report", report.handle),
            web.get("/v1/wake", waker.handle, allow_head=False),
            *FleetLockHandler(database, now).routes(),
            *Door(world, ROUTES).routes(),
            *files.routes(),
            *ddi.routes(),
            *Pages(desk, feed).routes(),
            web.get("/api/v1/openapi.json", _openapi),
            web.get("/healthz", _health),
            web.get("/metrics", _metrics),
        ]
    )
    return app


async def _database(app: web.Application) -> AsyncIterator[None]:
    yield
    await app[DATABASE].close()


async def _rollouts(app: web.Application) -> AsyncIterator[None]:
    async with app[BOARD].following(), app[ENGINE].running(), app[COURIER].running():
        yield


async def _poll_log(app: web.Application) -> AsyncIterator[None]:
    async with app[POLLS].flushing():
        yield


async def _deltas(service: DeltaService, _app: web.Application) -> AsyncIterator[None]:
    async with service.running():
        yield


async def _feed(app: web.Application) -> AsyncIterator[None]:
    async with app[FEED].following():
        yield


async def _waker(app: web.Application) -> AsyncIterator[None]:
    async with app[WAKER].following():
        yield


async def _end_streams(app: web.Application) -> None:
    app[FEED].close()
    app[WAKER].close()


async def _health(request: web.Request) -> web.Response:
    """200 when devices can be served: the database answers and the metadata can be read."""
    checks: dict[str, str] = {}
    for name, check in (
        ("database", request.app[DATABASE].check),
        ("repository", request.app[CATALOG].read),
    ):
        try:
            await check()
            checks[name] = "ok"
        except Unavailable as error:
            checks[name] = str(error)
    troubles = (one.trouble() for one in request.app[LOOPS])
    checks["tasks"] = "; ".join(filter(None, troubles)) or "ok"
    healthy = all(text == "ok" for text in checks.values())
    return answer_json(
        {"status": "ok" if healthy else "failing", **checks}, status=200 if healthy else 503
    )


async def _openapi(_request: web.Request) -> web.Response:
    """What this server can be asked: no secret, and the same for everybody."""
    return answer_json(document(), headers={"Cache-Control": "no-cache"})


async def _metrics(request: web.Request) -> web.Response:
    settings = request.app[SETTINGS]
    if not settings.open_metrics:
        _check_installation(request, hash_token(settings.operator_token))
    await request.app[POLLS].flush()
    async with request.app[DATABASE].reading() as connection:
        counts = await devices.count_by_release(connection)
    try:
        catalog = await request.app[CATALOG].read()
    except Unavailable:
        catalog = None  # /healthz says so; the counters are still worth having
    for loop in request.app[LOOPS]:
        request.app[METRICS].note_failures(loop.name, loop.failures)
    body = request.app[METRICS].dump(counts, catalog)
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})


def _check_installation(request: web.Request, digest: bytes) -> None:
    """401 unless the request carries the installation's token, as Bearer or as a password."""
    header = request.headers.get("Authorization")
    try:
        check_token(bearer_token(header) or basic_password(header), digest)
    except WrongToken as error:
        raise refusal(
            web.HTTPUnauthorized,
            f"{error}: the operator's token is needed",
            {"WWW-Authenticate": 'Basic realm="slipstream operator", charset="UTF-8"'},
        ) from error


@web.middleware
async def _observe(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Counts every request under its route's pattern, never under its path."""
    status = 499  # as nginx writes it: the client left, or the answer broke off
    try:
        response = await handler(request)
        status = response.status
        return response
    finally:
        resource = request.match_info.route.resource
        route = "none" if resource is None else resource.canonical
        request.app[METRICS].count_request(request.method, route, status)


@web.middleware
async def _explain(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Every error becomes JSON with a reason; what nobody foresaw is logged and says nothing."""
    try:
        return await handler(request)
    except web.HTTPError as error:
        reason = _reason(request, error)
        if error.status == 404 and is_for_people(request):
            return await request.app[DESK].miss(request, reason)
        body = describe_error(error.status, reason)
        response = answer_json(body, status=error.status, headers=_kept(error))
        if error.content_type == "application/json":
            response.body = error.body
        if error.status in {408, 413}:
            response.force_close()  # the rest of the body is not worth reading
        return response
    except Unavailable as error:
        _log.error("unavailable", path=request.path, reason=str(error))
        retry = {"Retry-After": str(_RETRY_AFTER_S)}
        return answer_json(describe_error(503, str(error)), status=503, headers=retry)
    except (ConnectionError, TimeoutError):
        raise  # the client is gone, or too slow to be served; aiohttp closes the connection
    except Exception:
        _log.exception("internal error", path=request.path)
        return answer_json(describe_error(500, "internal error"), status=500)


def _reason(request: web.Request, error: web.HTTPError) -> str:
    """What the router, which says nothing but the status, refuses."""
    path = request.rel_url.raw_path[:_PATH_CHARS_MAX]
    match error:
        case web.HTTPNotFound():
            return f"nothing is at {path}"
        case web.HTTPMethodNotAllowed():
            return f"{error.method} is not for {path}; expected {', '.join(sorted(error.allowed_methods))}"
        case _:
            return error.reason


def _kept(error: web.HTTPError) -> dict[str, str]:
    """The headers of an error that say more than its body."""
    names = ("Allow", "Content-Range", "WWW-Authenticate", "Retry-After")
    return {name: error.headers[name] for name in names if name in error.headers}

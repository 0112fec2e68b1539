"""How every call of /api/v1 is answered: identify, authorise, parse, carry out, render.

A change is one transaction: its Idempotency-Key is claimed, it is carried out, its row of the audit
log is sealed, and its answer is kept. What is refused has changed nothing and is kept nowhere, so
that the same key may be tried again.
"""

import hashlib
import hmac
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec
import structlog
from aiohttp import web
from multidict import MultiMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.delta.errors import Unavailable, UsageError
from slipstream.delta.limits import ANSWERS_KEPT_S, AUDIT_SUMMARY_CHARS_MAX
from slipstream.server.access import INSTALLATION, Forbidden, Identity, Role, authorise
from slipstream.server.api.call import Act, Answer, Call, Done, World
from slipstream.server.api.route import Route
from slipstream.server.misfit import misfit
from slipstream.server.store import answers, audit, users
from slipstream.server.store.answers import KeptAnswer
from slipstream.server.tokens import bearer_token, hash_token
from slipstream.server.wire import answer_json, parse_json, read_body, refusal

COOKIE = "slipstream_session"
CSRF_HEADER = "X-CSRF-Token"
KEY_HEADER = "Idempotency-Key"
_KEY_CHARS_MAX = 128
_NOBODY = Identity("", Role.VIEWER)
_log: Any = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Door:
    """Answers the calls of a table."""

    world: World
    table: tuple[Route, ...]

    def routes(self) -> list[web.RouteDef]:
        return [
            web.route(one.method, one.pattern, partial(self._handle, one)) for one in self.table
        ]

    async def _handle(self, route: Route, request: web.Request) -> web.Response:
        now = self.world.now()
        try:
            identity = await self._admit(route, request, now)
            raw = b"" if route.body is None else await read_body(request, route.body_bytes_max)
            call = Call(
                identity=identity,
                now=now,
                places=dict(request.match_info),
                query=parse_query(request.query, route.query),
                body=_parse_body(route, raw),
                version=_parse_version(request, route),
                address=self.world.address(request),
            )
            if route.look is not None:
                return _render(route, await route.look(self.world, call))
            return await self._change(route, call, request, raw)
        except Forbidden as error:
            raise refusal(web.HTTPForbidden, str(error)) from error
        except UsageError as error:
            field = str(error.where) if str(error.where).startswith("$") else None
            raise refusal(web.HTTPBadRequest, str(error), field=field) from error

    async def _admit(self, route: Route, request: web.Request, now: int) -> Identity:
        """Who calls, and may; 401 or 403 otherwise."""
        if route.deed is None:
            return _NOBODY
        identity = await identify(self.world, request, now)
        if identity is None:
            raise refusal(
                web.HTTPUnauthorized,
                "a token or a session is needed",
                {"WWW-Authenticate": 'Bearer realm="slipstream operator"'},
            )
        if route.change is not None and identity.session is not None:
            sent = request.headers.get(CSRF_HEADER, "")
            if not hmac.compare_digest(sent.encode(), csrf_token(identity.session).encode()):
                raise refusal(web.HTTPForbidden, "not the session's CSRF token", field=CSRF_HEADER)
        authorise(identity, route.deed)
        return identity

    async def _change(
        self, route: Route, call: Call, request: web.Request, raw: bytes
    ) -> web.Response:
        assert route.change is not None
        key = _parse_key(request) if route.deed is not None else None
        asked = hashlib.sha256(
            msgspec.json.encode([request.method, request.path_qs, call.version]) + raw
        ).digest()
        if key is not None:
            since = call.now - ANSWERS_KEPT_S
            async with self.world.database.reading() as connection:
                kept = await answers.find(connection, call.identity.actor, key, since)
            if kept is not None:
                return _repeat(kept, asked)
        act = await route.change(self.world, call)
        done = await self.world.database.write(partial(_carry_out, route, call, act, key, asked))
        if isinstance(done, KeptAnswer):
            return _repeat(done, asked)
        await _tell(self.world, route, call, done)
        return _render(route, done)


async def perform(world: World, route: Route, call: Call) -> Done:
    """Carry a change out for the pages, which have checked their form's token.

    Forbidden, UsageError, or the refusal of its handler; then nothing has changed.
    """
    if route.deed is not None:
        authorise(call.identity, route.deed)
    assert route.change is not None
    act = await route.change(world, call)
    done = await world.database.write(partial(_carry_out, route, call, act, None, b""))
    assert isinstance(done, Done)  # no key, no answer of before
    await _tell(world, route, call, done)
    return done


async def identify(world: World, request: web.Request, now: int) -> Identity | None:
    """Who calls: by Bearer token, or by the session of a browser. None: nobody known."""
    token = bearer_token(request.headers.get("Authorization"))
    if token is not None:
        digest = hash_token(token)
        if hmac.compare_digest(digest, world.installation):
            return Identity(INSTALLATION, Role.ADMIN)
        async with world.database.reading() as connection:
            return await users.by_token(connection, digest, now)
    cookie = request.cookies.get(COOKIE)
    if cookie is None:
        return None
    async with world.database.reading() as connection:
        return await users.by_session(connection, hash_token(cookie), now)


def csrf_token(session: bytes) -> str:
    """What a page of a session shows that it was made for it; another site cannot read it."""
    return hashlib.sha256(b"csrf " + session).hexdigest()


def parse_query(query: MultiMapping[str], kind: type) -> Any:
    """The query string as a `kind`. Refuses with 400 and the parameter."""
    names = [name for name, _ in query.items()]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise refusal(web.HTTPBadRequest, "given twice", field=f"?{twice}")
    try:
        return msgspec.convert(dict(query), kind, strict=False)
    except msgspec.ValidationError as error:
        found = misfit(error, kind)
        found = replace(found, field="?" + found.field.removeprefix("$").removeprefix("."))
        raise refusal(web.HTTPBadRequest, str(found), field=found.field) from error


async def _tell(world: World, route: Route, call: Call, done: Done) -> None:
    """What follows from a change once it is durable."""
    _log.info(route.name, actor=done.actor or call.identity.actor, object=done.thing)
    if done.moves:
        with suppress(Unavailable):  # the change is made; the board's own task comes to it
            await world.board.refresh()
        world.engine.wake()


async def _carry_out(
    route: Route,
    call: Call,
    act: Act,
    key: str | None,
    asked: bytes,
    connection: AsyncConnection,
) -> Done | KeptAnswer:
    """The transaction of a change; or what another that came first was answered."""
    who, now = call.identity.actor, call.now
    if key is not None:
        since = now - ANSWERS_KEPT_S
        if not await answers.claim(connection, who, key, now, since):
            first = await answers.find(connection, who, key, since)
            assert first is not None
            return first
    done = await act(connection)
    await audit.append(
        connection,
        now,
        done.actor or who,
        route.name,
        done.thing,
        summarise(done.before),
        summarise(done.after),
    )
    if key is not None:
        said = done.value if done.kept is None else done.kept
        answer = KeptAnswer(
            asked,
            route.status if done.value is not None else 204,
            msgspec.json.encode(done.headers).decode(),
            msgspec.json.encode(said).decode(),
        )
        await answers.keep(connection, who, key, answer)
    return done


def summarise(value: object) -> str:
    """A value as the audit log keeps it: JSON, "" for none; of a long one its digest and size."""
    if value is None:
        return ""
    raw = msgspec.json.encode(value)
    if len(raw) <= AUDIT_SUMMARY_CHARS_MAX:
        return raw.decode()
    cut = {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}
    return msgspec.json.encode(cut).decode()


def _parse_body(route: Route, raw: bytes) -> Any:
    if route.body is None:
        return None
    if route.text_body is not None:
        try:
            return raw.decode("utf-8-sig")  # spreadsheets begin with a byte order mark
        except UnicodeDecodeError as error:
            raise refusal(web.HTTPBadRequest, f"not UTF-8: {error.reason}") from error
    if route.body is bytes:
        return raw  # the handler knows its shape better
    return parse_json(raw or b"{}", route.body)


def _parse_version(request: web.Request, route: Route) -> int | None:
    """The version that If-Match names (RFC 9110, 13.1.1); None for none, or any."""
    text = request.headers.get("If-Match", "*") if route.versioned else "*"
    if text.strip() == "*":
        return None
    number = text.strip().strip('"')
    if not number.isascii() or not number.isdigit() or len(number) > 15:
        raise refusal(
            web.HTTPBadRequest, 'not an ETag that was given; expected "7"', field="If-Match"
        )
    return int(number)


def _parse_key(request: web.Request) -> str | None:
    key = request.headers.get(KEY_HEADER)
    if key is None:
        return None
    if not 0 < len(key) <= _KEY_CHARS_MAX or not key.isascii() or not key.isprintable():
        raise refusal(
            web.HTTPBadRequest,
            f"not a key; expected 1 to {_KEY_CHARS_MAX} visible characters",
            field=KEY_HEADER,
        )
    return key


def _render(route: Route, answer: Answer) -> web.Response:
    if answer.value is None:
        return _plain(204, answer.headers)
    return answer_json(answer.value, status=route.status, headers=answer.headers)


def _repeat(kept: KeptAnswer, asked: bytes) -> web.Response:
    """The answer to a call that was carried out before. Refuses with 422 if it was another call."""
    if kept.call != asked:
        raise refusal(
            web.HTTPUnprocessableEntity, "the key was used for another call", field=KEY_HEADER
        )
    headers = {
        **msgspec.json.decode(kept.headers, type=dict[str, str]),
        "Idempotent-Replayed": "true",
    }
    if kept.status == 204:
        return _plain(204, headers)
    return answer_json(msgspec.Raw(kept.body.encode()), status=kept.status, headers=headers)


def _plain(status: int, headers: Mapping[str, str]) -> web.Response:
    return web.Response(status=status, headers={"Cache-Control": "no-store", **headers})

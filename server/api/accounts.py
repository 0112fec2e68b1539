"""Sessions, passwords, users and API tokens."""

from typing import Annotated, Any

import msgspec
import structlog
from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.delta.limits import (
    COUNTER_MAX,
    LOGIN_FAILURES_MAX,
    PASSWORD_CHARS_MAX,
    SESSION_S,
    TOKEN_DAYS_MAX,
)
from slipstream.server.access import (
    INSTALLATION,
    WHO_MAY,
    Deed,
    Forbidden,
    Identity,
    Role,
    authorise,
    authorise_revocation,
    latest_end,
    lesser,
)
from slipstream.server.api.call import Act, Answer, Call, Done, Page, World, missing, taken
from slipstream.server.api.door import COOKIE, csrf_token
from slipstream.server.api.throttle import Told
from slipstream.server.store import audit, users
from slipstream.server.store.users import ApiToken, User
from slipstream.server.tokens import hash_token, make_token
from slipstream.server.wire import Body, Name, refusal

_log: Any = structlog.get_logger(__name__)
Secret = Annotated[str, msgspec.Meta(max_length=PASSWORD_CHARS_MAX)]
Days = Annotated[int, msgspec.Meta(ge=1, le=TOKEN_DAYS_MAX)]


class Login(Body, frozen=True):
    """A user's name and password."""

    user: Name
    password: Secret


class Me(msgspec.Struct, frozen=True):
    """Who calls. `csrf`: for the header X-CSRF-Token, where it is a session."""

    actor: str
    role: Role
    csrf: str | None


class NewPassword(Body, frozen=True):
    """Of oneself."""

    old: Secret
    password: Secret


class NewUser(Body, frozen=True):
    """A user. Without a password it cannot log in: a program that has tokens."""

    name: Name
    role: Role
    password: Secret | None = None


class UserChange(Body, frozen=True):
    """What is null stays."""

    role: Role | None = None
    password: Secret | None = None


class ShownUser(msgspec.Struct, frozen=True):
    """A user, without what is secret."""

    name: str
    role: Role
    can_log_in: bool
    created_at: int


class NewToken(Body, frozen=True):
    """A token of oneself, or with the role admin of any user."""

    name: Name
    role: Role
    user: Name | None = None
    days: Days | None = None  # null: until it is revoked


class MadeToken(msgspec.Struct, frozen=True):
    """A token; `secret` is shown this once."""

    token: ApiToken
    secret: str | None


async def log_in(world: World, call: Call) -> Act:
    """Begin a session: a cookie that lasts 12 hours, and the CSRF token for what changes something.

    429 after 10 failures of a name from an address within 5 minutes, 30 of an address, or 100 of a
    name from addresses that it has not logged in from before.
    """
    body: Login = call.body
    user = await _check_password(world, call, body.user, body.password)
    if user is None:
        raise refusal(web.HTTPUnauthorized, "unknown user or wrong password")
    secret = make_token()
    digest = hash_token(secret)
    secure = "; Secure" if world.secure_cookies else ""
    cookie = f"{COOKIE}={secret}; Path=/; HttpOnly; SameSite=Lax; Max-Age={SESSION_S}{secure}"

    async def act(connection: AsyncConnection) -> Done:
        await users.open_session(connection, digest, user.name, call.now, call.now + SESSION_S)
        return Done(
            value=Me(user.name, user.role, csrf_token(digest)),
            headers={"Set-Cookie": cookie},
            thing=f"user {user.name}",
            actor=user.name,
        )

    return act


async def who_am_i(_world: World, call: Call) -> Answer:
    """Who calls, with which role."""
    one = call.identity
    csrf = None if one.session is None else csrf_token(one.session)
    return Answer(value=Me(one.actor, one.role, csrf))


async def log_out(_world: World, call: Call) -> Act:
    """End the session."""
    session = call.identity.session
    if session is None:
        raise taken("a token has no session to end")

    async def act(connection: AsyncConnection) -> Done:
        await users.close_session(connection, session)
        gone = f"{COOKIE}=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0"
        return Done(headers={"Set-Cookie": gone}, thing=f"user {call.identity.actor}")

    return act


async def change_password(world: World, call: Call) -> Act:
    """Change one's own password; all other sessions end. A wrong old one counts as a failed login."""
    body: NewPassword = call.body
    name = call.identity.actor
    if await _check_password(world, call, name, body.old) is None:
        raise refusal(web.HTTPForbidden, "not the old password", field="$.old")
    hashed = await world.passwords.hash(body.password)

    async def act(connection: AsyncConnection) -> Done:
        await users.change(
            connection, name, password_hash=hashed, keep=call.identity.session or b""
        )
        return Done(thing=f"user {name}", after={"password": "changed"})

    return act


async def list_users(world: World, _call: Call) -> Answer:
    """All users."""
    async with world.database.reading() as connection:
        found = await users.list_all(connection)
    return Answer(value=Page(tuple(_user(one) for one in found), None))


async def add_user(world: World, call: Call) -> Act:
    """Add a user."""
    body: NewUser = call.body
    if body.name == INSTALLATION:
        raise taken(f"{INSTALLATION} is the owner of the installation's token", "$.name")
    hashed = None if body.password is None else await world.passwords.hash(body.password)
    user = User(body.name, hashed, body.role, call.now)

    async def act(connection: AsyncConnection) -> Done:
        if not await users.add(connection, user):
            raise taken(f"user {body.name} exists", "$.name")
        shown = _user(user)
        return Done(value=shown, thing=f"user {body.name}", after=shown)

    return act


async def change_user(world: World, call: Call) -> Act:
    """Change a user's role or password; a new password ends their sessions."""
    body: UserChange = call.body
    name = call.places["user"]
    hashed = None if body.password is None else await world.passwords.hash(body.password)

    async def act(connection: AsyncConnection) -> Done:
        if not await users.change(connection, name, role=body.role, password_hash=hashed):
            raise missing(f"user {name}")
        user = await users.find(connection, name)
        assert user is not None
        after = {"role": user.role, "password": "kept" if hashed is None else "changed"}
        return Done(value=_user(user), thing=f"user {name}", after=after)

    return act


async def remove_user(_world: World, call: Call) -> Act:
    """Remove a user with their sessions and tokens."""
    name = call.places["user"]

    async def act(connection: AsyncConnection) -> Done:
        if not await users.remove(connection, name):
            raise missing(f"user {name}")
        return Done(thing=f"user {name}")

    return act


async def list_tokens(world: World, call: Call) -> Answer:
    """One's own API tokens; with the role admin everybody's."""
    every = call.identity.role.rank >= WHO_MAY[Deed.ADMINISTER].rank
    async with world.database.reading() as connection:
        found = await users.list_tokens(connection, None if every else call.identity.actor)
    return Answer(value=Page(found, None))


async def add_token(world: World, call: Call) -> Act:
    """Make an API token. It acts for its user, with its own role or the user's where that is less.

    Made with an API token, it has no larger role and ends no later. The secret is shown once; a
    repeated call with the same Idempotency-Key has it null.
    """
    body: NewToken = call.body
    name = _owner(call.identity, body.user)
    async with world.database.reading() as connection:
        user = await users.find(connection, name)
    if user is None:
        raise refusal(web.HTTPBadRequest, f"no user {name}", field="$.user")
    granted = user.role if name != call.identity.actor else lesser(user.role, call.identity.role)
    if body.role.rank > granted.rank:
        raise Forbidden(f"the token cannot be above {granted.value}", got=body.role.value)
    secret = make_token()
    wanted = None if body.days is None else min(COUNTER_MAX, call.now + body.days * 86_400)
    expires_at = latest_end(call.identity, wanted)

    async def act(connection: AsyncConnection) -> Done:
        if await users.find(connection, name) is None:
            raise missing(f"user {name}")
        number = await users.add_token(
            connection, hash_token(secret), body.name, name, body.role, call.now, expires_at
        )
        token = ApiToken(number, body.name, name, body.role, call.now, expires_at)
        return Done(
            value=MadeToken(token, secret),
            kept=MadeToken(token, None),
            thing=f"token {number}",
            after=token,
        )

    return act


async def revoke_token(world: World, call: Call) -> Act:
    """Revoke an API token: one's own, or with the role admin any.

    In a session, or with the installation's token; an API token revokes itself alone.
    """
    number = int(call.places["token"])
    async with world.database.reading() as connection:
        token = await users.find_token(connection, number)
    if token is None:
        raise missing(f"token {number}")
    authorise_revocation(call.identity, number, token.user)

    async def act(connection: AsyncConnection) -> Done:
        if not await users.remove_token(connection, number):
            raise missing(f"token {number}")
        return Done(thing=f"token {number}", before=token)

    return act


async def _check_password(world: World, call: Call, name: str, password: str) -> User | None:
    """The user, if it is their password. Counts the try: 429 for whoever has to wait.

    A failure is in the audit log, as often as the throttle says. Of who is no user it does not say
    the name: people type passwords there.
    """
    throttle, address = world.throttle, call.address
    wait_s = throttle.wait_s(name, address, call.now)
    if wait_s:
        raise refusal(
            web.HTTPTooManyRequests, "too many failures to log in", {"Retry-After": str(wait_s)}
        )
    throttle.begin(name, address, call.now)
    async with world.database.reading() as connection:
        user = await users.find(connection, name)
    if await world.passwords.check(None if user is None else user.password_hash, password):
        assert user is not None
        throttle.succeed(name, address)
        return user
    told = throttle.fail(name, address, call.now)
    if told is not Told.NOTHING:
        whom = "unknown user" if user is None else f"user {name}"
        after: dict[str, object] = {"address": address}
        if told is Told.WAITS:
            after["failures"] = LOGIN_FAILURES_MAX
        _log.warning("login failed", object=whom, **after)

        async def act(connection: AsyncConnection) -> None:
            text = msgspec.json.encode(after).decode()
            await audit.append(connection, call.now, "", "session.refuse", whom, after=text)

        await world.database.write(act)
    return None


def _owner(identity: Identity, named: str | None) -> str:
    if named is None and identity.actor == INSTALLATION:
        raise refusal(
            web.HTTPBadRequest, "the installation has its one token: name a user", field="$.user"
        )
    if named is not None and named != identity.actor:
        authorise(identity, Deed.ADMINISTER)
    return named or identity.actor


def _user(user: User) -> ShownUser:
    return ShownUser(user.name, user.role, user.password_hash is not None, user.created_at)

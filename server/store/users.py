"""Users, the browsers that they have logged in with, and their API tokens."""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.server.access import Identity, Role, lesser
from slipstream.server.store.dialect import insert_into
from slipstream.server.store.tables import api_tokens, sessions, users


@dataclass(frozen=True, slots=True)
class User:
    """A person or program that may act. Without a password it cannot log in."""

    name: str
    password_hash: str | None
    role: Role
    created_at: int


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A token, without what is secret of it."""

    id: int
    name: str
    user: str
    role: Role
    created_at: int
    expires_at: int | None


_TOKEN_COLUMNS = tuple(api_tokens.c[name] for name in ApiToken.__dataclass_fields__)


async def add(connection: AsyncConnection, user: User) -> bool:
    """Add a user; False if the name is taken."""
    statement = insert_into(connection, users).values(
        name=user.name,
        password_hash=user.password_hash,
        role=user.role.value,
        created_at=user.created_at,
    )
    return (await connection.execute(statement.on_conflict_do_nothing())).rowcount == 1


async def change(
    connection: AsyncConnection,
    name: str,
    *,
    role: Role | None = None,
    password_hash: str | None = None,
    keep: bytes | None = None,
) -> bool:
    """Change role or password; False if there is no such user.

    A new password ends all sessions but `keep`, the one that it was changed in.
    """
    values: dict[str, object] = {}
    if role is not None:
        values["role"] = role.value
    if password_hash is not None:
        values["password_hash"] = password_hash
    statement = sa.update(users).where(users.c.name == name)
    found = (await connection.execute(statement.values(values or {"name": name}))).rowcount == 1
    if found and password_hash is not None:
        ended = sa.delete(sessions).where(sessions.c.user == name)
        if keep is not None:
            ended = ended.where(sessions.c.digest != keep)
        await connection.execute(ended)
    return found


async def remove(connection: AsyncConnection, name: str) -> bool:
    """Remove a user, their sessions and their tokens; False if there is none."""
    return (await connection.execute(sa.delete(users).where(users.c.name == name))).rowcount == 1


async def find(connection: AsyncConnection, name: str) -> User | None:
    """The user of that name."""
    row = (await connection.execute(sa.select(users).where(users.c.name == name))).one_or_none()
    return (
        None if row is None else User(row.name, row.password_hash, Role(row.role), row.created_at)
    )


async def list_all(connection: AsyncConnection) -> tuple[User, ...]:
    """All users, by name."""
    rows = await connection.execute(sa.select(users).order_by(users.c.name))
    return tuple(User(row.name, row.password_hash, Role(row.role), row.created_at) for row in rows)


async def open_session(
    connection: AsyncConnection, digest: bytes, user: str, now: int, expires_at: int
) -> None:
    """Keep a session; those that are over go."""
    await connection.execute(sa.delete(sessions).where(sessions.c.expires_at <= now))
    await connection.execute(
        sa.insert(sessions).values(digest=digest, user=user, created_at=now, expires_at=expires_at)
    )


async def close_session(connection: AsyncConnection, digest: bytes) -> None:
    """End a session."""
    await connection.execute(sa.delete(sessions).where(sessions.c.digest == digest))


async def by_session(connection: AsyncConnection, digest: bytes, now: int) -> Identity | None:
    """Who a session belongs to, while it lasts."""
    query = (
        sa.select(users.c.name, users.c.role)
        .join(sessions, sessions.c.user == users.c.name)
        .where(sessions.c.digest == digest, sessions.c.expires_at > now)
    )
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else Identity(row.name, Role(row.role), digest)


async def by_token(connection: AsyncConnection, digest: bytes, now: int) -> Identity | None:
    """Who a token acts for: with its own role, or its user's where that is less."""
    lasts = sa.or_(api_tokens.c.expires_at.is_(None), api_tokens.c.expires_at > now)
    query = (
        sa.select(
            users.c.name,
            users.c.role,
            api_tokens.c.id,
            api_tokens.c.role.label("token_role"),
            api_tokens.c.expires_at,
        )
        .join(api_tokens, api_tokens.c.user == users.c.name)
        .where(api_tokens.c.digest == digest, lasts)
    )
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        return None
    role = lesser(Role(row.role), Role(row.token_role))
    return Identity(row.name, role, token=row.id, expires_at=row.expires_at)


async def add_token(
    connection: AsyncConnection,
    digest: bytes,
    name: str,
    user: str,
    role: Role,
    now: int,
    expires_at: int | None,
) -> int:
    """Keep a token of a user who is there: its id."""
    statement = sa.insert(api_tokens).values(
        digest=digest,
        name=name,
        user=user,
        role=role.value,
        created_at=now,
        expires_at=expires_at,
    )
    result = await connection.execute(statement.returning(api_tokens.c.id))
    return int(result.scalar_one())


async def remove_token(connection: AsyncConnection, token: int) -> bool:
    """Revoke a token; False if there is none."""
    statement = sa.delete(api_tokens).where(api_tokens.c.id == token)
    return (await connection.execute(statement)).rowcount == 1


async def find_token(connection: AsyncConnection, token: int) -> ApiToken | None:
    """The token of that id."""
    query = sa.select(*_TOKEN_COLUMNS).where(api_tokens.c.id == token)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else _token(row)


async def list_tokens(connection: AsyncConnection, user: str | None) -> tuple[ApiToken, ...]:
    """A user's tokens, or everybody's, by id."""
    query = sa.select(*_TOKEN_COLUMNS).order_by(api_tokens.c.id)
    if user is not None:
        query = query.where(api_tokens.c.user == user)
    return tuple(_token(row) for row in await connection.execute(query))


def _token(row: sa.Row[tuple[object, ...]]) -> ApiToken:
    return ApiToken(row.id, row.name, row.user, Role(row.role), row.created_at, row.expires_at)


async def has_admin(connection: AsyncConnection, now: int) -> bool:
    """Whether an admin can log in, or has a token that is good at `now`."""
    is_admin = users.c.role == Role.ADMIN.value
    has_token = sa.exists().where(
        api_tokens.c.user == users.c.name,
        api_tokens.c.role == Role.ADMIN.value,
        sa.or_(api_tokens.c.expires_at.is_(None), api_tokens.c.expires_at > now),
    )
    can_act = sa.or_(users.c.password_hash.is_not(None), has_token)
    query = sa.select(sa.exists().where(is_admin, can_act))
    return bool((await connection.execute(query)).scalar())

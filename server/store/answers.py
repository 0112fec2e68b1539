"""What calls with an Idempotency-Key were answered, in the transaction that carried them out."""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.server.store.dialect import insert_into
from slipstream.server.store.tables import answers


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer as it was given, without what was secret of it."""

    call: bytes  # digest of what was asked
    status: int
    headers: str  # JSON
    body: str  # JSON


_COLUMNS = tuple(answers.c[name] for name in KeptAnswer.__dataclass_fields__)


async def find(connection: AsyncConnection, actor: str, key: str, since: int) -> KeptAnswer | None:
    """What a caller's key was answered, at `since` or later."""
    query = sa.select(*_COLUMNS).where(
        answers.c.actor == actor, answers.c.key == key, answers.c.at >= since
    )
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else KeptAnswer(*row)


async def claim(connection: AsyncConnection, actor: str, key: str, now: int, since: int) -> bool:
    """Begin to answer; False if the key is taken. Of two that claim at once, one waits.

    Forgets answers from before `since`.
    """
    await connection.execute(sa.delete(answers).where(answers.c.at < since))
    statement = insert_into(connection, answers).values(
        actor=actor, key=key, call=b"", status=0, headers="", body="", at=now
    )
    return (await connection.execute(statement.on_conflict_do_nothing())).rowcount == 1


async def keep(connection: AsyncConnection, actor: str, key: str, answer: KeptAnswer) -> None:
    """The answer to a key that was claimed in this transaction."""
    await connection.execute(
        sa.update(answers)
        .where(answers.c.actor == actor, answers.c.key == key)
        .values(call=answer.call, status=answer.status, headers=answer.headers, body=answer.body)
    )

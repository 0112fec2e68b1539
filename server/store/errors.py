"""What a database's own errors become."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from slipstream.delta.errors import Unavailable

try:
    from asyncpg import InterfaceError, PostgresError
except ImportError:  # only where PostgreSQL is used
    InterfaceError = PostgresError = OSError

# deadlock_detected, lock_not_available, serialization_failure: PostgreSQL's errcodes-appendix
_GAVE_WAY = frozenset({"40P01", "55P03", "40001"})
FAILURES = (SQLAlchemyError, sqlite3.Error, PostgresError, InterfaceError, OSError, TimeoutError)


@contextmanager
def translated() -> Iterator[None]:
    """A database's errors become Unavailable, but for a broken constraint."""
    try:
        yield
    except IntegrityError:
        raise
    except FAILURES as error:
        cause = getattr(error, "orig", None) or error
        raise Unavailable(f"the database does not answer: {cause}") from error


def gave_way(error: BaseException | None) -> bool:
    """Whether PostgreSQL ended a transaction only to let another go on: it may be tried again."""
    cause = getattr(error, "orig", None) or error
    return getattr(cause, "sqlstate", None) in _GAVE_WAY

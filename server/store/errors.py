"""What a database's own errors become."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from slipstream.delta.errors import Unavailable

try:
    from asyncpg import InterfaceError, PostgresError
except ImportError:  # only where PostgreSQL is used
    InterfaceError = PostgresError = OSError

# deadlock_detected, serialization_failure: PostgreSQL's errcodes-appendix
_GAVE_WAY = frozenset({"40P01", "40001"})
# Its classes of connection exceptions and of operator intervention: it shuts down.
_POSTGRESQL_GONE = ("08", "57")
_SQLITE_LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
FAILURES = (SQLAlchemyError, sqlite3.Error, PostgresError, InterfaceError, OSError, TimeoutError)


@contextmanager
def translated() -> Iterator[None]:
    """A database's errors become Unavailable, but for a broken constraint."""
    try:
        yield
    except IntegrityError:
        raise
    except FAILURES as error:
        raise unavailable(error) from error


def unavailable(error: Exception) -> Unavailable:
    """What a database's error is told as: it says why."""
    cause = getattr(error, "orig", None) or error
    words = str(cause) or type(cause).__name__  # a timeout has none of its own
    return Unavailable(f"the database does not answer: {words}")


def is_gone(error: Exception) -> bool:
    """Whether the database as a whole gave no answer, so that what else waits would wait in vain."""
    if isinstance(error, DBAPIError):
        if error.connection_invalidated:
            return True
        error = error.orig if isinstance(error.orig, Exception) else error
    if isinstance(error, OSError | TimeoutError | PoolTimeout | InterfaceError):
        return True
    if isinstance(error, sqlite3.Error):
        # Extended codes say more in their upper bytes.
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in _SQLITE_LOCKED
    return str(getattr(error, "sqlstate", "")).startswith(_POSTGRESQL_GONE)


def is_locked_out(error: Exception) -> bool:
    """Whether PostgreSQL waited LOCK_TIMEOUT_S for a row that another holds, in vain."""
    cause = getattr(error, "orig", None) or error
    return getattr(cause, "sqlstate", None) == "55P03"  # lock_not_available


def gave_way(error: BaseException | None) -> bool:
    """Whether PostgreSQL ended a transaction only to let another go on: it may be tried again."""
    cause = getattr(error, "orig", None) or error
    return getattr(cause, "sqlstate", None) in _GAVE_WAY

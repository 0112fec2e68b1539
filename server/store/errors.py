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

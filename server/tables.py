"""The fleet's tables, in SQLAlchemy Core. migrations/ builds them; tests compare the two.

Times are whole seconds since 1970, UTC. Only types that SQLite and PostgreSQL both have.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from slipstream.delta.limits import NAME_CHARS_MAX

# Names for every constraint, or a later migration could not address them.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_Row = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers only INTEGER keys itself

devices = Table(
    "devices",
    metadata,
    Column("id", String(128), primary_key=True),
    Column("product", String(NAME_CHARS_MAX), nullable=False),
    Column("channel", String(NAME_CHARS_MAX), nullable=False),
    Column("token_digest", LargeBinary(32), nullable=False, unique=True),
    Column("created_at", BigInteger, nullable=False),
    # What its last poll said; null until then.
    Column("seen_at", BigInteger),
    Column("hardware", String(NAME_CHARS_MAX)),
    Column("release", String(NAME_CHARS_MAX), index=True),
    Column("counter", BigInteger),
    Column("booted_root", String(64)),
    Column("trial", Boolean),
    Column("slots", Text),  # JSON, as the device sent it
)

reports = Table(
    "reports",
    metadata,
    Column("id", _Row, primary_key=True),
    Column("device", String(128), ForeignKey("devices.id", ondelete="CASCADE"), nullable=False),
    Column("key", String(128), nullable=False),  # the device's, unique for it: makes it idempotent
    Column("kind", String(16), nullable=False),
    Column("release", String(NAME_CHARS_MAX)),
    Column("counter", BigInteger),
    Column("booted_root", String(64)),
    Column("reason", Text, nullable=False),
    Column("details", Text, nullable=False),  # JSON, as the device sent it
    Column("at", BigInteger, nullable=False),  # the device's clock, which may be wrong
    Column("received_at", BigInteger, nullable=False),
    UniqueConstraint("device", "key"),
    Index(None, "device", "kind"),
)

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
_Name = String(NAME_CHARS_MAX)
_DeviceId = String(128)


def _device(*, primary_key: bool = False) -> Column[str]:
    key = ForeignKey("devices.id", ondelete="CASCADE")
    return Column("device", _DeviceId, key, primary_key=primary_key, nullable=False)


def _rollout(*, primary_key: bool = False) -> Column[int]:
    key = ForeignKey("rollouts.id", ondelete="CASCADE")
    return Column("rollout", _Row, key, primary_key=primary_key, nullable=False)


devices = Table(
    "devices",
    metadata,
    Column("id", _DeviceId, primary_key=True),
    Column("product", _Name, nullable=False),
    Column("channel", _Name, nullable=False),
    Column("token_digest", LargeBinary(32), nullable=False, unique=True),
    Column("created_at", BigInteger, nullable=False),
    # What its last poll said; null until then.
    Column("seen_at", BigInteger, index=True),
    Column("hardware", _Name),
    Column("release", _Name, index=True),
    Column("counter", BigInteger),
    Column("booted_root", String(64)),
    Column("trial", Boolean),
    Column("slots", Text),  # JSON, as the device sent it
    # What operators, and devices themselves over DDI, say of it.
    Column("group_name", _Name),
    Column("tags", Text, nullable=False, server_default="[]"),  # JSON, sorted
    Column("attributes", Text, nullable=False, server_default="{}"),  # JSON
    # The token before the last rotation, which is taken until `old_until`.
    Column("old_digest", LargeBinary(32), unique=True, index=True),
    Column("old_until", BigInteger),
    Index(None, "product", "channel"),
)

reports = Table(
    "reports",
    metadata,
    Column("id", _Row, primary_key=True),
    _device(),
    Column("key", String(128), nullable=False),  # the device's, unique for it: makes it idempotent
    Column("kind", String(16), nullable=False),
    Column("release", _Name),
    Column("counter", BigInteger),
    Column("booted_root", String(64)),
    Column("reason", Text, nullable=False),
    Column("details", Text, nullable=False),  # JSON, as the device sent it
    Column("at", BigInteger, nullable=False),  # the device's clock, which may be wrong
    Column("received_at", BigInteger, nullable=False),
    UniqueConstraint("device", "key"),
    Index(None, "device", "kind"),
)

# A release that is not offered to a device again, and why.
quarantines = Table(
    "quarantines",
    metadata,
    _device(primary_key=True),
    Column("release", _Name, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("since", BigInteger, nullable=False),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("id", _Row, primary_key=True),
    Column("name", _Name, nullable=False, unique=True),
    Column("product", _Name, nullable=False),
    Column("channel", _Name, nullable=False),
    Column("release", _Name, nullable=False),
    Column("plan", Text, nullable=False),  # JSON: server/rollout/plan.py
    Column("status", String(24), nullable=False),
    Column("reason", Text, nullable=False),
    Column("version", BigInteger, nullable=False),  # rises with every change
    Column("grants", BigInteger, nullable=False),  # rises with every offer: what they queue on
    Column("created_at", BigInteger, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    Column("author", _Name, nullable=False, server_default=""),
    Column("decided_by", _Name, nullable=False, server_default=""),  # who approved or denied it
    Column("remark", Text, nullable=False, server_default=""),  # with which words
    Index(None, "status"),
    Index(None, "product", "channel"),
)

phases = Table(
    "phases",
    metadata,
    _rollout(primary_key=True),
    Column("phase", Integer, primary_key=True),
    Column("opened_at", BigInteger, nullable=False),
    Column("members", BigInteger, nullable=False),
    Column("limit", BigInteger),  # null: all that match
    Column("cuts", Text, nullable=False),  # JSON: position by stratum, as text
    Column("everyone", Boolean, nullable=False),
    Column("offered", BigInteger, nullable=False),  # never above limit
    Column("proved", Boolean, nullable=False),
    Column("soaked_s", BigInteger, nullable=False),
    Column("forgiven", Text, nullable=False),  # JSON: failures by class when it was resumed
    # Seconds in which it was offered: not while paused, nor outside its windows.
    Column("watched_s", BigInteger, nullable=False, server_default="0"),
    # JSON: what became of offers to devices that were removed since; "confirmed" or a failure's class
    Column("removed", Text, nullable=False, server_default="{}"),
)

# One offer of a rollout's release to a device: at most one for each pair.
attempts = Table(
    "attempts",
    metadata,
    Column("id", _Row, primary_key=True),  # the action id of DDI
    _rollout(),
    _device(),
    Column("phase", Integer, nullable=False),
    Column("release", _Name, nullable=False),
    Column("state", String(16), nullable=False),  # server/rollout/track.py
    Column("failure", String(16)),  # FailureClass, where the state is one of failure
    Column("reason", Text, nullable=False),
    Column("source", _Name),  # the release that the device ran when it was offered
    Column("offered_at", BigInteger, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    # When; null: it did not happen.
    Column("recalled_at", BigInteger),  # an operator takes it back
    Column("consent_at", BigInteger),  # the person at the device agreed
    Column("refused_at", BigInteger),  # the device would not be called back
    Column("closed_at", BigInteger),  # the device said its last word, where its protocol has one
    Column("shown_at", BigInteger),  # it named the release as what it runs, where that is apart
    # As the device says: what it fetched to install, and what full payloads would have been.
    Column("fetched_bytes", BigInteger),
    Column("full_bytes", BigInteger),
    UniqueConstraint("rollout", "device"),
    Index(None, "device"),
    Index(None, "rollout", "phase", "state", "failure"),
)

# Devices that speak hawkBit's DDI: what that protocol has beside the rest.
controllers = Table(
    "controllers",
    metadata,
    _device(primary_key=True),
    Column("since", BigInteger, nullable=False),
    Column("wants_attributes", Boolean, nullable=False),  # the server does: configData is asked for
    # Who agreed to every installation beforehand, and when; null: each is asked for.
    Column("auto_confirm_by", String(128)),
    Column("auto_confirm_remark", Text),
    Column("auto_confirm_at", BigInteger),
)

# Devices that are, or may any moment be, out of service, by the labels that are budgeted.
holds = Table(
    "holds",
    metadata,
    Column("label", String(96), primary_key=True),
    Column("value", String(128), primary_key=True),
    _device(primary_key=True),
    Column("rollout", _Row),  # null: taken by FleetLock
    Column("since", BigInteger, nullable=False),
    Index(None, "device"),
    Index(None, "rollout"),
)

# One row for each label and value ever held: what transactions queue on before they count.
hold_queues = Table(
    "hold_queues",
    metadata,
    Column("label", String(96), primary_key=True),
    Column("value", String(128), primary_key=True),
    Column("turns", BigInteger, nullable=False),
)

# Budgets of the whole fleet, besides those of a rollout; FleetLock's groups are values of one.
budgets = Table(
    "budgets",
    metadata,
    Column("label", String(96), primary_key=True),
    Column("max_unavailable", BigInteger, nullable=False),
)

waypoints = Table(
    "waypoints",
    metadata,
    Column("product", _Name, primary_key=True),
    Column("channel", _Name, primary_key=True),
    Column("release", _Name, primary_key=True),
    Column("counter", BigInteger, nullable=False),
    Column("barrier", Boolean, nullable=False),
    Column("dead_end", Boolean, nullable=False),
    Column("min_source", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
)

# What the server did and decided, for timelines and live pages; audited acts stand in `audit`.
events = Table(
    "events",
    metadata,
    Column("id", _Row, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("kind", String(24), nullable=False),
    Column("device", _DeviceId),
    Column("rollout", _Row),
    Column("text", Text, nullable=False),
    Index(None, "device", "id"),
    Index(None, "rollout", "id"),
)

# Devices by what they run, at the beginning of each hour (its first second).
census = Table(
    "census",
    metadata,
    Column("hour", BigInteger, primary_key=True, autoincrement=False),
    Column("product", _Name, primary_key=True),
    Column("release", _Name, primary_key=True),
    Column("devices", BigInteger, nullable=False),
)

# When a server listened to the fleet: what lies between is nobody's silence.
listening = Table(
    "listening",
    metadata,
    Column("begin", BigInteger, primary_key=True, autoincrement=False),
    Column("until", BigInteger, nullable=False),
)

# Duties that one server has at a time.
leases = Table(
    "leases",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("until", BigInteger, nullable=False),
    Column("token", BigInteger, nullable=False),  # rises with every new holder: fences the last
)

# Pairs of releases that a delta is built for.
delta_jobs = Table(
    "delta_jobs",
    metadata,
    Column("id", _Row, primary_key=True),
    Column("product", _Name, nullable=False),
    Column("source", _Name, nullable=False),
    Column("target", _Name, nullable=False),
    Column("state", String(16), nullable=False),  # server/store/delta_jobs.py
    Column("saving_bytes", BigInteger, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("holder", String(64)),
    Column("lease_until", BigInteger, nullable=False),
    Column("progress", Integer, nullable=False),  # per cent
    Column("payload_bytes", BigInteger),
    Column("reason", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    UniqueConstraint("product", "source", "target"),
    Index(None, "state", "lease_until"),
)

# People and programs that may act on the fleet. One without a password cannot log in.
users = Table(
    "users",
    metadata,
    Column("name", _Name, primary_key=True),
    Column("password_hash", Text),  # argon2id, in PHC's form
    Column("role", String(16), nullable=False),  # server/access.py
    Column("created_at", BigInteger, nullable=False),
)


def _user() -> Column[str]:
    key = ForeignKey("users.name", ondelete="CASCADE")
    return Column("user", _Name, key, nullable=False, index=True)


# Browsers that a user has logged in with.
sessions = Table(
    "sessions",
    metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    _user(),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False, index=True),
)

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("id", _Row, primary_key=True),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("name", _Name, nullable=False),
    _user(),
    Column("role", String(16), nullable=False),  # never more than its user's
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
)

# Who changed what: each row carries the digest of the one before (server/chain.py).
audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),  # 1, 2, 3: none is missing
    Column("at", BigInteger, nullable=False),
    Column("actor", _Name, nullable=False),
    Column("act", String(48), nullable=False),
    Column("object", String(256), nullable=False),
    Column("before", Text, nullable=False),  # JSON: a summary, without secrets
    Column("after", Text, nullable=False),
    Column("previous", LargeBinary(32), nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
)

# One row: the end of the chain. Whoever adds to the log queues on it.
audit_head = Table(
    "audit_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("rows", BigInteger, nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
)

# What a call with an Idempotency-Key was answered, for when it is sent again.
answers = Table(
    "answers",
    metadata,
    Column("actor", _Name, primary_key=True),
    Column("key", String(128), primary_key=True),
    Column("call", LargeBinary(32), nullable=False),  # digest of method, path and body
    Column("status", Integer, nullable=False),
    Column("headers", Text, nullable=False),  # JSON
    Column("body", Text, nullable=False),  # JSON, without secrets
    Column("at", BigInteger, nullable=False, index=True),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", _Row, primary_key=True),
    Column("url", Text, nullable=False),
    Column("kinds", Text, nullable=False),  # JSON, sorted: events that it wants
    Column("secret", LargeBinary(32), nullable=False),  # signs what is sent
    Column("created_at", BigInteger, nullable=False),
)

# Written in the transaction of the event that they tell of.
deliveries = Table(
    "deliveries",
    metadata,
    Column("id", _Row, primary_key=True),
    Column(
        "webhook", _Row, ForeignKey("webhooks.id", ondelete="CASCADE"), nullable=False, index=True
    ),
    Column("kind", String(24), nullable=False),
    Column("body", Text, nullable=False),  # JSON, as it is sent and signed
    Column("created_at", BigInteger, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("due_at", BigInteger, index=True),  # null: delivered, or given up
    Column("delivered_at", BigInteger),
    Column("error", Text, nullable=False),  # of the last try
)

"""A database of every released version, with rows in all its tables, upgraded: they mean the same."""

import asyncio
from typing import Any, Final

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from slipstream.server.access import Role
from slipstream.server.chain import START, Entry, Verifier, seal
from slipstream.server.rollout.plan import FailureClass, Phase, Plan
from slipstream.server.rollout.record import Status
from slipstream.server.rollout.track import State
from slipstream.server.store import (
    answers,
    audit,
    census,
    controllers,
    delta_jobs,
    devices,
    events,
    grants,
    holds,
    leases,
    listening,
    reports,
    rollouts,
    tallies,
    users,
    waypoints,
    webhooks,
)
from slipstream.server.store.database import Database, parse_url, upgrade

RELEASED: Final = ("0001", "0002", "0003", "0004", "0005", "0007", "0008")
NOW = 1_800_000_000
# As the first version with rollouts wrote it down; a plan is never written again.
PLAN = (
    '{"name":"r","product":"gateway","release":"2.0","counter":2,'
    '"phases":[{"count":1},{"percent":100.0}]}'
)
NEXT_PLAN = Plan("r2", "gateway", "3.0", 3, (Phase(percent=100),))
SEALED = seal(START, Entry(1, NOW, "ada", "rollout.create", "r", "", "{}"))
DIGESTS = {number: bytes([number]) * 32 for number in range(1, 9)}
# A row for each table, as the newest version has it: an older one takes the columns that it has.
# Ids that the database counts are left to it.
ROWS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("devices", {"id": "d1", "product": "gateway", "channel": "stable", "created_at": 1, "seen_at": 5,
                 "token_digest": DIGESTS[1], "release": "1.0", "counter": 1, "trial": False,
                 "slots": "[]", "group_name": "lab", "tags": '["x"]', "attributes": '{"site":"a"}'}),
    ("reports", {"device": "d1", "key": "k1", "kind": "fell_back", "release": "2.0",
                 "reason": "no network", "details": "{}", "at": 5, "received_at": 6}),
    ("quarantines", {"device": "d1", "release": "2.0", "reason": "no network", "since": 6}),
    ("rollouts", {"name": "r", "product": "gateway", "channel": "stable", "release": "2.0",
                  "plan": PLAN, "status": "paused", "reason": "boots", "version": 3, "grants": 1,
                  "created_at": 1, "changed_at": 2, "author": "ada", "decided_by": "bea",
                  "remark": "seen"}),
    ("phases", {"rollout": 1, "phase": 0, "opened_at": 3, "members": 1, "limit": 1, "cuts": '{"":9}',
                "everyone": False, "offered": 1, "proved": False, "soaked_s": 7,
                "forgiven": '{"boot":1}', "watched_s": 8}),
    ("attempts", {"rollout": 1, "device": "d1", "phase": 0, "release": "2.0", "state": "fell_back",
                  "failure": "boot", "reason": "no network", "source": "1.0", "offered_at": 3,
                  "changed_at": 6}),
    ("holds", {"label": "attribute.site", "value": "a", "device": "d1", "rollout": 1, "since": 3}),
    ("hold_queues", {"label": "attribute.site", "value": "a", "turns": 1}),
    ("budgets", {"label": "attribute.site", "max_unavailable": 2}),
    ("waypoints", {"product": "gateway", "channel": "stable", "release": "1.5", "counter": 1,
                   "barrier": True, "dead_end": False, "min_source": 0, "reason": "new layout"}),
    ("events", {"at": 6, "kind": "fell_back", "device": "d1", "rollout": 1, "text": "2.0 fell back"}),
    ("leases", {"name": "engine", "holder": "old", "until": NOW + 9, "token": 4}),
    ("users", {"name": "ada", "password_hash": "$argon2id$", "role": "admin", "created_at": 1}),
    ("sessions", {"digest": DIGESTS[2], "user": "ada", "created_at": 1, "expires_at": NOW + 9}),
    ("api_tokens", {"digest": DIGESTS[3], "name": "ci", "user": "ada", "role": "operator",
                    "created_at": 1, "expires_at": None}),
    ("audit", {"id": 1, "at": NOW, "actor": "ada", "act": "rollout.create", "object": "r",
               "before": "", "after": "{}", "previous": SEALED.previous, "digest": SEALED.digest}),
    ("answers", {"actor": "ada", "key": "i1", "call": DIGESTS[4], "status": 201, "headers": "{}",
                 "body": "{}", "at": NOW}),
    ("webhooks", {"url": "http://127.0.0.1/", "kinds": '["phase"]', "secret": DIGESTS[5],
                  "created_at": 1}),
    ("deliveries", {"webhook": 1, "kind": "phase", "body": "{}", "created_at": 1, "tries": 2,
                    "due_at": 9, "error": "HTTP 500"}),
    ("controllers", {"device": "d1", "since": 1, "wants_attributes": True, "auto_confirm_by": "eve",
                     "auto_confirm_remark": "", "auto_confirm_at": 4}),
    ("delta_jobs", {"product": "gateway", "source": "1.0", "target": "2.0", "state": "queued",
                    "saving_bytes": 10, "tries": 0, "token": 0, "lease_until": 0, "progress": 0,
                    "reason": "", "created_at": 1, "changed_at": 1}),
    ("census", {"hour": NOW - NOW % 3600, "product": "gateway", "release": "1.0", "devices": 1}),
    ("listening", {"begin": NOW - 60, "until": NOW}),
)  # fmt: skip
# Made by the migration itself, with the one row that they ever have.
MADE = {"alembic_version", "audit_head"}


@pytest.mark.parametrize("revision", RELEASED)
def test_what_an_older_version_wrote_means_the_same(database_url: str, revision: str):
    async def main() -> None:
        await upgrade(parse_url(database_url), revision)
        engine = create_async_engine(database_url)
        async with engine.begin() as connection:
            tables = await connection.run_sync(_fill)
        await engine.dispose()
        database = await Database.open(database_url)
        try:
            async with database.reading() as connection:
                await _look(connection, tables)
            await database.write(lambda connection: _go_on(connection, tables))
        finally:
            await database.close()

    asyncio.run(main())


def _fill(connection: sa.Connection) -> frozenset[str]:
    """A row in every table: their names."""
    found = sa.MetaData()
    found.reflect(connection)
    assert found.tables.keys() - MADE <= {name for name, _ in ROWS}, "a table without a row here"
    for name, row in ROWS:
        if name in found.tables:
            table = found.tables[name]
            known = {key: value for key, value in row.items() if key in table.columns}
            connection.execute(sa.insert(table), known)
    if "audit_head" in found.tables:
        head = found.tables["audit_head"]
        connection.execute(sa.update(head).values(rows=1, digest=SEALED.digest))
    return frozenset(found.tables)


async def _look(connection: AsyncConnection, tables: frozenset[str]) -> None:
    """What the newest version makes of it."""
    known = await devices.know(connection, devices.has_token(DIGESTS[1], NOW))
    assert known is not None
    assert (known.device.release, known.device.seen_at) == ("1.0", 5)
    assert known.quarantined == {"2.0": "no network"}
    (report,) = await reports.list_of(connection, "d1", limit=9)
    assert (report.key, report.kind, report.received_at) == ("k1", "fell_back", 6)
    if "rollouts" not in tables:
        return
    await _look_at_rollouts(connection)
    if "users" in tables:
        await _look_at_operators(connection)
    controller = await controllers.know(connection, "d1", NOW)
    assert controller is not None
    assert controller.met is ("controllers" in tables)
    if controller.met:
        assert controller.auto_confirm is not None
        assert controller.auto_confirm.by == "eve"
    jobs = await delta_jobs.list_all(connection, limit=9)
    assert [(one.source, one.target) for one in jobs] == [("1.0", "2.0")] * ("delta_jobs" in tables)
    counts = {("gateway", "1.0"): 1} if "census" in tables else None
    assert (await census.history(connection, 0)).get(census.hour_of(NOW)) == counts


async def _look_at_rollouts(connection: AsyncConnection) -> None:
    known = await devices.know(connection, devices.by_id("d1"))
    assert known is not None
    assert known.attempts == {1: State.FELL_BACK}
    facts = known.device.facts()
    assert (facts.group, facts.tags, facts.attributes) == ("lab", {"x"}, {"site": "a"})
    (rollout,) = await rollouts.load(connection, ids=[1])
    assert (rollout.status, rollout.version) == (Status.PAUSED, 3)
    assert rollout.plan == Plan("r", "gateway", "2.0", 2, (Phase(count=1), Phase(percent=100)))
    assert [one.cuts for one in rollout.opened] == [{"": 9}]
    (record,) = tallies.records(
        (await rollouts.open_phases(connection, [1]))[1], await tallies.of_rollout(connection, 1)
    )
    assert (record.tally.offered, record.tally.failures) == (1, {FailureClass.BOOT: 1})
    assert record.counted.failed == 0, "what was forgiven counts again"
    assert await holds.count(connection) == {("attribute.site", "a"): 1}
    assert await holds.list_budgets(connection) == {"attribute.site": 2}
    ((waypoint,),) = (await waypoints.list_all(connection)).values()
    assert (waypoint.release, waypoint.barrier, waypoint.reason) == ("1.5", True, "new layout")
    (event,) = await events.list_of_device(connection, "d1", limit=9)
    assert event.text == "2.0 fell back"


async def _look_at_operators(connection: AsyncConnection) -> None:
    (decided,) = await rollouts.decisions(connection, limit=9)
    assert (decided.decided_by, decided.remark) == ("bea", "seen")
    for identity in (
        await users.by_session(connection, DIGESTS[2], NOW),
        await users.by_token(connection, DIGESTS[3], NOW),
    ):
        assert identity is not None
        assert identity.actor == "ada"
    found = await users.find(connection, "ada")
    assert found is not None
    assert (found.role, found.password_hash) == (Role.ADMIN, "$argon2id$")
    verifier = Verifier()
    verifier.feed(await audit.list_after(connection, 0, 9, limit=9))
    assert verifier.finish(*await audit.head(connection)) is None
    kept = await answers.find(connection, "ada", "i1", 0)
    assert kept is not None
    assert (kept.call, kept.status) == (DIGESTS[4], 201)
    (webhook,) = await webhooks.list_all(connection)
    assert webhook.secret == DIGESTS[5]
    (delivery,) = await webhooks.due(connection, NOW, limit=9)
    assert (delivery.webhook, delivery.tries) == (webhook.id, 2)


async def _go_on(connection: AsyncConnection, tables: frozenset[str]) -> None:
    """What is written next follows from what was there."""
    token = await leases.take(connection, "engine", "new", NOW, 15)
    assert token == (None if "leases" in tables else 1), "a duty that another holds was taken"
    assert len(await listening.note(connection, NOW + 1, 30)) == 1
    if "audit_head" in tables:
        await audit.append(connection, NOW, "ada", "rollout.start", "r")
        assert (await audit.head(connection))[0] == 2
    if "rollouts" in tables:
        assert await grants.lift_quarantine(connection, "d1", "2.0", NOW)
        made = await rollouts.create(connection, NEXT_PLAN, Status.SCHEDULED, NOW)
        assert made == 2, "the ids begin anew"

"""The service as a whole: it counts the fleet, builds what is worth it, and signs it."""

import asyncio
import os
import signal

import pytest

from slipstream.server.catalog import CatalogReader
from slipstream.server.deltas import worker
from slipstream.server.deltas.worker import DeltaService, DeltaSettings
from slipstream.server.fleet.board import Board
from slipstream.server.rollout.plan import Phase, Plan
from slipstream.server.rollout.record import Status
from slipstream.server.store import delta_jobs, polls, rollouts
from slipstream.server.store.database import Database
from slipstream.server.store.delta_jobs import JobState
from slipstream.server.store.polls import Seen
from tests.server.repositories import make_repo
from tests.server.store.test_database import add
from tests.server.test_publish import IMAGES, put, request

PLAN = Plan("two", "gateway", "2.0", 2, (Phase(percent=100),))


@pytest.fixture
def repo(tmp_path):
    paths = {}
    made = make_repo(tmp_path)
    for version in ("1.0", "2.0"):
        paths[version] = tmp_path / f"rootfs-{version}.img"
        paths[version].write_bytes(IMAGES[version])
        put(made, request(version, paths))
    return made


@pytest.fixture
def with_service(repo, tmp_path):
    def run(test, **more):
        async def main():
            database = await Database.open(f"sqlite:///{tmp_path / 'fleet.sqlite'}")
            board = Board(database)

            async def fill(connection):
                await add(connection, "d1", "d2")
                seen = [Seen(one, 5, None, "1.0", 1, None, False, "[]") for one in ("d1", "d2")]
                await polls.write(connection, seen)
                await rollouts.create(connection, PLAN, Status.SCHEDULED, 5)

            await database.write(fill)
            await board.refresh()
            settings = DeltaSettings(repo.path, workers=1, options=("--jobs", "1"), **more)
            catalog = CatalogReader(repo.public)
            service = DeltaService(database, board, catalog, settings, lambda: 10, "me")
            try:
                await test(service)
            finally:
                await database.close()

        asyncio.run(main())

    return run


async def jobs(service):
    async with service.database.reading() as connection:
        return await delta_jobs.list_all(connection, limit=9)


def test_a_pair_is_planned_built_and_offered(with_service, repo):
    async def test(service):
        assert await service.plan() == 1
        assert await service.plan() == 0
        assert await service.work_once("w")
        (job,) = await jobs(service)
        catalog = await service.catalog.read()
        (offer,) = catalog.find("gateway", "2.0").deltas
        assert (job.state, job.payload_bytes) == (JobState.DONE, offer.payload_bytes)
        assert offer.source_release == "1.0"
        assert list((repo.path / "server" / "delta-jobs").iterdir()) == []
        assert not await service.work_once("w")
        assert await service.plan() == 0

    with_service(test)


def test_what_saves_too_little_is_not_planned(with_service):
    async def test(service):
        assert await service.plan() == 0

    with_service(test, saving_bytes_min=1 << 40)


def test_a_build_that_fails_says_why(with_service, repo):
    async def test(service):
        await service.plan()
        for key in repo.keys.glob("deltas*"):
            key.unlink()
        assert await service.work_once("w")
        (job,) = await jobs(service)
        assert job.state is JobState.QUEUED
        assert "deltas" in job.reason

    with_service(test)


def test_who_loses_the_lease_ends_its_build(with_service, monkeypatch):
    monkeypatch.setattr(worker, "DELTA_LEASE_S", 0.3)
    ended = []
    kill = os.killpg
    monkeypatch.setattr(os, "killpg", lambda *words: (ended.append(words[1]), kill(*words)))

    async def test(service):
        await service.plan()
        working = asyncio.create_task(service.work_once("slow"))
        await asyncio.sleep(0.2)
        service.now = lambda: 1_000
        stolen = await service.database.write(lambda c: delta_jobs.take(c, "other", 1_000, 600))
        assert stolen is not None
        assert await working
        assert ended == [signal.SIGTERM]
        (job,) = await jobs(service)
        assert (job.state, job.holder) == (JobState.RUNNING, "other")

    with_service(test)


def test_a_server_that_stops_puts_its_build_back(with_service):
    async def test(service):
        await service.plan()
        async with service.running():
            while not [one for one in await jobs(service) if one.state is JobState.RUNNING]:
                service.loops[1].wake()
                await asyncio.sleep(0.01)
        (job,) = await jobs(service)
        assert (job.state, job.tries, job.holder) == (JobState.QUEUED, 0, None)

    with_service(test)


def test_pairs_whose_names_run_together_do_not_share_a_folder(with_service):
    async def test(service):
        folders = set()
        for source, target in (("1-2", "3"), ("1", "2-3")):
            await service.database.write(
                lambda c, s=source, t=target: delta_jobs.enqueue(c, "gateway", s, t, 1, 1)
            )
            job = await service.database.write(lambda c: delta_jobs.take(c, "w", 10, 60))
            folders.add(worker.work_folder(service.settings.repository, job))
        assert len(folders) == 2

    with_service(test)

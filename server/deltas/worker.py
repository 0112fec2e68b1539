"""Runs delta jobs: takes one by lease, builds it in a process of its own, tells how it went.

The build is `slipstream repo add-delta`, at the lowest priority of the scheduler: polls and
downloads come first. A worker that loses its lease ends its process; what that may have published
is the same delta that its follower makes.
"""

import asyncio
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.delta.errors import NothingToDo, SlipstreamError
from slipstream.delta.limits import (
    DELTA_AGAIN_S,
    DELTA_LEASE_S,
    DELTA_PLAN_S,
    LINE_CHARS_MAX,
)
from slipstream.server.catalog import CatalogReader
from slipstream.server.deltas.census import pair_bytes, plan_pairs
from slipstream.server.fleet.board import Board
from slipstream.server.fleet.loop import Loop
from slipstream.server.rollout.record import Status
from slipstream.server.store import delta_jobs, leases
from slipstream.server.store.database import Database
from slipstream.server.store.delta_jobs import Job

_log: Any = structlog.get_logger(__name__)
_DUTY = "delta-planner"
_PERCENT = re.compile(r"(\d+) %")
_WANTED = frozenset(
    {Status.WAITING, Status.SCHEDULED, Status.RUNNING, Status.PAUSED, Status.FINISHED}
)


@dataclass(frozen=True, slots=True)
class DeltaSettings:
    """How deltas are built. `workers`: processes at the same time; 0: none are."""

    repository: Path
    workers: int = 0
    saving_bytes_min: int = 0
    options: Sequence[str] = ()  # of `slipstream repo add-delta`: profile, memory, passphrase file


@dataclass
class DeltaService:
    """Plans pairs and runs their jobs. `holder` is this process's own name among servers."""

    database: Database
    board: Board
    catalog: CatalogReader
    settings: DeltaSettings
    now: Callable[[], int]  # seconds since 1970
    holder: str

    def __post_init__(self) -> None:
        # No device waits for a delta: none of these fails /healthz.
        self.loops = [
            Loop("delta planner", self.plan, DELTA_PLAN_S, allowed_s=None),
            *(
                Loop(f"delta worker {number}", partial(self._work, number), DELTA_PLAN_S / 4, None)
                for number in range(self.settings.workers)
            ),
        ]
        if not self.settings.workers:
            self.loops = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator["DeltaService"]:
        """Plans and builds while inside; a build that is cut off goes on in the next process."""
        async with AsyncExitStack() as stack:
            for loop in self.loops:
                await stack.enter_async_context(loop.running())
            yield self

    async def plan(self) -> int:
        """Queue the pairs that are worth it: how many are new. Unavailable."""
        now = self.now()
        mine = await self.database.write(
            lambda connection: leases.take(connection, _DUTY, self.holder, now, 2 * DELTA_PLAN_S)
        )
        if mine is None:
            return 0
        catalog = await self.catalog.read()
        async with self.database.reading() as connection:
            counted = await delta_jobs.census(connection)
        rollouts = [one for one in self.board.view.by_id.values() if one.status in _WANTED]
        lines = {(one.plan.product, one.plan.channel) for one in rollouts}
        running: dict[tuple[str, str], int] = {}
        for (product, channel, release), number in counted.items():
            if (product, channel) in lines:
                key = (product, release)
                running[key] = running.get(key, 0) + number
        pairs = plan_pairs(
            catalog,
            [(one.plan.product, one.plan.release) for one in rollouts],
            running,
            self.settings.saving_bytes_min,
        )

        async def queue(connection: AsyncConnection) -> int:
            new = [
                await delta_jobs.enqueue(
                    connection, one.product, one.source, one.target, one.saving_bytes, now
                )
                for one in pairs
            ]
            return sum(new)

        return await self.database.write(queue)

    async def work_once(self, holder: str) -> bool:
        """Take a job and run it to its end; False: there was none."""
        job = await self.database.write(
            lambda connection: delta_jobs.take(connection, holder, self.now(), DELTA_LEASE_S)
        )
        if job is None:
            return False
        _log.info("delta begun", source=job.source, target=job.target, tries=job.tries)
        folder = work_folder(self.settings.repository, job)
        try:
            size = await self._build(job, folder)
        except asyncio.CancelledError:  # this server stops
            with suppress(SlipstreamError):  # then the lease runs out
                await self.database.write(
                    lambda connection: delta_jobs.put_back(connection, job, self.now())
                )
            raise
        except _Lost:
            _log.warning("delta is another's now", source=job.source, target=job.target)
            return True
        except SlipstreamError as error:
            reason = str(error)
            again_s = DELTA_AGAIN_S << (job.tries - 1)
            await self.database.write(
                lambda connection: delta_jobs.give_up(connection, job, reason, self.now(), again_s)
            )
            _log.error("delta failed", source=job.source, target=job.target, reason=reason)
            return True
        await self.database.write(
            lambda connection: delta_jobs.finish(connection, job, size, self.now())
        )
        shutil.rmtree(folder, ignore_errors=True)  # images that were made again
        _log.info("delta done", source=job.source, target=job.target, bytes=size)
        return True

    async def _build(self, job: Job, folder: Path) -> int | None:
        """Bytes of the pair's payloads in the repository; None: none is worth publishing."""
        process = await asyncio.create_subprocess_exec(
            *("nice", "-n", "19", sys.executable, "-m", "slipstream", "repo", "add-delta"),
            str(self.settings.repository),
            *("--from", job.source, "--to", job.target, "--work", str(folder)),
            *self.settings.options,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # its own processes end with it
        )
        watch = _Watch()
        beating = asyncio.create_task(self._beat(job, watch))
        following = asyncio.create_task(watch.follow(process))
        try:
            await asyncio.wait((beating, following), return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                raise _Lost("the lease ran out")
        finally:
            beating.cancel()
            following.cancel()
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
                await process.wait()
        if process.returncode not in (0, NothingToDo.exit_code):
            raise SlipstreamError(watch.last or f"exit code {process.returncode}")
        return pair_bytes(await self.catalog.read(), job.product, job.source, job.target)

    async def _beat(self, job: Job, watch: "_Watch") -> None:
        """Returns when the job is another's."""
        while True:
            await asyncio.sleep(DELTA_LEASE_S / 3)
            with suppress(SlipstreamError):  # a database that is away: the lease tells
                kept = await self.database.write(partial(_keep, job, watch.percent, self.now()))
                if not kept:
                    return

    async def _work(self, number: int) -> None:
        while await self.work_once(f"{self.holder}-{number}"):
            pass


def work_folder(repository: Path, job: Job) -> Path:
    """Where a job builds. By number: releases' names may hold whatever stands between two of them."""
    return repository / "server" / "delta-jobs" / str(job.id)


class _Lost(Exception):
    """The job has another holder."""


@dataclass
class _Watch:
    """What a build says on standard error: lines for people, with per cent in some of them."""

    percent: int = 0
    last: str = ""

    async def follow(self, process: asyncio.subprocess.Process) -> None:
        """Read until the build ends."""
        assert process.stderr is not None
        async for line in process.stderr:
            text = line.decode("utf-8", "replace").strip()
            found = _PERCENT.search(text)
            if found is not None and "delta" in text:
                self.percent = min(100, int(found[1]))
            self.last = text[:LINE_CHARS_MAX] or self.last
        await process.wait()


async def _keep(job: Job, percent: int, now: int, connection: AsyncConnection) -> bool:
    return await delta_jobs.beat(connection, job, percent, now, DELTA_LEASE_S)

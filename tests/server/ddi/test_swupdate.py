"""Debian's unmodified swupdate against a real server process: success, failure, cancel.

One test, because a server and two devices cost more than what is asked of them.
"""

import asyncio
import json
import random
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from slipstream.server.keys import no_passphrase
from slipstream.server.publish import publish
from slipstream.server.repo import Repository
from slipstream.server.request import ReleaseRequest
from slipstream.server.rollout.plan import AbortRule, FailureClass, Phase, Plan, Proof
from slipstream.server.rollout.record import Act, Rollout, Status, step
from slipstream.server.rollout.track import State
from slipstream.server.store import attempts, reports, rollouts
from slipstream.server.store.attempts import Attempt
from slipstream.server.store.database import Database
from tests.server.ddi.swu import Maker, Swupdate, thin_link
from tests.server.repositories import NOW, make_repo

DEADLINE_S = 120  # on a machine that does ten other things
IMAGES = {version: random.Random(version).randbytes(600_000) for version in ("2.0", "3.0", "4.0")}


def put(repo: Repository, version: str, swu: Path) -> None:
    asked = ReleaseRequest(version, {}, artifacts={"os": swu})
    publish(repo, asked, passphrases=no_passphrase, now=NOW)


def plan(name: str, release: str, *phases: Phase) -> Plan:
    counter = int(release[0])
    return Plan(
        name, "gateway", release, counter, phases, abort=(AbortRule(count=1),), proof=Proof.REPORT
    )


@contextmanager
def serving(repo: Repository):
    """`slipstream serve` as a process: its URL."""
    command = [sys.executable, "-m", "slipstream", "serve", repo.path, "--listen", "127.0.0.1:0"]
    with (repo.path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--poll-interval", "1"], stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.stdout.close()
        assert process.wait(DEADLINE_S) == 0


@dataclass
class Operator:
    """Who looks on and acts, through the same database as the server."""

    repo: Repository
    database: Database
    url: str

    def register(self, name: str) -> str:
        token = (self.repo.path / "server/operator.token").read_text().strip()
        request = urllib.request.Request(
            f"{self.url}/api/v1/devices",
            data=json.dumps({"id": name, "product": "gateway"}).encode(),
            headers={"Authorization": f"Bearer {token}"},
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["token"]

    async def create(self, wanted: Plan) -> int:
        now = int(time.time())
        return await self.database.write(
            lambda connection: rollouts.create(connection, wanted, Status.SCHEDULED, now)
        )

    async def rollout(self, number: int) -> Rollout:
        async with self.database.reading() as connection:
            return (await rollouts.load(connection, ids=[number]))[0]

    async def act(self, number: int, act: Act) -> None:
        found = await self.rollout(number)
        status = step(found.status, act)
        assert await self.database.write(
            lambda connection: rollouts.change(connection, found, status, "enough", 1)
        )

    async def offers(self, number: int) -> dict[str, Attempt]:
        async with self.database.reading() as connection:
            found = await attempts.list_of_rollout(connection, number, limit=9)
        return {one.device: one for one in found}

    async def wait_for(self, what: str, number: int, ready: Callable[[dict[str, Attempt]], bool]):
        """The offers of a rollout once they are as they should be."""
        give_up = time.monotonic() + DEADLINE_S
        while not ready(found := await self.offers(number)):
            assert time.monotonic() < give_up, (what, found, await self.rollout(number))
            await asyncio.sleep(0.1)
        return found

    async def wait_until(self, number: int, status: Status) -> Rollout:
        give_up = time.monotonic() + DEADLINE_S
        while (found := await self.rollout(number)).status is not status:
            assert time.monotonic() < give_up, found
            await asyncio.sleep(0.1)
        return found


def stand(*states: State) -> Callable[[dict[str, Attempt]], bool]:
    """Whether the offers of a rollout are in exactly these states."""
    return lambda found: sorted(one.state for one in found.values()) == sorted(states)


@pytest.mark.skipif(shutil.which("swupdate") is None, reason="swupdate (Debian package)")
def test_swupdate(tmp_path):
    maker = Maker(tmp_path)
    repo = make_repo(tmp_path)
    # Relative paths: each device has its own folder as its working directory.
    for version, broken in (("2.0", False), ("3.0", True), ("4.0", False)):
        swu = maker.swu(version, IMAGES[version], "slot", broken=broken)
        put(repo, version, swu)

    async def main(url: str) -> None:
        database = await Database.open(f"sqlite:///{repo.path / 'server/fleet.sqlite'}")
        operator = Operator(repo, database, url)
        fleet = {
            name: Swupdate(name, operator.register(name), url, tmp_path / name, maker.certificate)
            for name in ("d1", "d2")
        }
        try:
            await update(operator, fleet)
            await fail(operator, fleet)
            await cancel(operator, fleet)
        finally:
            for one in fleet.values():
                one.stop()
            await database.close()

    with serving(repo) as url:
        asyncio.run(main(url))


async def update(operator: Operator, fleet: dict[str, Swupdate]) -> None:
    """A rollout in two phases, in which each device is counted once it has come up again."""
    two = await operator.create(plan("two", "2.0", Phase(count=1), Phase(percent=100)))
    for one in fleet.values():
        one.start()
    found = await operator.wait_for("install", two, stand(State.INSTALLED))
    (first,) = found  # the second phase is not open
    assert (fleet[first].folder / "slot").read_bytes() == IMAGES["2.0"]
    fleet[first].restart("-c", "2")  # it rebooted, and is healthy
    found = await operator.wait_for("second", two, stand(State.CONFIRMED, State.INSTALLED))
    assert found[first].state is State.CONFIRMED
    (second,) = set(fleet) - {first}
    fleet[second].restart("-c", "2")
    found = await operator.wait_for("confirm", two, stand(State.CONFIRMED, State.CONFIRMED))
    assert all(one.closed_at is not None for one in found.values())
    assert (await operator.wait_until(two, Status.FINISHED)).phase == 1
    async with operator.database.reading() as connection:
        kept = await reports.list_of(connection, first, limit=50)
    assert {"installed", "confirmed", "progress"} == {one.kind for one in kept}


async def fail(operator: Operator, fleet: dict[str, Swupdate]) -> None:
    """An image of another digest than was signed for: refused by the device, heard by the rollout."""
    three = await operator.create(plan("three", "3.0", Phase(count=1), Phase(percent=100)))
    found = await operator.wait_for("fail", three, stand(State.FAILED))
    ((name, offer),) = found.items()
    assert offer.failure is FailureClass.DEVICE
    assert offer.closed_at is not None
    paused = await operator.wait_until(three, Status.PAUSED)
    assert "1 failed" in paused.reason
    assert (fleet[name].folder / "slot").read_bytes() == IMAGES["2.0"]
    await operator.act(three, Act.ABORT)


async def cancel(operator: Operator, fleet: dict[str, Swupdate]) -> None:
    """An operator aborts while a device downloads: it stops, and says so."""
    async with thin_link(operator.url, 60_000) as url:  # 600 kB take ten seconds
        for one in fleet.values():
            one.url = url
            one.restart()
        four = await operator.create(plan("four", "4.0", Phase(count=1)))
        await operator.wait_for("fetch", four, stand(State.FETCHING))
        await operator.act(four, Act.ABORT)
        found = await operator.wait_for("stop", four, stand(State.CANCELLED))
        for one in fleet.values():
            one.stop()
    ((name, offer),) = found.items()
    assert offer.reason == "cancellation acknowledged."
    assert (fleet[name].folder / "slot").read_bytes() != IMAGES["4.0"]

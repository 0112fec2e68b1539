"""A server that dies at every moment of one transaction, one after the other.

Before and after each statement, before and after COMMIT: the same decision is tried by one server
after the other, each killed one moment later than the last, until one lives through it.

SLIPSTREAM_FAULTS=all tries both sides of each; otherwise only the moments behind a statement or COMMIT:
the next one's front is the same to the database.
"""

import itertools
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest

from tests.server.faults.meddling import Aim
from tests.server.faults.model import (
    DEVICES,
    PLAN,
    ROOTS,
    consistent,
    crowd,
    rows,
    status,
    undisturbed,
)
from tests.server.faults.processes import UNANSWERED, WAIT_S, Gadget, Server, serving

STEP = 1 if os.environ.get("SLIPSTREAM_FAULTS") == "all" else 2
# Its first failure pauses it.
PAUSING = {**PLAN, "abort": [{"count": 1, "action": "pause"}]}


@pytest.fixture(autouse=True)
def _published(folder):
    for counter, root in ROOTS.items():
        folder.release(f"{counter}.0", counter)
        folder.full(f"{counter}.0", "rootfs", root, b"x" * counter)
    folder.write()


def kill_at_every_moment(
    at: str, url: str, folder, plan: Mapping[str, Any], *, fail: bool = False
) -> tuple[list[Gadget], set[str]]:
    """A rollout from its start to its end, paused or finished; its devices, and whom it told."""
    with serving(folder.public, url) as server:
        gadgets = [Gadget(f"d{n}", server.register(f"d{n}"), fail) for n in range(DEVICES)]
        assert server.call("POST", "/api/v1/rollouts", plan)[0] == 201
    told: set[str] = set()
    for moment in itertools.count(STEP, STEP):
        with serving(folder.public, url, meddling=Aim(at, moment)) as server:
            survived = live(server, url, gadgets, told)
        undisturbed(url, gadgets, told)
        if survived:
            # A statement and COMMIT at least, each from both sides; the last kill was behind it.
            last = moment - STEP
            assert last >= 4
            assert last % 2 == 0
            return gadgets, told
    raise AssertionError


def live(server: Server, url: str, gadgets: list[Gadget], told: set[str]) -> bool:
    """Everybody steps on until the rollout is at its end; False if the server dies before that."""
    give_up = time.monotonic() + WAIT_S
    while not server.died():
        busy = any(one.unsent for one in gadgets)
        if not busy and status(url) in ("finished", "paused"):
            break
        crowd(gadgets, [server], told, None)
        assert time.monotonic() < give_up, sorted(told)
        time.sleep(0.1)
    with suppress(*UNANSWERED):  # it may be about to die of what has just been seen
        server.call("GET", "/healthz")
    return not server.died()


@pytest.mark.parametrize("at", ["grant", "open", "confirm", "finish"])
def test_a_kill_at_every_moment(at, folder, tmp_path):
    url = f"sqlite:///{tmp_path / 'fleet.sqlite'}"
    gadgets, told = kill_at_every_moment(at, url, folder, PLAN)
    consistent(url, gadgets, told)


def test_a_kill_at_every_moment_of_a_pause(folder, tmp_path):
    url = f"sqlite:///{tmp_path / 'fleet.sqlite'}"
    _, told = kill_at_every_moment("pause", url, folder, PAUSING, fail=True)
    assert status(url) == "paused"
    assert rows(url, "SELECT count(*) FROM events WHERE text LIKE 'paused:%'") == [(1,)]
    assert len(told) <= 2, "it went beyond its first phase"


@pytest.mark.parametrize("at", ["grant", "open"])
def test_a_kill_at_every_moment_on_postgresql(at, folder, new_postgresql):
    url = new_postgresql()
    gadgets, told = kill_at_every_moment(at, url, folder, PLAN)
    consistent(url, gadgets, told)

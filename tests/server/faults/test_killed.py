"""Servers killed with -9 in the middle of everything, alone and two on one database.

The model is what devices and the operator heard. Afterwards the database has to agree with it.
"""

import itertools
import random
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from http.client import HTTPConnection

import pytest

from tests.server.faults.meddling import Brisk
from tests.server.faults.model import (
    DEVICES,
    LIMITS,
    PLAN,
    ROOTS,
    consistent,
    crowd,
    opened,
    rows,
    undisturbed,
)
from tests.server.faults.processes import UNANSWERED, WAIT_S, Gadget, Server, serving

BLOB = random.Random(5).randbytes(1 << 20) * 24  # more than the sockets of both ends hold


@pytest.fixture(autouse=True)
def blob(folder) -> str:
    """The name of a payload of 24 MiB."""
    for counter, root in ROOTS.items():
        folder.release(f"{counter}.0", counter)
        name = folder.full(f"{counter}.0", "rootfs", root, BLOB)
    folder.write()
    return f"/blobs/{name}.payload"


def update_all(url: str, folder, count: int) -> None:
    """A rollout from its start to its end: whenever more devices were told, a server is killed."""
    with ExitStack() as stack:

        def start(number: int) -> Server:
            name = f"server{number}"
            return stack.enter_context(serving(folder.public, url, name, Brisk()))

        servers = [start(0)]
        gadgets = [Gadget(f"d{n}", servers[0].register(f"d{n}")) for n in range(DEVICES)]
        status, _, _ = servers[0].call("POST", "/api/v1/rollouts", PLAN)
        assert status == 201
        # A line without any rollout gets the newest release: the others begin behind it.
        servers += [start(number) for number in range(1, count)]
        told: set[str] = set()
        kills, told_then = 0, 0
        give_up = time.monotonic() + WAIT_S
        for number in itertools.count():
            # The first once a phase is open: then there is a duty to be taken over.
            due = len(told) > told_then if kills else bool(opened(url))
            victim = kills % count if due else None
            random.Random(number).shuffle(gadgets)
            told_then = len(told) if due else told_then
            crowd(gadgets, servers, told, victim)
            if victim is not None:
                kills += 1
                servers[victim] = start(victim)
            undisturbed(url, gadgets, told)
            if all(one.runs == 2 and not one.unsent for one in gadgets):
                break
            assert time.monotonic() < give_up, sorted(told)
            time.sleep(0.2)
    assert kills >= len(LIMITS), "it was killed in no phase"
    consistent(url, gadgets, told)


def test_a_server_is_killed_again_and_again_under_a_rollout(folder, tmp_path):
    update_all(f"sqlite:///{tmp_path / 'fleet.sqlite'}", folder, 1)


def test_two_servers_on_one_database_are_killed_in_turns(folder, new_postgresql):
    """The duty to move rollouts on goes to the other with each kill."""
    url = new_postgresql()
    update_all(url, folder, 2)
    ((token,),) = rows(url, "SELECT token FROM leases WHERE name = 'engine'")
    assert int(str(token)) > 1, "the duty never changed hands"


def test_a_download_goes_on_behind_a_kill(folder, tmp_path, blob):
    url = f"sqlite:///{tmp_path / 'fleet.sqlite'}"
    with serving(folder.public, url) as server:
        got, headers = begin(server, blob, {"Range": "bytes=1000-"})
    assert 0 < len(got) < len(BLOB) - 1000
    with serving(folder.public, url) as server:
        more = {"Range": f"bytes={1000 + len(got)}-", "If-Range": headers["ETag"]}
        with closing(HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
            connection.request("GET", blob, headers=more)
            response = connection.getresponse()
            assert response.status == 206
            assert got + response.read() == BLOB[1000:]


def begin(server: Server, path: str, headers: Mapping[str, str]) -> tuple[bytes, Mapping[str, str]]:
    """All that comes of a download whose server dies when its first bytes are there."""
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
        connection.request("GET", path, headers=dict(headers))
        response = connection.getresponse()
        pieces = [response.read(4096)]
        server.kill()
        with suppress(*UNANSWERED):
            while piece := response.read1(1 << 16):
                pieces.append(piece)
        return b"".join(pieces), dict(response.getheaders())

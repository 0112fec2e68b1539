"""A database that does not answer a running server: it says so, loses nothing, and goes on by itself."""

import resource
import sqlite3
from contextlib import closing

import pytest

from tests.server import postgres
from tests.server.faults.processes import Server, serving

RELEASES = ((1, "1" * 64), (2, "2" * 64))


@pytest.fixture(autouse=True)
def _published(folder):
    for counter, root in RELEASES:
        folder.release(f"{counter}.0", counter)
        folder.full(f"{counter}.0", "rootfs", root, b"x" * counter)
    folder.write()


def report(key: str) -> dict[str, str]:
    return {"device": "d1", "key": key, "kind": "progress", "release": "2.0"}


def polled(server: Server, token: str) -> int:
    body = {"device": "d1", "product": "gateway", "release": "2.0", "counter": 2}
    return server.call("POST", "/v1/poll", body, token=token)[0]


def refuse(server: Server, token: str, key: str) -> str:
    """A report that is not acknowledged, and why: as the device is told and as the log says."""
    status, answer, headers = server.call("POST", "/v1/report", report(key), token=token)
    assert status == 503, answer
    assert int(headers["Retry-After"]) > 0
    (why,) = {
        line["reason"]
        for line in server.said()
        if line["event"] == "unavailable" and line["path"] == "/v1/report"
    }
    return str(why)


def keep(server: Server, token: str, *, acknowledged: str, refused: str) -> None:
    """What was acknowledged is there, and what was not is taken once when it comes again."""
    again = server.until("POST", "/v1/report", report(acknowledged), token=token)
    assert again["duplicate"], "an acknowledged report was lost"
    first = server.until("POST", "/v1/report", report(refused), token=token)
    assert not first["duplicate"], "it was refused, and kept all the same"
    assert server.until("POST", "/v1/report", report(refused), token=token)["duplicate"]
    assert server.process.poll() is None


def test_a_lock_that_outlasts_the_wait(folder, tmp_path):
    """As a backup or a person with a shell may hold it. Reading goes on meanwhile."""
    path = tmp_path / "fleet.sqlite"
    with serving(folder.public, f"sqlite:///{path}") as server:
        token = server.register("d1")
        server.until("POST", "/v1/report", report("k1"), token=token)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert polled(server, token) == 200
            assert "locked" in refuse(server, token, "k2")
            assert polled(server, token) == 200
            other.execute("ROLLBACK")
        keep(server, token, acknowledged="k1", refused="k2")


def test_a_full_disk(folder, tmp_path):
    """The file may not grow: what the kernel answers where there is no block left."""
    path = tmp_path / "fleet.sqlite"
    with serving(folder.public, f"sqlite:///{path}") as server:
        token = server.register("d1")
        server.until("POST", "/v1/report", report("k1"), token=token)
        log = path.with_name("fleet.sqlite-wal")
        whole = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        full = (log.stat().st_size, whole[1])
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, full)
        assert "disk" in refuse(server, token, "k2")
        assert polled(server, token) == 200
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, whole)
        keep(server, token, acknowledged="k1", refused="k2")
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        kept = database.execute("SELECT key FROM reports ORDER BY id").fetchall()
    assert kept == [("k1",), ("k2",)]


def test_postgresql_stops_and_comes_back(folder, new_postgresql, postgresql):
    with serving(folder.public, new_postgresql()) as server:
        token = server.register("d1")
        server.until("POST", "/v1/report", report("k1"), token=token)
        with postgres.stopped(postgresql):
            assert "does not answer" in refuse(server, token, "k2")
            assert polled(server, token) == 503
            status, health, _ = server.call("GET", "/healthz")
            assert (status, health["repository"]) == (503, "ok")
        keep(server, token, acknowledged="k1", refused="k2")
        assert server.until("GET", "/healthz")["database"] == "ok"

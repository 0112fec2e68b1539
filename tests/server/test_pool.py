"""pool.py: results in order, errors as they are, workers that end; the same on a Dask cluster."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from slipstream.delta.errors import SlipstreamError, Unavailable, UsageError
from slipstream.delta.limits import MIB
from slipstream.server.build import build_payload
from slipstream.server.patch import apply_payload
from slipstream.server.pool import in_order, open_pool, workspace
from slipstream.server.workspace import WorkFiles
from tests.server.image_pairs import archive, code


def _square(number: int) -> int:
    return number * number


def _fail(number: int) -> int:
    raise UsageError("as it is", got=number)


def _end(_number: int) -> int:
    os._exit(3)


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_order(jobs: int) -> None:
    with open_pool(jobs) as pool:
        assert pool.jobs == jobs
        results = in_order(pool, (_submits(_square, number) for number in range(100)))
        assert list(results) == [number * number for number in range(100)]


def _submits(task, number):
    return lambda pool: pool.submit(task, number)


def test_calls_do_not_run_far_ahead_of_results() -> None:
    begun = []

    def call(number, pool):
        begun.append(number)
        return pool.submit(_square, number)

    with open_pool(1) as pool:
        results = in_order(pool, (partial(call, number) for number in range(10_000)))
        assert next(results) == 0
        assert len(begun) < 100


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_task_raises_its_own_error(jobs: int) -> None:
    with open_pool(jobs) as pool, pytest.raises(UsageError, match="as it is; got 7"):
        list(in_order(pool, [_submits(_square, 1), _submits(_fail, 7)]))


def test_a_worker_that_dies_is_said_so() -> None:
    with pytest.raises(SlipstreamError, match="ended from outside"), open_pool(2) as pool:
        pool.submit(_end, 1)()


def test_no_workers() -> None:
    with pytest.raises(UsageError, match="unknown workers"), open_pool("ray://somewhere"):
        pass


def test_the_files_of_another_build_are_others(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"one")
    (tmp_path / "scratch-1").write_bytes(b"1")
    (tmp_path / "scratch-2").write_bytes(b"2")
    files = WorkFiles(None, tmp_path / "target", tmp_path / "scratch-1", 0, 3)
    assert workspace(files).read(0, 4) == b"one1"
    assert workspace(files) is workspace(files)
    assert workspace(replace(files, scratch=tmp_path / "scratch-2")).read(2, 2) == b"e2"
    workspace.cache_clear()


# --- on Dask


@dataclass(frozen=True, slots=True)
class Cluster:
    """A scheduler and its workers, processes of this machine."""

    url: str
    workers: list[subprocess.Popen[bytes]]


def _dask(folder: Path, command: str, *options: object) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", f"distributed.cli.dask_{command}", "--no-dashboard"]
    log = (folder / f"{command}.log").open("ab")
    with log:
        return subprocess.Popen(
            [*words, *map(str, options)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},  # tasks of tests
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers of one thread each, in another folder than the tests."""
    distributed = pytest.importorskip("distributed")
    folder = tmp_path_factory.mktemp("dask")
    place = folder / "scheduler.json"
    options = ("--scheduler-file", place, "--host", "127.0.0.1")
    scheduler = _dask(folder, "scheduler", *options, "--port", "0")
    workers = [
        _dask(
            folder, "worker", *options, "--nthreads", "1", "--no-nanny", "--local-directory", name
        )
        for name in ("one", "two")
    ]
    try:
        with distributed.Client(scheduler_file=str(place), set_as_default=False) as client:
            client.wait_for_workers(2, timeout=120)
            address = client.scheduler.address
        yield Cluster(address.replace("tcp://", "dask://"), workers)
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()


@pytest.fixture
def releases(tmp_path: Path) -> tuple[Path, Path]:
    """Archives of some megabytes that differ all over: dozens of tasks."""
    for name in ("source", "target"):
        later = name == "target"
        files = {f"file-{n}": code(n, 600_000, later=later) for n in range(12)}
        (tmp_path / name).write_bytes(archive(files))
    return tmp_path / "source", tmp_path / "target"


def test_dask_makes_the_same_bytes_also_when_a_worker_dies(
    tmp_path: Path, releases: tuple[Path, Path], cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source, target = (path.relative_to(tmp_path) for path in releases)
    options = {"memory_bytes": 96 * MIB, "profile": "fast"}
    build_payload(source, target, Path("here"), jobs=1, **options)
    build_payload(source, target, Path("there"), jobs=cluster.url, **options)
    assert Path("here").read_bytes() == Path("there").read_bytes()

    def kill(what: str, done: int, _total: int) -> None:
        if what == "encode" and done:
            cluster.workers[0].send_signal(signal.SIGKILL)

    build_payload(source, target, Path("after"), jobs=cluster.url, on_progress=kill, **options)
    assert cluster.workers[0].wait() == -signal.SIGKILL
    assert Path("here").read_bytes() == Path("after").read_bytes()
    apply_payload(source, Path("after"), Path("made"))
    assert Path("made").read_bytes() == target.read_bytes()


def test_equal_tasks_of_dask_are_run_each(cluster: Cluster, tmp_path: Path) -> None:
    with open_pool(cluster.url) as pool:
        assert pool.jobs == 2
        counts = [pool.submit(_count, tmp_path / "count")() for _ in range(3)]
        assert counts == [1, 2, 3]
        with pytest.raises(UsageError, match="as it is"):
            pool.submit(_fail, 1)()


def _count(path: Path) -> int:
    with path.open("ab") as file:
        file.write(b"x")
    return path.stat().st_size


def test_a_cluster_without_workers_is_unavailable(cluster: Cluster) -> None:
    with open_pool(cluster.url) as pool:
        result = pool.submit(_end, 1)
        for worker in cluster.workers:
            worker.kill()
            worker.wait()
        del result
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:  # until the scheduler knows
        try:
            with open_pool(cluster.url):
                pass
        except Unavailable as error:
            assert "no workers" in str(error)  # noqa: PT017 - it comes when it comes
            return
    raise AssertionError("the scheduler still names workers")


def test_distributed_is_not_imported_unless_asked_for() -> None:
    program = "import sys, slipstream.server.build; print('distributed' in sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "False"


def test_processes_end_with_the_pool() -> None:
    with open_pool(2) as pool:
        pid = pool.submit(os.getpid)()
        ended = os.pidfd_open(pid)
    try:
        assert select.select([ended], [], [], 10)[0]
    finally:
        os.close(ended)

"""Where the work of a build runs: in this process, in processes beside it, or on a Dask cluster.

All three take functions of modules with picklable arguments and give results in any order; so the
payload is the same wherever it was made. A worker finds the files of the build by path: workers on
other machines need the same file system.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache, partial
from multiprocessing.connection import Connection
from typing import Any, Protocol, TypeVar

from slipstream.delta.errors import SlipstreamError, Unavailable, UsageError
from slipstream.server.workspace import WorkFiles, WorkSpace

T = TypeVar("T")
Result = Callable[[], T]

JOBS_MAX = 8  # processes on this machine: each holds about 150 MiB
_AHEAD = 16  # tasks in work or done, for each worker, before the first of their results is taken
_DASK = "dask://"


class Pool(Protocol):
    """Takes tasks. `jobs` is how many run at a time."""

    @property
    def jobs(self) -> int: ...

    def submit(self, task: Callable[..., T], *arguments: Any) -> Result[T]:
        """Start a task; calling what comes back waits for its result or raises its error."""
        ...


def in_order(pool: Pool, calls: Iterable[Callable[[Pool], Result[T]]]) -> Iterator[T]:
    """The results of calls, in order; only so many are under way that memory stays bounded."""
    waiting: deque[Result[T]] = deque()
    for call in calls:
        waiting.append(call(pool))
        if len(waiting) > pool.jobs * _AHEAD:
            yield waiting.popleft()()
    while waiting:
        yield waiting.popleft()()


@contextmanager
def open_pool(workers: str | int | None) -> Iterator[Pool]:
    """A pool, closed behind the block: a count of processes, or `dask://HOST:PORT` of a scheduler.

    None: as many as there are processors. UsageError; Unavailable where no scheduler answers.
    """
    if isinstance(workers, str):
        with _open_dask(workers) as cluster:
            yield cluster
        return
    jobs = min(workers or os.cpu_count() or 1, JOBS_MAX)
    if jobs == 1:
        try:
            yield _Here()
        finally:
            workspace.cache_clear()  # workers end with their files, this process goes on
        return
    with _open_processes(jobs) as processes:
        yield processes


@lru_cache(maxsize=1)
def workspace(files: WorkFiles) -> WorkSpace:
    """The open work space of a build, one for each process that works on it."""
    return WorkSpace(files)


class _Here:
    """Runs tasks when their results are asked for, in this process."""

    jobs = 1

    def submit(self, task: Callable[..., T], *arguments: Any) -> Result[T]:
        return partial(task, *arguments)


class _Processes:
    def __init__(self, executor: ProcessPoolExecutor, jobs: int) -> None:
        self._executor = executor
        self.jobs = jobs

    def submit(self, task: Callable[..., T], *arguments: Any) -> Result[T]:
        return partial(_result, self._executor.submit(task, *arguments))


def _result(future: Future[T]) -> T:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise SlipstreamError(
            "a worker process was ended from outside",
            hint="If it was for want of memory, take fewer --jobs. Run again: it goes on from here",
        ) from error


@contextmanager
def _open_processes(jobs: int) -> Iterator[Pool]:
    # Threads are running: a plain fork could inherit a held lock.
    context = multiprocessing.get_context("spawn")
    # Only this process holds the end that is never written to: it closes when this process
    # closes it, or dies of whatever signal, and then the workers end.
    watched, held = context.Pipe(duplex=False)
    executor = ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_start_worker, initargs=(watched,)
    )
    try:
        yield _Processes(executor, jobs)
    except BaseException:
        held.close()  # no one wants the tasks in work, of seconds each
        # A worker that ends while it sends leaves half a result, and the executor's thread waits for
        # the rest as long as anyone could send it: as this process could, by its own end of the pipe.
        results = getattr(executor, "_result_queue", None)
        if results is not None:
            results._writer.close()  # noqa: SLF001 - the executor has no word for it
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
        held.close()
        watched.close()


def _start_worker(watched: Connection) -> None:
    # Ctrl-C reaches the whole process group; the parent alone decides what to do about it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(watched,), daemon=True).start()


def _end_with_parent(watched: Connection) -> None:
    """End this process, whatever it does, once the parent has closed its end or is no more."""
    watched.poll(None)
    os._exit(1)


class _Dask:
    def __init__(self, client: Any, jobs: int) -> None:
        self._client = client
        self.jobs = jobs

    def submit(self, task: Callable[..., T], *arguments: Any) -> Result[T]:
        # Not pure: a key of its own, so that equal tasks of two builds are not taken for one.
        return partial(_dask_result, self._client.submit(task, *arguments, pure=False))


def _dask_result(future: Any) -> Any:
    """A task's result, or its own error; the cluster's errors are Unavailable."""
    from distributed import KilledWorker  # noqa: PLC0415
    from distributed.comm import CommClosedError  # noqa: PLC0415

    try:
        return future.result()
    except (KilledWorker, CancelledError, CommClosedError) as error:
        raise Unavailable(
            "the Dask cluster gave a task up", got=error, hint="Run again: it goes on from here"
        ) from error


@contextmanager
def _open_dask(address: str) -> Iterator[Pool]:
    if not address.startswith(_DASK):
        raise UsageError("unknown workers", expected=f"a number, or {_DASK}HOST:PORT", got=address)
    try:
        from distributed import Client  # noqa: PLC0415 - an extra that few builds need
    except ImportError as error:
        raise UsageError(
            "Dask is not installed", where=address, hint="In a clone: pip install '.[dask]'"
        ) from error
    try:
        client = Client("tcp://" + address.removeprefix(_DASK), set_as_default=False)
    except (OSError, ValueError) as error:
        raise Unavailable("no Dask scheduler answers", where=address, got=error) from error
    try:
        jobs = sum(client.nthreads().values())
        if not jobs:
            raise Unavailable("the Dask scheduler has no workers", where=address)
        yield _Dask(client, jobs)
    finally:
        client.close()

"""A real PostgreSQL for tests: Debian's, in a folder of its own, on a socket and a free port."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

BIN = Path("/usr/lib/postgresql/15/bin")
_ACCOUNT = "nobody"  # it refuses to run as root


@contextmanager
def running(folder: Path) -> Iterator[Path]:
    """A server whose socket lies in `folder`, without fsync: only the machine could lose data."""
    data = folder / "data"
    data.mkdir(parents=True)
    if os.geteuid() == 0:
        shutil.chown(folder, _ACCOUNT)
        shutil.chown(data, _ACCOUNT)
    _run(BIN / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
    _start(folder)
    try:
        yield folder
    finally:
        _run(BIN / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")


@contextmanager
def temporary() -> Iterator[Path]:
    """A running server of its own: its folder."""
    with TemporaryDirectory(prefix="slipstream-pg-") as made:
        folder = Path(made)
        folder.chmod(0o755)  # its account has to pass
        with running(folder / "server") as found:
            yield found


@contextmanager
def frozen(folder: Path) -> Iterator[None]:
    """Every process of the running server stands still while inside: connections hang."""
    first = int((folder / "data" / "postmaster.pid").read_text().split()[0])
    os.kill(first, signal.SIGSTOP)  # it makes no more of them
    children = [
        int(pid) for pid in Path(f"/proc/{first}/task/{first}/children").read_text().split()
    ]
    try:
        for pid in children:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in (*children, first):
            os.kill(pid, signal.SIGCONT)


@contextmanager
def stopped(folder: Path) -> Iterator[None]:
    """The running server is down while inside; it ends all its connections first."""
    _run(BIN / "pg_ctl", "-D", folder / "data", "-m", "fast", "-w", "stop")
    try:
        yield
    finally:
        _start(folder)


def _start(folder: Path) -> None:
    options = (
        f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
        " -c full_page_writes=off -c shared_buffers=16MB -c max_connections=100"
    )
    _run(BIN / "pg_ctl", "-D", folder / "data", "-l", folder / "log", "-o", options, "-w", "start")


def url(folder: Path, name: str) -> str:
    """The URL of one of its databases."""
    return f"postgresql+asyncpg://postgres@/{name}?host={folder}"


def execute(folder: Path, statement: str) -> None:
    """Run one statement as the superuser."""
    _run("psql", "-h", folder, "-U", "postgres", "-q", "-c", statement)


def _run(*command: object) -> None:
    as_account = ["setpriv", f"--reuid={_ACCOUNT}", "--clear-groups"] if os.geteuid() == 0 else []
    words = [*as_account, *map(str, command)]
    # Its folder may lie below one that the account cannot enter as its working directory.
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd="/", check=False)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"

"""`slipstream serve`: start, run until a signal, finish what runs, stop."""

import asyncio
import ipaddress
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http import HttpProcessingError

from slipstream.delta.errors import Unavailable, UsageError
from slipstream.delta.limits import (
    FILES_OPEN_MAX,
    IDLE_TIMEOUT_S,
    POLL_INTERVAL_S,
    SHUTDOWN_GRACE_S,
)
from slipstream.server.app import Settings, make_app
from slipstream.server.ddi.settings import DdiSettings
from slipstream.server.deltas.worker import DeltaSettings
from slipstream.server.gate import GateSettings
from slipstream.server.guards import Guards, check_exposure, stays_inside
from slipstream.server.store import users
from slipstream.server.store.database import Database, parse_url
from slipstream.server.store.errors import FAILURES
from slipstream.server.tls import Certificate, CertificateFiles
from slipstream.server.tokens import hash_token, load_token, make_token

_ERROR_CHARS_MAX = 300  # of a library's error in the log
LISTEN = "127.0.0.1:8480"
_log: Any = structlog.get_logger(__name__)


def serve(
    public: Path,
    *,
    listen: str = LISTEN,
    database_url: str | None = None,
    operator_token_file: Path | None = None,
    poll_interval_s: int = POLL_INTERVAL_S,
    open_metrics: bool = False,
    secure_cookies: bool = False,
    require_approval: bool = False,
    deltas: DeltaSettings | None = None,
    ddi: DdiSettings | None = None,
    gateway_token_file: Path | None = None,
    gate: GateSettings | None = None,
    tls: CertificateFiles | None = None,
    insecure_http: bool = False,
    grace_s: float = SHUTDOWN_GRACE_S,
    idle_timeout_s: float = IDLE_TIMEOUT_S,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve the repository folder `public` and its fleet until SIGTERM or SIGINT.

    `listen` is HOST:PORT (port 0: any free one). The database and the operator's token stand
    in the folder `server` beside `public` unless named. `ddi`: what is set for hawkBit's clients;
    the gateway token is made, in its file, if that is named and missing. The operator's is made only for
    a server that nobody but this machine reaches; another is checked by guards.py, where
    `insecure_http` says that plain HTTP is meant. `on_ready` hears the URL once
    connections are accepted. After the signal, running requests get `grace_s` seconds; a connection
    that takes longer than `idle_timeout_s` for a request's header is cut.
    Raises UsageError for settings that cannot work, Unavailable for a database that fails.
    """
    configure_log()
    host, port = parse_listen(listen)
    if not (public / "metadata").is_dir():
        raise UsageError(
            "not a repository's public folder",
            where=public,
            expected="a folder with metadata/ in it",
            hint="Make one with slipstream repo init",
        )
    folder = public.absolute().parent / "server"
    if database_url is None or operator_token_file is None:
        _make_folder(folder)
    database_url = database_url or f"sqlite+aiosqlite:///{folder / 'fleet.sqlite'}"
    gate = gate or GateSettings()
    token_file = operator_token_file or folder / "operator.token"
    guards = Guards(
        operators=True,
        tls=tls is not None,
        proxies=bool(gate.proxies),
        insecure_http=insecure_http,
    )
    check_exposure(host, guards, token_file)
    if stays_inside(host) or token_file.exists():
        token = load_token(token_file)
    else:
        guards = replace(guards, operators=asyncio.run(_has_admin(database_url)))
        check_exposure(host, guards, token_file)
        token = make_token()  # nobody's: users administer it
    by_proxies = guards.proxies and not (guards.tls or guards.insecure_http)
    settings = Settings(
        public=public.absolute(),
        database_url=database_url,
        operator_token=token,
        now=lambda: int(time.time()),
        poll_interval_s=poll_interval_s,
        open_metrics=open_metrics,
        secure_cookies=secure_cookies or tls is not None,
        require_approval=require_approval,
        deltas=deltas,
        ddi=_with_gateway(ddi or DdiSettings(), gateway_token_file),
        gate=replace(gate, only_proxies=by_proxies and not stays_inside(host)),
    )
    certificate = None if tls is None else Certificate(tls)
    _raise_file_limit()
    asyncio.run(
        run(
            settings,
            host,
            port,
            certificate=certificate,
            grace_s=grace_s,
            idle_timeout_s=idle_timeout_s,
            on_ready=on_ready,
        )
    )


async def run(
    settings: Settings,
    host: str,
    port: int,
    *,
    certificate: Certificate | None = None,
    grace_s: float = SHUTDOWN_GRACE_S,
    idle_timeout_s: float = IDLE_TIMEOUT_S,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Open, listen, wait for a signal, finish, close."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    app = make_app(settings, await open_database(settings.database_url))
    runner = web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=grace_s,
        auto_decompress=False,
        keepalive_timeout=idle_timeout_s,
    )
    await runner.setup()
    try:
        async with _reloading(certificate):
            url = await _listen(runner, host, port, certificate)
            _log.info("serving", url=url, repository=str(settings.public))
            if on_ready is not None:
                on_ready(url)
            await stop.wait()
        _log.info("stopping", grace_s=grace_s)
    finally:
        await runner.cleanup()
    _log.info("stopped")


async def open_database(url_text: str) -> Database:
    """The database of a server that starts. Raises UsageError and Unavailable, which name it."""
    url = parse_url(url_text)
    file = Path(str(url.database)) if url.drivername.startswith("sqlite") else None
    if file is not None and file.exists():
        _check_writable(file)
    try:
        return await Database.open(url_text)
    except Unavailable as error:
        error.where = file or url.render_as_string(hide_password=True)
        if file is not None and "locked" not in error.what:
            error.hint = (
                "If it is damaged, restore the backup (docs/server.md, Back up and restore)"
                if file.is_file()
                else "A file is wanted, in a folder that this user may write"
            )
        raise


def _check_writable(file: Path) -> None:
    """SQLite opens what it may not write, and fails at the first write: a server would run for nothing."""
    try:
        os.close(os.open(file, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise UsageError(
            f"the database cannot be written: {error.strerror}",
            where=file,
            expected="a file that this user may write, in a folder that it may write",
            hint=f"chown it, with its -wal and -shm, to the user that serves (now {os.geteuid()})",
        ) from error


def parse_listen(text: str) -> tuple[str, int]:
    """HOST:PORT, [IPV6]:PORT or :PORT (all addresses); UsageError otherwise."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError("not an address", where="--listen", expected="HOST:PORT", got=repr(text))
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError as error:
            raise UsageError("not an IPv6 address", where="--listen", got=repr(text)) from error
    elif ":" in host:
        raise UsageError(
            "an IPv6 address needs brackets", where="--listen", expected="[HOST]:PORT", got=text
        )
    return host, int(port)


def configure_log() -> None:
    """One line an event on standard error; JSON unless a person watches."""
    # At its lowest level it tells the values of every statement: keys of webhooks are among them.
    logging.getLogger("aiosqlite").setLevel(logging.WARNING)
    renderer = (
        structlog.dev.ConsoleRenderer()
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(handlers=[_Libraries()], level=logging.WARNING, force=True)


class _Libraries(logging.Handler):
    """What libraries warn of, asyncpg and aiohttp, as events of the same log.

    What a stranger's request or a database that is away brings about is one line: a traceback is for
    what nobody foresaw.
    """

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            _log.warning(record.getMessage(), library=record.name, error=_one_line(error))
            return
        write = getattr(_log, record.levelname.lower(), _log.warning)
        if isinstance(error, (*FAILURES, asyncio.CancelledError)):
            write(record.getMessage(), library=record.name, error=_one_line(error))
        else:
            write(record.getMessage(), library=record.name, exc_info=record.exc_info)


def _one_line(error: BaseException) -> str:
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words:.{_ERROR_CHARS_MAX}}"


def _with_gateway(ddi: DdiSettings, token_file: Path | None) -> DdiSettings:
    if token_file is None:
        return ddi
    return replace(ddi, gateway_digest=hash_token(load_token(token_file, "the gateway token")))


async def _has_admin(database_url: str) -> bool:
    database = await open_database(database_url)
    try:
        async with database.reading() as connection:
            return await users.has_admin(connection, int(time.time()))
    finally:
        await database.close()


@asynccontextmanager
async def _reloading(certificate: Certificate | None) -> AsyncIterator[None]:
    """While inside, the certificate follows its files, and SIGHUP has it read at once."""
    if certificate is None:
        yield
        return
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, certificate.try_to_reload)
    try:
        async with certificate.following():
            yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


def _raise_file_limit() -> None:
    """A connection is a file: 1024 of them, the usual soft limit, are few for a fleet."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES_OPEN_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_OPEN_MAX)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


async def _listen(
    runner: web.AppRunner, host: str, port: int, certificate: Certificate | None
) -> str:
    # A fleet that comes back after a power cut connects all at once.
    context = None if certificate is None else certificate.context
    site = web.TCPSite(runner, host or None, port, backlog=1024, ssl_context=context)
    try:
        await site.start()
    except OSError as error:
        raise UsageError(
            f"cannot listen: {error.strerror or error}", where=f"{host}:{port}"
        ) from error
    name: str = site.name
    return name


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot make the server's folder: {os.strerror(error.errno or 0)}", where=folder
        ) from error

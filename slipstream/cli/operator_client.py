"""A client of /api/v1 for commands: one call after the other, repeated safely, errors as ours."""

import asyncio
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Final

import aiohttp
import click
import msgspec

from slipstream.cli.origins import check_origin
from slipstream.cli.password import read_password
from slipstream.delta.errors import SlipstreamError, Unavailable, UsageError

FILE: Final = click.Path(path_type=Path, dir_okay=False)
SERVER: Final = "http://127.0.0.1:8480"
TRIES_MAX: Final = 3
RETRY_S: Final = 1.0
TIMEOUT_S: Final = 60.0
_TOKEN_CHARS_MAX: Final = 4096
_INSTALLATION: Final = "That of the installation stands in REPO/server/operator.token"
_NAME: Final = re.compile(r"[A-Za-z0-9._:@+~-]{1,128}")
_Command = Callable[..., None]
_OPTIONS: Final = (
    click.option("--json", "as_json", is_flag=True, help="JSON on standard output."),
    click.option(
        "--token-file",
        type=FILE,
        envvar="SLIPSTREAM_TOKEN_FILE",
        show_envvar=True,
        metavar="FILE",
        help="Holds an API token, or the installation's; else the variable SLIPSTREAM_TOKEN does.",
    ),
    click.option(
        "--server",
        envvar="SLIPSTREAM_SERVER",
        show_envvar=True,
        default=SERVER,
        show_default=True,
        metavar="URL",
        help="Where slipstream serve answers.",
    ),
)
_LOGIN_OPTIONS: Final = (
    click.option(
        "--login-password-file",
        type=FILE,
        help="Its first line is the password of --login; else it is asked for.",
    ),
    click.option(
        "--login",
        metavar="USER",
        help="In a session of this user, instead of with a token: it may revoke other tokens, and make any that its user may.",
    ),
)


@dataclass(frozen=True, slots=True)
class Said:
    """What the server answered. `version`: for If-Match, of what has one; `cookie`: of a login."""

    value: Any
    version: str | None
    cookie: str | None = None


@dataclass(frozen=True, slots=True)
class Client:
    """Speaks for an operator. `credentials`: headers that say for whom."""

    server: str
    credentials: Mapping[str, str]

    def get(self, path: str, **query: object) -> Any:
        """The value at a path."""
        return self.look(path, **query).value

    def look(self, path: str, **query: object) -> Said:
        """The value at a path, with its version."""
        words = {name: str(value) for name, value in query.items() if value is not None}
        "".join(
            words.values()
        ).encode()  # aiohttp would leave out what is not UTF-8, and say nothing
        return asyncio.run(self._call("GET", path, {}, query=words))

    def pages(self, path: str, **query: object) -> Iterator[Any]:
        """Every item of a list, page after page."""
        after = ""
        while True:
            page = self.get(path, after=after, **query)
            yield from page["items"]
            if page["next"] is None:
                return
            after = page["next"]

    def change(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        version: str | None = None,
        text: str | None = None,
    ) -> Any:
        """Carry a change out, once, however often it has to be sent."""
        headers = {"Idempotency-Key": secrets.token_hex(16)}
        if version is not None:
            headers["If-Match"] = version
        data = msgspec.json.encode(body) if text is None and body is not None else None
        if text is not None:
            headers["Content-Type"] = "text/csv"
            data = text.encode()
        return asyncio.run(self._call(method, path, headers, data=data)).value

    def log_in(self, user: str, password: str) -> "Client":
        """A client in a new session of that user."""
        data = msgspec.json.encode({"user": user, "password": password})
        said = asyncio.run(self._call("POST", "/session", {}, data=data))
        if said.cookie is None:
            raise Unavailable("this is no login of slipstream serve", where=self.server)
        return Client(self.server, {"Cookie": said.cookie, "X-CSRF-Token": said.value["csrf"]})

    async def _call(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        query: Mapping[str, str] | None = None,
        data: bytes | None = None,
    ) -> Said:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        every = {**self.credentials, **headers}
        url = f"{self.server.rstrip('/')}/api/v1{path}"
        async with aiohttp.ClientSession(timeout=timeout, headers=every) as session:
            for left in reversed(range(TRIES_MAX)):
                try:
                    async with session.request(
                        method, url, params=query, data=data, allow_redirects=False
                    ) as response:
                        raw = await response.read()
                    if response.status != 503 or not left:
                        return _read(response, raw, self.server)
                except aiohttp.InvalidURL as error:
                    raise UsageError("not an address", where="--server", got=self.server) from error
                except (aiohttp.ClientError, TimeoutError, OSError) as error:
                    if not left or isinstance(error, aiohttp.ClientSSLError):
                        raise _unreachable(error, self.server) from error
                await asyncio.sleep(RETRY_S)
        raise AssertionError("the last try returns or raises")


def by_token(token: str) -> Mapping[str, str]:
    """The credentials of an API token, or of the installation's."""
    return {"Authorization": f"Bearer {token}"}


@contextmanager
def logged_in(server: str, user: str, password: str) -> Iterator[Client]:
    """A client in a session of its own, which ends with the block."""
    client = Client(server, {}).log_in(user, password)
    try:
        yield client
    finally:
        with suppress(SlipstreamError):  # it ends by itself after 12 hours
            client.change("DELETE", "/session")


def operator_options(command: _Command) -> _Command:
    """--server, --token-file and --json; the command is called with a client."""

    @wraps(command)
    def with_client(*arguments: Any, server: str, token_file: Path | None, **rest: Any) -> None:
        check_origin(server, "--server")
        client = Client(server, by_token(_read_token(token_file)))
        with _answering():
            command(*arguments, client=client, **rest)

    return _add(with_client, _OPTIONS)


def account_options(command: _Command) -> _Command:
    """The same, and --login: a session, which may do what an API token may not."""

    @wraps(command)
    def with_client(
        *arguments: Any,
        server: str,
        token_file: Path | None,
        login: str | None,
        login_password_file: Path | None,
        **rest: Any,
    ) -> None:
        check_origin(server, "--server")
        if login is None:
            client = Client(server, by_token(_read_token(token_file)))
            with _answering():
                command(*arguments, client=client, **rest)
            return
        password = read_password(login_password_file, confirm=False, option="--login-password-file")
        with logged_in(server, login, password) as client, _answering():
            command(*arguments, client=client, **rest)

    return _add(with_client, (*_OPTIONS, *_LOGIN_OPTIONS))


@contextmanager
def _answering() -> Iterator[None]:
    """Where output fails, the server has answered already: to repeat the command is no mend."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise SlipstreamError(
            f"cannot be written: {error.strerror}",
            where="standard output",
            hint="The server has answered, and what it did holds: look before you repeat the command",
        ) from error


def _add(command: _Command, options: Sequence[Callable[[_Command], _Command]]) -> _Command:
    for option in options:
        command = option(command)
    return command


def place(text: str) -> str:
    """A name as a part of a path; UsageError for what is no name, and would lead elsewhere."""
    if not _NAME.fullmatch(text) or text in (".", ".."):
        raise UsageError("not a name", expected="letters, digits and ._:@+~-", got=ascii(text))
    return text


def echo_json(value: object) -> None:
    """A value for a program."""
    click.echo(msgspec.json.encode(value).decode())


def echo_secret(secret: str | None, value: object, *, as_json: bool, lost: str) -> None:
    """A secret that is shown this once, or all of the answer. `lost`: what holds, and what to do, where
    nobody gets to see it: a call that was repeated is not told it again, and output may fail."""
    if secret is None and not as_json:
        raise SlipstreamError("the answer was lost on the way", hint=lost)
    try:
        if as_json:
            echo_json(value)
        else:
            click.echo(secret)
    except OSError as error:
        raise SlipstreamError(
            f"cannot be written: {error.strerror}", where="standard output", hint=lost
        ) from error


def _read_token(file: Path | None) -> str:
    if file is None:
        token = os.environ.get("SLIPSTREAM_TOKEN", "").strip()
        if not token:
            raise UsageError(
                "a token is needed",
                expected="--token-file FILE, or SLIPSTREAM_TOKEN",
                hint=_INSTALLATION,
            )
        return _check_token(token, "SLIPSTREAM_TOKEN")
    try:
        with file.open(encoding="ascii", errors="replace") as lines:
            token = lines.read(_TOKEN_CHARS_MAX + 1).strip()
    except OSError as error:
        raise UsageError(f"cannot read the token: {error.strerror}", where=file) from error
    if not token:
        raise UsageError("the file is empty", where=file, expected="a token", hint=_INSTALLATION)
    return _check_token(token, file)


def _check_token(token: str, where: object) -> str:
    """It becomes a part of a header: nothing that would end that (RFC 9110, 5.5)."""
    if len(token) > _TOKEN_CHARS_MAX or not all(" " <= one <= "~" for one in token):
        lines = len(token.splitlines())
        raise UsageError(
            "not a token",
            where=where,
            expected="one line of ASCII characters",
            got=f"{lines} lines" if lines > 1 else None,
        )
    return token


def _unreachable(error: Exception, server: str) -> Unavailable:
    """Why there was no answer, in words, and what may be wrong with the address."""
    plain = server.startswith("http://")
    hint: str | None = None
    match error:
        case aiohttp.ClientConnectorCertificateError():
            reason = getattr(error.certificate_error, "verify_message", error.certificate_error)
            what = f"its certificate is not trusted: {reason}"
            hint = "Name a file with that certificate, or its authority's, in the variable SSL_CERT_FILE"
        case aiohttp.ClientSSLError():
            what = f"no TLS can be spoken there: {getattr(error.os_error, 'reason', error)}"
            hint = "If it serves plain HTTP, its address begins with http://"
        case aiohttp.ClientConnectorError():
            cause, number = error.os_error, error.os_error.errno or 0
            reason = os.strerror(number) if number > 0 else cause.strerror or str(cause)
            what, hint = f"cannot connect: {reason}", "Does slipstream serve listen there?"
        case aiohttp.ServerDisconnectedError() if plain:
            what = "it ended the connection without an answer"
            hint = "If it serves TLS, its address begins with https://"
        case TimeoutError():
            what = f"no answer within {TIMEOUT_S:g} s"
        case _:
            what = str(error) or type(error).__name__
    return Unavailable(what, where=server, hint=hint)


def _read(response: aiohttp.ClientResponse, raw: bytes, server: str) -> Said:
    try:
        value = msgspec.json.decode(raw) if raw else None
    except msgspec.DecodeError as error:
        raise Unavailable(
            f"this is no answer of slipstream serve (HTTP {response.status})", where=server
        ) from error
    if response.status < 300:
        cookie = response.headers.get("Set-Cookie")
        return Said(
            value,
            response.headers.get("ETag"),
            None if cookie is None else cookie.partition(";")[0],
        )
    raise _refusal(response.status, value if isinstance(value, dict) else {}, server)


def _refusal(status: int, value: Mapping[str, Any], server: str) -> SlipstreamError:
    """What the server refused, by what to do about it (design.md, section 8)."""
    reason, field = str(value.get("error", f"HTTP {status}")), value.get("field")
    where = field if isinstance(field, str) and field != "$" and field not in reason else None
    if status in (400, 413, 422):
        return UsageError(reason, where=where)
    if status == 401:
        hint = None if "password" in reason else "The token is not known there"
        return SlipstreamError(reason, where=server, hint=hint)
    if status in (429, 503) or status >= 500:
        return Unavailable(reason, where=server)
    hint = "Look at it again, then repeat the command" if status == 412 else None
    return SlipstreamError(reason, where=where, hint=hint)

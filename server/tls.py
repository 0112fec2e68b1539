"""The server's certificate and key, from files; read again when they change, without a restart.

Connections that stand keep the certificate that they began with. A pair that does not fit is
refused at the start; later it is told of in the log, and the one before is kept.
"""

import os
import ssl
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from slipstream.delta.errors import UsageError
from slipstream.delta.limits import CERTIFICATE_LOOK_S
from slipstream.server.fleet.loop import Loop

_log: Any = structlog.get_logger(__name__)
_Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """PEM files: the certificate with its chain, and its key without a passphrase."""

    certificate: Path
    key: Path


class Certificate:
    """What the server proves its name with. Raises UsageError for files that cannot be used."""

    def __init__(self, files: CertificateFiles) -> None:
        self._files = files
        self._stamp = _stamp(files)
        self.context = _make_context(files)

    def reload(self) -> None:
        """Take the files as they are now for new connections. UsageError: the old pair stays."""
        self._stamp = _stamp(self._files)
        _make_context(self._files)  # a pair that does not fit would leave the context half changed
        self.context.load_cert_chain(self._files.certificate, self._files.key)
        _log.info("certificate read", certificate=str(self._files.certificate))

    def try_to_reload(self) -> None:
        """The same, with trouble told in the log."""
        try:
            self.reload()
        except UsageError as error:
            _log.error("certificate not read, the one before is kept", reason=str(error))

    @asynccontextmanager
    async def following(self) -> AsyncIterator["Certificate"]:
        """Looks every CERTIFICATE_LOOK_S whether the files have changed, while inside."""
        async with Loop("certificate", self._look, CERTIFICATE_LOOK_S, allowed_s=None).running():
            yield self

    async def _look(self) -> None:
        with suppress(UsageError):  # a file that is just being replaced
            if _stamp(self._files) != self._stamp:
                self.try_to_reload()


def _make_context(files: CertificateFiles) -> ssl.SSLContext:
    _check_mode(files.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # of TLS 1.2: costs the server more than the client
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Without the function, OpenSSL would ask the terminal of a service for a passphrase.
        context.load_cert_chain(files.certificate, files.key, password=lambda: b"")
    except (OSError, ValueError) as error:
        raise UsageError(
            "certificate and key cannot be used",
            where=f"{files.certificate}, {files.key}",
            expected="PEM files that belong together; the key without a passphrase",
            got=getattr(error, "reason", None) or error,
        ) from error
    return context


def _check_mode(key: Path) -> None:
    try:
        mode = stat.S_IMODE(os.stat(key).st_mode)
    except OSError as error:
        raise UsageError(f"cannot read the key: {error.strerror}", where=key) from error
    if mode & 0o007:  # a group may read it: Debian's ssl-cert
        raise UsageError(
            "everybody can read the server's key",
            where=key,
            expected="mode 0600 or 0640",
            got=f"{mode:04o}",
            hint="Run chmod o= on it; if others had access, get another certificate",
        )


def _stamp(files: CertificateFiles) -> _Stamp:
    try:
        found = [os.stat(path) for path in (files.certificate, files.key)]
    except OSError as error:
        raise UsageError(
            f"cannot read the certificate: {error.strerror}", where=error.filename
        ) from error
    return tuple((one.st_ino, one.st_mtime_ns, one.st_size) for one in found)

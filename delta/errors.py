"""The errors of Slipstream, one tree, split by what to do about it.

    SlipstreamError            exit 1   the job failed
      UsageError               exit 2   the caller's words or configuration are wrong
      NothingToDo              exit 3   already there, or nothing on offer
      Rejected                 exit 4   bad bytes: never retry the same bytes
        FormatError                     bytes that do not parse
        DigestMismatch                  bytes that are not what was signed
        SignatureError                  too few valid signatures of distinct keys
        Expired                         signed, but its time is over
        RolledBack                      signed, but older than what was already trusted
        WrongDevice                     for another product, hardware or partition size
      Unavailable              exit 5   network or server: try later
      DeviceFault              exit 6   this disk, this boot loader: a person must look
      Busy                     exit 1   another installer holds the lock
      PackingUnavailable       exit 1   no such compressor here: take a payload without it
      Interrupted              exit 130 Ctrl-C, as shells count: 128 and the number of the signal

A message says what, where, expected, got and what to do next. A third-party error is
translated in the one file that imports the library.
"""

from typing import Any, Self


class SlipstreamError(Exception):
    """Base of all errors that Slipstream raises on purpose."""

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: object = None,
        got: object = None,
        hint: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.expected = expected
        self.got = got
        self.hint = hint
        super().__init__(what)

    def __str__(self) -> str:
        text = self.what if self.where is None else f"{self.where}: {self.what}"
        if self.expected is not None:
            text += f"; expected {self.expected}"
        if self.got is not None:
            text += f"; got {self.got}" if self.expected is None else f", got {self.got}"
        if self.hint is not None:
            text += f". {self.hint}"
        return text

    def concerns(self, subject: str, hint: str | None = None) -> None:
        """Say, in place, what it is about, and what to do where it does not say that itself."""
        self.what = f"{subject}: {self.what}"
        self.hint = self.hint or hint

    def to_json(self) -> dict[str, Any]:
        """The error for programs; `message` is all of it in words."""
        parts = {"where": self.where, "expected": self.expected, "got": self.got}
        words = {name: None if value is None else str(value) for name, value in parts.items()}
        return {
            "kind": type(self).__name__,
            "exit_code": self.exit_code,
            "message": str(self),
            "what": self.what,
            **words,
            "hint": self.hint,
        }


class UsageError(SlipstreamError):
    """The caller's words or configuration are wrong."""

    exit_code = 2


class NothingToDo(SlipstreamError):
    """Already there, or nothing on offer."""

    exit_code = 3


class Rejected(SlipstreamError):
    """Bad bytes: the same bytes will never be accepted."""

    exit_code = 4

    def at(self, where: object) -> Self:
        """The same error, which says that it happened in `where`."""
        inner = where if self.where is None else f"{where}: {self.where}"
        return type(self)(
            self.what, where=inner, expected=self.expected, got=self.got, hint=self.hint
        )


class FormatError(Rejected):
    """Bytes that do not parse."""


class DigestMismatch(Rejected):
    """Bytes that are not what was signed."""


class SignatureError(Rejected):
    """Too few valid signatures of distinct keys."""


class Expired(Rejected):
    """Signed, but its time is over."""


class RolledBack(Rejected):
    """Signed, but older than what was already trusted."""


class WrongDevice(Rejected):
    """For another product, hardware, or partition size."""


class Unavailable(SlipstreamError):
    """Network or server: try later.

    `retry_after_s` is the server's own wish, in seconds, where it stated one.
    """

    exit_code = 5

    def __init__(self, what: str, *, retry_after_s: float | None = None, **rest: object) -> None:
        super().__init__(what, **rest)  # type: ignore[arg-type]
        self.retry_after_s = retry_after_s


class DeviceFault(SlipstreamError):
    """This disk or this boot loader does not do what it must; a person has to look."""

    exit_code = 6


class Busy(SlipstreamError):
    """Another installer holds the lock."""


class PackingUnavailable(SlipstreamError):
    """This machine cannot pack bytes as an image has them: take a payload that does not need it."""


class Interrupted(SlipstreamError):
    """A person ended it by Ctrl-C, or a program by SIGTERM (which exits with 143)."""

    exit_code = 130

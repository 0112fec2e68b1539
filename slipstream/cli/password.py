"""A user's password: from a file, or from a person. Never an argument: everybody can read those."""

import sys
from pathlib import Path

import click

from slipstream.delta.errors import UsageError

_PASSWORD_BYTES_MAX = 4096


def read_password(file: Path | None, *, confirm: bool, option: str = "--password-file") -> str:
    """The first line of the file; without one it is asked for, twice with `confirm`."""
    if file is None:
        if not sys.stdin.isatty():
            raise UsageError(
                "a password is needed and there is no terminal to ask on",
                expected="a file whose first line it is",
                hint=f"Give {option}",
            )
        asked: str = click.prompt(
            "Password", hide_input=True, confirmation_prompt=confirm, err=True
        )
        return asked
    try:
        with file.open("rb") as lines:
            raw = lines.read(_PASSWORD_BYTES_MAX)
    except OSError as error:
        raise UsageError(f"cannot read the password: {error.strerror}", where=file) from error
    return raw.decode("utf-8", "replace").split("\n", 1)[0].rstrip("\r")

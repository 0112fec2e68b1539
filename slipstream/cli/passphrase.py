"""The passphrase of key files: from a file, from the environment, or from a person."""

import os
import sys
from pathlib import Path

import click

from slipstream.delta.errors import UsageError

FILE = click.Path(path_type=Path, dir_okay=False)
PASSPHRASE_VARIABLE = "SLIPSTREAM_PASSPHRASE"  # noqa: S105 - the name of a variable

passphrase_option = click.option(
    "--passphrase-file",
    type=FILE,
    help=f"File with the passphrase of the keys; else ${PASSPHRASE_VARIABLE}, else asked for.",
)


class Passphrase:
    """The passphrase for all roles: from a file, from the environment, or asked for once."""

    def __init__(self, file: Path | None, *, confirm: bool = False) -> None:
        self._file = file
        self._confirm = confirm
        self._known: str | None = None

    def __call__(self, role: str) -> str:  # noqa: ARG002 - one passphrase for all roles
        if self._known is None:
            self._known = self._read()
        return self._known

    def _read(self) -> str:
        if self._file is not None:
            return self._file.read_text().rstrip("\n")
        if PASSPHRASE_VARIABLE in os.environ:
            return os.environ[PASSPHRASE_VARIABLE]
        if not sys.stdin.isatty():
            raise UsageError(
                "the keys need a passphrase and there is no terminal to ask on",
                hint=f"Give --passphrase-file or ${PASSPHRASE_VARIABLE}",
            )
        answer: str = click.prompt(
            "Passphrase of the keys", hide_input=True, confirmation_prompt=self._confirm, err=True
        )
        return answer

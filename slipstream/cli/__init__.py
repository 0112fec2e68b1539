"""The command line: groups, errors and exit codes. Each command's file parses, calls, renders.

Commands are loaded when they are called, so that a device never loads numpy or the server.
"""

import signal
import sys
from collections.abc import Sequence
from errno import ENOSPC
from importlib import import_module
from types import FrameType
from typing import Any

import click

from slipstream import __version__
from slipstream.delta.errors import Interrupted, SlipstreamError, UsageError

# (heading, command, "module:attribute", one line for the list)
COMMANDS = (
    ("Build machine", "diff", "build:diff", "Make a payload: TARGET from SOURCE."),
    ("Build machine", "patch", "build:patch", "Apply a payload to SOURCE."),
    (
        "Build machine",
        "inspect",
        "inspect:inspect",
        "Say what a payload, manifest, or metadata file holds.",
    ),
    ("Build machine", "repo", "repo:repo", "Make a repository, publish releases, rotate keys."),
    ("Server", "serve", "serve:serve", "Serve a repository to a fleet."),
    (
        "Server",
        "rollout",
        "rollout:rollout",
        "Roll releases out in phases: try out, create, show, pause, abort.",
    ),
    (
        "Server",
        "device-admin",
        "device_admin:device_admin",
        "Register, describe, find and remove a fleet's devices.",
    ),
    ("Server", "user", "user:user", "Add, list and remove users and their API tokens."),
    ("Device", "device", "device:device", "Check, plan, install, confirm, roll back, run."),
    ("Everything at once", "demo", "demo:demo", "The main job, end to end, on this machine."),
)


EXIT_CODES = (
    "0 done, 1 failed, 2 usage, 3 nothing to do, 4 rejected (signature, digest, rollback, "
    "wrong device), 5 unavailable (network, server), 6 device fault (disk, boot loader), "
    "130 interrupted by Ctrl-C, 143 by SIGTERM (the services `serve` and `device run` end by them, with 0)"
)

# The optional library whose absence shows which extra is not installed (pyproject.toml).
EXTRAS = {
    "numpy": "build",
    "numba": "build",
    "aiohttp": "device",
    "rich": "device",
    "sqlalchemy": "server",
    "structlog": "server",
    "argon2": "server",
    "jinja2": "server",
    "lark": "server",
    "prometheus_client": "server",
}


class Terminated(KeyboardInterrupt):
    """SIGTERM: what a pipeline or systemd sends. It leaves what Ctrl-C leaves."""


class Grouped(click.Group):
    """A group that loads its commands late, lists them by who uses them, and maps our errors."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return [name for _, name, _, _ in COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        for _, name, place, _ in COMMANDS:
            if name == cmd_name:
                module, attribute = place.split(":")
                command = getattr(import_module(f"slipstream.cli.{module}"), attribute)
                assert isinstance(command, click.Command)
                return command
        return None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort) as error:  # the latter: at a prompt
            raise Interrupted("interrupted") from error
        except UnicodeEncodeError as error:
            if error.reason != "surrogates not allowed":
                raise
            # How Python holds the bytes of an argument, or of a variable, that are not UTF-8.
            raise UsageError(
                "not a name", expected="text in UTF-8", got=ascii(error.object)
            ) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        headings = dict.fromkeys(heading for heading, _, _, _ in COMMANDS)
        for heading in headings:
            with formatter.section(heading):
                formatter.write_dl([(n, line) for h, n, _, line in COMMANDS if h == heading])
        with formatter.section("Exit codes"):
            formatter.write_text(EXIT_CODES)


@click.group(cls=Grouped, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="slipstream")
def cli() -> None:
    """Over-the-air updates for Linux devices: small signed block deltas, streamed and verified
    into the inactive slot."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the slipstream command. Never returns: exits with the code of design.md, 8."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        cli.main(args=arguments, prog_name="slipstream")
    except SlipstreamError as error:
        click.echo(f"slipstream: {error}", err=True)
        terminated = isinstance(error.__cause__, Terminated)
        sys.exit(128 + signal.SIGTERM if terminated else error.exit_code)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        click.echo(
            f"slipstream: this command needs {error.name}, which is not installed. "
            f"Install the extra {extra!r}: in a clone, pip install '.[{extra}]'",
            err=True,
        )
        sys.exit(1)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        hint = (
            ". Make room and run it again; what was there is whole" if error.errno == ENOSPC else ""
        )
        click.echo(f"slipstream: {place}{error.strerror or error}{hint}", err=True)
        sys.exit(1)


def _terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
    raise Terminated

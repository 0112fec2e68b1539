"""`slipstream diff` and `slipstream patch`: one delta between two image files, and its use."""

import errno
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from slipstream.cli.progress import Steps, megabytes, progress
from slipstream.cli.sizes import SIZE, UNITS_HELP
from slipstream.delta.errors import Interrupted, SlipstreamError, UsageError

IMAGE = click.Path(path_type=Path, dir_okay=False)
NO_SOURCE = Path("-")
# Measured: 418 MB for a pair of 113 MB squashfs images.
SCRATCH = " (what the images unpack to is kept beside the output meanwhile)"
_FULL = (errno.ENOSPC, errno.EDQUOT)


@click.command()
@click.argument("source", type=IMAGE)
@click.argument("target", type=IMAGE)
@click.option("-o", "--output", type=IMAGE, required=True, help="The payload file to write.")
@click.option(
    "--jobs",
    type=click.IntRange(1, 256),
    help="Processes; all cores by default. The payload is the same.",
)
@click.option(
    "--workers",
    metavar="dask://HOST:PORT",
    help="Encode on a Dask cluster instead, whose workers have the same files at the same paths.",
)
@click.option(
    "--memory",
    type=SIZE,
    default="96MiB",
    show_default=True,
    help=f"What the installer may use. {UNITS_HELP}",
)
@click.option(
    "--profile",
    type=click.Choice(["small", "balanced", "fast"]),
    default="balanced",
    show_default=True,
    help="small: smallest payload; fast: quick to make.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def diff(
    source: Path,
    target: Path,
    output: Path,
    jobs: int | None,
    workers: str | None,
    memory: int,
    profile: str,
    as_json: bool,
) -> None:
    """Make a payload that turns SOURCE into TARGET. Both are files or block devices of any size.

    SOURCE - makes a full payload, which needs no source. The output is a regular file, and
    neither SOURCE nor TARGET. A build that was interrupted goes on when it is started again: what
    was encoded is kept. What comes before that is done again: reading both images, proving the
    recipes that pack their content again, and learning what moved in programs. Beside the output, what
    the images unpack to is kept meanwhile: up to several times the size of a compressed image.
    """
    from slipstream.server.build import build_payload  # noqa: PLC0415 - needs the build extra

    _exists(target, "TARGET")
    if source != NO_SOURCE:
        _exists(source, "SOURCE")
        if source.is_file() and not source.stat().st_size:
            raise UsageError(
                "SOURCE is empty", where=source, hint="For a payload from nothing give - as SOURCE"
            )
    if target.is_file() and not target.stat().st_size:
        raise UsageError("TARGET is empty", where=target, hint="Was the image built?")
    if jobs is not None and workers is not None:
        raise UsageError("--jobs and --workers exclude each other")
    began = time.monotonic()
    with Steps(quiet=as_json) as steps, _writing(output, SCRATCH), _resumable(output):
        built = build_payload(
            None if source == NO_SOURCE else source,
            target,
            output,
            jobs=workers or jobs,
            memory_bytes=memory,
            profile=profile,
            on_progress=steps.report,
            say=steps.say,
        )
    seconds = time.monotonic() - began
    index = built.index
    if as_json:
        click.echo(
            json.dumps(
                {
                    "payload": str(output),
                    "payload_bytes": built.payload_size,
                    "index_bytes": len(index.raw),
                    "source_bytes": index.source_size,
                    "target_bytes": index.target_size,
                    "frames": len(index.frames),
                    "memory_bytes": index.memory_bytes,
                    "seconds": round(seconds, 3),
                }
            )
        )
    else:
        share = (
            f" ({100 * built.payload_size / index.target_size:.2f} %)" if index.target_size else ""
        )
        click.echo(
            f"{output}: {megabytes(built.payload_size)} for a target of {megabytes(index.target_size)}{share}, "
            f"{len(index.frames)} frames, {seconds:.1f} s"
        )


@click.command()
@click.argument("source", type=IMAGE)
@click.argument("payload", type=IMAGE)
@click.option(
    "-o", "--output", type=IMAGE, required=True, help="The target file or block device to write."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def patch(source: Path, payload: Path, output: Path, as_json: bool) -> None:
    """Make the target from SOURCE and PAYLOAD. SOURCE - stands for none (full payloads).

    The result is checked against the digest in the payload before it gets its name. The output
    is neither SOURCE nor PAYLOAD.
    """
    from slipstream.server.patch import apply_payload  # noqa: PLC0415 - needs the build extra

    _exists(payload, "PAYLOAD")
    if source != NO_SOURCE:
        _exists(source, "SOURCE")
    began = time.monotonic()
    with progress("patch", quiet=as_json) as report, _writing(output):
        apply_payload(None if source == NO_SOURCE else source, payload, output, on_progress=report)
    seconds = time.monotonic() - began
    if as_json:
        click.echo(json.dumps({"target": str(output), "seconds": round(seconds, 3)}))
    else:
        click.echo(f"{output}: verified, {seconds:.1f} s")


@contextmanager
def _writing(output: Path, beside: str = "") -> Iterator[None]:
    """Say which output could not be written, and that nothing of it is left. `beside`: what else needs
    room there meanwhile."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and not _is_of(Path(error.filename), output):
            raise
        remedy = f"Make room there{beside} or name" if error.errno in _FULL else "Name"
        raise SlipstreamError(
            "cannot be written",
            where=output,
            got=error.strerror,
            hint=f"{remedy} another place; what stood there is unchanged",
        ) from error


def _is_of(path: Path, output: Path) -> bool:
    """Whether `path` is `output`, its folder, or what stands there only while it is made."""
    path, output = path.absolute(), output.absolute()
    if path in (output, output.parent):
        return True
    inside = path.relative_to(output.parent) if path.is_relative_to(output.parent) else Path()
    return bool(inside.parts) and inside.parts[0].startswith(f".{output.name}.")


@contextmanager
def _resumable(output: Path) -> Iterator[None]:
    """Say of a build that is interrupted whether the next one goes on from it."""
    from slipstream.server.partial import parts_folder  # noqa: PLC0415 - needs the build extra

    try:
        yield
    except KeyboardInterrupt as error:
        goes_on = parts_folder(output).exists()
        raise Interrupted(
            "interrupted",
            where=output,
            hint="Run the same command again: it goes on from what is encoded"
            if goes_on
            else "Nothing was encoded yet: the next run begins anew",
        ) from error


def _exists(path: Path, what: str) -> None:
    if path.is_dir():
        raise UsageError(f"{what} is a folder", where=path, expected="a file or block device")
    if not path.exists():
        raise UsageError(f"{what} does not exist", where=path)

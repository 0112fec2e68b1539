"""`slipstream demo`: the main job, end to end, on this machine."""

import os
import sys
from pathlib import Path

import click

from slipstream.delta.errors import UsageError

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slipstream" / "demo"


@click.command()
@click.option("--source", type=FILE, help="Release 1; by default Debian 12's main archive.")
@click.option(
    "--target", type=FILE, help="Release 2; by default Debian 12 with security and updates."
)
@click.option(
    "--cache", type=FOLDER, help="Where built images are kept; ~/.cache/slipstream/demo by default."
)
@click.option(
    "--work",
    type=FOLDER,
    help="Where repository and device are made; CACHE/work by default. Emptied first.",
)
@click.option(
    "--serve-for",
    type=click.IntRange(min=0),
    metavar="SECONDS",
    help="How long the server goes on at the end; by default 600 at a terminal, else 0.",
)
def demo(
    source: Path | None,
    target: Path | None,
    cache: Path | None,
    work: Path | None,
    serve_for: int | None,
) -> None:
    """Publish two releases, install one, roll the other out in two phases, update to it by delta
    through a SIGKILL, confirm; then a broken third, and the fall back. Debian's releases are updated
    once more as squashfs. The last line is the address of the rollout's page. Needs the build, server
    and device extras."""
    from slipstream.demo.only_one import only_one  # noqa: PLC0415
    from slipstream.demo.releases import debian_releases, given_releases  # noqa: PLC0415
    from slipstream.demo.story import tell  # noqa: PLC0415

    cache = cache or _cache()
    if (source is None) != (target is None):
        raise UsageError("--source and --target go together")
    work = work or cache / "work"
    if work.exists() and any(work.iterdir()) and not (work / "repo").is_dir():
        raise UsageError("not a folder that the demo made; it would be emptied", where=work)
    with only_one(cache):  # images are built there, and the broken one is made anew
        if source is None or target is None:
            releases = debian_releases(cache, click.echo)
        else:
            releases = given_releases(source, target, cache, click.echo)
        if serve_for is None:
            serve_for = 600 if sys.stdout.isatty() else 0
        tell(work, releases, click.echo, serve_s=serve_for)

"""`slipstream serve`: a repository for a fleet."""

from pathlib import Path

import click

from slipstream.delta.errors import UsageError
from slipstream.delta.limits import POLL_INTERVAL_S

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("repo", metavar="REPO", type=FOLDER)
@click.option(
    "--listen",
    default="127.0.0.1:8480",
    show_default=True,
    metavar="HOST:PORT",
    help="Port 0: any free one.",
)
@click.option(
    "--database", metavar="URL", help="SQLAlchemy URL; REPO/server/fleet.sqlite by default."
)
@click.option(
    "--operator-token-file",
    type=FILE,
    help="REPO/server/operator.token by default; made if missing.",
)
@click.option(
    "--poll-interval",
    type=click.IntRange(1, 86400),
    default=POLL_INTERVAL_S,
    show_default=True,
    help="Seconds.",
)
@click.option("--open-metrics", is_flag=True, help="Serve /metrics without the operator's token.")
def serve(
    repo: Path,
    listen: str,
    database: str | None,
    operator_token_file: Path | None,
    poll_interval: int,
    open_metrics: bool,
) -> None:
    """Serve REPO: its files, polls and reports of devices, a page at /, /healthz, /metrics."""
    from slipstream.server.serve import serve as run  # noqa: PLC0415 - needs the server extra

    if database is not None and not database.startswith("sqlite"):
        raise UsageError(
            "only SQLite so far",
            where="--database",
            expected="sqlite+aiosqlite:///FILE",
            got=database,
        )
    if not (repo / "repo.json").is_file():
        raise UsageError(
            "not a repository",
            where=repo,
            expected="repo.json in it",
            hint="slipstream repo init makes one",
        )
    run(
        repo / "public",
        listen=listen,
        database_url=database,
        operator_token_file=operator_token_file,
        poll_interval_s=poll_interval,
        open_metrics=open_metrics,
        on_ready=lambda url: click.echo(f"serving {repo} on {url}"),
    )

"""`slipstream serve`: a repository for a fleet."""

from pathlib import Path

import click

from slipstream.cli.passphrase import passphrase_option
from slipstream.cli.sizes import SIZE, UNITS_HELP
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
    "--database",
    metavar="URL",
    help="sqlite:///FILE or postgresql://USER@HOST/NAME; REPO/server/fleet.sqlite by default.",
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
@click.option(
    "--delta-workers",
    type=click.IntRange(0, 64),
    default=0,
    show_default=True,
    help="Build the deltas that the fleet's rollouts are worth, so many at the same time. Needs the online keys in REPO/keys.",
)
@click.option(
    "--delta-saving",
    type=SIZE,
    default="100MiB",
    show_default=True,
    help=f"Build a delta that saves the fleet at least so much, all its downloads together. {UNITS_HELP}",
)
@click.option(
    "--delta-profile",
    type=click.Choice(["small", "balanced", "fast"]),
    default="balanced",
    show_default=True,
)
@passphrase_option
@click.option("--open-metrics", is_flag=True, help="Serve /metrics without the operator's token.")
@click.option(
    "--secure-cookies",
    is_flag=True,
    help="Browsers send their session over HTTPS only: where a proxy with TLS stands before this.",
)
def serve(
    repo: Path,
    listen: str,
    database: str | None,
    operator_token_file: Path | None,
    poll_interval: int,
    delta_workers: int,
    delta_saving: int,
    delta_profile: str,
    passphrase_file: Path | None,
    open_metrics: bool,
    secure_cookies: bool,
) -> None:
    """Serve REPO: its files, polls and reports of devices, a page at /, /healthz, /metrics."""
    from slipstream.server.serve import serve as run  # noqa: PLC0415 - needs the server extra

    if not (repo / "repo.json").is_file():
        raise UsageError(
            "not a repository",
            where=repo,
            expected="repo.json in it",
            hint="slipstream repo init makes one",
        )
    deltas = None
    if delta_workers:
        from slipstream.server.deltas.worker import DeltaSettings  # noqa: PLC0415

        words = ["--profile", delta_profile]
        if passphrase_file is not None:
            words += ["--passphrase-file", str(passphrase_file.absolute())]
        deltas = DeltaSettings(repo.absolute(), delta_workers, delta_saving, words)
    run(
        repo / "public",
        listen=listen,
        database_url=database,
        operator_token_file=operator_token_file,
        poll_interval_s=poll_interval,
        open_metrics=open_metrics,
        secure_cookies=secure_cookies,
        deltas=deltas,
        on_ready=lambda url: click.echo(f"serving {repo} on {url}"),
    )

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
@click.option(
    "--public-url",
    metavar="URL",
    help="Beginning of the links that hawkBit's clients get, such as https://updates.example.com; by default as each request reached the server.",
)
@click.option(
    "--ddi-tenant",
    default="DEFAULT",
    show_default=True,
    help="hawkBit's tenant: the first part of the path of its clients. Upper or lower case is the same.",
)
@click.option(
    "--gateway-token-file",
    type=FILE,
    help="hawkBit's gateway token, which speaks for any device and registers new ones; made if missing. Without it there is none.",
)
@click.option(
    "--trusted-proxy",
    "trusted_proxies",
    metavar="ADDRESS",
    multiple=True,
    help="Believe X-Controller-Id (the name in a client's certificate) and X-Forwarded-Proto and -Host from this address or network. Repeatable.",
)
@click.option(
    "--client-authority",
    "authorities",
    metavar="HASH",
    multiple=True,
    help="Issuer that the proxy must name in X-Authority for a client's certificate; any by default. Repeatable.",
)
@click.option(
    "--ddi-channel",
    default="stable",
    show_default=True,
    help="Channel of devices that register themselves by the gateway token or a certificate.",
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
    public_url: str | None,
    ddi_tenant: str,
    gateway_token_file: Path | None,
    trusted_proxies: tuple[str, ...],
    authorities: tuple[str, ...],
    ddi_channel: str,
) -> None:
    """Serve REPO: its files, polls and reports of devices, a page at /, /healthz, /metrics."""
    # All of these need the server extra.
    from slipstream.server.ddi.settings import DdiSettings, parse_networks  # noqa: PLC0415
    from slipstream.server.repo import open_repo  # noqa: PLC0415
    from slipstream.server.serve import serve as run  # noqa: PLC0415

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
        ddi=DdiSettings(
            tenant=ddi_tenant,
            product=open_repo(repo).policy.product,
            channel=ddi_channel,
            proxies=parse_networks(trusted_proxies),
            authorities=frozenset(one.lower() for one in authorities),
            public_url=public_url,
        ),
        gateway_token_file=gateway_token_file,
        on_ready=lambda url: click.echo(f"serving {repo} on {url}"),
    )

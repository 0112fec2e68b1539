"""`slipstream serve`: a repository for a fleet."""

import os
from datetime import UTC, datetime
from pathlib import Path

import click
from click.core import ParameterSource

from slipstream.cli.origins import check_origin
from slipstream.cli.passphrase import PASSPHRASE_VARIABLE, Passphrase, passphrase_option
from slipstream.cli.sizes import SIZE, UNITS_HELP
from slipstream.delta.errors import SlipstreamError, UsageError
from slipstream.delta.limits import (
    ADDRESS_BURST_S,
    ADDRESS_RATE,
    DEVICE_BURST_S,
    DEVICE_RATE,
    FAILURE_BURST_S,
    FAILURE_RATE,
    POLL_INTERVAL_S,
)

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("repo", metavar="REPO", type=FOLDER)
@click.option(
    "--listen",
    default="127.0.0.1:8480",
    show_default=True,
    metavar="HOST:PORT",
    help="Port 0: any free one. Beyond this machine it needs an operator, and TLS or a proxy that brings it.",
)
@click.option(
    "--tls-cert",
    type=FILE,
    help="PEM: the certificate and its chain. Read again when it changes, and at SIGHUP.",
)
@click.option(
    "--tls-key", type=FILE, help="PEM: its key, without a passphrase, not readable by everybody."
)
@click.option(
    "--insecure-http",
    is_flag=True,
    help="Plain HTTP to others than this machine and trusted proxies: tokens are sent in the clear.",
)
@click.option(
    "--database",
    metavar="URL",
    envvar="SLIPSTREAM_DATABASE",
    show_envvar=True,
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
    "--require-approval",
    is_flag=True,
    help="Every rollout waits until another user than its author approves it, whatever its plan says.",
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
    help="Believe X-Controller-Id (the name in a client's certificate) and X-Forwarded-For, -Proto and -Host from this address or network. Repeatable.",
)
@click.option(
    "--address-rate",
    type=click.FloatRange(0),
    default=ADDRESS_RATE,
    show_default=True,
    help=f"Requests a second of one address, {ADDRESS_BURST_S:g} s of that at once; files are not counted. 0: no limit.",
)
@click.option(
    "--device-rate",
    type=click.FloatRange(0),
    default=DEVICE_RATE,
    show_default=True,
    help=f"Calls a second of one device, {DEVICE_BURST_S:g} s of that at once; downloads are not counted. 0: no limit.",
)
@click.option(
    "--failure-rate",
    type=click.FloatRange(0),
    default=FAILURE_RATE,
    show_default=True,
    help=f"Wrong credentials a second of one address, {FAILURE_BURST_S:g} s of that at once. 0: no limit.",
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
    tls_cert: Path | None,
    tls_key: Path | None,
    insecure_http: bool,
    database: str | None,
    operator_token_file: Path | None,
    poll_interval: int,
    delta_workers: int,
    delta_saving: int,
    delta_profile: str,
    passphrase_file: Path | None,
    open_metrics: bool,
    secure_cookies: bool,
    require_approval: bool,
    public_url: str | None,
    ddi_tenant: str,
    gateway_token_file: Path | None,
    trusted_proxies: tuple[str, ...],
    address_rate: float,
    device_rate: float,
    failure_rate: float,
    authorities: tuple[str, ...],
    ddi_channel: str,
) -> None:
    """Serve REPO: its files, polls and reports of devices, a page at /, /healthz, /metrics."""
    # All of these need the server extra.
    from slipstream.server.ddi.settings import DdiSettings  # noqa: PLC0415
    from slipstream.server.gate import GateSettings  # noqa: PLC0415
    from slipstream.server.proxies import Proxies, parse_networks  # noqa: PLC0415
    from slipstream.server.repo import open_repo  # noqa: PLC0415
    from slipstream.server.serve import serve as run  # noqa: PLC0415
    from slipstream.server.tls import CertificateFiles  # noqa: PLC0415

    if not (repo / "repo.json").is_file():
        raise UsageError(
            "not a repository",
            where=repo,
            expected="repo.json in it",
            hint="slipstream repo init makes one",
        )
    tls = None
    if tls_cert is not None and tls_key is not None:
        tls = CertificateFiles(tls_cert, tls_key)
    elif tls_cert is not None or tls_key is not None:
        raise UsageError(
            "half of a pair", where="--tls-cert, --tls-key", expected="both files, or neither"
        )
    _check_secret_place(database)
    if public_url is not None:
        check_origin(public_url, "--public-url")
    deltas = None
    if delta_workers:
        from slipstream.server.deltas.worker import DeltaSettings  # noqa: PLC0415

        _check_delta_keys(repo, passphrase_file)
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
        require_approval=require_approval,
        deltas=deltas,
        ddi=DdiSettings(
            tenant=ddi_tenant,
            product=open_repo(repo).policy.product,
            channel=ddi_channel,
            authorities=frozenset(one.lower() for one in authorities),
            public_url=public_url,
        ),
        gateway_token_file=gateway_token_file,
        gate=GateSettings(
            proxies=Proxies(parse_networks(trusted_proxies)),
            address_rate=address_rate,
            device_rate=device_rate,
            failure_rate=failure_rate,
        ),
        tls=tls,
        insecure_http=insecure_http,
        on_ready=lambda url: click.echo(f"serving {repo} on {url}"),
    )


def _check_secret_place(database: str | None) -> None:
    """Every user of a machine can read the arguments of its programs."""
    source = click.get_current_context().get_parameter_source("database")
    if database is None or source is not ParameterSource.COMMANDLINE:
        return
    address = database.partition("://")[2].partition("/")[0]
    if ":" in address.rpartition("@")[0]:
        raise UsageError(
            "a password among the arguments, which everybody on this machine can read",
            where="--database",
            expected="a URL without one",
            hint="Put the URL into the variable SLIPSTREAM_DATABASE, or the password into PGPASSWORD "
            "or ~/.pgpass",
        )


def _check_delta_keys(repo: Path, passphrase_file: Path | None) -> None:
    """Builds run by themselves, so nobody can be asked for a passphrase."""
    from slipstream.server.keys import no_passphrase  # noqa: PLC0415
    from slipstream.server.late_deltas import check_delta_keys  # noqa: PLC0415
    from slipstream.server.repo import open_repo  # noqa: PLC0415

    told = passphrase_file is not None or PASSPHRASE_VARIABLE in os.environ
    passphrases = Passphrase(passphrase_file) if told else no_passphrase
    try:
        check_delta_keys(open_repo(repo), passphrases=passphrases, now=datetime.now(UTC))
    except SlipstreamError as error:
        error.concerns(
            "--delta-workers",
            hint=f"It signs deltas with the online keys in {repo / 'keys'}; give their passphrase by "
            f"--passphrase-file or ${PASSPHRASE_VARIABLE}",
        )
        raise

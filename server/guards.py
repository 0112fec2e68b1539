"""Whether a server may listen where it is told to: what others can reach needs guards. Pure.

Devices always need a token, the gateway's token or a certificate: no setting lets them in without.
What has to be looked at is who may act as operator, and what tokens travel over.
"""

from dataclasses import dataclass

from slipstream.delta.errors import UsageError
from slipstream.server.proxies import is_loopback


@dataclass(frozen=True, slots=True)
class Guards:
    """What stands between the server and those who can reach it."""

    operators: bool  # the installation's token, or an admin who can log in or has a token
    tls: bool  # this server's own
    proxies: bool  # named ones bring TLS
    insecure_http: bool  # asked for by name


def stays_inside(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
    return host == "localhost" or is_loopback(host)


def check_exposure(host: str, guards: Guards, where_token: object) -> None:
    """Raise UsageError for a server that others reach, without what has to guard it."""
    if stays_inside(host):
        return
    where = f"--listen {host or '(all addresses)'}"
    if not (guards.tls or guards.proxies or guards.insecure_http):
        raise UsageError(
            "tokens and passwords would cross the network in the clear",
            where=where,
            expected="TLS, a proxy that brings it, or an address of this machine alone",
            got="plain HTTP",
            hint="Give --tls-cert and --tls-key; or name the proxy with --trusted-proxy ADDRESS; or "
            "listen on 127.0.0.1. --insecure-http is for networks that nobody else is in",
        )
    if not guards.operators:
        raise UsageError(
            "nobody could operate a server that others can reach",
            where=where,
            expected=f"the operator's token in {where_token}, or a user with the role admin",
            got="neither",
            hint="Start it once on 127.0.0.1, which makes the token; or write one that is yours: "
            f"(umask 077; openssl rand -hex 32 > {where_token})",
        )

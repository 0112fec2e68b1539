"""Who a request over DDI is from: a device's token, the gateway's, or a certificate's name.

Decided without a socket. A device's token speaks for that device alone. The gateway token, and the
name that a trusted proxy took from a client's certificate, speak for devices that nobody has
registered yet as well: those register themselves by coming.
"""

import hmac
import re
from collections.abc import Collection
from enum import Enum

from multidict import MultiMapping

from slipstream.delta.errors import SlipstreamError
from slipstream.server.ddi.settings import DdiSettings
from slipstream.server.tokens import hash_token

_TOKEN_CHARS_MAX = 512
_NO_DIGEST = bytes(32)  # compared with where there is none, so that it takes as long


class Stranger(SlipstreamError):
    """None of the credentials that are taken."""


class Credential(Enum):
    """How a request proved who it is from."""

    DEVICE = "device token"
    GATEWAY = "gateway token"
    CERTIFICATE = "client certificate"

    @property
    def registers(self) -> bool:
        """It vouches for devices that the server does not know."""
        return self is not Credential.DEVICE


def authenticate(
    headers: MultiMapping[str],
    device: str,
    digests: Collection[bytes],
    settings: DdiSettings,
    *,
    by_proxy: bool,
) -> Credential:
    """How `device` proved that it is the one; Stranger otherwise.

    `by_proxy`: the request comes straight from a trusted proxy. `digests`: SHA-256 of the tokens
    that are good for the device now; none where it is not known. The time taken does not depend on
    them.
    """
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    sent = hash_token(token.strip()[:_TOKEN_CHARS_MAX])
    matches = [hmac.compare_digest(sent, one) for one in (*digests, _NO_DIGEST)]
    gateway = hmac.compare_digest(sent, settings.gateway_digest or _NO_DIGEST)
    match scheme.lower():
        case "targettoken" if any(matches):
            return Credential.DEVICE
        case "gatewaytoken" if gateway:
            return Credential.GATEWAY
        case _:
            pass
    if by_proxy and _named(headers, device) and _issued(headers, settings):
        return Credential.CERTIFICATE
    raise Stranger("unknown device or wrong credentials")


def _named(headers: MultiMapping[str], device: str) -> bool:
    names = headers.getall("X-Controller-Id", [])
    if len(names) != 1:
        return False  # the client's own beside the proxy's: who knows which is which
    return hmac.compare_digest(names[0].encode("utf-8", "surrogateescape"), device.encode())


def _issued(headers: MultiMapping[str], settings: DdiSettings) -> bool:
    """Whether the certificate's issuer is one of those that are set; any is, where none are."""
    if not settings.authorities:
        return True
    found: list[str] = []
    for name, value in headers.items():
        if re.fullmatch(r"X-Authority(?:-\d{1,3})?", name, re.IGNORECASE):
            found += value.split(";")
    return any(one.strip().lower() in settings.authorities for one in found)

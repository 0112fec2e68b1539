"""What an operator sets for hawkBit's clients. A value; reads nothing."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class DdiSettings:
    """`product` None: devices that nobody registered are not taken in."""

    tenant: str = "DEFAULT"
    product: str | None = None  # of devices that register themselves
    channel: str = "stable"
    gateway_digest: bytes | None = None  # SHA-256 of the gateway token; None: there is none
    authorities: frozenset[str] = field(
        default_factory=frozenset
    )  # issuers, lower case; empty: any
    public_url: str | None = None  # the origin of all links; None: as the request names it

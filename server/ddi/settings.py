"""What an operator sets for hawkBit's clients. A value; reads nothing."""

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from slipstream.delta.errors import UsageError

Networks = tuple[IPv4Network | IPv6Network, ...]


@dataclass(frozen=True, slots=True)
class DdiSettings:
    """`product` None: devices that nobody registered are not taken in."""

    tenant: str = "DEFAULT"
    product: str | None = None  # of devices that register themselves
    channel: str = "stable"
    gateway_digest: bytes | None = None  # SHA-256 of the gateway token; None: there is none
    proxies: Networks = ()  # whose X-Controller-Id and X-Forwarded-* are believed
    authorities: frozenset[str] = field(
        default_factory=frozenset
    )  # issuers, lower case; empty: any
    public_url: str | None = None  # the origin of all links; None: as the request names it

    def trusts(self, peer: str | None) -> bool:
        """Whether a request comes straight from a named proxy. `peer`: its address."""
        try:
            address = ip_address((peer or "").partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self.proxies)


def parse_networks(words: tuple[str, ...]) -> Networks:
    """Addresses and networks as values; UsageError for what is neither."""
    try:
        return tuple(ip_network(word) for word in words)
    except ValueError as error:
        raise UsageError(
            f"not an address or network: {error}",
            where="--trusted-proxy",
            expected="such as 10.0.0.7 or 10.0.0.0/24",
        ) from error

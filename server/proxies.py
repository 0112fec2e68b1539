"""The proxies before the server, by address: from them alone are headers about a client believed.

They are X-Forwarded-For, -Proto and -Host, and X-Controller-Id and X-Authority, the name in a
client's certificate and who issued it (ddi/credentials.py). Pure.
"""

from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from slipstream.delta.errors import UsageError
from slipstream.delta.limits import ADDRESSES_CACHED, FORWARDED_MAX

Networks = tuple[IPv4Network | IPv6Network, ...]


class Proxies:
    """Addresses and networks that are named; none by default."""

    def __init__(self, networks: Networks = ()) -> None:
        self._networks = networks
        # Few proxies, many requests: parsing an address takes 2 us.
        self._trusts = lru_cache(ADDRESSES_CACHED)(self._find)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def trusts(self, peer: str | None) -> bool:
        """Whether a request comes straight from a named proxy. `peer`: its address."""
        return bool(self._networks) and peer is not None and self._trusts(peer)

    def client(self, peer: str | None, headers: Mapping[str, str]) -> str:
        """The address that a request began at: the last of X-Forwarded-For that is no proxy."""
        address = peer or ""
        if not self.trusts(peer):
            return address
        # Each proxy appends whom it heard; whatever stands before the last stranger, he may have
        # written himself.
        for hop in reversed(headers.get("X-Forwarded-For", "").split(",")[-FORWARDED_MAX:]):
            if parse_address(hop.strip()) is None:
                break
            address = hop.strip()
            if not self.trusts(address):
                break
        return address

    def scheme(self, peer: str | None, headers: Mapping[str, str], own: str) -> str:
        """http or https, as the client spoke it. `own`: as this server heard it."""
        if not self.trusts(peer):
            return own
        return "https" if headers.get("X-Forwarded-Proto", own).strip().lower() == "https" else own

    def _find(self, peer: str) -> bool:
        address = parse_address(peer)
        return address is not None and any(address in network for network in self._networks)


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


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """An address; IPv4 that came over a socket of IPv6 is IPv4. None for what is no address."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(ADDRESSES_CACHED)
def is_loopback(text: str | None) -> bool:
    """Whether an address is this machine's own."""
    address = parse_address(text or "")
    return address is not None and address.is_loopback


@lru_cache(ADDRESSES_CACHED)
def household(text: str) -> str:
    """Whom an address is counted as: itself, or of IPv6 its /64, all of which one host may have."""
    address = parse_address(text)
    if not isinstance(address, IPv6Address):
        return text if address is None else str(address)
    return str(IPv6Network((address, 64), strict=False))

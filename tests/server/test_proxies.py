"""Whom the server believes, and whom a request is counted for."""

import pytest

from slipstream.delta.errors import UsageError
from slipstream.server.proxies import Proxies, household, is_loopback, parse_networks

PROXIES = Proxies(parse_networks(("10.0.0.0/24", "fd00::7")))


def test_only_named_addresses_are_proxies():
    trusted = ("10.0.0.7", "::ffff:10.0.0.7", "fd00::7", "fd00::7%eth0")
    assert all(map(PROXIES.trusts, trusted))
    assert not any(map(PROXIES.trusts, ("10.0.1.7", "fd00::8", "", "unix:", None)))
    assert not Proxies().trusts("127.0.0.1")
    with pytest.raises(UsageError, match=r"such as 10\.0\.0\.7"):
        parse_networks(("proxy.local",))


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", None, "192.0.2.1"),
        ("192.0.2.1", "198.51.100.9", "192.0.2.1"),  # who is no proxy may write what he likes
        ("10.0.0.7", None, "10.0.0.7"),
        ("10.0.0.7", "198.51.100.9", "198.51.100.9"),
        ("10.0.0.7", "1.1.1.1, 198.51.100.9", "198.51.100.9"),  # the first is the client's own word
        ("10.0.0.7", "198.51.100.9, 10.0.0.8", "198.51.100.9"),
        ("10.0.0.7", "10.0.0.8", "10.0.0.8"),
        ("10.0.0.7", "198.51.100.9, nonsense", "10.0.0.7"),
        ("10.0.0.7", "198.51.100.9," + "10.0.0.8," * 15 + "10.0.0.9", "10.0.0.8"),
    ],
)
def test_where_a_request_began(peer, forwarded, client):
    headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
    assert PROXIES.client(peer, headers) == client


def test_the_scheme_is_the_clients():
    said = {"X-Forwarded-Proto": "HTTPS"}
    assert PROXIES.scheme("10.0.0.7", said, "http") == "https"
    assert PROXIES.scheme("192.0.2.1", said, "http") == "http"
    assert PROXIES.scheme("10.0.0.7", {"X-Forwarded-Proto": "javascript"}, "http") == "http"


def test_a_host_of_ipv6_has_a_network_to_itself():
    assert household("2001:db8::1") == household("2001:db8::ffff:2") != household("2001:db8:0:1::1")
    assert household("::ffff:192.0.2.1") == household("192.0.2.1") != household("192.0.2.2")
    assert household("") == ""


def test_loopback():
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1")))
    assert not any(map(is_loopback, ("", "0.0.0.0", "::", "10.0.0.1", "localhost", None)))

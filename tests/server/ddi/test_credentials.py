"""Who may speak for a device."""

from ipaddress import ip_network

import pytest
from multidict import CIMultiDict

from slipstream.server.ddi.credentials import Credential, Stranger, authenticate
from slipstream.server.ddi.settings import DdiSettings
from slipstream.server.proxies import Proxies
from slipstream.server.tokens import hash_token

SETTINGS = DdiSettings(gateway_digest=hash_token("gate"), product="gateway")
ISSUERS = DdiSettings(authorities=frozenset({"ab12"}))
NETWORKS = {SETTINGS: "10.0.0.0/24", ISSUERS: "::1"}
DIGESTS = (hash_token("now"), hash_token("before"))
CLIENT, PROXY = "192.0.2.1", "10.0.0.7"


def ask(*headers, peer=CLIENT, digests=DIGESTS, settings=SETTINGS, device="d1"):
    by_proxy = Proxies((ip_network(NETWORKS[settings]),)).trusts(peer)
    return authenticate(CIMultiDict(headers), device, digests, settings, by_proxy=by_proxy)


@pytest.mark.parametrize(
    ("headers", "peer", "settings", "credential"),
    [
        ([("Authorization", "TargetToken now")], CLIENT, SETTINGS, Credential.DEVICE),
        ([("authorization", "targettoken before")], CLIENT, SETTINGS, Credential.DEVICE),
        ([("Authorization", "GatewayToken gate")], CLIENT, SETTINGS, Credential.GATEWAY),
        ([("X-Controller-Id", "d1")], PROXY, SETTINGS, Credential.CERTIFICATE),
        ([("X-Controller-Id", "d1")], "::ffff:10.0.0.9", SETTINGS, Credential.CERTIFICATE),
        (
            [("X-Controller-Id", "d1"), ("X-Authority", "cd34; AB12")],
            "::1",
            ISSUERS,
            Credential.CERTIFICATE,
        ),
        (
            [("X-Controller-Id", "d1"), ("X-Authority-0", "cd"), ("X-Authority-1", "ab12")],
            "::1",
            ISSUERS,
            Credential.CERTIFICATE,
        ),
    ],
)
def test_taken(headers, peer, settings, credential):
    found = ask(*headers, peer=peer, settings=settings)
    assert found is credential
    assert found.registers == (credential is not Credential.DEVICE)


@pytest.mark.parametrize(
    ("headers", "peer", "settings"),
    [
        ([], PROXY, SETTINGS),
        ([("Authorization", "TargetToken wrong")], CLIENT, SETTINGS),
        ([("Authorization", "TargetToken ")], CLIENT, SETTINGS),
        ([("Authorization", "TargetToken gate")], CLIENT, SETTINGS),
        ([("Authorization", "GatewayToken now")], CLIENT, SETTINGS),
        ([("Authorization", "Bearer now")], CLIENT, SETTINGS),
        ([("Authorization", "GatewayToken gate")], CLIENT, ISSUERS),
        ([("X-Controller-Id", "d1")], CLIENT, SETTINGS),
        ([("X-Controller-Id", "d1")], None, SETTINGS),
        ([("X-Controller-Id", "d2")], PROXY, SETTINGS),
        ([("X-Controller-Id", "d1"), ("X-Controller-Id", "d2")], PROXY, SETTINGS),
        ([("X-Controller-Id", "d1"), ("X-Forwarded-For", PROXY)], CLIENT, SETTINGS),
        ([("X-Controller-Id", "d1")], "::1", ISSUERS),
        ([("X-Controller-Id", "d1"), ("X-Authority", "cd34")], "::1", ISSUERS),
    ],
)
def test_refused(headers, peer, settings):
    with pytest.raises(Stranger):
        ask(*headers, peer=peer, settings=settings)


def test_an_unknown_device_has_no_token():
    with pytest.raises(Stranger):
        ask(("Authorization", "TargetToken now"), digests=())

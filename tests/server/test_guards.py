"""Where a server may listen."""

from dataclasses import replace

import pytest

from slipstream.delta.errors import UsageError
from slipstream.server.guards import Guards, check_exposure

NONE = Guards(operators=False, tls=False, proxies=False, insecure_http=False)
OPERATED = replace(NONE, operators=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.1.2.3"])
def test_this_machine_alone_needs_nothing(host):
    check_exposure(host, NONE, "token")


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "192.0.2.1", "updates.example.org"])
def test_others_need_an_operator_and_a_closed_line(host):
    with pytest.raises(UsageError, match="in the clear") as caught:
        check_exposure(host, OPERATED, "token")
    assert caught.value.exit_code == 2
    for word in ("--listen", "--tls-cert", "--trusted-proxy", "--insecure-http"):
        assert word in str(caught.value)
    for guard in ("tls", "proxies", "insecure_http"):
        check_exposure(host, replace(OPERATED, **{guard: True}), "token")
        with pytest.raises(UsageError, match="role admin") as caught:
            check_exposure(host, replace(NONE, **{guard: True}), "FOLDER/operator.token")
        assert "FOLDER/operator.token" in str(caught.value)

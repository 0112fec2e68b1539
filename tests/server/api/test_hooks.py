"""Webhooks through the operators' door."""

from slipstream.server.store.webhooks import KINDS

URL = "https://example.org/hook"


def test_webhooks(with_each_fleet):
    async def test(fleet):
        body = {"url": URL, "kinds": ["rollout", "rollout"]}
        status, made = await fleet.api("POST", "/webhooks", body)
        assert (status, made["webhook"]["kinds"]) == (201, ["rollout"])
        assert made["secret"].startswith("whsec_")
        _, page = await fleet.api("GET", "/webhooks")
        assert page["items"] == [made["webhook"]]
        _, every = await fleet.api("POST", "/webhooks", {"url": "http://127.0.0.1:9/"})
        assert every["webhook"]["kinds"] == sorted(KINDS)
        path = f"/webhooks/{every['webhook']['id']}"
        assert (await fleet.api("POST", f"{path}/test"))[0] == 204
        _, page = await fleet.api("GET", f"{path}/deliveries")
        assert [(one["kind"], one["body"]["by"]) for one in page["items"]] == [
            ("test", "installation")
        ]
        assert (await fleet.api("DELETE", path))[0] == 204
        assert (await fleet.api("POST", f"{path}/test"))[0] == 404
        assert (await fleet.api("DELETE", path))[0] == 404
        for url in ("ftp://x/", "https://", "https://user:word@x/", "x", "http://[/"):
            status, answer = await fleet.api("POST", "/webhooks", {"url": url})
            assert (status, answer["field"]) == (400, "$.url"), url
        assert (await fleet.api("POST", "/webhooks", {"url": URL, "kinds": ["x"]}))[0] == 400

    with_each_fleet(test)

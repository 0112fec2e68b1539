"""`slipstream rollout create` to `next`, against a server."""

import json

from slipstream.delta.errors import SlipstreamError, Unavailable, UsageError

PHASES = ("--phase", "1", "--phase", "50%", "--phase", "100%")


def test_a_rollout_is_created_shown_and_moved(operated):
    for name in ("d1", "d2", "d3"):
        operated.say("device-admin", "add", name, "--product", "gateway")
    start = ("--start", "2099-01-01T00:00", "--soak", "2h", "--pause-at", "boot+root:2")
    words = operated.say("rollout", "create", "--release", "2.0", *PHASES, *start)
    assert "gateway 2.0 (1): scheduled" in words
    assert "begins at 2099-01-01 00:00 UTC" in words
    assert "written by installation" in words
    words = operated.say("rollout", "start", "gateway 2.0", "--remark", "now")
    assert "running, started by installation: now" in words
    assert "1  1 device  [........................]         1" in words
    assert "0 of 1 confirmed, 1 are needed" in words
    assert "pause at 2 failed (boot or root): nothing is on its way" in words
    assert "3  100 %" in words
    assert "not open yet" in words
    refused = operated.run("rollout", "resume", "1")
    assert "cannot resume; expected pause or abort" in str(refused.exception)
    assert "finish" not in str(refused.exception)
    for act, status in (("pause", "paused"), ("resume", "running"), ("next", "running")):
        assert f"(1): {status}" in operated.say("rollout", act, "1")
    found = json.loads(operated.say("rollout", "show", "1", "--json", "--devices"))
    assert (found["phase"], found["devices"]) == (2, [])
    assert "aborted by installation: bad" in operated.say(
        "rollout", "abort", "1", "--remark", "bad"
    )
    listed = operated.say("rollout", "list")
    assert "gateway 2.0  2.0           aborted               2 of 3" in listed
    assert operated.say("rollout", "list", "--status", "running") == "no rollouts\n"


def test_approval_needs_another(operated):
    plan = {"name": "x", "product": "gateway", "release": "2.0", "counter": 2}
    file = operated.token_file.with_name("plan.json")
    file.write_text(json.dumps({**plan, "phases": [{"percent": 100}]}))
    made = json.loads(
        operated.say("rollout", "create", "--plan", file, "--needs-approval", "--json")
    )
    assert made["status"] == "waiting_for_approval"
    words = operated.say("rollout", "show", "x")
    assert "x (1): waiting for approval" in words
    assert "slipstream rollout approve 1" in words
    done = operated.run("rollout", "approve", "x")
    assert isinstance(done.exception, SlipstreamError)
    assert "author" in str(done.exception)


def test_errors_say_what_to_do(operated):
    for words, kind, text in (
        (("create",), UsageError, "--release"),
        (("create", "--release", "9"), UsageError, "no release 9"),
        (("create", "--release", "2.0", "--name", "../x"), UsageError, "name"),
        (("show", "nothing"), SlipstreamError, "no rollout 'nothing'"),
        (("show", "7"), SlipstreamError, "no rollout 7"),
        (("show", "9" * 22), SlipstreamError, f"no rollout '{'9' * 22}'"),
        (
            ("create", "--release", "2.0", "--product", "gatway"),
            UsageError,
            "no release 2.0 of the product gatway in the repository; expected --product gateway",
        ),
        (("show", "7", "--token-file", "/nowhere"), UsageError, "token"),
        (("show", "7", "--server", "http://127.0.0.1:9"), Unavailable, "127.0.0.1"),
        (("show", "7", "--server", "nonsense"), UsageError, "--server"),
    ):
        done = operated.run("rollout", *words)
        assert type(done.exception) is kind, (words, done.exception)
        assert text in str(done.exception)

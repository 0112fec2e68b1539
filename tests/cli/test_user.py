"""`slipstream user`, against a server."""

import json

from slipstream.cli.operator_client import Client, by_token
from slipstream.delta.errors import SlipstreamError, UsageError


def test_users_and_tokens_come_and_go(operated):
    password = operated.token_file.with_name("password")
    password.write_text("correct horse battery staple\nnot this line\n")
    add = ("user", "add", "ada", "--role", "approver")
    assert operated.say(*add, "--password-file", password) == "ada: approver, can log in\n"
    words = operated.say("user", "add", "ci", "--role", "operator", "--program")
    assert words == "ci: operator, by tokens alone\n"
    secret = operated.say("user", "token", "ci", "--name", "runner", "--role", "operator").strip()
    assert len(secret) >= 43
    found = json.loads(operated.say("user", "list", "--json"))
    assert [(one["name"], one["can_log_in"]) for one in found["users"]] == [
        ("ada", True),
        ("ci", False),
    ]
    (token,) = found["tokens"]
    assert (token["user"], token["name"]) == ("ci", "runner")
    words = operated.say("user", "list")
    assert "runner" in words
    assert secret not in words
    assert "revoked" in operated.say("user", "revoke", token["id"])
    # An API token revokes no other; a session does, and is over afterwards.
    boss = operated.token_file.with_name("boss")
    boss.write_text(operated.say("user", "token", "ada", "--name", "cli", "--role", "approver"))
    number = json.loads(operated.say("user", "list", "--json"))["tokens"][0]["id"]
    operated.say("user", "token", "ada", "--name", "other", "--role", "viewer")
    done = operated.run("user", "revoke", number + 1, "--token-file", boss)
    assert "itself alone" in str(done.exception)
    login = ("--login", "ada", "--login-password-file", password)
    words = operated.say("user", "list", *login).splitlines()
    assert [line.split()[-1] for line in words] == ["cli", "other"]
    for one in (number, number + 1):
        assert "revoked" in operated.say("user", "revoke", one, *login)
    log = Client(operated.url, by_token(operated.token_file.read_text().strip())).get("/audit")
    acts = [one["act"] for one in log["items"]]
    assert acts.count("session.end") == acts.count("session.begin") == 3
    other = password.with_name("wrong")
    other.write_text("not it\n")
    done = operated.run("user", "list", "--login", "ada", "--login-password-file", other)
    assert "wrong password" in str(done.exception)
    assert operated.say("user", "remove", "ada") == "ada: removed\n"
    assert json.loads(operated.say("user", "list", "--json"))["tokens"] == []


def test_what_cannot_be(operated):
    short = operated.token_file.with_name("short")
    short.write_text("short\n")
    add = ("user", "add", "ada", "--role", "viewer")
    done = operated.run(*add, "--password-file", short)
    assert isinstance(done.exception, UsageError)
    assert "short" in str(done.exception)
    done = operated.run(*add, "--password-file", short, "--program")
    assert "a program has no password" in str(done.exception)
    done = operated.run(*add, "--password-file", short.with_name("nowhere"))
    assert "cannot read the password" in str(done.exception)
    done = operated.run("user", "remove", "nobody")
    assert isinstance(done.exception, SlipstreamError)


def test_a_password_is_asked_for_on_a_terminal_alone(operated):
    done = operated.run("user", "add", "ada", "--role", "viewer")
    assert isinstance(done.exception, UsageError)
    assert "Give --password-file" in str(done.exception)
    done = operated.run("user", "list", "--login", "ada")
    assert isinstance(done.exception, UsageError)
    assert "Give --login-password-file" in str(done.exception)

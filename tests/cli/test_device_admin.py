"""`slipstream device-admin`, against a server."""

import json
import os
import stat
import subprocess
import sys

import pytest

from slipstream.delta.errors import SlipstreamError, UsageError


def test_devices_are_registered_described_found_and_removed(operated):
    where = ("--product", "gateway", "--tag", "lab", "--attribute", "site=berlin")
    token = operated.say("device-admin", "add", "d1", *where)
    assert len(token.strip()) == 43
    words = operated.say(
        "device-admin", "describe", "d1", "--group", "north", "--attribute", "floor=3"
    )
    assert "d1: gateway, channel stable, group north" in words
    assert "floor = 3\nsite = berlin" in words
    words = operated.say("device-admin", "describe", "d1", "--attribute", "floor=", "--no-tags")
    assert "floor" not in words
    assert "tags" not in words
    found = json.loads(
        operated.say("device-admin", "list", "--filter", "attribute.site==berlin", "--json")
    )
    assert [one["id"] for one in found] == ["d1"]
    assert "d1 " in operated.say("device-admin", "list")
    assert "runs unknown, seen never" in operated.say("device-admin", "show", "d1")
    assert len(operated.say("device-admin", "rotate", "d1", "--overlap", "1h").strip()) == 43
    for act in ("revoke", "unlock", "remove"):
        assert operated.say("device-admin", act, "d1").startswith("d1: ")
    done = operated.run("device-admin", "remove", "d1")
    assert isinstance(done.exception, SlipstreamError)
    assert "no device d1" in str(done.exception)


def test_a_file_of_devices(operated):
    file = operated.token_file.with_name("devices.csv")
    tokens = operated.token_file.with_name("tokens.csv")
    file.write_text("id,product\nd1,gateway\nd2,gateway\n")
    assert "2 devices registered" in operated.say("device-admin", "import", file, "-o", tokens)
    assert stat.S_IMODE(tokens.stat().st_mode) == 0o600
    rows = [line.split(",") for line in tokens.read_text().splitlines()]
    assert [(row[0], len(row[1])) for row in rows[1:]] == [("d1", 43), ("d2", 43)]
    done = operated.run("device-admin", "import", file, "-o", tokens.with_name("again.csv"))
    assert "line 2, id" in str(done.exception)
    assert not tokens.with_name("again.csv").exists()
    done = operated.run("device-admin", "describe", "d1", "--attribute", "x")
    assert isinstance(done.exception, UsageError)


@pytest.mark.parametrize("place", ["nowhere/tokens.csv", "tokens.csv", "."])
def test_no_device_is_registered_whose_token_has_no_place(operated, place):
    folder = operated.token_file.parent
    file = folder / "devices.csv"
    file.write_text("id,product\nd1,gateway\n")
    (folder / "tokens.csv").write_text("the fleet's tokens")
    done = operated.run("device-admin", "import", file, "-o", folder / place)
    assert done.exit_code == 2 or isinstance(done.exception, UsageError)
    assert (folder / "tokens.csv").read_text() == "the fleet's tokens"
    assert json.loads(operated.say("device-admin", "list", "--json")) == []


def test_a_file_of_devices_in_another_encoding(operated):
    file = operated.token_file.with_name("devices.csv")
    file.write_bytes("id,product,attribute.site\nd1,gateway,Köln\n".encode("latin-1"))
    done = operated.run("device-admin", "import", file, "-o", file.with_name("tokens.csv"))
    assert isinstance(done.exception, UsageError)
    assert "devices.csv, line 2: not text in UTF-8; got the byte 0xf6" in str(done.exception)


def say_to_nobody(operated, *words):
    """What a command says on standard error when its output fails."""
    at = ("--server", operated.url, "--token-file", str(operated.token_file))
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "slipstream", *words, *at],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "run it again" not in done.stderr
    return done.stderr


def test_output_that_nobody_saw_is_told_of(operated):
    words = say_to_nobody(operated, "device-admin", "add", "d1", "--product", "gateway")
    assert "Device d1 is registered, with a token that nobody can see" in words
    assert "slipstream device-admin rotate d1 --overlap 0s" in words
    assert len(operated.say("device-admin", "rotate", "d1", "--overlap", "0s").strip()) == 43
    words = say_to_nobody(operated, "device-admin", "remove", "d1")
    assert "standard output: cannot be written: No space left on device" in words
    assert "what it did holds" in words


@pytest.mark.parametrize(
    "words", [("add", b"\xff", "--product", "gateway"), ("list", "--filter", b"tag==a\xff")]
)
def test_a_name_that_is_not_utf_8(operated, words):
    done = operated.run("device-admin", *(os.fsdecode(one) for one in words))
    assert isinstance(done.exception, UsageError)
    assert "text in UTF-8" in str(done.exception)


def test_quarantines(operated):
    assert operated.say("device-admin", "quarantines") == "no release is quarantined\n"
    operated.say("device-admin", "add", "d2", "--product", "gateway")
    done = operated.run("device-admin", "recall", "d2", "2.0")
    assert "no offer of 2.0 to device d2 is on its way" in str(done.exception)
    done = operated.run("device-admin", "lift", "d1", "2.0")
    assert "no quarantine of 2.0 on device d1" in str(done.exception)

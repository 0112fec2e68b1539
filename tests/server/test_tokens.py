"""Tokens: made, kept, checked."""

import base64

import pytest

from slipstream.delta.errors import UsageError
from slipstream.server.tokens import (
    WrongToken,
    basic_password,
    bearer_token,
    check_token,
    hash_token,
    load_token,
    make_token,
)


def test_a_token_matches_its_digest_alone():
    token = make_token()
    assert len(token) == 43
    assert token != make_token()
    check_token(token, hash_token(token))
    for wrong in (None, "", token[:-1], token + "=", make_token(), "caf\udce9"):
        with pytest.raises(WrongToken):
            check_token(wrong, hash_token(token))


def _basic(text):
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "header, token",
    [
        (None, None),
        ("", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
        ("Basic abc", None),
    ],
)
def test_bearer(header, token):
    assert bearer_token(header) == token


@pytest.mark.parametrize(
    "header, password",
    [
        (None, None),
        ("Basic", None),
        ("Basic !!!", None),
        ("Basic /w==", None),
        (_basic("user"), None),
        (_basic("user:"), None),
        (_basic("user:pass:word"), "pass:word"),
        (_basic(":pass"), "pass"),
        ("Bearer abc", None),
    ],
)
def test_basic(header, password):
    assert basic_password(header) == password


def test_the_operators_token_is_made_once_and_for_its_owner_alone(tmp_path):
    path = tmp_path / "operator.token"
    token = load_token(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_token(path) == token


def test_a_token_that_others_can_read_is_refused(tmp_path):
    path = tmp_path / "operator.token"
    load_token(path)
    path.chmod(0o640)
    with pytest.raises(UsageError, match="0640"):
        load_token(path)


@pytest.mark.parametrize("content", [b"", b"short\n"])
def test_a_token_that_can_be_guessed_is_refused(tmp_path, content):
    path = tmp_path / "operator.token"
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(UsageError, match="too short"):
        load_token(path)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="none can be made for the operator's token: No such file"):
        load_token(tmp_path / "missing" / "operator.token")

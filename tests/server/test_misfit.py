"""What does not fit a type, in words."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.server.api.openapi import document
from slipstream.server.misfit import PATTERNS, misfit
from slipstream.server.wire import Body, DeviceId

AtMost5 = Annotated[int, msgspec.Meta(ge=1, le=5)]
Short = Annotated[str, msgspec.Meta(min_length=1, max_length=3)]


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Part:
    colour: Colour = Colour.RED


class Whole(Body, frozen=True):
    id: DeviceId
    number: AtMost5 = 1
    word: Short = "x"
    share: float | None = None
    part: Part | None = None
    parts: Annotated[tuple[Part, ...], msgspec.Meta(max_length=2)] = ()
    named: dict[Short, Literal["on", "off"]] = msgspec.field(default_factory=dict)


@pytest.mark.parametrize(
    "raw, words",
    [
        ("", "not JSON: it ends too early; expected a JSON object"),
        ("{", "not JSON: it ends too early; expected a JSON object"),
        ("nope", "not JSON: invalid character (byte 4); expected a JSON object"),
        ("[]", "it does not belong there; expected an object, got a list"),
        ("{}", "$.id: it is missing"),
        ('{"id":1}', "$.id: it does not belong there; expected text, got a whole number"),
        ('{"id":"a b"}', "$.id: characters that do not belong there; expected letters, digits"),
        ('{"id":""}', "$.id: too short; expected at least 1 character"),
        ('{"word":"xxxx"}', "$.word: too long; expected at most 3 characters"),
        ('{"number":9}', "$.number: too large; expected at most 5"),
        ('{"number":0}', "$.number: too small; expected at least 1"),
        ('{"share":"x"}', "$.share: it does not belong there; expected a number or null, got text"),
        (
            '{"nope":1}',
            "$.nope: no such field; expected id, number, word, share, part, parts, named",
        ),
        ('{"part":{"colour":"x"}}', "$.part.colour: no such value; expected red, blue, got 'x'"),
        ('{"parts":[{},{"colour":"x"}]}', "$.parts[1].colour: no such value; expected red, blue"),
        ('{"parts":[{},{},{}]}', "$.parts: too long; expected at most 2 items"),
        ('{"named":{"a":"x"}}', "$.named[...]: no such value; expected off, on, got 'x'"),
        ('{"named":{"":"on"}}', "$.named: a key: too short; expected at least 1 character"),
    ],
)
def test_words(raw: str, words: str) -> None:
    with pytest.raises(msgspec.MsgspecError) as caught:
        msgspec.json.decode(raw, type=Whole)
    found = misfit(caught.value, Whole)
    assert str(found).startswith(words)
    assert words.startswith(f"{found.field}: ") or found.field == "$"


@given(st.binary() | st.recursive(st.none() | st.text(), st.lists).map(msgspec.json.encode))
def test_hostile_bytes_are_told_of_in_words(raw: bytes) -> None:
    found = None
    try:
        msgspec.json.decode(raw, type=Whole)
    except (msgspec.MsgspecError, ValueError) as error:
        found = str(misfit(error, Whole))
    assert found is None or "Expected" not in found


def test_every_pattern_of_the_api_has_words() -> None:
    def patterns(value: Any) -> set[str]:
        if isinstance(value, dict):
            own = {value["pattern"]} if isinstance(value.get("pattern"), str) else set()
            return own.union(*map(patterns, value.values()))
        return set().union(*map(patterns, value)) if isinstance(value, list) else set()

    found = patterns(document())
    known = {one.replace(r"\Z", "$") for one in PATTERNS}  # as JSON Schema spells them
    assert len(found) > 5
    # The path of a file and the key of a header are no values that msgspec reads.
    assert found - known == {"^[A-Za-z0-9._+~/-]+$", "^[ -~]+$"}

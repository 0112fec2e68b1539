"""Target filters: RSQL, the query language of hawkBit's clients.

    attribute.site==berlin;(tag=in=(canary,lab),release=lt=2.0)

`;` or `and` binds closer than `,` or `or`. `==` and `!=` take `*` for any characters; `=lt= < =le=
<= =gt= > =ge= >=` compare whole numbers as numbers, everything else piece by piece as versions are
compared; `=in=` and `=out=` take a list. Of a selector with several values (tag) one that fits is
enough. Where a device has no value, only `!=` and `=out=` hold: they are `==` and `=in=` negated.

parse_filter makes a value of the text, `matches` decides. Both are pure.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from lark import Lark, Token, Transformer, UnexpectedInput, UnexpectedToken, v_args

from slipstream.delta.errors import UsageError
from slipstream.delta.limits import FILTER_CHARS_MAX, FILTER_DEPTH_MAX
from slipstream.server.rollout.facts import Facts, check_selector

_ORDERED = {"<": "=lt=", "<=": "=le=", ">": "=gt=", ">=": "=ge="}
_OPERATORS = ("==", "!=", "=lt=", "=le=", "=gt=", "=ge=", "=in=", "=out=")
_LISTS = ("=in=", "=out=")
# The operators and precedence of github.com/jirutka/rsql-parser; keywords need white space.
_GRAMMAR = r"""
?start: disjunction
disjunction: conjunction ((_COMMA | _OR) conjunction)*
conjunction: _constraint ((_SEMICOLON | _AND) _constraint)*
_constraint: comparison | "(" disjunction ")"
comparison: FIELD OPERATOR (value | list)
list: "(" value (_COMMA value)* ")"
value: WORD | QUOTED

_COMMA: ","
_SEMICOLON: ";"
_OR: /or(?=[\s(])/
_AND: /and(?=[\s(])/
FIELD: /[A-Za-z][A-Za-z0-9_.:\/-]*/
OPERATOR: /==|!=|<=|>=|<|>|=[a-z]+=/
WORD: /[^"'();,=!~<>\s]+/
QUOTED: /"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'/

%ignore /\s+/
"""
# int() refuses more than 4300 digits; longer runs are compared in pieces of so many.
_PIECES = re.compile(r"([0-9]{1,4000})")
_NEGATIVE = re.compile(r"-[0-9]{1,4000}")
_Sortable = tuple[tuple[int, int, str], ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One selector against one or more values."""

    selector: str
    operator: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        words = [_quoted(value) for value in self.values]
        listed = f"({','.join(words)})" if self.operator in _LISTS else words[0]
        return f"{self.selector}{self.operator}{listed}"


@dataclass(frozen=True, slots=True)
class Every:
    """All parts hold; with no part every device does."""

    parts: tuple["Filter", ...]

    def __str__(self) -> str:
        return ";".join(f"({part})" if isinstance(part, Some) else str(part) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Some:
    """At least one part holds."""

    parts: tuple["Filter", ...]

    def __str__(self) -> str:
        return ",".join(str(part) for part in self.parts)


Filter = Comparison | Every | Some
EVERYTHING = Every(())


@lru_cache(maxsize=1024)
def parse_filter(text: str) -> Filter:
    """The value of a filter; an empty text lets every device through.

    Raises UsageError that says where the text goes wrong. str() of the value parses to it again.
    """
    if len(text) > FILTER_CHARS_MAX:
        raise UsageError(
            "filter is too long", expected=f"at most {FILTER_CHARS_MAX} characters", got=len(text)
        )
    if not text.strip():
        return EVERYTHING
    _check_depth(text)
    try:
        found: Filter = _parser().parse(text)  # type: ignore[assignment] # its transformer's
    except UnexpectedInput as error:
        ended = isinstance(error, UnexpectedToken) and error.token.type == "$END"
        place = getattr(error, "pos_in_stream", 0) + 1
        at = "at its end" if ended else f"at character {place}"
        raise UsageError(
            f"not a filter {at}",
            where=repr(text),
            expected="such as attribute.site==berlin;tag=in=(canary,lab)",
        ) from error
    return found


def matches(condition: Filter, facts: Facts) -> bool:
    """Whether a device fits."""
    match condition:
        case Every(parts):
            return all(matches(part, facts) for part in parts)
        case Some(parts):
            return any(matches(part, facts) for part in parts)
        case Comparison(selector, operator, values):
            found = facts.values(selector)
            return _HOLDS[operator](found, values)


def version_order(text: str) -> _Sortable:
    """A sort key: digits count as numbers, so that 1.10 is above 1.9, and -80 below -70."""
    if _NEGATIVE.fullmatch(text):
        return ((-1, int(text), ""),)
    return tuple(
        (0, 0, piece) if index % 2 == 0 else (1, int(piece), "")
        for index, piece in enumerate(_PIECES.split(text))  # digits stand at odd places
        if piece
    )


def _same(found: tuple[str, ...], values: tuple[str, ...]) -> bool:
    return any(_fits(value.split("*"), one) for value in values for one in found)


def _fits(pieces: list[str], text: str) -> bool:
    """Whether `text` is the pieces, with anything between them. Linear, unlike a pattern of re."""
    first, *middle = pieces
    if not middle:
        return text == first
    last = middle.pop()
    end = len(text) - len(last)
    at = len(first)
    if not text.startswith(first) or not text.endswith(last) or end < at:
        return False
    for piece in middle:
        at = text.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True


def _within(found: tuple[str, ...], values: tuple[str, ...]) -> bool:
    return any(one in values for one in found)


def _ordered(
    holds: Callable[[_Sortable, _Sortable], bool],
) -> Callable[[tuple[str, ...], tuple[str, ...]], bool]:
    def compare(found: tuple[str, ...], values: tuple[str, ...]) -> bool:
        return any(holds(version_order(one), version_order(values[0])) for one in found)

    return compare


_HOLDS: dict[str, Callable[[tuple[str, ...], tuple[str, ...]], bool]] = {
    "==": _same,
    "!=": lambda found, values: not _same(found, values),
    "=in=": _within,
    "=out=": lambda found, values: not _within(found, values),
    "=lt=": _ordered(lambda one, other: one < other),
    "=le=": _ordered(lambda one, other: one <= other),
    "=gt=": _ordered(lambda one, other: one > other),
    "=ge=": _ordered(lambda one, other: one >= other),
}


def _check_depth(text: str) -> None:
    depth, quote, escaped = 0, "", False
    for char in text:
        if quote:
            if not escaped and char == quote:
                quote = ""
            escaped = not escaped and char == "\\"
        elif char in "\"'":
            quote = char
        else:
            depth += (char == "(") - (char == ")")
            if depth > FILTER_DEPTH_MAX:
                raise UsageError("filter nests too deep", expected=f"at most {FILTER_DEPTH_MAX}")


def _quoted(value: str) -> str:
    if value and re.fullmatch(r"""[^"'();,=!~<>\s]+""", value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@v_args(inline=True)
class _ToValues(Transformer[Token, Filter]):
    def disjunction(self, *parts: Filter) -> Filter:
        # Parentheses that change nothing leave nothing behind: str() could not write them.
        flat = [one for part in parts for one in (part.parts if isinstance(part, Some) else [part])]
        return flat[0] if len(flat) == 1 else Some(tuple(flat))

    def conjunction(self, *parts: Filter) -> Filter:
        flat = [
            one for part in parts for one in (part.parts if isinstance(part, Every) else [part])
        ]
        return flat[0] if len(flat) == 1 else Every(tuple(flat))

    def value(self, token: Token) -> str:
        if token.type == "QUOTED":
            return re.sub(r"\\(.)", r"\1", token[1:-1], flags=re.DOTALL)
        return str(token)

    def list(self, *values: str) -> tuple[str, ...]:
        return values

    def comparison(self, field: Token, operator: Token, found: str | tuple[str, ...]) -> Filter:
        selector, name = str(field), _ORDERED.get(str(operator), str(operator))
        check_selector(selector)
        if name not in _OPERATORS:
            raise UsageError(
                f"no operator {name!r} in a filter", expected=", ".join((*_OPERATORS, *_ORDERED))
            )
        if isinstance(found, tuple) != (name in _LISTS):
            wanted = "a list such as (a,b)" if name in _LISTS else "one value"
            raise UsageError(f"{selector}{name} takes {wanted}")
        return Comparison(selector, name, found if isinstance(found, tuple) else (found,))


@lru_cache(maxsize=1)
def _parser() -> Lark:
    return Lark(_GRAMMAR, parser="lalr", transformer=_ToValues())

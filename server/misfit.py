"""A value that does not fit its type: what msgspec says of it, in this project's words. Pure.

The only file that reads msgspec's sentences. One that it does not know is passed on as it is.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import inspect

_VALUES_MAX: Final = 32  # that are told of one place
_GOT_CHARS_MAX: Final = 80
_AT = re.compile(r" - at (?P<key>`key` in )?`(?P<path>[^`]+)`$")
_STEP = re.compile(r"\.([^.\[]+)|\[([^\]]*)\]")
_KINDS: Final = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
# What is counted, by kind: one, many.
_COUNTED: Final = {
    "str": ("character", "characters"),
    "array": ("item", "items"),
    "object": ("entry", "entries"),
}
PATTERNS: Final = {
    r"^[A-Za-z0-9._:@+-]+\Z": "letters, digits and ._:@+-",
    r"^[A-Za-z0-9._:@+~-]+\Z": "letters, digits and ._:@+~-",
    r"^[A-Za-z0-9._:@+~-]*\Z": "letters, digits and ._:@+~-",
    r"^[A-Za-z0-9_.:-]+\Z": "letters, digits and _.:-",
    r"^[A-Za-z0-9.-]+\Z": "letters, digits, dots and hyphens",
    r"^[^\x00]*\Z": "text without NUL",
    r"^[^\x00/]+$": "text without NUL and slash",
    r"^[ -~]*\Z": "printable ASCII characters",
    r"^[!-~]+\Z": "visible ASCII characters, no blanks",
    r"^[0-9a-f]{64}\Z": "64 hexadecimal digits, in lower case",
}


@dataclass(frozen=True, slots=True)
class Misfit:
    """What is wrong, and where: `field` in JSON's own path ($.phases[0].percent); "$" is all of it."""

    what: str
    field: str

    def __str__(self) -> str:
        return self.what if self.field == "$" else f"{self.field}: {self.what}"


def misfit(error: Exception, kind: Any) -> Misfit:
    """What msgspec's error about a value of `kind` says. UnicodeDecodeError and other ValueErrors, too."""
    if isinstance(error, UnicodeDecodeError):
        return Misfit("not JSON: not UTF-8; expected a JSON object", "$")
    words = str(error)
    if not isinstance(error, msgspec.ValidationError):
        if words == "Input data was truncated":
            words = "it ends too early"
        words = words.removeprefix("JSON is malformed: ")
        return Misfit(f"not JSON: {words}; expected a JSON object", "$")
    found, field = _AT.search(words), "$"
    if found is not None:
        words, field = words[: found.start()], found["path"]
    what, below = _translate(words, kind, field)
    return Misfit(f"a key: {what}" if found and found["key"] else what, field + below)


def _translate(words: str, kind: Any, field: str) -> tuple[str, str]:
    """The complaint in words, and the field below `field` that it is about."""
    if found := re.fullmatch(r"Object missing required field `(.+)`", words):
        return "it is missing", f".{found[1]}"
    if found := re.fullmatch(r"Object contains unknown field `(.+)`", words, re.DOTALL):
        names = [name for one in _at(kind, field) for name in _fields(one)]
        return _wanted("no such field", names), f".{found[1]:.{_GOT_CHARS_MAX}}"
    if found := re.fullmatch(r"Invalid enum value (.+)", words, re.DOTALL):
        values = [str(value) for one in _at(kind, field) for value in _values(one)]
        got = f"got {found[1]:.{_GOT_CHARS_MAX}}"
        return _wanted("no such value", values) + (", " if values else "; ") + got, ""
    if found := re.fullmatch(r"Expected `str` matching regex (.+)", words):
        pattern = ast.literal_eval(found[1])
        return f"characters that do not belong there; expected {PATTERNS.get(pattern, pattern)}", ""
    if found := re.fullmatch(r"Expected `(\w+)` of length (>=|<=) (\d+)", words):
        one, many = _COUNTED.get(found[1], ("", ""))
        size = f"{found[3]} {one if found[3] == '1' else many}".strip()
        if found[2] == ">=":
            return f"too short; expected at least {size}", ""
        return f"too long; expected at most {size}", ""
    if found := re.fullmatch(r"Expected `\w+` (>=|<=|>|<) (\S+)", words):
        bound = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}[found[1]]
        what = "too small" if found[1].startswith(">") else "too large"
        return f"{what}; expected {bound} {found[2]}", ""
    if found := re.fullmatch(r"Expected `([^`]+)`(?:, got `(\w+)`)?", words):
        kinds = " or ".join(_KINDS.get(one, one) for one in found[1].split(" | "))
        got = "" if found[2] is None else f", got {_KINDS.get(found[2], found[2])}"
        return f"it does not belong there; expected {kinds}{got}", ""
    return words, ""


def _wanted(what: str, names: list[str]) -> str:
    told = ", ".join(names[:_VALUES_MAX]) + (", ..." if len(names) > _VALUES_MAX else "")
    return f"{what}; expected {told}" if names else what


@lru_cache(64)
def _type_of(kind: Any) -> inspect.Type:
    return inspect.type_info(kind)


def _at(kind: Any, field: str) -> list[inspect.Type]:
    """The types that a value at a path may have; none where the path leads nowhere."""
    found = list(_plain(_type_of(kind)))
    for name, index in _STEP.findall(field.removeprefix("$")):
        found = [
            below for one in found for step in _below(one, name, index) for below in _plain(step)
        ]
    return found


def _plain(one: inspect.Type) -> Iterator[inspect.Type]:
    if isinstance(one, inspect.Metadata):
        yield from _plain(one.type)
    elif isinstance(one, inspect.UnionType):
        for other in one.types:
            yield from _plain(other)
    else:
        yield one


def _below(one: inspect.Type, name: str, index: str) -> Iterator[inspect.Type]:
    match one:
        case inspect.StructType() | inspect.DataclassType():
            yield from (field.type for field in one.fields if field.encode_name == name)
        case inspect.DictType():
            yield one.value_type
        case inspect.ListType() | inspect.SetType() | inspect.VarTupleType():
            yield one.item_type
        case inspect.FrozenSetType():
            yield one.item_type
        case inspect.TupleType() if index.isdigit() and int(index) < len(one.item_types):
            yield one.item_types[int(index)]


def _fields(one: inspect.Type) -> list[str]:
    if isinstance(one, inspect.StructType | inspect.DataclassType):
        return [field.encode_name for field in one.fields]
    return []


def _values(one: inspect.Type) -> list[Any]:
    match one:
        case inspect.EnumType():
            return [member.value for member in one.cls]
        case inspect.LiteralType():
            return list(one.values)
        case _:
            return []

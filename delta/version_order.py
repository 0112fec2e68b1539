"""The order of versions that systemd-boot sorts entries by.

UAPI Version Format Specification; the algorithm is systemd's strverscmp_improved
(src/fundamental/string-util-fundamental.c). Characters outside [0-9A-Za-z~^.-] separate
segments. `systemd-analyze compare-versions` is the oracle of the tests.
"""

import re
import string
from typing import TypeVar

_SEPARATORS = re.compile(r"[^0-9A-Za-z~^.\-]+")
_DIGITS = re.compile(r"[0-9]*")
_LETTERS = re.compile(r"[A-Za-z]*")


def compare_versions(left: str, right: str) -> int:
    """-1, 0 or 1: whether `left` is older than, equal to or newer than `right`."""
    while True:
        left, right = _skip(left), _skip(right)
        # "~" sorts before everything, also before the end: 123~rc1 < 123.
        if order := _marked(left, right, "~"):
            return order
        left, right = left.removeprefix("~"), right.removeprefix("~")
        if not left or not right:
            return _sign(bool(left), bool(right))
        for mark in "-^.":
            if order := _marked(left, right, mark):
                return order
            left, right = left.removeprefix(mark), right.removeprefix(mark)
        if left[:1] in _DIGIT_SET or right[:1] in _DIGIT_SET:
            a, b = _lead(_DIGITS, left), _lead(_DIGITS, right)
            # A number is newer than letters or nothing, whatever its value.
            order = _sign(bool(a), bool(b)) or _sign(_number(a), _number(b))
        else:
            a, b = _lead(_LETTERS, left), _lead(_LETTERS, right)
            # Letters by ASCII; a prefix is older than what it starts.
            order = _sign(a, b)
        if order:
            return order
        left, right = left[len(a) :], right[len(b) :]


_DIGIT_SET = frozenset(string.digits)


def _skip(text: str) -> str:
    match = _SEPARATORS.match(text)
    return text if match is None else text[match.end() :]


def _marked(left: str, right: str, mark: str) -> int:
    """A side that starts with `mark` is older than one that does not."""
    return _sign(not left.startswith(mark), not right.startswith(mark))


def _lead(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.match(text)
    return match[0] if match is not None else ""


def _number(digits: str) -> tuple[int, str]:
    """A key that orders digit strings of any length by value."""
    significant = digits.lstrip("0")
    return len(significant), significant


_Key = TypeVar("_Key", bool, str, tuple[int, str])


def _sign(left: _Key, right: _Key) -> int:
    return (left > right) - (left < right)

"""Checks of single values that stand in signed documents: names, lines, ranges.

Names become parts of paths, URLs and file names on FAT, and lines become lines of boot entries, so
what they may hold is a matter of safety and not of taste. All raise FormatError.
"""

import re

from slipstream.delta.errors import FormatError
from slipstream.delta.limits import NAME_CHARS_MAX

_NAME = re.compile(r"[a-z0-9][a-z0-9.+_-]*", re.ASCII)
_PRINTABLE_LINE = re.compile(r"(?:[!-~](?:[ -~]*[!-~])?)?", re.ASCII)


def check_name(what: str, text: str) -> None:
    """Refuse all but 1 to NAME_CHARS_MAX of a-z 0-9 . + _ -, letter or digit first, no '..'."""
    if len(text) > NAME_CHARS_MAX or ".." in text or not _NAME.fullmatch(text):
        raise FormatError(
            f"{what} is not a name",
            expected=f"1 to {NAME_CHARS_MAX} of a-z 0-9 . + _ -, letter or digit first, no '..'",
            got=repr(text[:80]),
        )


def check_line(what: str, text: str, chars_max: int) -> None:
    """Refuse all but one line of printable ASCII without space at its ends; empty is a line."""
    if len(text) > chars_max or not _PRINTABLE_LINE.fullmatch(text):
        raise FormatError(
            f"{what} is not one line of printable ASCII",
            expected=f"at most {chars_max} characters, no space at either end",
            got=repr(text[:80]),
        )


def check_range(what: str, value: int, least: int, most: int) -> None:
    """Refuse a number below `least` or above `most`."""
    if not least <= value <= most:
        raise FormatError(f"{what} out of range", expected=f"{least} to {most}", got=value)


def check_unique(what: str, names: tuple[str, ...]) -> None:
    """Refuse a name that stands twice."""
    for name in names:
        if names.count(name) > 1:
            raise FormatError(f"{what} named twice", got=repr(name))

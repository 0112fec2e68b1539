"""Names, lines and ranges."""

import pytest

from slipstream.delta.errors import FormatError
from slipstream.delta.fields import check_line, check_name, check_range, check_unique
from slipstream.delta.limits import NAME_CHARS_MAX


@pytest.mark.parametrize(
    "name", ["a", "7", "2.0", "6.1.176-1+deb12u1", "x_y", "a" * NAME_CHARS_MAX]
)
def test_names(name):
    check_name("name", name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "-a",
        "+a",
        "A",
        "a b",
        "a/b",
        "a\\b",
        "a\n",
        "a\x00",
        "ａ",
        "١",
        "a:b",
        "a" * (NAME_CHARS_MAX + 1),
    ],
)
def test_no_names(name):
    with pytest.raises(FormatError, match="name is not a name"):
        check_name("name", name)


@pytest.mark.parametrize("line", ["", "a", "a b", "!~", "x" * 10])
def test_lines(line):
    check_line("line", line, 10)


@pytest.mark.parametrize("line", [" ", " a", "a ", "a\n", "a\tb", "é", "\x7f", "x" * 11])
def test_no_lines(line):
    with pytest.raises(FormatError, match="line is not one line"):
        check_line("line", line, 10)


def test_ranges():
    check_range("count", 1, 1, 1)
    for value in (0, 2):
        with pytest.raises(FormatError, match="count out of range"):
            check_range("count", value, 1, 1)


def test_unique():
    check_unique("image", ("a", "b"))
    with pytest.raises(FormatError, match="image named twice; got 'a'"):
        check_unique("image", ("a", "b", "a"))

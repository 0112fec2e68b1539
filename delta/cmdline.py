"""A kernel command line, cut into words: as the kernel reads it, and as anyone could.

Source: Linux, lib/cmdline.c (next_arg): white space separates, double quotes keep it together and
are taken away. systemd reads single quotes, too, and does not stop at `--`.
"""

import re
from collections.abc import Iterable

_WORD = re.compile(r'(?:"[^"]*"?|[^\s"])+')
_NO_QUOTES = str.maketrans("", "", "\"'")
_END_OF_OPTIONS = "--"  # what follows is handed to init


def kernel_words(cmdline: str) -> tuple[str, ...]:
    """The words that the kernel itself reads: those before `--`, without double quotes."""
    words = [word.replace('"', "") for word in _WORD.findall(cmdline)]
    end = words.index(_END_OF_OPTIONS) if _END_OF_OPTIONS in words else len(words)
    return tuple(words[:end])


def bare_words(cmdline: str) -> tuple[str, ...]:
    """All words, as if there were no quotes: whoever reads an option of it, it is among them."""
    return tuple(cmdline.translate(_NO_QUOTES).split())


def values_of(words: Iterable[str], option: str) -> tuple[str, ...]:
    """The values of an option, in order. A word without `=` has none and is not among them."""
    return tuple(word[len(option) + 1 :] for word in words if word.startswith(f"{option}="))

"""A kernel command line, cut into words: as the kernel reads it, and as anyone could.

The one reader of roothash= and usrhash=, for publisher and device. Source: Linux, lib/cmdline.c
(next_arg): white space separates, double quotes keep it together and are taken away. systemd
(src/basic/proc-cmdline.c, extract-word.c) reads single quotes, too, does not stop at `--`, and in
the initrd takes `rd.NAME=` as NAME=; the last of several counts.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from slipstream.delta.digest import Digest
from slipstream.delta.errors import FormatError

# What an image is mounted as, by its name in a release; and what names its root hash then.
MOUNTS = {"rootfs": "root", "root": "root", "usr": "usr"}
ROOT_OPTIONS = {"root": "roothash", "usr": "usrhash"}

_WORD = re.compile(r'(?:"[^"]*"?|[^\s"])+')
_SYSTEMD_WORD = re.compile(r"""(?:"[^"]*"?|'[^']*'?|[^\s"'])+""")
_NO_QUOTES = str.maketrans("", "", "\"'")
_END_OF_OPTIONS = "--"  # what follows is handed to init
_INITRD_PREFIX = "rd."


@dataclass(frozen=True, slots=True)
class RootWord:
    """A word that could name a root hash to someone: `option` is of ROOT_OPTIONS, `value` lowercase.

    `certain`: everyone reads it so. What stands behind `--`, or within a longer word in quotes, does
    not count as named, and must not name anything else either.
    """

    option: str
    value: str
    certain: bool

    def __str__(self) -> str:
        return f"{self.option}={self.value}"


def root_words(cmdline: str) -> tuple[RootWord, ...]:
    """Every roothash= and usrhash= of a command line, in order, whoever may read it."""
    words = [word.translate(_NO_QUOTES) for word in _SYSTEMD_WORD.findall(cmdline)]
    certain = set(_before_end(words))
    found = []
    for word in bare_words(cmdline):
        option, equals, value = word.removeprefix(_INITRD_PREFIX).partition("=")
        if equals and option in ROOT_OPTIONS.values():
            found.append(RootWord(option, value.lower(), word in certain))
    return tuple(found)


def root_option(image: str) -> str | None:
    """What names the root hash of the image of that name; None for one that systemd mounts nowhere."""
    mount = MOUNTS.get(image)
    return None if mount is None else ROOT_OPTIONS[mount]


def parse_root(cmdline: str) -> Digest | None:
    """The root hash that a command line boots: of roothash= and usrhash=, the last one counts.

    None if there is none, or none that is a SHA-256 digest.
    """
    words = root_words(cmdline)
    try:
        return Digest.parse_hex(words[-1].value) if words else None
    except FormatError:
        return None


def kernel_words(cmdline: str) -> tuple[str, ...]:
    """The words that the kernel itself reads: those before `--`, without double quotes."""
    return tuple(_before_end([word.replace('"', "") for word in _WORD.findall(cmdline)]))


def bare_words(cmdline: str) -> tuple[str, ...]:
    """All words, as if there were no quotes: whoever reads an option of it, it is among them."""
    return tuple(cmdline.translate(_NO_QUOTES).split())


def values_of(words: Iterable[str], option: str) -> tuple[str, ...]:
    """The values of an option, in order. A word without `=` has none and is not among them."""
    return tuple(word[len(option) + 1 :] for word in words if word.startswith(f"{option}="))


def _before_end(words: list[str]) -> list[str]:
    return words[: words.index(_END_OF_OPTIONS)] if _END_OF_OPTIONS in words else words

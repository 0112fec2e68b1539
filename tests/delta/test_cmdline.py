"""cmdline.py: one reader of kernel command lines, for those who publish them and who boot them."""

import pytest

from slipstream.delta.cmdline import (
    bare_words,
    kernel_words,
    parse_root,
    root_option,
    root_words,
    values_of,
)
from slipstream.delta.digest import Digest

A, B = "ab" * 32, "cd" * 32


def test_words_are_cut_as_the_kernel_cuts_them() -> None:
    assert kernel_words(' a  "b c"=d e="f g" -- h') == ("a", "b c=d", "e=f g")
    assert kernel_words('a="b -- c') == ("a=b -- c",)
    assert bare_words("""a "b c" 'd' -- e""") == ("a", "b", "c", "d", "--", "e")
    assert values_of(("panic=1", "panic", "panic_print=3", "panic="), "panic") == ("1", "")


@pytest.mark.parametrize(
    "cmdline, certain, others",
    [
        ("quiet", [], []),
        (f"quiet roothash={A} gpt", [f"roothash={A}"], []),
        (f"roothash={A} usrhash={B}", [f"roothash={A}", f"usrhash={B}"], []),
        (f"roothash={A.upper()}", [f"roothash={A}"], []),
        (f"a\troothash={A}\n", [f"roothash={A}"], []),
        (f"rd.roothash={A}", [f"roothash={A}"], []),  # systemd in the initrd
        ("roothash= roothash", ["roothash="], []),
        (f"xroothash={A} roothash_x={A} roothash.x={A}", [], []),
        # quotes
        (f'"roothash={A}"', [f"roothash={A}"], []),
        (f"roothash='{A}'", [f"roothash={A}"], []),
        (f'root"hash"={A}', [f"roothash={A}"], []),
        (f'roothash="{A}', [f"roothash={A}"], []),  # never closed: it goes on to the end
        (f'x="a roothash={A}"', [], [f"roothash={A}"]),
        (f"x='a roothash={A} b' usrhash={B}", [f"usrhash={B}"], [f"roothash={A}"]),
        # init's words
        (f"quiet -- roothash={A}", [], [f"roothash={A}"]),
        (f'quiet "--" roothash={A}', [], [f"roothash={A}"]),
        (f"quiet\t--\troothash={A}", [], [f"roothash={A}"]),
        (f'roothash={A} x="--" -- roothash={B}', [f"roothash={A}"], [f"roothash={B}"]),
        (f'x="a -- b" roothash={A}', [f"roothash={A}"], []),
        # repeated
        (f"roothash={A} roothash={B}", [f"roothash={A}", f"roothash={B}"], []),
        (f"roothash={A} roothash={A}", [f"roothash={A}", f"roothash={A}"], []),
    ],
)
def test_every_word_that_names_a_root_hash_is_found(
    cmdline: str, certain: list[str], others: list[str]
) -> None:
    words = root_words(cmdline)

    assert [str(word) for word in words if word.certain] == certain
    assert [str(word) for word in words if not word.certain] == others


@pytest.mark.parametrize(
    "cmdline, root",
    [
        ("quiet", None),
        (f"roothash={A} quiet", A),
        (f"roothash={A} roothash={B}", B),  # the last one counts
        (f"usrhash={B} roothash={A}", A),
        (f"roothash={A} rd.roothash={B}", B),
        (f"roothash={A} -- roothash={B}", B),  # systemd reads on
        (f'"roothash={A.upper()}"', A),
        (f"roothash={A} roothash={A[:32]}", None),  # cut off: it boots nothing that we know
        ("roothash=", None),
    ],
)
def test_what_boots_is_named_last(cmdline: str, root: str | None) -> None:
    assert parse_root(cmdline) == (None if root is None else Digest.parse_hex(root))


def test_only_what_systemd_mounts_has_an_option() -> None:
    named = {image: root_option(image) for image in ("rootfs", "root", "usr", "rootf", "data")}

    assert named == {"rootfs": "roothash", "root": "roothash", "usr": "usrhash", "rootf": None, "data": None}  # fmt: skip

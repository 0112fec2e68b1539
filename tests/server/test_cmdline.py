"""The kernel command line of a unified kernel image: completed once, contradicted never."""

import pytest

from slipstream.delta.cmdline import root_words
from slipstream.delta.errors import UsageError
from slipstream.delta.limits import BOOT_OPTIONS_CHARS_MAX
from slipstream.server.cmdline import compose_cmdline, judge_cmdline

ROOT = "ab" * 32
OTHER = "cd" * 32
ALL = f"roothash={ROOT} gpt panic=10 systemd.verity_root_options=panic-on-corruption"


@pytest.mark.parametrize(
    "given, text",
    [
        ("", ALL),
        ("  quiet console=ttyS0\n", f"{ALL} quiet console=ttyS0"),
        (ALL, ALL),
        (f'"roothash={ROOT}" gpt', f'panic=10 systemd.verity_root_options=panic-on-corruption "roothash={ROOT}" gpt'),
        ("panic=30 root=/dev/mapper/root", f"roothash={ROOT} gpt systemd.verity_root_options=panic-on-corruption panic=30 root=/dev/mapper/root"),
        ("systemd.verity_root_options=restart-on-corruption,foo", f"roothash={ROOT} gpt panic=10 systemd.verity_root_options=restart-on-corruption,foo"),
        # The kernel does not read what stands behind `--`, so that is not what it was given.
        ("quiet -- gpt panic=1", f"{ALL} quiet -- gpt panic=1"),
        (f"quiet -- roothash={ROOT}", f"{ALL} quiet -- roothash={ROOT}"),
        ('dyndbg="file a +p; gpt"', f'{ALL} dyndbg="file a +p; gpt"'),
    ],
)  # fmt: skip
def test_the_command_line_is_completed(given: str, text: str) -> None:
    composed = compose_cmdline(given, {"root": ROOT})

    assert composed.text == text
    assert composed.notes == ()
    assert {word.value for word in root_words(text)} == {ROOT}, (
        "what publisher and device read of it"
    )
    assert compose_cmdline(text, {"root": ROOT}) == composed, "again changes nothing"


def test_usr_and_both() -> None:
    usr = compose_cmdline("root=/dev/sda3", {"usr": OTHER}).text
    both = compose_cmdline("", {"root": ROOT, "usr": OTHER}).text

    assert usr.split() == [f"usrhash={OTHER}", "gpt", "panic=10", "systemd.verity_usr_options=panic-on-corruption", "root=/dev/sda3"]  # fmt: skip
    assert [str(word) for word in root_words(both)] == [f"roothash={ROOT}", f"usrhash={OTHER}"]
    assert both.count("gpt") == both.count("panic=10") == 1


@pytest.mark.parametrize(
    "given, words",
    [
        (f"roothash={OTHER}", f"expected roothash={ROOT}, got roothash={OTHER}"),
        (f"roothash={ROOT} -- 'roothash={OTHER}'", "contradicts"),
        (f"roothash={ROOT} roothash={OTHER}", "contradicts"),
        (f"usrhash={OTHER}", "--image usr=FILE"),
        ("root=/dev/sda2", "does not cover"),
        ("systemd.verity=no", "dm-verity off"),
        ("rd.systemd.verity=0", "dm-verity off"),
        ("quiet\nloud", "one line of printable ASCII"),
        ("größe=1", "one line of printable ASCII"),
        ("x" * BOOT_OPTIONS_CHARS_MAX, f"at most {BOOT_OPTIONS_CHARS_MAX} characters"),
    ],
)
def test_what_contradicts_the_image_is_refused(given: str, words: str) -> None:
    with pytest.raises(UsageError, match="--cmdline") as refused:
        compose_cmdline(given, {"root": ROOT})

    assert words in str(refused.value)


@pytest.mark.parametrize(
    "cmdline, notes",
    [
        (ALL, []),
        ("gpt panic=-1", []),
        ("gpt panic=10 panic=0", ["panic=10"]),
        ("", ["gpt", "panic=10"]),
        ("quiet -- gpt panic=10", ["gpt", "panic=10"]),
        (f"gpt panic=10 roothash={ROOT}", ["systemd.verity_root_options"]),
        (f"gpt panic=10 usrhash={ROOT} systemd.verity_usr_options=ignore-corruption", ["systemd.verity_usr_options"]),
    ],
)  # fmt: skip
def test_what_keeps_a_release_from_falling_back_is_told(cmdline: str, notes: list[str]) -> None:
    told = judge_cmdline(cmdline)

    assert len(told) == len(notes)
    assert all(word in note for word, note in zip(notes, told, strict=True))

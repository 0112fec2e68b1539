"""The kernel command line of a unified kernel image: what ties it to its images, and what resets it.

    roothash=H gpt panic=10 systemd.verity_root_options=panic-on-corruption  <the owner's words>

What is put in front, and why (docs/boot.md, docs/uki.md):

- `roothash=` or `usrhash=`: the initrd finds the partitions by this hash and opens them with it;
- `gpt`: with the first partition table damaged, Linux looks at the second only when it is told to;
- `panic=10`: a panic resets the machine, so that the next try is counted;
- `panic-on-corruption`: so does a block that is not what was signed.

Nothing is put in that the owner gave himself. Pure: words in, words out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from slipstream.delta.cmdline import (
    ROOT_OPTIONS,
    RootWord,
    bare_words,
    kernel_words,
    root_words,
    values_of,
)
from slipstream.delta.errors import FormatError, UsageError
from slipstream.delta.fields import check_line
from slipstream.delta.limits import BOOT_OPTIONS_CHARS_MAX

PANIC = "panic=10"  # seconds: long enough for the message to reach a serial console
_VERITY_OPTIONS = "panic-on-corruption"
_RESETS = ("panic-on-corruption", "restart-on-corruption", "panic-on-error", "restart-on-error")
# What the verified file system is mounted from; systemd's default with roothash= or usrhash=.
_SOURCES = {"root": ("root", "/dev/mapper/root"), "usr": ("mount.usr", "/dev/mapper/usr")}
_NO = ("0", "no", "n", "false", "f", "off")


@dataclass(frozen=True, slots=True)
class Composed:
    """The whole command line, and what its owner should know of it."""

    text: str
    notes: tuple[str, ...]


def compose_cmdline(given: str, roots: Mapping[str, str]) -> Composed:
    """The command line of a release: the owner's words behind what they lack.

    `roots`: the root hash, in hex, of each image by what it is mounted as: root, usr.

    Raises UsageError for words that contradict the hashes, that mount something else in the place
    of what they cover, or that are too long for a kernel.
    """
    given = given.strip()
    words, named = bare_words(given), root_words(given)
    for mount in ROOT_OPTIONS:
        _check_hash(named, mount, roots.get(mount))
    for mount in roots:
        _check_source(words, mount)
    if any(value.lower() in _NO for value in _either(words, "systemd.verity")):
        raise UsageError(
            "the command line turns dm-verity off", where="--cmdline", got="systemd.verity=no"
        )
    hashes = [f"{ROOT_OPTIONS[mount]}={root}" for mount, root in roots.items()]
    missing = [one for one in hashes if one not in (str(word) for word in named if word.certain)]
    missing += ["gpt"] if "gpt" not in kernel_words(given) else []
    missing += [PANIC] if not values_of(kernel_words(given), "panic") else []
    for mount in roots:
        option = f"systemd.verity_{mount}_options"
        missing += [f"{option}={_VERITY_OPTIONS}"] if not values_of(words, option) else []
    text = " ".join([*missing, given]).strip()
    try:
        check_line("kernel command line", text, BOOT_OPTIONS_CHARS_MAX)
    except FormatError as error:
        raise UsageError(str(error), where="--cmdline") from error
    return Composed(text, judge_cmdline(text))


def judge_cmdline(cmdline: str) -> tuple[str, ...]:
    """What keeps a release with this command line from falling back, one note each."""
    words = kernel_words(cmdline)
    panics = values_of(words, "panic")
    notes: list[str] = []
    if "gpt" not in words:
        notes.append(
            "the command line has no gpt: with the first partition table damaged, Linux would not"
            " look at the second"
        )
    if not panics or panics[-1] == "0":
        notes.append(
            "the command line has no panic=10: after a kernel panic the device would stand still"
            " instead of booting again"
        )
    named = {word.option for word in root_words(cmdline)}
    for mount, hash_option in ROOT_OPTIONS.items():
        if hash_option not in named:
            continue
        source, default = _SOURCES[mount]
        if any(value != default for value in values_of(bare_words(cmdline), source)):
            notes.append(
                f"the command line has {source}= other than {default}: what is mounted is not what"
                " the root hash covers"
            )
        option = f"systemd.verity_{mount}_options"
        flags = ",".join(values_of(bare_words(cmdline), option)).split(",")
        if not set(flags) & set(_RESETS):
            notes.append(
                f"the command line has no {option}={_VERITY_OPTIONS}: a damaged block would be an"
                " input/output error for the release and no reason to fall back"
            )
    return tuple(notes)


def _check_hash(words: tuple[RootWord, ...], mount: str, root: str | None) -> None:
    option = ROOT_OPTIONS[mount]
    for word in words:
        if word.option != option:
            continue
        if root is None:
            raise UsageError(
                f"the command line has {option}=, and no image of that name was given",
                where="--cmdline",
                got=str(word)[:80],
                hint=f"Give it: --image {'rootfs' if mount == 'root' else mount}=FILE",
            )
        if word.value != root:
            raise UsageError(
                "the command line contradicts the image",
                where="--cmdline",
                expected=f"{option}={root}",
                got=str(word)[:80],
                hint="Leave it out: it is put in",
            )


def _check_source(words: tuple[str, ...], mount: str) -> None:
    option, source = _SOURCES[mount]
    for value in values_of(words, option):
        if value != source:
            raise UsageError(
                "the command line mounts something that the root hash does not cover",
                where="--cmdline",
                expected=f"{option}={source}, or nothing",
                got=f"{option}={value[:80]}",
            )


def _either(words: tuple[str, ...], option: str) -> tuple[str, ...]:
    """The values of an option of systemd: its name with and without `rd.`, for the initrd."""
    return values_of(words, option) + values_of(words, f"rd.{option}")

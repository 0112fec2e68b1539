"""Names of boot entries: what they boot and how many tries they have left.

The state of a boot entry is its file name, because renaming a file is all that a boot loader
can do on a FAT partition. Automatic Boot Assessment (Boot Loader Specification, "Boot
counting") puts two counters before the suffix:

    0042a+3-0.efi    trial: 3 tries left, none done        0042a+0-3.efi    bad: no try left
    0042a+2-1.efi    after the boot loader's first try     0042a.efi        good: not counted

Slipstream's own part of the name is the release counter, at least four digits, and the slot,
one lowercase letter or digit. With one digit a counter such a name has at most 13 characters:
two FAT directory slots, and every rename keeps that length.

Pure: names in, names out.
"""

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from slipstream.delta.errors import FormatError
from slipstream.delta.limits import COUNTER_MAX
from slipstream.installer.ports import EntryState

TRIES_MAX = 9  # one digit: a rename must not change the length of the name (BLS, "Boot counting")
_COUNTS_MAX = (1 << 31) - 1  # systemd-boot's INT_MAX: larger numbers are not counters

_TRIES = re.compile(r"\+(?P<left>[0-9]+)(?:-(?P<done>[0-9]+))?\Z")
_OURS = re.compile(r"(?P<counter>[0-9]{4,10})(?P<slot>[a-z0-9])\Z")
_HIDDEN = re.compile(r"\.(?P<stem>[0-9a-z]+)\.(?:tmp|old[0-9]*)\Z")
_SLOT = re.compile(r"[a-z0-9]\Z")
_ALIAS = re.compile(r"(?P<base>[0-9A-Z_]{1,8})(?P<tail>~[0-9]{1,6})?\.EFI\Z")


class Suffix(StrEnum):
    """What kind of file an entry is."""

    UKI = ".efi"  # Type #2: one file, EFI/Linux/*.efi
    CONF = ".conf"  # Type #1: a text file that names kernel and initrd, loader/entries/*.conf


@dataclass(frozen=True, slots=True)
class Tries:
    """The counters in a name. `left` and `done` are kept as text: their width is part of it."""

    left_text: str
    done_text: str | None

    @property
    def left(self) -> int:
        return int(self.left_text)

    @property
    def done(self) -> int:
        return int(self.done_text) if self.done_text is not None else 0

    def after_try(self) -> "Tries":
        """The counters that the boot loader writes before it starts the entry.

        One less left (never below 0), one more done. Zero padding is kept.
        Source: systemd, src/boot/boot.c, boot_entry_parse_tries (next_name).
        """
        left = max(self.left - 1, 0)
        done = min(self.done + 1, _COUNTS_MAX)
        return Tries(
            f"{left:0{len(self.left_text)}d}",
            f"{done:0{len(self.done_text)}d}" if self.done_text is not None else f"{done}",
        )

    def __str__(self) -> str:
        return f"+{self.left_text}" + (f"-{self.done_text}" if self.done_text is not None else "")


def parse_tries(name: str, suffix: Suffix) -> tuple[str, Tries | None]:
    """Split a file name into its stem and its counters; None if it has none.

    The counters start at the last "+" and end at the suffix, which is compared without case
    (boot.c, boot_entry_parse_tries). Raises FormatError if the name does not end in `suffix`.
    """
    if not name.lower().endswith(suffix):
        raise FormatError("not a boot entry's name", where=name, expected=f"*{suffix}")
    stem = name[: -len(suffix)]
    match = _TRIES.search(stem)
    if match is None or int(match["left"]) > _COUNTS_MAX or int(match["done"] or 0) > _COUNTS_MAX:
        return stem, None
    return stem[: match.start()], Tries(match["left"], match["done"])


def bump_name(name: str, suffix: Suffix) -> str:
    """The name after one more try; the same name if it is not counted."""
    stem, tries = parse_tries(name, suffix)
    return name if tries is None else f"{stem}{tries.after_try()}{name[-len(suffix) :]}"


@dataclass(frozen=True, slots=True)
class EntryName:
    """A name of Slipstream's own: release counter, slot, tries (None: good), kind."""

    counter: int
    slot: str
    tries: Tries | None
    suffix: Suffix

    def __post_init__(self) -> None:
        if not 0 <= self.counter <= COUNTER_MAX:
            raise FormatError(
                "release counter out of bounds", expected=f"0..{COUNTER_MAX}", got=self.counter
            )
        if not _SLOT.match(self.slot):
            raise FormatError(
                "bad slot name", expected="one lowercase letter or digit", got=repr(self.slot)
            )

    @property
    def stem(self) -> str:
        """What does not change: "0042a"."""
        return f"{self.counter:04d}{self.slot}"

    @property
    def state(self) -> EntryState:
        if self.tries is None:
            return EntryState.GOOD
        return EntryState.TRIAL if self.tries.left else EntryState.BAD

    @property
    def good(self) -> "EntryName":
        """The plain name: not counted any more."""
        return replace(self, tries=None)

    @property
    def bad(self) -> "EntryName":
        """No try left; the tries done are kept, for whoever reads the folder later."""
        done = self.tries.done_text if self.tries is not None else "0"
        return replace(self, tries=Tries("0", done or "0"))

    def trial(self, tries: int) -> "EntryName":
        """`tries` tries left, none done. Raises FormatError unless 1..9."""
        if not 1 <= tries <= TRIES_MAX:
            raise FormatError("tries out of bounds", expected=f"1..{TRIES_MAX}", got=tries)
        return replace(self, tries=Tries(str(tries), "0"))


def parse_entry_name(name: str) -> EntryName | None:
    """A name of Slipstream's own, or None for anybody else's file.

    Accepts what a boot loader reports (LoaderEntrySelected is in lowercase, as are our names).
    """
    for suffix in Suffix:
        if not name.lower().endswith(suffix):
            continue
        stem, tries = parse_tries(name, suffix)
        match = _OURS.match(stem)
        if match is None or int(match["counter"]) > COUNTER_MAX:
            return None
        entry = EntryName(int(match["counter"]), match["slot"], tries, suffix)
        return entry if entry.stem == stem else None
    return None


def dump_entry_name(entry: EntryName) -> str:
    """The file name; parse_entry_name gives the same value back."""
    tries = "" if entry.tries is None else str(entry.tries)
    return f"{entry.stem}{tries}{entry.suffix}"


def hidden_name(counter: int, slot: str, *, twin: bool = False) -> str:
    """The name under which an entry is staged: boot loaders skip names that start with a dot.

    `twin` is the name that a second copy of a visible entry gets, see systemd_boot.py.
    """
    return f".{counter:04d}{slot}.{'old' if twin else 'tmp'}"


def slot_of_stem(stem: str) -> str | None:
    """The slot of a stem (release counter and slot); None for what is no stem of ours."""
    match = _OURS.match(stem)
    return None if match is None else match["slot"]


def parse_hidden_name(file_name: str) -> str | None:
    """The stem of an entry that is staged or was set aside; None for another name."""
    match = _HIDDEN.match(file_name)
    if match is None or slot_of_stem(match["stem"]) is None:
        return None
    return match["stem"]


def is_alias_of(file_name: str, entry: EntryName) -> bool:
    """Whether a name may be the FAT alias of an entry: what is left where its long name is torn.

    "0042A_~1.EFI" of a counted name, "0042A.EFI" of a plain one. After some aliases of one beginning
    Linux and EDK2 keep its first two characters and put a number behind them (namei_vfat.c,
    vfat_create_shortname; FatPkg/EnhancedFatDxe/FileName.c, FatCreate8Dot3Name).
    """
    if parse_entry_name(file_name) is not None or entry.suffix is not Suffix.UKI:
        return False
    match = _ALIAS.match(file_name.upper())
    if match is None:
        return False
    stem = entry.stem.upper()
    return match["base"] == stem if match["tail"] is None else match["base"][:2] == stem[:2]

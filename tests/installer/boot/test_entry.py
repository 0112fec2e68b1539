"""Names of boot entries: counters, states, and what is not a name of ours."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.delta.errors import FormatError
from slipstream.delta.limits import COUNTER_MAX
from slipstream.installer.boot.entry import (
    EntryName,
    Suffix,
    Tries,
    bump_name,
    dump_entry_name,
    hidden_name,
    parse_entry_name,
    parse_hidden_name,
    parse_tries,
)
from slipstream.installer.ports import EntryState

# file name, counter, slot, state, tries left, tries done
NAMES = [
    ("0042a.efi", 42, "a", EntryState.GOOD, None, 0),
    ("0042a+3-0.efi", 42, "a", EntryState.TRIAL, 3, 0),
    ("0042a+2-1.efi", 42, "a", EntryState.TRIAL, 2, 1),
    ("0042a+3.conf", 42, "a", EntryState.TRIAL, 3, 0),
    ("0042b+0-3.conf", 42, "b", EntryState.BAD, 0, 3),
    ("00429+09-01.efi", 42, "9", EntryState.TRIAL, 9, 1),
    ("123456b.conf", 123456, "b", EntryState.GOOD, None, 0),
]


@pytest.mark.parametrize("text, counter, slot, state, left, done", NAMES)
def test_names_read_and_write(
    text: str, counter: int, slot: str, state: EntryState, left: int | None, done: int
) -> None:
    name = parse_entry_name(text)
    assert name is not None
    assert (name.counter, name.slot, name.state) == (counter, slot, state)
    assert (None if name.tries is None else name.tries.left) == left
    assert (0 if name.tries is None else name.tries.done) == done
    assert dump_entry_name(name) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "42a.efi",
        "0042.efi",
        "0042A.efi",
        "00042a.efi",  # not how we write 42
        "0042ab.efi",
        ".0042a.tmp",
        "0042a.tmp",
        "0042a+.efi",
        "0042a+x.efi",
        "0042a+3-.efi",
        "0042a+3-0-1.efi",
        "0042a+3-0.efi.bak",
        "memtest.efi",
        "99999999999a.efi",
        f"{COUNTER_MAX + 1}a.efi",
        "٤٢٤٢a.efi",
    ],
)
def test_foreign_names_are_nobodys(text: str) -> None:
    assert parse_entry_name(text) is None


# What systemd-boot makes of a name when it starts the entry: the series in boot.c's comment on
# boot_entry_parse_tries, and the Boot Loader Specification's fixed width.
SERIES = [
    ("foobar+3.efi", ["foobar+2-1.efi", "foobar+1-2.efi", "foobar+0-3.efi"]),
    ("foobar+4-0.efi", ["foobar+3-1.efi", "foobar+2-2.efi", "foobar+1-3.efi", "foobar+0-4.efi"]),
    ("foobar+10-00.efi", ["foobar+09-01.efi", "foobar+08-02.efi"]),
    ("foobar+0-3.efi", ["foobar+0-4.efi"]),  # started all the same when nothing else is there
    ("foobar.efi", ["foobar.efi"]),
    ("a+b+2-0.EFI", ["a+b+1-1.EFI"]),
    ("middle+3-0.old.efi", ["middle+3-0.old.efi"]),
    ("big+99999999999.efi", ["big+99999999999.efi"]),
]


@pytest.mark.parametrize("name, series", SERIES)
def test_counting(name: str, series: list[str]) -> None:
    for expected in series:
        name = bump_name(name, Suffix.UKI)
        assert name == expected


def test_counters_are_the_last_ones() -> None:
    assert parse_tries("a+9-9+3-1.conf", Suffix.CONF) == ("a+9-9", Tries("3", "1"))
    with pytest.raises(FormatError):
        parse_tries("a+3-1.conf", Suffix.UKI)


def test_life_of_a_name() -> None:
    name = EntryName(42, "a", None, Suffix.UKI)
    trial = name.trial(3)
    assert dump_entry_name(trial) == "0042a+3-0.efi"
    assert dump_entry_name(trial.good) == "0042a.efi"
    assert dump_entry_name(trial.bad) == "0042a+0-0.efi"
    once = parse_entry_name(bump_name("0042a+3-0.efi", Suffix.UKI))
    assert once is not None
    assert dump_entry_name(once.bad) == "0042a+0-1.efi"
    assert dump_entry_name(name.bad) == "0042a+0-0.efi"
    assert hidden_name(42, "a") == ".0042a.tmp"
    # Firmware renames within two FAT directory slots of 13 characters: the lengths stay equal.
    assert len(dump_entry_name(trial)) == len(dump_entry_name(once)) == 13


@pytest.mark.parametrize(
    "make",
    [
        lambda: EntryName(-1, "a", None, Suffix.UKI),
        lambda: EntryName(COUNTER_MAX + 1, "a", None, Suffix.UKI),
        lambda: EntryName(1, "A", None, Suffix.UKI),
        lambda: EntryName(1, "ab", None, Suffix.UKI),
        lambda: EntryName(1, "", None, Suffix.UKI),
        lambda: EntryName(1, "a", None, Suffix.UKI).trial(0),
        lambda: EntryName(1, "a", None, Suffix.UKI).trial(10),
    ],
)
def test_values_cannot_be_wrong(make: object) -> None:
    with pytest.raises(FormatError):
        make()  # type: ignore[operator]


@given(
    st.integers(0, COUNTER_MAX),
    st.sampled_from("abz09"),
    st.none() | st.tuples(st.integers(0, 99), st.none() | st.integers(0, 99)),
    st.sampled_from(Suffix),
)
def test_round_trip(
    counter: int, slot: str, tries: tuple[int, int | None] | None, suffix: Suffix
) -> None:
    counts = None
    if tries is not None:
        counts = Tries(str(tries[0]), None if tries[1] is None else str(tries[1]))
    name = EntryName(counter, slot, counts, suffix)
    assert parse_entry_name(dump_entry_name(name)) == name


@given(st.text(max_size=40))
def test_any_name_is_ours_or_nobodys(text: str) -> None:
    for candidate in (text, f"{text}.efi", f"0001a{text}.conf"):
        name = parse_entry_name(candidate)
        assert name is None or dump_entry_name(name).lower() == candidate.lower()


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        (".0042b.tmp", "0042b"),
        (".0042b.old", "0042b"),
        (".0042b.old17", "0042b"),
        ("0042b.tmp", None),
        (".042b.tmp", None),
        (".0042b.efi", None),
        (".pad000__.tmp", None),
    ],
)
def test_hidden_names_are_told_from_others(name: str, stem: str | None) -> None:
    assert parse_hidden_name(name) == stem

"""What a boot proved: every combination of what runs and what the entry says."""

import pytest

from slipstream.delta.digest import Digest
from slipstream.delta.errors import DeviceFault
from slipstream.installer.findings import Finding, entry_of, find_out
from slipstream.installer.ports import Booted, BootEntry, EntryState
from slipstream.installer.states import Transaction

ROOT, OTHER = Digest.of(b"new"), Digest.of(b"old")
RELEASE = Transaction("t", Digest.of(b"manifest"), "2.0", 2, "b", ("rootfs",))
NEW, OLD = Booted("b", 2, ROOT), Booted("a", 1, OTHER)


def entry(state: EntryState, done: int = 0, *, slot: str = "b", counter: int = 2) -> BootEntry:
    left = {EntryState.GOOD: None, EntryState.TRIAL: 3 - done, EntryState.BAD: 0}[state]
    return BootEntry(slot, counter, state, left, done, f"{counter:04d}{slot}")


GOOD, TRIAL, TRIED, BAD = (
    entry(EntryState.GOOD),
    entry(EntryState.TRIAL),
    entry(EntryState.TRIAL, 1),
    entry(EntryState.BAD, 3),
)


@pytest.mark.parametrize(
    "booted, mine, found",
    [
        (NEW, TRIED, Finding.RUNS),
        (NEW, BAD, Finding.RUNS),  # its last try
        (NEW, GOOD, Finding.RUNS),
        (NEW, None, Finding.RUNS),  # lost while it runs
        (Booted("b", 2, None), TRIED, Finding.RUNS),
        (Booted("b", 2, OTHER), TRIED, Finding.RUNS),  # the wrong root is trial.py's matter
        (Booted("b", None, None), TRIED, Finding.RUNS),
        (Booted(None, None, ROOT), TRIED, Finding.RUNS),
        (OLD, TRIAL, Finding.WAITS),
        (OLD, TRIED, Finding.WAITS),
        (OLD, BAD, Finding.EXHAUSTED),
        (OLD, GOOD, Finding.GOOD),
        (OLD, None, Finding.LOST),
        (Booted("b", 1, None), BAD, Finding.EXHAUSTED),  # an earlier release of the same slot
        (Booted(None, None, OTHER), BAD, Finding.EXHAUSTED),
        (Booted(None, None, None), TRIAL, Finding.WAITS),
    ],
)
def test_findings(booted: Booted, mine: BootEntry | None, found: Finding) -> None:
    others = [entry(EntryState.GOOD, slot="a", counter=1), entry(EntryState.BAD, counter=1)]
    entries = others if mine is None else [*others, mine]
    assert find_out(RELEASE, booted, entries, [ROOT]) is found


@pytest.mark.parametrize("mine", [TRIED, BAD, GOOD, None])
def test_nothing_is_guessed(mine: BootEntry | None) -> None:
    with pytest.raises(DeviceFault, match="cannot tell"):
        find_out(RELEASE, Booted(None, None, None), [mine] if mine else [], [ROOT])


def test_of_doubles_the_counted_one_speaks() -> None:
    assert entry_of(RELEASE, [GOOD, TRIED]) == TRIED
    assert entry_of(RELEASE, [TRIED, GOOD]) == TRIED
    assert entry_of(RELEASE, [GOOD]) == GOOD
    assert entry_of(RELEASE, []) is None

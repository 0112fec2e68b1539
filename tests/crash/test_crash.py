"""2,000 states of the media after a power cut, and bugs that must be found. make crash does more."""

from contextlib import suppress
from pathlib import Path

import pytest

from tests.crash.bugs import look_for, misplaced_step, removed_calls
from tests.crash.explore import Explorer, Fsck, cut_again, recall, scratch, state_of
from tests.crash.judge import Failure, clean, judge
from tests.crash.mutants import (
    MUTANTS,
    Mutant,
    applied,
    checkpoint_before_its_data,
    entry_before_its_kernel,
    lying_medium,
    lying_medium_without_read_back,
    names_after_the_entry,
    names_before_the_images,
    names_not_planned,
    published_without_tries,
    removed_without_holding,
    retired_after_the_images,
)
from tests.crash.record import Kind, Medium
from tests.crash.repository import Dead
from tests.crash.story import (
    ACROSS,
    BY_ROOT_HASH,
    COUNTED,
    LARGE,
    SMALL,
    STORIES,
    Replay,
    Story,
    lazily,
)

# story, layout, schedule, numbers of states at every n-th cut
SHARE = (
    ("full update", SMALL, "lazy", 24, 1),
    ("delta update", LARGE, "mixed", 10, 12),
    ("resumed update", SMALL, "eager", 3, 12),
    ("confirm", SMALL, "mixed", 40, 1),
    ("rollback", SMALL, "eager", 3, 20),
    ("fall back", LARGE, "lazy", 3, 20),
    ("kernel and initrd", LARGE, "mixed", 3, 20),
    ("kernel and initrd, rollback", SMALL, "eager", 3, 40),
    ("full update", ACROSS, "eager", 3, 40),
    ("fall back", COUNTED, "lazy", 3, 40),
)


@pytest.fixture(scope="module")
def folder() -> Path:
    yield (place := scratch())  # type: ignore[misc]
    clean(place)


@pytest.fixture(scope="module")
def judged(folder: Path) -> Explorer:
    """Judges no state again that another test had."""
    return Explorer(folder)


def test_two_thousand_states(folder: Path, judged: Explorer) -> None:
    media: set[bytes] = set()
    for name, layout, schedule, count, every in SHARE:
        explorer = judged.another()
        story = STORIES[name](folder, layout)
        explorer.walk(story, schedule, range(count), cuts=range(0, len(story.log) + 1, every))
        assert explorer.findings.failures == []
        media |= explorer.findings.media
    assert len(media) >= 2000


def test_partitions_are_found_while_they_are_renamed(folder: Path) -> None:
    """Cuts within both of the times that the copies of the partition table are written, and behind."""
    story = STORIES[BY_ROOT_HASH](folder, SMALL)
    cuts = {n for n, op in enumerate(story.log, 1) if "gpt_disk.py" in op.source}
    assert len(cuts) == 2 * 2 * 3  # S2 and S6b; two copies; rows, header, fdatasync
    explorer = Explorer(folder)
    explorer.walk(story, "eager", range(12), cuts=cuts)
    assert explorer.findings.failures == []
    assert len(explorer.findings.media) >= 40
    bug = next(bug for bug in removed_calls(story) if "gpt_disk.py" in bug.name)
    explorer.walk(story, "eager", range(18), log=bug.log, cuts=cuts, judged_max=200)
    assert "neither copy" in explorer.findings.failures[0][1]


@pytest.mark.parametrize(
    "name", [f"full update/{SMALL}/lazy/119/3", f"{BY_ROOT_HASH}/{LARGE}/eager/58/4"]
)
def test_the_recovery_may_be_cut_too(folder: Path, name: str) -> None:
    """A start after the first cut, cut again; a third one comes to the end."""
    story = cut_again(*recall(name, folder), name, folder)
    explorer = Explorer(folder)
    explorer.walk(story, "mixed", (1, 2), cuts=range(0, len(story.log) + 1, 24))
    assert explorer.findings.failures == []
    assert len(explorer.findings.media) >= 8
    again = f"{name} then mixed/24/2"
    assert recall(again, folder)[0].origin == name
    assert judge(*recall(again, folder), folder).then == "completes"


@pytest.mark.parametrize("fsck", [Fsck.FIRST, Fsck.LATER])
def test_a_repaired_esp_boots_and_goes_on(folder: Path, fsck: Fsck) -> None:
    """fsck.vfat -a before the boot loader, or where Linux runs it, before the installer."""
    story = STORIES["full update"](folder, SMALL)
    cuts = {n for n, op in enumerate(story.log, 1) if op.medium is Medium.ESP}
    explorer = Explorer(folder)
    explorer.walk(story, "eager", range(2, 6), cuts=cuts, fsck=fsck)
    assert explorer.findings.failures == []
    assert len(explorer.findings.media) >= 8


def renames(story: Story) -> list[tuple[str, int]]:
    """What the installer renamed on the ESP, and in how many sectors the two names stand."""
    replay, found = Replay(story.snapshot, lazily), []
    for op in story.log:
        before = replay.vfat.nodes() if op.kind is Kind.RENAME else {}
        replay.apply(op)
        if op.kind is Kind.RENAME and op.medium is Medium.ESP:
            places = before[op.path].records + replay.vfat.nodes()[op.new].records
            found.append((op.new, len({sector for sector, _ in places})))
    return found


def test_names_are_planned_into_one_sector(folder: Path) -> None:
    """Where they would straddle two."""
    planned = renames(STORIES["full update"](folder, ACROSS))
    assert planned == [("EFI/Linux/0003a+3-0.efi", 1), ("EFI/Linux/0003a.efi", 1)]
    with applied(names_not_planned):
        assert [sectors for _, sectors in renames(STORIES["full update"](folder, ACROSS))] == [2, 2]


@pytest.mark.parametrize("name", STORIES)
def test_a_log_that_is_replayed_gives_what_stands(folder: Path, name: str) -> None:
    """Nothing that the installer did was missed: the state folder, the slots, every sector."""
    story = STORIES[name](folder, LARGE if name == "delta update" else SMALL)
    replay = Replay(story.snapshot, lazily)
    for op in story.log:
        replay.apply(op)
    end = replay.now()
    assert end.state == story.end.state
    assert end.slots == story.end.slots
    assert end.esp == story.end.esp


def test_a_state_is_made_again_from_its_name(folder: Path) -> None:
    name = f"full update/{SMALL}/mixed/150/9"
    story, cut = recall(name, folder)
    assert recall(name, folder)[1] == cut
    assert judge(story, cut, folder).then == "completes"


# --- a small share of the seeded bugs


@pytest.mark.parametrize(
    "call", ["state_file.py:write_state", "esp.py:sync_file, on the ESP", "esp.py:sync_folder, on"]
)
def test_a_sync_that_is_left_out_is_found(folder: Path, judged: Explorer, call: str) -> None:
    story = STORIES["full update"](folder, SMALL)
    bug = next(bug for bug in removed_calls(story) if call in bug.name)
    assert look_for([(story, bug)], judged).caught


@pytest.mark.parametrize(
    "mutant",
    [
        retired_after_the_images,
        removed_without_holding,
        checkpoint_before_its_data,
        names_before_the_images,
        names_after_the_entry,
        entry_before_its_kernel,
        names_not_planned,
        published_without_tries,
    ],
)
def test_a_step_in_the_wrong_place_is_found(folder: Path, judged: Explorer, mutant: Mutant) -> None:
    name, layout = MUTANTS[mutant]
    right = STORIES[name](folder, layout)
    with applied(mutant):
        story = STORIES[name](folder, layout)
    explorer = judged if layout == SMALL else Explorer(folder)
    assert look_for([(story, misplaced_step(story, right, ""))], explorer).caught


@pytest.mark.parametrize(
    "mutant",
    [one for one in MUTANTS if one is not published_without_tries],  # which shows without a cut
    ids=lambda one: one.__name__,
)
def test_every_step_can_be_misplaced(folder: Path, mutant: Mutant) -> None:
    """What stands in for a function of the installer still fits: without a cut, all comes to its end."""
    name, layout = MUTANTS[mutant]
    with applied(mutant), suppress(Dead):
        assert STORIES[name](folder, layout).booted


def test_a_medium_that_lies_is_found_by_the_read_back_only(folder: Path) -> None:
    STORIES["full update"](folder, SMALL)
    with applied(lying_medium):
        assert STORIES["full update"](folder, SMALL).booted == (2, 3)
    with applied(lying_medium_without_read_back), pytest.raises(Dead, match="does not hold"):
        STORIES["full update"](folder, SMALL)


def test_a_state_that_does_not_boot_is_a_failure(folder: Path) -> None:
    story, cut = recall(f"full update/{SMALL}/lazy/1/0", folder)
    for name in list(cut.media.slots):
        cut.media.slots[name] = bytes(len(cut.media.slots[name]))
    with pytest.raises(Failure, match="does not hold"):
        judge(story, cut, folder)


def test_what_is_certain_is_what_was_synced(folder: Path) -> None:
    story = STORIES["confirm"](folder, SMALL)
    replay = Replay(story.snapshot, lazily)
    for op in story.log:
        replay.apply(op)
    assert state_of(replay, "", 0).slots == story.end.slots

"""2,000 states of the media after a power cut, and bugs that must be found. make crash does more."""

from pathlib import Path

import pytest

from tests.crash.bugs import look_for, misplaced_step, removed_calls
from tests.crash.explore import Explorer, recall, scratch, state_of
from tests.crash.judge import Failure, clean, judge
from tests.crash.mutants import (
    MUTANTS,
    Mutant,
    applied,
    checkpoint_before_its_data,
    lying_medium,
    lying_medium_without_read_back,
    removed_without_holding,
    retired_after_the_images,
)
from tests.crash.repository import Dead
from tests.crash.story import LAYOUTS, STORIES, Replay, lazily

SMALL, LARGE = LAYOUTS
# story, layout, schedule, numbers of states at every n-th cut
SHARE = (
    ("full update", SMALL, "lazy", 22, 1),
    ("delta update", LARGE, "mixed", 10, 2),
    ("resumed update", SMALL, "eager", 3, 3),
    ("confirm", SMALL, "mixed", 40, 1),
    ("rollback", SMALL, "eager", 3, 4),
    ("fall back", LARGE, "lazy", 3, 4),
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
    "mutant", [retired_after_the_images, removed_without_holding, checkpoint_before_its_data]
)
def test_a_step_in_the_wrong_place_is_found(folder: Path, judged: Explorer, mutant: Mutant) -> None:
    right = STORIES["full update"](folder, SMALL)
    with applied(mutant):
        story = STORIES["full update"](folder, SMALL)
    assert look_for([(story, misplaced_step(story, right, ""))], judged).caught
    assert mutant in MUTANTS


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

"""The delta matrix: what a device fetches from where to where."""

from dataclasses import replace

import pytest

from slipstream.server.catalog import DeltaOffer, ImageOffer, Release
from slipstream.server.pages.release_pages import make_cell, make_matrix
from slipstream.server.pages.words import Mark
from slipstream.server.store.delta_jobs import Job, JobState

ROOTFS = ImageOffer("rootfs", "2" * 64, 1000)
UKI = ImageOffer("uki", "a" * 64, 50)
SOURCE = Release("gateway", "1.0", 1, "stable", (replace(ROOTFS, root="1" * 64), UKI))
TARGET = Release("gateway", "2.0", 2, "stable", (ROOTFS, UKI))
DELTA = DeltaOffer("rootfs", "1" * 64, "1.0", 100)
JOB = Job(1, "gateway", "1.0", "2.0", JobState.QUEUED, 1, 0, 0, None, 0, 40, None, "", 0, 0)


@pytest.mark.parametrize(
    "source, target, devices, state, size, mark",
    [
        # The uki is the same in both: it costs nothing.
        (SOURCE, replace(TARGET, deltas=(DELTA,)), 9, "delta", 100, Mark.GOOD),
        (replace(SOURCE, images=()), TARGET, 9, "full", 1050, Mark.WARN),
        (replace(SOURCE, images=()), TARGET, 0, "full", 1050, Mark.NONE),
        (SOURCE, TARGET, 9, "partial", 1000, Mark.GOING),
        (TARGET, TARGET, 9, "same", None, Mark.NONE),
        (TARGET, SOURCE, 9, "back", None, Mark.NONE),
        (
            SOURCE,
            replace(TARGET, images=(replace(ROOTFS, payload_bytes=None),)),
            9,
            "missing",
            None,
            Mark.BAD,
        ),
    ],
)
def test_cells(source, target, devices, state, size, mark):
    cell = make_cell(source, target, devices)
    assert (cell.state, cell.size, cell.mark) == (state, size, mark)


@pytest.mark.parametrize(
    "state, words, mark",
    [
        (JobState.QUEUED, "a delta waits to be built", Mark.GOING),
        (JobState.RUNNING, "a delta is being built, 40 %", Mark.GOING),
        (JobState.USELESS, "a delta is no smaller", Mark.NONE),
        (JobState.FAILED, "the delta failed", Mark.BAD),
    ],
)
def test_a_job_says_why_there_is_no_delta(state, words, mark):
    cell = make_cell(replace(SOURCE, images=()), TARGET, 9, replace(JOB, state=state))
    assert words in cell.words
    assert cell.mark is mark


def test_sources_of_another_channel_are_shown_where_devices_stand():
    edge = replace(TARGET, release="3.0", counter=3, channel="edge")
    devices = {("gateway", "edge", "1.0"): 4, ("gateway", "stable", "2.0"): 7}
    matrix = make_matrix("gateway", "edge", [edge, TARGET, SOURCE], devices, {})
    assert [(one.source, one.devices) for one in matrix.lines] == [("3.0", 0), ("1.0", 4)]
    assert [name for name, _ in matrix.targets] == ["3.0"]

"""Inhibitor files, the operator's command, and what is kept for `device status`."""

import asyncio
import os
from datetime import timedelta
from pathlib import Path

import pytest

from slipstream.delta.limits import INHIBITORS_MAX
from slipstream.installer.holds import Hold, HoldKind, Step
from slipstream.installer.permission import (
    find_inhibitors,
    find_reason_to_wait,
    remember_hold,
    remembered_hold,
)
from tests.installer.lab import START, Lab


def agent_section(**settings: str) -> str:
    return "\n[agent]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items())


def ask(lab: Lab, step: Step = Step.REBOOT) -> Hold | None:
    device = lab.device()
    return asyncio.run(find_reason_to_wait(device, step, "2.0", device.config.agent.policy))


def test_a_file_inhibits_by_its_first_line(tmp_path: Path) -> None:
    path = tmp_path / "inhibit"
    assert find_inhibitors([path]) == ()
    path.write_text("pump 3 runs\nmore\n")
    assert find_inhibitors([path]) == (f"{path}: pump 3 runs",)
    path.write_bytes(b"")
    assert find_inhibitors([path]) == (f"{path}: gives no reason",)
    path.write_bytes(b"\xff\x1b[31m" + b"x" * 1000)
    assert len(find_inhibitors([path])[0]) < 300
    assert "\x1b" not in find_inhibitors([path])[0]


def test_every_file_of_a_folder_inhibits(tmp_path: Path) -> None:
    folder = tmp_path / "inhibit"
    folder.mkdir()
    assert find_inhibitors([folder]) == ()
    (folder / "b").write_text("two")
    (folder / "a").write_text("one")
    (folder / ".hidden").write_text("being written")
    assert find_inhibitors([folder]) == (f"{folder}/a: one", f"{folder}/b: two")
    for number in range(INHIBITORS_MAX):
        (folder / f"c{number}").touch()
    assert len(find_inhibitors([folder])) == INHIBITORS_MAX + 1


def test_what_cannot_be_read_inhibits(tmp_path: Path) -> None:
    link, pipe, inner = tmp_path / "link", tmp_path / "pipe", tmp_path / "folder"
    link.symlink_to("nowhere")
    os.mkfifo(pipe)
    (inner / "below").mkdir(parents=True)
    assert find_inhibitors([link, pipe, inner]) == (
        f"{link}: cannot be read (No such file or directory)",
        f"{pipe}: not a file",
        f"{inner}/below: cannot be read (Is a directory)",
    )


@pytest.mark.parametrize(
    "command, reason",
    [
        ('["true"]', None),
        ('["sh", "-c", "echo first; echo busy until noon; exit 1"]', "sh: busy until noon"),
        ('["false"]', "false: exited with 1"),
        ('["sleep", "10"]', "sleep: took longer than 1 s"),
        ('["/no/such"]', "such: could not be started"),
        ('["sh", "-c", "echo $SLIPSTREAM_STEP $SLIPSTREAM_RELEASE; exit 1"]', "sh: reboot 2.0"),
    ],
)
def test_the_command_allows_or_says_why_not(
    tmp_path: Path, command: str, reason: str | None
) -> None:
    lab = Lab(tmp_path, settings=agent_section(allow_command=command, allow_timeout_s="1"))
    hold = ask(lab)
    assert (hold is None) == (reason is None)
    if hold is not None and reason is not None:
        assert (hold.kind, hold.reason[: len(reason)]) == (HoldKind.COMMAND, reason)


@pytest.mark.parametrize(
    "settings, step, asked",
    [
        ({}, Step.REBOOT, True),
        ({}, Step.INSTALL, False),
        ({"inhibit_holds": '"install"'}, Step.INSTALL, True),
        ({"inhibit_files": '["held"]'}, Step.REBOOT, False),
    ],
)
def test_the_command_is_asked_last(
    tmp_path: Path, settings: dict[str, str], step: Step, asked: bool
) -> None:
    """It may take a lock: so never for nothing."""
    command = f'["touch", "{tmp_path}/asked"]'
    (tmp_path / "held").touch()
    lab = Lab(tmp_path, settings=agent_section(allow_command=command, **settings))
    ask(lab, step)
    assert (tmp_path / "asked").exists() == asked


def test_what_is_waited_for_is_kept(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    device = lab.device()
    assert remembered_hold(device) is None
    remember_hold(device, None)
    for until in (None, START + timedelta(hours=5)):
        hold = Hold(Step.REBOOT, HoldKind.WINDOW, "the window", until)
        remember_hold(device, hold)
        assert remembered_hold(lab.device()) == hold
    remember_hold(device, None)
    assert remembered_hold(lab.device()) is None
    assert not (device.state / "held.json").exists()

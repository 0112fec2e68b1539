"""The harness around QEMU, without QEMU: what a serial log says, and that waits end."""

import subprocess
import time
from pathlib import Path

import pytest

from e2e.firmware import Firmware
from e2e.machine import Machine, TimedOut, clean
from e2e.results import Result, render_table
from e2e.story import Story, Wrong


class Idle(Machine):
    """A machine whose QEMU is a program that only waits; its serial log is written by the test."""

    def command(self) -> list[str]:
        return ["sleep", "60"]


@pytest.fixture
def machine(tmp_path: Path):
    one = Idle(tmp_path, tmp_path / "disk", Firmware(tmp_path / "variables"))
    one._process = subprocess.Popen(one.command())
    yield one
    one.cut_power()
    assert one._process is None


def write(machine: Machine, text: str) -> None:
    with machine.serial.open("a") as log:
        log.write(text)


def test_a_log_without_its_escapes() -> None:
    raw = b"\x1b[2J\x1b[01;01H\x1b[=3hBdsDxe\r\n\x1b[0;32mOK\x1b[0m \xff\0"

    assert clean(raw) == "BdsDxe\nOK \ufffd"


def test_a_wait_looks_only_behind_its_offset(machine: Machine) -> None:
    write(machine, "booted a\n")
    offset = machine.log_end()
    write(machine, "booted b\n")

    assert machine.wait_for("booted (.)", 5, since=offset)[1] == "b"


def test_a_wait_ends_at_its_deadline(machine: Machine) -> None:
    write(machine, "nothing\n")

    with pytest.raises(TimedOut, match="waited 0 s"):
        machine.wait_for("something", 0.2)


def test_a_wait_ends_with_what_must_not_come(machine: Machine) -> None:
    write(machine, "Kernel panic\n")

    with pytest.raises(TimedOut, match="came before"):
        machine.wait_for("booted", 60, unless="Kernel panic")


def test_a_wait_ends_with_the_machine(machine: Machine) -> None:
    write(machine, "")
    (machine.folder / "qemu.log").write_text("no such firmware")
    machine._process.kill()
    machine._process.wait()

    with pytest.raises(TimedOut, match="no such firmware"):
        machine.wait_for("booted", 60)


def test_starts_are_read_from_the_log(machine: Machine) -> None:
    root = "ab" * 32
    for device in ("/dev/vda2", "/dev/vda4", "/dev/vda4", "/dev/vda2"):
        write(machine, f"\x1b[0me2e-initrd: root {root} on {device}\r\n")

    assert Story(machine, None, None).slots() == "abba"


def test_it_runs_for_a_time_but_not_past_the_words(machine: Machine) -> None:
    story = Story(machine, None, None)
    write(machine, "staging\n")
    began = time.monotonic()

    story.let_run(60, until="staging", since=0)
    story.let_run(0.2, until="confirmed", since=0)

    assert 0.2 <= time.monotonic() - began < 30


@pytest.mark.parametrize("size", [0, 48 * 1024 * 1024 + 1])
def test_no_memory_is_no_sample_and_too_much_is_wrong(machine: Machine, size: int) -> None:
    with pytest.raises(Wrong, match="idle_mib"):
        Story(machine, None, None).check_memory("idle_mib", size, 48)


def test_the_table_says_what_failed() -> None:
    table = render_table([
        Result("panic", passed=True, seconds=61.2, processor_s=80.0, facts={"reason": "tries"}),
        Result("hang", passed=False, seconds=5, processor_s=1, error="waited 5 s\nmore"),
    ])  # fmt: skip

    assert [line.split() for line in table.splitlines()[1:]] == [
        ["panic", "passed", "61", "80"],
        ["reason:", "tries"],
        ["hang", "FAILED", "5", "1"],
        ["waited", "5", "s"],
    ]

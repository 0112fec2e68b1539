"""The journal: every state survives a restart, a torn tail is dropped, and nothing stops it."""

import os
from pathlib import Path

import pytest

from slipstream.delta.digest import Digest
from slipstream.delta.errors import DeviceFault
from slipstream.installer.journal import Checkpoint, Journal
from slipstream.installer.states import (
    BootedNew,
    BootStaged,
    Condemn,
    Event,
    FellBack,
    Idle,
    Open,
    Published,
    ReadBack,
    Refused,
    Retired,
    Transaction,
)

TX = Transaction("id", Digest.of(b"1"), "1.0", 1, "b", ("rootfs", "kernel"), 1)
WAY: tuple[Event, ...] = (
    Open(TX),
    Retired(),
    ReadBack(),
    BootStaged(),
    Published(),
    BootedNew(),
    Condemn("health: dns"),
    FellBack("health: dns"),
)
POINTS = tuple(Checkpoint("id", "rootfs", n, n * 100) for n in range(1, 5))


def ignore(_: str) -> None:
    pass


def test_every_state_survives_a_restart(tmp_path: Path) -> None:
    for event in WAY:
        journal = Journal(tmp_path, ignore)
        journal.record(event)

        assert Journal(tmp_path, pytest.fail).state == journal.state


def test_a_refused_event_changes_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path, ignore)

    with pytest.raises(Refused):
        journal.record(Retired())

    assert journal.state == Idle()
    assert not (tmp_path / "tx.json").exists()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b'{"format": "slipstream-tx-2", "state": "idle"}',
        b'{"format": "slipstream-tx-1", "state": "flying"}',
        b'{"format": "slipstream-tx-1", "state": "staged"}',
        b'{"format": "slipstream-tx-1", "state": "staged", "transaction": {"id": 5}}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_a_broken_file_is_set_aside_and_said(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "tx.json").write_bytes(raw)
    notices: list[str] = []

    journal = Journal(tmp_path, notices.append)

    assert journal.state == Idle()
    assert "tx.json.broken" in notices[0]
    assert (tmp_path / "tx.json.broken").read_bytes() == raw
    journal.record(Open(TX))


def test_a_file_too_large_is_broken(tmp_path: Path) -> None:
    (tmp_path / "tx.json").write_bytes(b" " * (1 << 20) + b"{}")
    notices: list[str] = []

    assert Journal(tmp_path, notices.append).state == Idle()
    assert "larger" in notices[0]


def test_checkpoints_survive_and_a_torn_tail_is_dropped(tmp_path: Path) -> None:
    journal = Journal(tmp_path, ignore)
    for point in POINTS:
        journal.checkpoint(point)
    raw = (tmp_path / "tx.log").read_bytes()
    ends = [at + 1 for at, byte in enumerate(raw) if byte == ord("\n")]

    for size in range(len(raw) + 1):
        (tmp_path / "tx.log").write_bytes(raw[:size])
        whole = sum(end <= size for end in ends)
        assert Journal(tmp_path, ignore).checkpoints() == POINTS[:whole]


def test_a_flipped_bit_ends_the_log_there(tmp_path: Path) -> None:
    journal = Journal(tmp_path, ignore)
    for point in POINTS:
        journal.checkpoint(point)
    raw = bytearray((tmp_path / "tx.log").read_bytes())
    raw[raw.index(b"\n") + 20] ^= 1
    (tmp_path / "tx.log").write_bytes(raw)

    assert Journal(tmp_path, ignore).checkpoints() == POINTS[:1]


def test_after_a_torn_tail_is_cut_the_log_goes_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path, ignore)
    journal.checkpoint(POINTS[0])
    with (tmp_path / "tx.log").open("ab") as file:
        file.write(b"00000000 {torn")

    journal.begin_checkpoints("id")
    journal.checkpoint(POINTS[1])

    assert journal.checkpoints() == POINTS[:2]


def test_another_transaction_begins_a_new_log(tmp_path: Path) -> None:
    journal = Journal(tmp_path, ignore)
    journal.checkpoint(POINTS[0])

    journal.begin_checkpoints("another")

    assert journal.checkpoints() == ()


def test_a_disk_that_fails_is_a_fault_of_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, ignore)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)

    with pytest.raises(DeviceFault, match="Make room"):
        journal.record(Open(TX))
    with pytest.raises(DeviceFault, match="Make room"):
        journal.checkpoint(POINTS[0])
    assert journal.state == Idle()


def test_a_link_planted_for_the_log_is_not_written_through(tmp_path: Path) -> None:
    """Whoever may write into the state folder must not choose which file root writes."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "tx.log").symlink_to(victim)

    with pytest.raises(DeviceFault):
        Journal(tmp_path / "state", ignore).checkpoint(POINTS[0])

    assert victim.read_bytes() == b"precious"


def test_the_log_is_nobody_elses_to_read(tmp_path: Path) -> None:
    Journal(tmp_path, ignore).checkpoint(POINTS[0])

    assert (tmp_path / "tx.log").stat().st_mode & 0o777 == 0o600

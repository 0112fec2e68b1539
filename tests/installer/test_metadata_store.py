"""Durable trust state: two copies of a number, torn writes, and time that never runs back."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta import durable
from slipstream.delta.errors import DeviceFault
from slipstream.delta.limits import COUNTER_MAX, TARGETS_BYTES_MAX
from slipstream.installer import metadata_store
from slipstream.installer.metadata_store import (
    FloorStore,
    MetadataStore,
    TimeStore,
    trusted_time,
)

BUILD = datetime(2026, 1, 1, tzinfo=UTC)


class PowerLost(BaseException):
    """Not an Exception: nothing of ours may catch it."""


def copies(folder: Path) -> tuple[Path, Path]:
    return folder / "floor.0", folder / "floor.1"


def test_nothing_stored_is_none_and_never_zero(tmp_path: Path) -> None:
    assert FloorStore(tmp_path).read() is None
    assert TimeStore(tmp_path).read() is None
    assert FloorStore(tmp_path / "no folder").read() is None
    assert list(tmp_path.iterdir()) == []


def test_the_floor_rises_and_never_falls(tmp_path: Path) -> None:
    floor = FloorStore(tmp_path / "state")
    for counter, expected in [(0, 0), (5, 5), (3, 5), (5, 5), (6, 6), (COUNTER_MAX, COUNTER_MAX)]:
        floor.raise_to(counter)
        assert floor.read() == expected
        assert FloorStore(tmp_path / "state").read() == expected
    for wrong in (-1, COUNTER_MAX + 1):
        with pytest.raises(ValueError):
            floor.raise_to(wrong)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "lost": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(24)),
    "short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "long": lambda path: path.write_bytes(path.read_bytes() + b"\x00"),
    "huge": lambda path: path.write_bytes(bytes(TARGETS_BYTES_MAX + 1)),
    "folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("index", [0, 1])
def test_one_bad_copy_is_read_from_the_other_and_repaired(
    tmp_path: Path, index: int, damage: str
) -> None:
    FloorStore(tmp_path).raise_to(7)
    whole = copies(tmp_path)[0].read_bytes()
    assert copies(tmp_path)[1].read_bytes() == whole
    DAMAGE[damage](copies(tmp_path)[index])
    assert FloorStore(tmp_path).read() == 7
    if damage != "folder":  # a folder in the way cannot be renamed over: it reads all the same
        assert copies(tmp_path)[index].read_bytes() == whole


@pytest.mark.parametrize("damage", DAMAGE)
def test_two_bad_copies_are_none(tmp_path: Path, damage: str) -> None:
    FloorStore(tmp_path).raise_to(7)
    for path in copies(tmp_path):
        DAMAGE[damage](path)
    assert FloorStore(tmp_path).read() is None


def test_every_flipped_bit_of_a_copy_is_noticed(tmp_path: Path) -> None:
    FloorStore(tmp_path).raise_to(7)
    first, second = copies(tmp_path)
    whole = first.read_bytes()
    second.unlink()
    for bit in range(8 * len(whole)):
        torn = bytearray(whole)
        torn[bit // 8] ^= 1 << bit % 8
        first.write_bytes(bytes(torn))
        assert FloorStore(tmp_path).read() is None, bit


def test_a_copy_of_the_other_number_is_not_taken(tmp_path: Path) -> None:
    TimeStore(tmp_path).raise_to(BUILD)
    for index in (0, 1):
        (tmp_path / f"time.{index}").rename(tmp_path / f"floor.{index}")
    assert FloorStore(tmp_path).read() is None


@pytest.mark.parametrize("cut", range(1, 7))
def test_a_cut_at_any_write_leaves_the_old_or_the_new_floor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    """Cut before (odd) and after (even) each write, with the other copy damaged as well."""
    for damaged in (None, 0, 1):
        folder = tmp_path / f"{damaged}"
        FloorStore(folder).raise_to(1)
        FloorStore(folder).raise_to(2)
        if damaged is not None:
            copies(folder)[damaged].write_bytes(b"torn")
        left = [cut]

        def cutting(path: Path, data: bytes, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise PowerLost
            durable.write_durably(path, data)
            left[0] -= 1
            if left[0] == 0:
                raise PowerLost

        with monkeypatch.context() as patch:
            patch.setattr(metadata_store, "write_durably", cutting)
            try:
                FloorStore(folder).raise_to(3)
                finished = True
            except PowerLost:
                finished = False
        got = FloorStore(folder).read()
        assert got == 3 if finished else got in {2, 3}
        FloorStore(folder).raise_to(3)
        assert FloorStore(folder).read() == 3


def test_a_store_that_cannot_be_written_is_a_device_fault_but_still_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    FloorStore(tmp_path).raise_to(7)
    copies(tmp_path)[0].unlink()
    monkeypatch.setattr(metadata_store, "write_durably", read_only)
    assert FloorStore(tmp_path).read() == 7
    with pytest.raises(DeviceFault, match="Read-only"):
        FloorStore(tmp_path).raise_to(8)


@settings(max_examples=50, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 100), st.sampled_from([None, 0, 1]), st.binary(max_size=30)),
        max_size=8,
    )
)
def test_any_history_with_one_torn_copy_at_a_time_keeps_the_highest(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int | None, bytes]]
) -> None:
    folder = tmp_path_factory.mktemp("state")
    highest = None
    for counter, torn, junk in steps:
        FloorStore(folder).raise_to(counter)
        highest = counter if highest is None else max(highest, counter)
        if torn is not None:
            copies(folder)[torn].write_bytes(junk)
        assert FloorStore(folder).read() == highest


# --- time


def test_time_is_the_latest_of_clock_build_and_signed(tmp_path: Path) -> None:
    times = TimeStore(tmp_path)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert trusted_time(epoch, times, BUILD) == BUILD
    signed = BUILD + timedelta(days=10, microseconds=5)
    times.raise_to(signed)
    assert times.read() == signed.replace(microsecond=0)
    assert trusted_time(epoch, times, BUILD) == BUILD + timedelta(days=10)
    later = BUILD + timedelta(days=20)
    assert trusted_time(later, times, BUILD) == later
    times.raise_to(BUILD)
    assert trusted_time(BUILD, times, BUILD) == BUILD + timedelta(days=10)


@pytest.mark.parametrize("year", [1970, 2038, 2106, 4000])
def test_any_signed_time_can_be_stored(tmp_path: Path, year: int) -> None:
    moment = datetime(year, 2, 7, 6, 28, 16, tzinfo=UTC)
    TimeStore(tmp_path).raise_to(moment)
    assert TimeStore(tmp_path).read() == moment


# --- metadata


def test_metadata_comes_back_as_it_went_in(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path / "metadata")
    assert store.read("timestamp") is None
    store.remove("timestamp")
    store.write("timestamp", b" bytes \n")
    store.write_root(2, b"root")
    assert store.read("timestamp") == b" bytes \n"
    assert store.read_root(2) == b"root"
    assert store.read_root(3) is None
    store.remove("timestamp")
    assert store.read("timestamp") is None
    assert {path.name for path in store.folder.iterdir()} == {"root_history"}


def test_different_roles_never_share_a_file(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    names = ["a", "A", "a/b", "a%2Fb", "a%252Fb", "..", ".", "", " ", "ä", "root", "r" * 300]
    names += ["r" * 299 + "s", "r" * 99 + "/" * 70, "r" * 99 + "/" * 71]
    for name in names:
        store.write(name, name.encode())
    for name in names:
        assert store.read(name) == name.encode()
    assert len(list(tmp_path.iterdir())) == len(names)


def test_an_oversized_file_is_not_read(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    store.write("targets", bytes(TARGETS_BYTES_MAX))
    assert store.read("targets") is not None
    store.write("targets", bytes(TARGETS_BYTES_MAX + 1))
    assert store.read("targets") is None

"""Every contender carries the target; one that does not, or does not end, is found out."""

import lzma
import random
import subprocess
import sys
from pathlib import Path

import pytest

from benches.contest import Contender, contest, installed
from benches.corpus import digest_of
from benches.measure import OverLimitError, measure
from benches.peers import PEERS
from slipstream.delta.errors import DigestMismatch, SlipstreamError

MIB = 1 << 20


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two images of 2 MiB that cannot be compressed and differ in two places."""
    folder = tmp_path_factory.mktemp("pair")
    source, target = folder / "source", folder / "target"
    data = bytearray(random.Random(3).randbytes(2 * MIB))
    source.write_bytes(data)
    data[300_000:300_040] = b"another release's bytes are written here"
    data[1_500_000:1_500_100] = b""
    data += bytes(100)
    target.write_bytes(data)
    return source, target


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_carries_the_target(name: str, pair: tuple[Path, Path]) -> None:
    source, target = pair
    assert installed(PEERS[name]), "scripts/packages test installs it"

    cell = contest(PEERS[name], source, target, digest_of(target))

    assert cell.encode is not None
    assert cell.decode is not None
    if name == "xz":
        assert cell.payload_bytes == pytest.approx(
            len(lzma.compress(target.read_bytes())), rel=0.01
        )
    elif name == "blocks":
        # All blocks behind the second place are shifted, and so are new.
        assert 0.2 * MIB < cell.payload_bytes < 0.7 * MIB
    else:
        # The largest chunks, casync's, are 256 KiB; one for each place.
        assert cell.payload_bytes < 0.6 * MIB


def copying(decode: str) -> Contender:
    return Contender(
        "copy",
        "copy",
        lambda: "1",
        lambda _source, target, payload: ["cp", str(target), str(payload)],
        lambda _source, payload, made: ["sh", "-c", decode, "sh", str(payload), str(made)],
    )


def test_a_wrong_target_is_found(pair: tuple[Path, Path]) -> None:
    source, target = pair

    with pytest.raises(DigestMismatch):
        contest(copying('head -c 1000 "$1" >"$2"'), source, target, digest_of(target))


def test_a_failure_is_raised(pair: tuple[Path, Path]) -> None:
    source, target = pair

    with pytest.raises(SlipstreamError, match="failed: 3; got no space"):
        contest(copying("echo no space >&2; exit 3"), source, target, digest_of(target))


def test_what_takes_too_long_is_a_skipped_cell(pair: tuple[Path, Path]) -> None:
    source, target = pair

    cell = contest(copying("while :; do :; done"), source, target, digest_of(target), limit_s=1)

    assert cell.skipped == "over 1 s"
    assert cell.payload_bytes == 0


def test_an_image_too_large_is_a_skipped_cell(pair: tuple[Path, Path], tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(101 * MIB)

    assert "image over" in contest(PEERS["bsdiff"], large, pair[1], "").skipped


def test_a_tool_that_is_not_there_is_not_installed() -> None:
    def version() -> str:
        raise FileNotFoundError("nowhere")

    assert not installed(Contender("x", "x", version, PEERS["xz"].encode, PEERS["xz"].decode))


def test_memory_and_processor_time_of_children_count() -> None:
    child = (
        f"held = bytearray({64 * MIB}); n = sum(range(10_000_000)); import time; time.sleep(0.5)"
    )
    parent = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    )

    cost = measure([sys.executable, "-c", parent])

    assert cost.peak_bytes > 64 * MIB
    assert cost.largest_process_bytes > 64 * MIB
    assert cost.cpu_s > 0.02


def test_processor_time_of_others_is_told_apart() -> None:
    with subprocess.Popen(["sh", "-c", "while :; do :; done"]) as other:
        cost = measure([sys.executable, "-c", "sum(range(20_000_000))"])
        other.kill()

    assert cost.others_cpu_s > 0.05


def test_a_command_that_hangs_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benches.measure.WALL_PER_CPU", 1)
    with pytest.raises(OverLimitError):
        measure(["sleep", "600"], limit_s=1)

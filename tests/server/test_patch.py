"""patch.py: verified and whole, or an error that says why and nothing changed."""

import os
from pathlib import Path

import numpy as np
import pytest

from slipstream.delta.errors import DigestMismatch, FormatError, Rejected, UsageError
from slipstream.delta.limits import KIB, MIB
from slipstream.server.build import build_payload
from slipstream.server.patch import apply_payload

SOURCE = np.random.default_rng(1).bytes(300 * KIB)
TARGET = SOURCE[:1000] + b"changed" + SOURCE[1007 : 200 * KIB] + bytes(200 * KIB) + b"end"


@pytest.fixture
def delta(tmp_path: Path) -> Path:
    (tmp_path / "source").write_bytes(SOURCE)
    (tmp_path / "target").write_bytes(TARGET)
    payload = tmp_path / "payload"
    build_payload(tmp_path / "source", tmp_path / "target", payload, memory_bytes=96 * MIB)
    return payload


def _refused(error: type[Exception], match: str | None, folder: Path, source: Path | None) -> None:
    (folder / "made").write_bytes(b"what was there")
    names = set(os.listdir(folder))
    with pytest.raises(error, match=match):
        apply_payload(source, folder / "payload", folder / "made")
    assert (folder / "made").read_bytes() == b"what was there"
    assert set(os.listdir(folder)) == names


def test_target_is_made_and_zeros_are_holes(tmp_path: Path, delta: Path) -> None:
    told: list[tuple[int, int]] = []
    made = tmp_path / "made"
    apply_payload(tmp_path / "source", delta, made, lambda *args: told.append(args))
    assert made.read_bytes() == TARGET
    assert told[0] == (0, len(TARGET))
    assert told[-1] == (len(TARGET), len(TARGET))
    assert made.stat().st_blocks * 512 < len(TARGET) - 100 * KIB


def test_what_is_no_file_is_not_replaced(tmp_path: Path, delta: Path) -> None:
    for output in (tmp_path / "pipe", tmp_path / "folder"):
        if output.name == "pipe":
            os.mkfifo(output)
        elif output.name == "folder":
            output.mkdir()
        before = output.stat()
        with pytest.raises(UsageError, match="neither a regular file nor a block device"):
            apply_payload(tmp_path / "source", delta, output)
        assert os.path.samestat(output.stat(), before)


def test_an_output_that_is_an_input_is_refused(tmp_path: Path, delta: Path) -> None:
    source, link = tmp_path / "source", tmp_path / "link"
    link.symlink_to(source)
    for output in (source, link, delta):
        before = output.read_bytes()
        with pytest.raises(UsageError, match="output is also an input"):
            apply_payload(source, delta, output)
        assert output.read_bytes() == before


def test_an_output_in_no_folder_is_refused(tmp_path: Path, delta: Path) -> None:
    with pytest.raises(UsageError, match=r"the folder .*nowhere does not exist"):
        apply_payload(tmp_path / "source", delta, tmp_path / "nowhere" / "made")


@pytest.mark.usefixtures("delta")
def test_a_delta_needs_its_source(tmp_path: Path) -> None:
    _refused(UsageError, "needs its source", tmp_path, None)
    _refused(DigestMismatch, "not the source", tmp_path, tmp_path / "target")
    other = tmp_path / "other"
    other.write_bytes(SOURCE[:-1] + b"\0")
    _refused(DigestMismatch, "not the source", tmp_path, other)
    other.write_bytes(SOURCE + b"\0")
    _refused(DigestMismatch, "not the source", tmp_path, other)


def test_a_full_payload_ignores_the_source(tmp_path: Path, delta: Path) -> None:
    build_payload(None, tmp_path / "target", delta, memory_bytes=96 * MIB)
    apply_payload(tmp_path / "source", delta, tmp_path / "made")
    assert (tmp_path / "made").read_bytes() == TARGET


def test_every_truncation_and_junk_is_refused(tmp_path: Path, delta: Path) -> None:
    whole = delta.read_bytes()
    for size in range(0, len(whole), max(1, len(whole) // 150)):
        delta.write_bytes(whole[:size])
        _refused(FormatError, None, tmp_path, tmp_path / "source")
    delta.write_bytes(whole + b"\0")
    _refused(FormatError, "another length", tmp_path, tmp_path / "source")


def test_every_changed_byte_is_refused(tmp_path: Path, delta: Path) -> None:
    whole = delta.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 150)):
        changed = bytearray(whole)
        changed[at] ^= 1
        delta.write_bytes(changed)
        _refused(Rejected, None, tmp_path, tmp_path / "source")

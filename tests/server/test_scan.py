"""scan.py: the digest of all bytes, the hashes of whole grains, and progress by the calling thread."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from slipstream.delta.digest import Digest
from slipstream.delta.limits import MIB
from slipstream.delta.match import GRAIN_BYTES, hash_grains
from slipstream.server.image import ImageFile
from slipstream.server.scan import scan_images


@pytest.mark.parametrize("size", [0, 1, GRAIN_BYTES, 4 * MIB, 4 * MIB + 3 * GRAIN_BYTES + 5])
def test_scan(tmp_path: Path, size: int) -> None:
    data = (b"%d" % size * (size + 1))[:size]
    (tmp_path / "one").write_bytes(data)
    (tmp_path / "other").write_bytes(b"else")
    told = []
    with (
        ImageFile(tmp_path / "one") as one,
        ImageFile(tmp_path / "other") as other,
        ThreadPoolExecutor(2) as threads,
    ):
        scans = scan_images(
            (one, other), threads, lambda *words: told.append((threading.get_ident(), *words))
        )
    assert [scan.digest for scan in scans] == [Digest.of(data), Digest.of(b"else")]
    assert scans[0].hashes.tolist() == hash_grains(data).tolist()
    assert len(scans[1].hashes) == 0
    assert {words[0] for words in told} == {threading.get_ident()}
    assert told[-1][1:] == ("scan", size + 4, size + 4)

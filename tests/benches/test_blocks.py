"""The block index carries any image, and no block that the source has."""

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from benches.blocks import BLOCK_BYTES, decode, encode

BLOCK = st.sampled_from([bytes([n]) * BLOCK_BYTES for n in range(4)] + [b"short"])
IMAGE = st.lists(BLOCK, max_size=40).map(b"".join)


@given(source=IMAGE, target=IMAGE)
def test_any_target_comes_back(source: bytes, target: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("source", "target", "payload", "made")]
        paths[0].write_bytes(source)
        paths[1].write_bytes(target)

        encode(paths[0], paths[1], paths[2])
        decode(paths[0], paths[2], paths[3])

        assert paths[3].read_bytes() == target
        if source == target:
            assert (paths[2] / "data").stat().st_size == 0

"""build.py on archives of files that move, change, come and go, packed in any way: hypothesis."""

import gzip
import lzma
import random
import tempfile
from pathlib import Path

import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slipstream.delta.limits import MIB
from slipstream.server.build import build_payload
from slipstream.server.patch import apply_payload
from tests.server.image_pairs import archive, code

_PACKERS = {
    "plain": lambda data: data,
    "gzip": lambda data: gzip.compress(data, 9, mtime=0),
    "xz": lambda data: lzma.compress(data, preset=0),
    "zstd": lambda data: zstandard.compress(data, 3),
    "junk": lambda data: gzip.compress(data, 1, mtime=7) + b"\x1f\x8b\x08\x00junk",
    "cut": lambda data: lzma.compress(data, preset=0)[: len(data) // 9],
}
_FILES = st.lists(
    st.tuples(
        st.integers(0, 7),  # seed of the content
        st.sampled_from([0, 100, 5_000, 70_000, 130_000]),
        st.booleans(),  # of the later release
        st.sampled_from(sorted(_PACKERS)),
    ),
    max_size=5,
)


def _image(files: list[tuple[int, int, bool, str]], pad: int) -> bytes:
    """An archive, which is searched for compressed files wherever they begin."""
    members = {
        f"folder-{number}/file-{seed}": _PACKERS[packer](code(seed, size, later=later))
        for number, (seed, size, later, packer) in enumerate(files)
    }
    return archive(members) + random.Random(pad).randbytes(pad)


# Names, order, packing and content of the target are drawn anew, of few of each: so most files
# of it are ones of the source that moved, were renamed, packed in another way, or changed.
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_FILES, _FILES, st.integers(0, 2000), st.sampled_from([80 * MIB, 512 * MIB]))
def test_any_archives(
    source: list[tuple[int, int, bool, str]],
    target: list[tuple[int, int, bool, str]],
    pad: int,
    memory: int,
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "source").write_bytes(_image(source, 0))
        (folder / "target").write_bytes(_image(target, pad))
        paths = (folder / "source", folder / "target", folder / "payload")
        build_payload(*paths, jobs=1, memory_bytes=memory, profile="fast")
        apply_payload(paths[0], paths[2], folder / "made")
        assert (folder / "made").read_bytes() == (folder / "target").read_bytes()

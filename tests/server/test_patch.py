"""patch.py: verified and whole, or an error that says why and nothing changed."""

import os
from pathlib import Path

import numpy as np
import pytest

from slipstream.delta.byterange import ByteRange
from slipstream.delta.errors import (
    DigestMismatch,
    FormatError,
    PackingUnavailable,
    Rejected,
    UsageError,
)
from slipstream.delta.filemap import Packing
from slipstream.delta.frame import Part
from slipstream.delta.limits import KIB, MIB
from slipstream.delta.packing.headers import GZIP_PLAIN_HEADER, unpack_memory_bytes
from slipstream.delta.packing.pack import pack
from slipstream.delta.packing.recipe import Packer, Recipe
from slipstream.server.build import build_payload
from slipstream.server.patch import apply_payload
from tests.delta.payloads import (
    BLOCK_RECIPES,
    LONG_RECIPES,
    Made,
    Maker,
    noise,
    pieces,
    recipe_of,
    text,
    touched,
)

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


# --- packed content


def packed_images(name: str) -> Made:
    """Blocks of every kind and a changed stream of 6 MiB, in one image."""
    blocks = [recipe_of(*one) for one in BLOCK_RECIPES]
    old = noise(1, 6 * MIB)
    recipe = recipe_of(*LONG_RECIPES[name])
    packed_old = pack(recipe, old, 0)
    new = touched(old, 5, 40_000)
    contents = [text(number, 128 * KIB) for number in range(len(blocks))]
    packed_blocks = [pack(one, content, 0) for one, content in zip(blocks, contents, strict=True)]
    size = sum(map(len, packed_blocks)) + len(pack(recipe, new, 0)) + 500_000 + 128 * KIB
    maker = Maker(packed_old, size)
    for one, content in zip(blocks, contents, strict=True):
        maker.packed(one, content)
    head = GZIP_PLAIN_HEADER if recipe.packing is Packing.GZIP else packed_old[: 64 * KIB]
    at = maker.stream(
        recipe.packing,
        [ByteRange(0, len(packed_old))],
        len(old),
        memory_bytes=unpack_memory_bytes(recipe.packing, head),
        window_bytes=MIB,
    )
    maker.long(recipe, pieces(new, 700_000, 300_001, 64 * KIB), edited=(at, old))
    maker.zero(500_000)
    # The content of the first block, read from the target that stands by now.
    place = ByteRange(maker.base, len(packed_blocks[0]))
    again = maker.stream(blocks[0].packing, [place], 128 * KIB)
    maker.copy([ByteRange(again, 128 * KIB)], contents[0])
    return maker.finish()


def apply(folder: Path, made: Made) -> bytes:
    (folder / "source").write_bytes(made.source)
    (folder / "payload").write_bytes(made.raw)
    apply_payload(folder / "source", folder / "payload", folder / "made")
    return (folder / "made").read_bytes()


@pytest.mark.parametrize("name", LONG_RECIPES)
def test_packed_content_is_packed_again(tmp_path: Path, name: str) -> None:
    made = packed_images(name)
    told: list[int] = []

    assert apply(tmp_path, made) == made.target
    apply_payload(
        tmp_path / "source",
        tmp_path / "payload",
        tmp_path / "made",
        lambda done, _: told.append(done),
    )
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0, len(made.target))


def test_content_that_comes_out_differently_is_refused(tmp_path: Path) -> None:
    content = text(9, 100_000)
    right, wrong = (recipe_of(Packer.ZLIB, level, 15, 8, 0) for level in (9, 1))
    packed = pack(right, content, 0)

    def payload(said: Recipe) -> Made:
        maker = Maker(b"source")
        maker.data(content, made=packed, parts=[Part(len(content), len(packed), said)])
        return maker.finish()

    assert apply(tmp_path, payload(right)) == packed
    (tmp_path / "payload").write_bytes(payload(wrong).raw)
    _refused(FormatError, "another length", tmp_path, tmp_path / "source")


def test_a_library_that_is_not_here_is_said(tmp_path: Path) -> None:
    maker = Maker(b"source")
    recipe = Recipe(Packer.ZLIB, (9, 15, 8, 0), "zlib 0.1")
    maker.data(text(9, 5000), made=bytes(900), parts=[Part(5000, 900, recipe)])
    (tmp_path / "source").write_bytes(b"source")
    (tmp_path / "payload").write_bytes(maker.finish().raw)
    _refused(PackingUnavailable, r"zlib 0\.1", tmp_path, tmp_path / "source")


@pytest.mark.parametrize("ahead", [0, 40_000])
def test_a_frame_that_reads_what_is_not_made_yet_makes_another_target(
    tmp_path: Path, ahead: int
) -> None:
    maker = Maker(b"source")
    maker.data(text(9, 60_000))
    maker.copy([ByteRange(maker.base + 60_000 + ahead, 30_000)], text(10, 30_000))
    maker.data(text(11, 60_000))
    (tmp_path / "source").write_bytes(b"source")
    (tmp_path / "payload").write_bytes(maker.finish().raw)
    _refused(DigestMismatch, "does not make the target", tmp_path, tmp_path / "source")

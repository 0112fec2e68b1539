"""The tree against veritysetup, and against images that share its root."""

import hashlib
import random
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from slipstream.delta.digest import Digest
from slipstream.delta.errors import DigestMismatch, FormatError, Rejected
from slipstream.delta.limits import BLOCK_BYTES, CHUNK_BYTES, IMAGE_BYTES_MAX
from slipstream.delta.tree import (
    ChunkList,
    Tree,
    TreeBuilder,
    VerityTuple,
    chunk_digest,
    dump_superblock,
    leaf_digests,
    leaf_hash_block,
    tree_of,
    verify_chunk_list,
)

VERITYSETUP = "/usr/sbin/veritysetup"
SALT = bytes(range(32))


def block_counts() -> list[int]:
    """200 images: each boundary of the tree's levels, then more small ones than large ones."""
    generator = random.Random(4)
    boundaries = [1, 2, 3, 127, 128, 129, 255, 256, 257, 300, 16383, 16384, 16385, 20000]
    small = [generator.randint(1, 300) for _ in range(140)]
    middle = [generator.randint(301, 3000) for _ in range(42)]
    large = [generator.randint(3001, 20000) for _ in range(6)]
    return boundaries + small + middle + large


def image_of(blocks: int, seed: int = 0) -> bytes:
    return random.Random(seed * 65537 + blocks).randbytes(blocks * BLOCK_BYTES)


def pieces_of(image: bytes, seed: int) -> list[bytes]:
    generator = random.Random(seed)
    pieces = []
    offset = 0
    while offset < len(image):
        size = generator.choice([1, 100, 4095, 4096, 4097, 70000, CHUNK_BYTES, 1 << 22])
        pieces.append(image[offset : offset + size])
        offset += size
    return pieces


def chunks_of(image: bytes) -> list[bytes]:
    return [image[offset : offset + CHUNK_BYTES] for offset in range(0, len(image), CHUNK_BYTES)]


@pytest.mark.parametrize(
    "number, blocks", [pytest.param(n, b, id=f"{n}-{b}") for n, b in enumerate(block_counts())]
)
def test_root_hash_blocks_and_superblock_are_veritysetups(
    tmp_path: Path, number: int, blocks: int
) -> None:
    image = image_of(blocks, seed=number)
    salt = random.Random(number).randbytes(32)
    data, area = tmp_path / "data", tmp_path / "area"
    data.write_bytes(image)
    uuid = f"00000000-0000-4000-8000-{number:012x}"
    command = [VERITYSETUP, "format", data, area, f"--salt={salt.hex()}", f"--uuid={uuid}"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    root = next(line.split()[-1] for line in output.splitlines() if line.startswith("Root hash:"))

    tree = tree_of(pieces_of(image, seed=number), salt)

    assert tree.tuple.root.hex == root
    written = area.read_bytes()
    superblock = dump_superblock(tree.tuple, bytes.fromhex(uuid.replace("-", "")))
    assert superblock == written[:BLOCK_BYTES]
    assert tree.dump() == written[BLOCK_BYTES:]
    assert tree.tuple.data_blocks == blocks
    assert tree.tuple.hash_area_size == len(tree.dump())
    assert tuple(len(level) // BLOCK_BYTES for level in tree.levels) == tree.tuple.level_blocks


def test_at_least_200_images_are_compared() -> None:
    counts = block_counts()
    assert len(counts) >= 200
    assert (min(counts), max(counts)) == (1, 20000)


@pytest.mark.parametrize("size", [1, 4095, 4097, CHUNK_BYTES + 1, 300 * BLOCK_BYTES])
def test_veritysetup_verify_accepts_what_the_parts_write(tmp_path: Path, size: int) -> None:
    """The hash area written chunk by chunk, as a device writes it."""
    image = image_of(301)[:size]
    tree = tree_of([image], SALT)
    chunks = verify_chunk_list(tree.chunk_list, tree.tuple)
    leaf_level = b"".join(leaf_hash_block(chunk, SALT) for chunk in chunks_of(image))
    if tree.tuple.data_blocks == 1:
        leaf_level = b""
    upper = chunks.levels_above_leaves()
    assert len(upper) == tree.tuple.leaf_level_offset()
    assert upper + leaf_level == tree.dump()

    data, area = tmp_path / "data", tmp_path / "area"
    data.write_bytes(image + bytes(-size % BLOCK_BYTES))
    area.write_bytes(dump_superblock(tree.tuple, bytes(15) + b"\1") + upper + leaf_level)
    command = [VERITYSETUP, "verify", data, area, tree.tuple.root.hex]
    subprocess.run(command, check=True, capture_output=True)
    data.write_bytes(bytes([image[0] ^ 1]) + data.read_bytes()[1:])
    assert subprocess.run(command, check=False, capture_output=True).returncode != 0


@pytest.mark.parametrize("size", [1, 4096, 4097, 5000, CHUNK_BYTES - 1, CHUNK_BYTES + 4097])
def test_a_partial_last_block_counts_as_zero_padded(size: int) -> None:
    image = image_of(130)[:size]
    padded = image + bytes(-size % BLOCK_BYTES)
    assert tree_of([image], SALT).levels == tree_of([padded], SALT).levels
    tree = tree_of([image], SALT)
    assert tree.tuple.image_size == size
    chunks = verify_chunk_list(tree.chunk_list, tree.tuple)
    for index, chunk in enumerate(chunks_of(image)):
        chunks.check(index, chunk)
    with pytest.raises(DigestMismatch, match="wrong length"):
        chunks.check(chunks.count - 1, chunks_of(padded + b"\0")[-1])


def test_pieces_of_any_size_make_the_same_tree() -> None:
    image = image_of(9)[:-7]
    whole = tree_of([image], SALT)
    for size in (1, 2, 4095, 4096, 4097, 8192, 10000):
        assert tree_of([image[o : o + size] for o in range(0, len(image), size)], SALT) == whole
    assert tree_of([b"", image, b""], SALT) == whole


def test_pieces_may_be_reused_by_the_caller() -> None:
    builder = TreeBuilder(SALT)
    buffer = bytearray(100)
    for byte in (1, 2):
        buffer[:] = bytes([byte]) * 100
        builder.append(buffer)
    assert builder.finish() == tree_of([b"\1" * 100 + b"\2" * 100], SALT)


def test_an_empty_image_has_no_tree() -> None:
    with pytest.raises(FormatError, match="empty image"):
        tree_of([b""], SALT)


# --- the five forgeries that a real kernel accepts for one root (dm-verity, Linux 6.1)

IMAGE = image_of(300)
TREE = tree_of([IMAGE], SALT)
SIGNED = TREE.tuple


def forged(data_blocks: int) -> VerityTuple:
    """The tuple that the attacker would need: the same root, another size."""
    return replace(SIGNED, data_blocks=data_blocks, image_size=data_blocks * BLOCK_BYTES)


def refuse_image(image: bytes, chunk_list: bytes) -> None:
    """Neither list nor any chunk of a forged image passes under the signed tuple."""
    assert chunk_list != TREE.chunk_list or image != IMAGE
    if chunk_list != TREE.chunk_list:
        with pytest.raises(Rejected):
            verify_chunk_list(chunk_list, SIGNED)
    signed = verify_chunk_list(TREE.chunk_list, SIGNED)
    refused = 0
    for index in range(signed.count):
        chunk = image[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
        if chunk == chunks_of(IMAGE)[index]:
            continue
        with pytest.raises(DigestMismatch):
            signed.check(index, chunk)
        assert not signed.matches(index, leaf_digests(chunk, SALT))
        refused += 1
    assert refused


def test_forgery_leaf_hash_blocks_as_an_image_of_3_blocks() -> None:
    image = TREE.levels[0]
    tree = tree_of([image], SALT)
    assert tree.tuple.root == SIGNED.root  # the root alone does not tell them apart
    assert tree.tuple == forged(3) != SIGNED
    refuse_image(image, tree.chunk_list)


def test_forgery_top_hash_block_as_an_image_of_1_block() -> None:
    image = TREE.levels[1]
    tree = tree_of([image], SALT)
    assert tree.tuple.root == SIGNED.root
    assert tree.tuple == forged(1) != SIGNED
    refuse_image(image, tree.chunk_list)


@pytest.mark.parametrize("blocks", [299, 257, 256])
def test_forgery_truncated_image(blocks: int) -> None:
    image = IMAGE[: blocks * BLOCK_BYTES]
    assert forged(blocks) != SIGNED
    refuse_image(image, TREE.chunk_list)


@pytest.mark.parametrize("blocks", [299, 257])
def test_truncation_is_refused_even_if_the_short_tuple_were_signed(blocks: int) -> None:
    """The kernel ignores digests behind the last block; here they count as zeros."""
    chunks = verify_chunk_list(TREE.chunk_list, forged(blocks))
    with pytest.raises(DigestMismatch):
        chunks.check(2, chunks_of(IMAGE[: blocks * BLOCK_BYTES])[2])


def test_truncation_to_256_leaves_no_list_for_the_root() -> None:
    with pytest.raises(DigestMismatch):
        verify_chunk_list(TREE.chunk_list[:64], forged(256))


@pytest.mark.parametrize("blocks", [128, 129, 301, 384, 385])
def test_other_block_counts_for_the_same_root(blocks: int) -> None:
    image = IMAGE[: blocks * BLOCK_BYTES].ljust(blocks * BLOCK_BYTES, b"\0")
    refuse_image(image, tree_of([image], SALT).chunk_list)


# --- values and lists that are refused


@pytest.mark.parametrize(
    "change",
    [
        {"hash_type": 0},
        {"algorithm": "sha1"},
        {"data_block_size": 512},
        {"hash_block_size": 1024},
        {"data_blocks": 299},
        {"data_blocks": 301},
        {"salt": b""},
        {"salt": SALT[:31]},
        {"salt": SALT + b"\0"},
        {"image_size": 300 * 4096 + 1},
        {"image_size": 299 * 4096},
        {"image_size": 0, "data_blocks": 0},
        {"image_size": -1, "data_blocks": 0},
        {"image_size": IMAGE_BYTES_MAX + 1, "data_blocks": IMAGE_BYTES_MAX // 4096 + 1},
        {"image_size": 1 << 64, "data_blocks": 1 << 52},
    ],
    ids=str,
)
def test_tuples_of_any_other_geometry_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(FormatError):
        replace(SIGNED, **change)  # type: ignore[arg-type]


def test_tuple_at_its_limits() -> None:
    replace(SIGNED, image_size=299 * 4096 + 1)
    replace(SIGNED, image_size=IMAGE_BYTES_MAX, data_blocks=IMAGE_BYTES_MAX // 4096)


@pytest.mark.parametrize("size", [0, 31, 32, 64, 95, 97, 128])
def test_chunk_lists_of_another_length_are_refused(size: int) -> None:
    with pytest.raises(FormatError, match="chunk list"):
        verify_chunk_list((TREE.chunk_list * 2)[:size], SIGNED)


@pytest.mark.parametrize("byte", range(0, 96, 5))
def test_chunk_lists_with_one_flipped_bit_are_refused(byte: int) -> None:
    raw = bytearray(TREE.chunk_list)
    raw[byte] ^= 1 << byte % 8
    with pytest.raises(DigestMismatch, match="root"):
        verify_chunk_list(bytes(raw), SIGNED)


def test_the_list_of_a_one_block_image_is_its_root() -> None:
    tree = tree_of([b"x"], SALT)
    assert tree.chunk_list == tree.tuple.root.raw
    assert tree.levels == ()
    chunks = verify_chunk_list(tree.chunk_list, tree.tuple)
    chunks.check(0, b"x")
    with pytest.raises(DigestMismatch):
        chunks.check(0, b"y")
    with pytest.raises(DigestMismatch):
        verify_chunk_list(bytes(32), tree.tuple)


@pytest.mark.parametrize("index", [-1, 3, 1 << 70])
def test_there_is_no_chunk_past_the_end(index: int) -> None:
    chunks = verify_chunk_list(TREE.chunk_list, SIGNED)
    with pytest.raises(FormatError, match="no such chunk"):
        chunks.check(index, b"x")
    with pytest.raises(FormatError, match="no such chunk"):
        chunks.matches(index, b"x")


def test_chunks_in_each_others_place_are_refused() -> None:
    chunks = verify_chunk_list(TREE.chunk_list, SIGNED)
    first, second, _ = chunks_of(IMAGE)
    assert chunks.matches(0, leaf_digests(first, SALT))
    assert chunks.matches(1, leaf_digests(second, SALT))
    for index, data in ((0, second), (1, first)):
        assert not chunks.matches(index, leaf_digests(data, SALT))
        with pytest.raises(DigestMismatch, match=f"chunk {index}"):
            chunks.check(index, data)


@pytest.mark.parametrize("size", [0, CHUNK_BYTES + 1])
def test_chunk_digest_bounds(size: int) -> None:
    with pytest.raises(FormatError):
        chunk_digest(bytes(size), salt=SALT)
    with pytest.raises(FormatError):
        leaf_hash_block(bytes(size), SALT)
    with pytest.raises(FormatError):
        chunk_digest(bytes(BLOCK_BYTES + 1), salt=SALT, single_block=True)


def test_chunk_digest_is_the_plain_formula() -> None:
    data = image_of(3)
    leaves = b"".join(
        hashlib.sha256(SALT + data[o : o + 4096]).digest() for o in range(0, len(data), 4096)
    )
    assert (
        chunk_digest(data, salt=SALT) == hashlib.sha256(SALT + leaves.ljust(4096, b"\0")).digest()
    )


def test_two_threads_may_check_at_once() -> None:
    chunks = verify_chunk_list(TREE.chunk_list, SIGNED)
    pieces = chunks_of(IMAGE)
    with ThreadPoolExecutor(2) as pool:
        verdicts = list(
            pool.map(
                lambda n: chunks.matches(n % 3, leaf_digests(pieces[(n // 3) % 3], SALT)), range(60)
            )
        )
    assert verdicts == [n % 3 == (n // 3) % 3 for n in range(60)]


def test_the_uuid_is_16_bytes() -> None:
    with pytest.raises(FormatError, match="UUID"):
        dump_superblock(SIGNED, b"short")


def test_values_are_frozen_and_compare() -> None:
    assert tree_of([IMAGE], SALT) == Tree(SIGNED, TREE.levels)
    chunks = verify_chunk_list(TREE.chunk_list, SIGNED)
    assert chunks == ChunkList(SIGNED, TREE.chunk_list)
    assert replace(SIGNED, root=Digest(bytes(32))) != SIGNED

"""Finds for each opened block of the target the recipe that packs its content again, and proves it.

Byte for byte, here: what a payload names was seen to work with these libraries. Blocks without a
recipe, or whose encoder takes more memory than the device has, stay packed.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from slipstream.delta.budget import MemoryBudget
from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Packing
from slipstream.delta.limits import KIB, MIB, PACK_AHEAD_BYTES_MAX, RECIPES_MAX
from slipstream.delta.packing.find import RecipeFinder
from slipstream.delta.packing.headers import parse_xz_header
from slipstream.delta.packing.recipe import Recipe, decoder_memory_bytes, pack_memory_bytes
from slipstream.delta.unfold import OpenBlock
from slipstream.server.pool import Pool, Result, in_order, workspace
from slipstream.server.progress import Progress, told
from slipstream.server.workspace import WorkFiles

# A search starts anew with each batch, so that no recipe depends on who worked on what before.
_BATCH_BYTES = 4 * MIB  # of content
_BATCH_BLOCKS = 256
_HEAD_BYTES = 64 * KIB
_XZ_MEMORY_FACTOR = 8  # least that an xz encoder holds for each byte of its dictionary


class _Proof(NamedTuple):
    """The recipe of a block; None: what OpenBlock.lacking_bytes says."""

    recipe: Recipe | None
    lacking_bytes: int = 0


def prove(
    blocks: Sequence[OpenBlock],
    end: int,
    hints: Mapping[str, int],
    budget: MemoryBudget,
    files: WorkFiles,
    pool: Pool,
    on_progress: Progress,
) -> list[OpenBlock]:
    """The same blocks, with recipes where there are such, and what they lack where memory is short.

    `end` is the address behind the last content; `hints` are the file system's; `budget` says what
    an encoder may hold.
    """
    proofs: dict[int, _Proof] = {}
    batches = list(_batches(blocks))
    calls = (partial(_submit, files, dict(hints), budget, end, batch) for batch in batches)
    sizes = [sum(one.content.size for one in batch) for batch in batches]
    results = told(in_order(pool, calls), sizes, "pack again", sum(sizes), on_progress)
    for batch, found in zip(batches, results, strict=True):
        proofs.update(zip((one.content.offset for one in batch), found, strict=True))
    return [
        replace(one, recipe=proof.recipe, lacking_bytes=proof.lacking_bytes)
        for one in blocks
        for proof in (proofs[one.content.offset],)
    ]


def commonest_recipes(blocks: Iterable[OpenBlock]) -> frozenset[Recipe]:
    """Of the recipes of blocks as many as a payload may name: those that pack most content.

    The zstd command declares the size of each file, so that every file has a recipe of its own.
    """
    sizes: Counter[Recipe] = Counter()
    for one in blocks:
        if one.recipe is not None:
            sizes[one.recipe] += one.content.size
    return frozenset(recipe for recipe, _ in sizes.most_common(RECIPES_MAX))


def _batches(blocks: Sequence[OpenBlock]) -> Iterator[list[OpenBlock]]:
    """Blocks in batches; the long ones first: they take longest."""
    yield from ([one] for one in blocks if one.is_long)
    batch: list[OpenBlock] = []
    for one in blocks:
        if one.is_long:
            continue
        batch.append(one)
        if len(batch) == _BATCH_BLOCKS or sum(b.content.size for b in batch) >= _BATCH_BYTES:
            yield batch
            batch = []
    if batch:
        yield batch


def _submit(
    files: WorkFiles,
    hints: dict[str, int],
    budget: MemoryBudget,
    end: int,
    batch: list[OpenBlock],
    pool: Pool,
) -> "Result[list[_Proof]]":
    return pool.submit(_prove_batch, files, hints, budget, end, batch)


def _prove_batch(
    files: WorkFiles, hints: dict[str, int], budget: MemoryBudget, end: int, batch: list[OpenBlock]
) -> list[_Proof]:
    """A task: the recipe of each block, where there is one."""
    space = workspace(files)
    finder = RecipeFinder(hints)
    proofs: list[_Proof] = []
    for block in batch:
        packed = space.read_all(block.places)
        vain = _in_vain(block, packed[:_HEAD_BYTES], budget.packer_bytes(block))
        if vain is not None:
            proofs.append(vain)
            continue
        content = space.read(block.content.offset, block.content.size)
        ahead = b""
        if block.packing is Packing.LZ4_PADDED:
            size = min(PACK_AHEAD_BYTES_MAX, end - block.content.end)
            ahead = space.read(block.content.end, size)
        recipe = finder.find(block.packing, packed, content, ahead)
        proofs.append(_Proof(None) if recipe is None else _fitted(block, recipe, budget))
    return proofs


def _fitted(block: OpenBlock, recipe: Recipe, budget: MemoryBudget) -> _Proof:
    """The recipe, if a device has the memory to pack it again, and to unpack what it packed."""
    lacking = pack_memory_bytes(recipe, block.content.size) - budget.packer_bytes(block)
    if block.is_long:
        if block.memory_bytes > decoder_memory_bytes(recipe):
            return _Proof(None)
        lacking = max(lacking, -budget.packer_bytes(replace(block, recipe=recipe)))
    return _Proof(recipe) if lacking <= 0 else _Proof(None, lacking)


def _in_vain(block: OpenBlock, head: bytes, memory_bytes: int) -> _Proof | None:
    """What a search, a minute for a kernel, would find, where that is nothing; None: search."""
    if block.packing is not Packing.XZ or not block.is_long:
        return None
    try:
        lacking = parse_xz_header(head).dict_size * _XZ_MEMORY_FACTOR - memory_bytes
    except FormatError:
        return _Proof(None)
    return _Proof(None, lacking) if lacking > 0 else None

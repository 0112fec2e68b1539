"""Finds the recipe that makes given packed bytes, and proves it byte for byte (build machine).

A finder is for one image: its blocks were mostly made alike, so what worked last is tried first,
and after RECIPE_SEARCHES_MAX blocks for which nothing worked only that. Long streams were made by
whatever made them, and are few: all candidates are tried. No answer costs payload size only.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing

from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Packing
from slipstream.delta.limits import (
    BLOCK_CONTENT_BYTES_MAX,
    PACK_PIECE_BYTES,
    RECIPE_SEARCHES_MAX,
    RECIPES_KEPT_MAX,
)
from slipstream.delta.packing.candidates import candidates
from slipstream.delta.packing.headers import gzip_header_size
from slipstream.delta.packing.libraries import zstds
from slipstream.delta.packing.libzstd import ZstdStream
from slipstream.delta.packing.pack import PackCursor, pack
from slipstream.delta.packing.recipe import Packer, Recipe, is_streamed

# What an LZ4 encoder may have to see behind its block, in steps: a device must have it by then.
_AHEAD_BYTES = (0, 16, 64, 256, 1024, 4096, 16384)


class RecipeFinder:
    """`hints` are the FileMap's. Not for several threads at once."""

    def __init__(self, hints: Mapping[str, int]) -> None:
        self._hints = hints
        self._kept: dict[Packing, list[Recipe]] = {}  # the one that worked last stands first
        self._failures: Counter[Packing] = Counter()

    def find(
        self, packing: Packing, packed: bytes, content: bytes | memoryview, ahead: bytes = b""
    ) -> Recipe | None:
        """The recipe that packs `content` to `packed`, or None.

        Of a gzip member it makes what stands behind the header (`gzip_header_size`). `ahead` is the
        content that follows, for LZ4_PADDED: 64 KiB of it or all there is. Streams of any length
        are proved piece by piece, and given up at the first wrong byte.
        """
        kept = self._kept.setdefault(packing, [])
        if not packed or not content:
            return None
        try:
            fresh = candidates(packing, packed, len(content), self._hints, len(ahead))
            wanted = packed[gzip_header_size(packed) :] if packing is Packing.GZIP else packed
        except FormatError:  # not even a header: nothing that could be made again
            return None
        is_long = len(content) > BLOCK_CONTENT_BYTES_MAX
        tried = [recipe for recipe in kept if _is_possible(recipe, fresh, len(ahead))]
        if is_long or self._failures[packing] < RECIPE_SEARCHES_MAX:
            tried += [recipe for recipe in fresh if recipe not in tried]
        for recipe in _beginning(tried, wanted, content):
            if _makes(recipe, wanted, content, ahead):
                best = _look_less_ahead(recipe, wanted, content, ahead)
                if best in kept:
                    kept.remove(best)
                kept.insert(0, best)
                del kept[RECIPES_KEPT_MAX:]
                return best
        self._failures[packing] += not is_long
        return None


def _is_possible(recipe: Recipe, fresh: list[Recipe], ahead_size: int) -> bool:
    """Whether a recipe that worked for another block may work for this one."""
    if recipe.packer is Packer.LZ4_DEST:  # `fresh` all look as far ahead as there is content
        return recipe.parameters[1] <= ahead_size
    return recipe in fresh


def _beginning(
    recipes: Iterable[Recipe], packed: bytes, content: bytes | memoryview
) -> Iterator[Recipe]:
    """Those of `recipes` that make the first bytes, as far as that is quick to say.

    For zstd with workers, which gives nothing before a job of up to 512 MiB is done: the first
    block is the same without them.
    """
    known: dict[tuple[str, int, int], bool] = {}
    for recipe in recipes:
        if recipe.packer is Packer.ZSTD and len(content) > PACK_PIECE_BYTES and is_streamed(recipe):
            level, _streamed, content_size, checksum, _workers, long_log = recipe.parameters
            key = (recipe.library, level, long_log)
            if key not in known:
                stream = ZstdStream(
                    zstds()[recipe.library],
                    level,
                    content_size=content_size,
                    checksum=checksum,
                    workers=0,
                    long_log=long_log,
                )
                with closing(stream):
                    first = stream.begin(bytes(content[:PACK_PIECE_BYTES]))
                known[key] = packed.startswith(first)
            if not known[key]:
                continue
        yield recipe


def _makes(recipe: Recipe, packed: bytes, content: bytes | memoryview, ahead: bytes) -> bool:
    if not is_streamed(recipe):
        return pack(recipe, bytes(content), len(packed), ahead) == packed
    try:
        return _makes_stream(recipe, packed, content)
    except FormatError:  # an xz block header that does not fit its sizes
        return False


def _makes_stream(recipe: Recipe, packed: bytes, content: bytes | memoryview) -> bool:
    wanted = memoryview(packed)
    place = 0
    with closing(PackCursor(recipe)) as cursor:
        for begin in range(0, len(content), PACK_PIECE_BYTES):
            made = cursor.feed(bytes(content[begin : begin + PACK_PIECE_BYTES]))
            if wanted[place : place + len(made)] != made:
                return False
            place += len(made)
        return wanted[place:] == cursor.finish()


def _look_less_ahead(
    recipe: Recipe, packed: bytes, content: bytes | memoryview, ahead: bytes
) -> Recipe:
    """The recipe that does with the least content behind its block."""
    if recipe.packer is not Packer.LZ4_DEST:
        return recipe
    level, most, padded = recipe.parameters
    for size in _AHEAD_BYTES:
        if size >= most:
            break
        less = Recipe(recipe.packer, (level, size, padded), recipe.library)
        if _makes(less, packed, content, ahead):
            return less
    return recipe

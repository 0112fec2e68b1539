"""What each kind of ELF section costs in a delta, and what predicting some of them would save.

    python -m benches.elf_sections SOURCE.img TARGET.img [--suffix .ko] [--every 12]

Files of the target that end in the suffix are paired as the encoder pairs them, cut by path into
groups of 2 MiB, of which every n-th is taken. A group's files are aligned one by one and written as
one frame of the encoder's: numbers, values and literal bytes, each under LZMA. A kind of section
costs what the frame gets smaller without its bytes: so this is also the most that any prediction of
it could save. Rows that say `predicted` are what is saved in earnest, where these bytes are taken
out and coded by elf_prediction.py and btf_prediction.py.

docs/adr/0012-elf-prediction.md has what came out. Only files that are not compressed in the image
are read; the rest is left out.
"""

import argparse
import os
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from benches.btf_prediction import Base, Btf, TypesPredictor, base_of
from benches.elf import HEADER_BYTES, Elf, is_elf
from benches.elf_prediction import Residual, predict
from slipstream.delta.bsdiff import Segment, SourceIndex, cut, write_script
from slipstream.delta.codec import Codec, compress
from slipstream.delta.filemap import Entry, EntryKind
from slipstream.delta.filesystem.probe import read_filesystem
from slipstream.delta.limits import MIB
from slipstream.delta.pairing import pair_entries
from slipstream.delta.profile import PROFILES
from slipstream.delta.sparsify import write_numbers

GROUP_BYTES = 2 * MIB  # a window of the profile `balanced`
LZMA_LEVEL = 6  # of `balanced`
ZEROS_MIN = (4, 64)  # two of those that encode.py tries

# Upper bounds of predicting several kinds at once.
TOGETHER = {
    "all .rela": (".rela.text", ".rela, other"),
    "all .rela, .symtab, .BTF": (".rela.text", ".rela, other", ".symtab", ".BTF"),
}


class Pair(NamedTuple):
    """Two files, aligned."""

    source: bytes
    target: bytes
    segments: tuple[Segment, ...]


class Image:
    """An image of which files are read; a Reader."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("rb")
        self.size = os.path.getsize(path)

    def read(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(size)

    def files(self, suffix: str) -> list[Entry]:
        """Files that end in `suffix` and stand in the image as they are, by path."""
        return sorted(
            (
                entry
                for entry in read_filesystem(self).entries
                if entry.kind is EntryKind.FILE
                and entry.path.endswith(suffix)
                and all(extent.block is None for extent in entry.extents)
            ),
            key=lambda entry: entry.path,
        )

    def content(self, entry: Entry) -> bytes:
        content = bytearray(entry.size)
        for extent in entry.extents:
            content[extent.offset : extent.offset + extent.size] = self.read(
                extent.place, extent.size
            )
        return bytes(content)


def sample(source: Path, target: Path, suffix: str, every: int) -> Iterator[list[Pair]]:
    """Every n-th group of pairs, aligned."""
    before, after = Image(source), Image(target)
    old, new = before.files(suffix), after.files(suffix)
    groups: list[list[tuple[Entry, Entry]]] = [[]]
    held = 0
    for number, entry in zip(pair_entries(old, new), new, strict=True):
        if number is None:
            continue
        if held + entry.size > GROUP_BYTES and groups[-1]:
            groups.append([])
            held = 0
        groups[-1].append((old[number], entry))
        held += entry.size
    for group in groups[every // 2 :: every]:
        contents = [(before.content(one), after.content(other)) for one, other in group]
        yield [aligned(*pair) for pair in contents if is_elf(pair[0]) and is_elf(pair[1])]


def aligned(source: bytes, target: bytes) -> Pair:
    """Two files, aligned as the encoder's profile `small` does it."""
    old, new = np.frombuffer(source, np.uint8), np.frombuffer(target, np.uint8)
    index, profile = SourceIndex(old), PROFILES["small"]
    tried = [
        index.align(new, candidates=profile.candidates, gain_ahead_bytes=ahead).segments
        for ahead in profile.aheads
    ]

    def guess(segments: tuple[Segment, ...]) -> int:
        script = write_script(segments, old, new)
        parts = (script.control, script.diff, script.extra)
        return sum(len(compress(Codec.ZSTD, part, 1)) for part in parts)

    return Pair(source, target, min(tried, key=guess))


def cost_without(group: Sequence[Pair], drop: Iterable[tuple[int, int]]) -> int:
    """Encoded bytes of a frame that makes the group's target files but for some stretches.

    Stretches do not overlap and are places in the files, one behind the other.
    """
    target = np.frombuffer(b"".join(pair.target for pair in group), np.uint8)
    source = np.frombuffer(b"".join(pair.source for pair in group), np.uint8)
    segments = tuple(_joined(group))
    ends = [one.target + one.size for one in segments]
    kept: list[Segment] = []
    pieces = []
    size = done = 0
    for low, high in [*sorted(drop), (len(target), len(target))]:
        near = segments[bisect_right(ends, done) : bisect_left(segments, (low,))]
        kept += [Segment(size + one[0], one[1], one[2]) for one in cut(near, done, low)]
        pieces.append(target[done:low])
        size += low - done
        done = high
    script = write_script(tuple(kept), source, np.concatenate(pieces))
    return _sparse(script.control, script.diff) + _packed(script.extra)


def _joined(group: Sequence[Pair]) -> Iterator[Segment]:
    source_base = target_base = 0
    for pair in group:
        for target, source, size in pair.segments:
            yield Segment(target + target_base, source + source_base, size)
        source_base += len(pair.source)
        target_base += len(pair.target)


def _sparse(control: bytes, diff: bytes) -> int:
    return min(
        sum(_packed(part, contexts=0) for part in write_numbers(control, diff, zeros_min))
        for zeros_min in ZEROS_MIN
    )


def _packed(data: bytes, *, contexts: int | None = None) -> int:
    return len(compress(Codec.LZMA2, data, LZMA_LEVEL, contexts=contexts)) if data else 0


def stretches(group: Sequence[Pair]) -> dict[str, list[tuple[int, int]]]:
    """Where the sections of each kind stand in the group's target files."""
    places: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    base = 0
    for pair in group:
        elf = Elf(pair.target)
        found = [(kind_of(one.name), one.offset, one.offset + one.size) for one in elf.sections]
        found.append(("headers", 0, HEADER_BYTES))
        found.append(("headers", elf.table_offset, elf.table_end))
        found.append(("behind the headers", elf.table_end, len(pair.target)))
        for kind, low, high in found:
            if low < high:
                places[kind].append((base + low, base + high))
        base += len(pair.target)
    return places


def kind_of(name: str) -> str:
    """The kind of a section, by its name."""
    if name in {".rela.text", ".BTF", ".symtab", ".strtab", "__versions"}:
        return name
    if name.startswith(".rela"):
        return ".rela, other"
    if name.startswith(".orc"):
        return ".orc_unwind"
    return "text" if "text" in name or name == ".altinstr_replacement" else "data"


def relocations_cost(group: Sequence[Pair]) -> int:
    """Encoded bytes of all relocations of the group, by prediction."""
    residual = Residual()
    for pair in group:
        predict(Elf(pair.source), Elf(pair.target), pair.segments, residual)
    *columns, literal, control = astuple(residual)
    cost = _packed(_numbers(literal)) + _packed(_numbers(control), contexts=0)
    return cost + sum(map(_sparse_numbers, columns))


def types_saved(group: Sequence[Pair], source_base: Base, target_base: Base) -> int:
    """Encoded bytes that predicting the types in the group's .BTF saves."""
    predictor = TypesPredictor(source_base, target_base)
    drop = []
    base = 0
    for pair in group:
        old, new = btf_of(pair.source), btf_of(pair.target)
        if old and new:
            place = base + new.offset
            drop.append((place, place + new.types_end))
            predictor.predict(old, new)
        base += len(pair.target)
    residual = predictor.residual
    cost = _packed(_numbers(residual.control), contexts=0)
    cost += sum(map(_sparse_numbers, residual.differences))
    cost += sum(_packed(_numbers(words)) for words in residual.literal)
    return cost_without(group, ()) - cost_without(group, drop) - cost


def btf_of(data: bytes) -> Btf | None:
    """A file's .BTF, if it has one."""
    elf = Elf(data)
    for section in elf.sections:
        if section.name == ".BTF":
            return Btf(elf.bytes_of(section), section.offset)
    return None


def bases_of(groups: Iterable[Sequence[Pair]]) -> tuple[Base, Base]:
    """Where the modules of the two releases go on after their kernel."""
    pairs = [pair for group in groups for pair in group]
    source = [btf for pair in pairs if (btf := btf_of(pair.source))]
    target = [btf for pair in pairs if (btf := btf_of(pair.target))]
    return base_of(source), base_of(target)


def _sparse_numbers(values: Sequence[int]) -> int:
    """Encoded bytes of numbers that mostly are 0: how far apart the others stand, and these."""
    numbers = np.array(values, np.int64)
    others = np.flatnonzero(numbers)
    gaps = np.diff(others, prepend=-1) - 1
    return sum(_packed(_numbers(column.tolist()), contexts=0) for column in (gaps, numbers[others]))


def _numbers(values: Iterable[int]) -> bytes:
    """Signed numbers, folded, of 7 bits a byte."""
    out = bytearray()
    for value in values:
        rest = 2 * value if value >= 0 else -2 * value - 1
        while rest >= 0x80:
            out.append(rest & 0x7F | 0x80)
            rest >>= 7
        out.append(rest)
    return bytes(out)


def report(groups: Sequence[list[Pair]]) -> None:
    """Measure groups and print the table."""
    sizes: Counter[str] = Counter()
    saved: Counter[str] = Counter()
    files = whole = size = 0
    bases = bases_of(groups)
    for group in groups:
        everything = cost_without(group, ())
        places = stretches(group)
        for title, kinds in TOGETHER.items():
            places[title] = [place for kind in kinds for place in places.get(kind, ())]
        for kind, stretch in places.items():
            saved[kind] += everything - cost_without(group, stretch)
            sizes[kind] += sum(high - low for low, high in stretch)
        without = cost_without(group, places["all .rela"])
        saved["all .rela, predicted"] += everything - without - relocations_cost(group)
        saved[".BTF types, predicted"] += types_saved(group, *bases)
        files += len(group)
        whole += everything
        size += sum(len(pair.target) for pair in group)
        print(f"{files} files, {size:,} bytes, encoded {whole:,}", flush=True)
    print("\n| kind | bytes | encoded | of all |\n|---|--:|--:|--:|")
    for kind, cost in saved.most_common():
        print(f"| {kind} | {sizes[kind]:,} | {cost:,} | {cost / whole:.1%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--suffix", default=".ko")
    parser.add_argument("--every", type=int, default=12, help="take every n-th group of 2 MiB")
    options = parser.parse_args()
    report(list(sample(options.source, options.target, options.suffix, options.every)))


if __name__ == "__main__":
    main()

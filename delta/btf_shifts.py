"""Learns how the numbers in kernel modules' BTF moved between two releases (build machine).

From pairs of modules: types that are alike in both say what became of the numbers in them. Numbers
of the kernel move alike in all modules, so these vote; a module's own numbers follow from which of
its types, and which of its names, stand where.

Pure: sections in, shifts out. What is learned wrong costs payload size, never a wrong target. Not
here: moving (btf.py).
"""

import struct
import zlib
from bisect import bisect_left
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from slipstream.delta.btf import BtfShifts, Shifts, read_words, walk
from slipstream.delta.byterange import ByteRange

_Numbers = npt.NDArray[np.int64]
_Hashes = npt.NDArray[np.uint64]

_ELF = b"\x7fELF\x02\x01"  # 64 bits, little-endian
_ELF_BYTES = 64
_RELOCATABLE = 1
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SECTIONS_MAX = 4096
_NAME = b".BTF\0"
_BTF = struct.Struct("<HBBIIIII")
_MAGIC = 0xEB9F
_GOLDEN = 0x9E3779B97F4A7C15
_NUMBER_MAX = 0xFFFF_FFFF
# What a range of shifts must be used for: it takes some bytes of the payload, as a wrong number does.
_WEIGHT_MIN = 4
_OWN_WEIGHT_MIN = 2
_SOME_TYPE, _SOME_NAME = 0x7F4A7C15, 0x1CE4E5B9  # stand for numbers whose move is not known yet


def find_btf(module: bytes) -> ByteRange | None:
    """Where the section .BTF stands in a relocatable ELF file of 64 bits, little-endian; None in
    any other bytes."""
    if len(module) < _ELF_BYTES or not module.startswith(_ELF):
        return None
    (kind,) = struct.unpack_from("<H", module, 16)
    (table,) = struct.unpack_from("<Q", module, 40)
    size, count, names = struct.unpack_from("<HHH", module, 58)
    if kind != _RELOCATABLE or size != _SECTION.size or not names < count <= _SECTIONS_MAX:
        return None
    if table + count * size > len(module):
        return None
    rows = list(_SECTION.iter_unpack(module[table : table + count * size]))
    strings = rows[names][4]
    for name, _, _, _, offset, length, *_ in rows:
        begin = strings + name
        if begin + len(_NAME) > len(module) or offset + length > len(module):
            continue
        if module[begin : begin + len(_NAME)] == _NAME:
            return ByteRange(offset, length)
    return None


class Btf:
    """A section .BTF, laid out. `types` is the place of the types in the section."""

    def __init__(self, section: bytes, types: ByteRange, strings: bytes) -> None:
        self.types = types
        words = read_words(section[types.offset : types.end])
        self.words = np.array(words, np.int64)
        starts: list[int] = []
        names: list[int] = []
        places: list[int] = []
        for some_starts, some_names, some_places in walk(words):
            starts += some_starts
            names += some_names
            places += some_places
        self.starts = np.array(starts, np.int64)
        self.names = np.sort(np.array(starts + names, np.int64))
        self.places = np.array(places, np.int64)
        texts = strings.split(b"\0")[:-1]
        sizes = np.array([len(text) + 1 for text in texts], np.int64)
        self.text_starts = np.cumsum(sizes) - sizes
        self.texts = np.array([zlib.crc32(text) for text in texts], np.int64)

    @property
    def sizes(self) -> _Numbers:
        """Words of each type; the last one also has what is not understood."""
        return np.diff(np.append(self.starts, len(self.words)))


def parse_btf(section: bytes) -> Btf | None:
    """A section .BTF of a module; None for other bytes."""
    if len(section) < _BTF.size:
        return None
    magic, version, _, header, types, types_size, strings, strings_size = _BTF.unpack_from(section)
    begin, texts = header + types, header + strings
    if magic != _MAGIC or version != 1 or header < _BTF.size:
        return None
    if max(begin + types_size, texts + strings_size) > len(section) or types_size % 4:
        return None
    return Btf(section, ByteRange(begin, types_size), section[texts : texts + strings_size])


class Base(NamedTuple):
    """The first number of a type, and the first place of a name, that is a module's own."""

    type: int
    name: int


def base_of(modules: Iterable[Btf]) -> Base:
    """The base that modules of one kernel have in common; some must use what they define last."""
    types = names = 0
    for one in modules:
        if len(one.places):
            types = max(types, int(one.words[one.places].max()) - len(one.starts) + 1)
        if len(one.text_starts) and len(one.names):
            names = max(names, int(one.words[one.names].max() - one.text_starts[-1]))
    return Base(types, names)


class _Votes:
    """What became of numbers, as pairs that say so."""

    def __init__(self) -> None:
        self._pairs: list[_Hashes] = []  # before in the upper half, after in the lower
        self._counts: list[_Numbers] = []

    def add(self, before: _Numbers, after: _Numbers) -> None:
        """Note what became of some numbers; all of 32 bits."""
        pairs = before.astype(np.uint64) << np.uint64(32) | after.astype(np.uint64)
        known, counts = np.unique(pairs, return_counts=True)
        self._pairs.append(known)
        self._counts.append(counts)

    def shifts(self) -> Shifts:
        """What most of them say, as ranges."""
        if not self._pairs:
            return Shifts()
        pairs, group = np.unique(np.concatenate(self._pairs), return_inverse=True)
        counts = np.bincount(group, weights=np.concatenate(self._counts)).astype(np.int64)
        before = (pairs >> np.uint64(32)).astype(np.int64)
        after = (pairs & np.uint64(_NUMBER_MAX)).astype(np.int64)
        # The last of each number, with counts rising, is what most say.
        order = np.lexsort((counts, before))
        before, after, counts = before[order], after[order], counts[order]
        last = np.append(np.flatnonzero(np.diff(before)), len(before) - 1)[: len(before)]
        return _ranges(before[last], (after - before)[last], counts[last], _WEIGHT_MIN)


def _ranges(numbers: _Numbers, amounts: _Numbers, weights: _Numbers, weight_min: int) -> Shifts:
    """Ranges of numbers, rising, that move by one amount; light ones are left to the one before."""
    if not len(numbers):
        return Shifts()
    while True:
        firsts = np.append(0, np.flatnonzero(np.diff(amounts)) + 1)
        sums = np.add.reduceat(weights, firsts)
        light = sums < weight_min
        if not light.any():
            break
        lengths = np.diff(np.append(firsts, len(numbers)))
        # The lightest first: what is beside them may be of one amount, and then is not light.
        keep = np.repeat(sums > sums.min(), lengths)
        if not keep.any():
            return Shifts()
        numbers, amounts, weights = numbers[keep], amounts[keep], weights[keep]
    return Shifts(tuple(numbers[firsts].tolist()), tuple(amounts[firsts].tolist()))


class ShiftsLearner:
    """Learns from the pairs of one kernel's modules: `add` each, then ask for what is `shared`."""

    def __init__(self, source: Base, target: Base) -> None:
        self._source, self._target = source, target
        self._types, self._names = _Votes(), _Votes()

    def add(self, source: Btf, target: Btf) -> BtfShifts:
        """Note what a pair says of the kernel's numbers. The result are shifts of the module's own,
        where they differ from those of the bases."""
        pairs = align_tokens(_tokens(source, self._source), _tokens(target, self._target))
        sizes = (one[at] for one, at in zip((source.sizes, target.sizes), pairs.T, strict=True))
        pairs = pairs[np.equal(*sizes)]  # hashes may meet
        if not len(pairs):
            return BtfShifts()
        self._vote(source, target, pairs)
        types = self._own_types(source, pairs)
        names = self._own_names(source, target)
        return BtfShifts(
            _beyond(types, self._source.type, self._target.type),
            _beyond(names, self._source.name, self._target.name),
        )

    def shared(self) -> BtfShifts:
        """Shifts of the kernel's numbers, and of those from the base on as the base moves."""
        types, names = self._types.shifts(), self._names.shifts()
        return BtfShifts(
            _and_base(types, self._source.type, self._target.type),
            _and_base(names, self._source.name, self._target.name),
        )

    def _vote(self, source: Btf, target: Btf, pairs: _Numbers) -> None:
        moves = target.starts[pairs[:, 1]] - source.starts[pairs[:, 0]]
        matched = np.full(len(source.starts), -1, np.int64)
        matched[pairs[:, 0]] = np.arange(len(pairs))
        for places, votes, base, other in (
            (source.places, self._types, self._source.type, self._target.type),
            (source.names, self._names, self._source.name, self._target.name),
        ):
            owners = np.searchsorted(source.starts, places, side="right") - 1
            at = matched[owners]
            held, at = places[at >= 0], at[at >= 0]
            before, after = source.words[held], target.words[held + moves[at]]
            both = (before > 0) & (before < base) & (after < other)
            votes.add(before[both], after[both])

    def _own_types(self, source: Btf, pairs: _Numbers) -> Shifts:
        used = source.words[source.places] - self._source.type
        used = used[(used >= 0) & (used < len(source.starts))]
        weights = np.bincount(used, minlength=len(source.starts))
        moved = pairs[:, 1] - pairs[:, 0] + self._target.type - self._source.type
        return _ranges(
            pairs[:, 0] + self._source.type, moved, weights[pairs[:, 0]], _OWN_WEIGHT_MIN
        )

    def _own_names(self, source: Btf, target: Btf) -> Shifts:
        _, old, new = np.intersect1d(source.texts, target.texts, return_indices=True)
        order = np.argsort(old)
        before, after = source.text_starts[old[order]], target.text_starts[new[order]]
        used, counts = np.unique(source.words[source.names] - self._source.name, return_counts=True)
        at = np.minimum(np.searchsorted(used, before), len(used) - 1)
        weights = np.where(used[at] == before, counts[at], 0)
        moved = after - before + self._target.name - self._source.name
        return _ranges(before + self._source.name, moved, weights, _OWN_WEIGHT_MIN)


def _and_base(shifts: Shifts, source: int, target: int) -> Shifts:
    return Shifts((*shifts.firsts, source), (*shifts.amounts, target - source))


def _beyond(shifts: Shifts, source: int, target: int) -> Shifts:
    """What of them the base's own move does not say."""
    firsts: list[int] = []
    amounts = [target - source]
    for first, amount in zip(shifts.firsts, shifts.amounts, strict=True):
        if amount != amounts[-1]:
            firsts.append(first)
            amounts.append(amount)
    return Shifts(tuple(firsts), tuple(amounts[1:]))


def _tokens(btf: Btf, base: Base) -> _Hashes:
    """A hash of each type, of what does not move in it: own names by their text."""
    words = btf.words.copy()
    words[btf.places] = np.where(words[btf.places] > 0, _SOME_TYPE, 0)
    held = words[btf.names]
    own = held - base.name
    at = np.searchsorted(btf.text_starts, own, side="right") - 1
    texts = btf.texts[at] if len(btf.texts) else np.zeros(len(at), np.int64)
    words[btf.names] = np.where(own >= 0, texts, np.where(held > 0, _SOME_NAME, 0))
    if not len(btf.starts):
        return np.empty(0, np.uint64)
    within = np.arange(len(words)) - np.repeat(btf.starts, btf.sizes)
    mixed = (words.astype(np.uint64) + np.uint64(1)) * (
        np.uint64(_GOLDEN) * (2 * within.astype(np.uint64) + np.uint64(1))
    )
    mixed ^= mixed >> np.uint64(29)
    return np.asarray(np.add.reduceat(mixed * np.uint64(_GOLDEN), btf.starts), np.uint64)


def align_tokens(source: _Hashes, target: _Hashes) -> _Numbers:
    """Pairs (source, target) of equal tokens, rising in both: what is before and behind such as
    stand once in both."""
    old, new = _once(source), _once(target)
    _, at, to = np.intersect1d(source[old], target[new], return_indices=True)
    order = np.argsort(old[at])
    anchors = np.stack([old[at][order], new[to][order]], axis=1)
    anchors = anchors[_rising(anchors[:, 1])]
    edges = [(-1, -1), *map(tuple, anchors.tolist()), (len(source), len(target))]
    found: list[tuple[int, int]] = []
    left, right = source.tolist(), target.tolist()
    for (a, b), (c, d) in pairwise(edges):
        if a >= 0:
            found.append((a, b))
        low_a, low_b = a + 1, b + 1
        while low_a < c and low_b < d and left[low_a] == right[low_b]:
            found.append((low_a, low_b))
            low_a, low_b = low_a + 1, low_b + 1
        behind: list[tuple[int, int]] = []
        while c - 1 >= low_a and d - 1 >= low_b and left[c - 1] == right[d - 1]:
            c, d = c - 1, d - 1
            behind.append((c, d))
        found += reversed(behind)
    return np.array(found, np.int64).reshape(-1, 2)


def _once(tokens: _Hashes) -> _Numbers:
    """Places of the tokens that stand once."""
    _, first, count = np.unique(tokens, return_index=True, return_counts=True)
    return np.asarray(first[count == 1], np.int64)


def _rising(numbers: _Numbers) -> _Numbers:
    """Places of a longest rising subsequence."""
    tails: list[int] = []
    last: list[int] = []
    before = [-1] * len(numbers)
    for place, number in enumerate(numbers.tolist()):
        at = bisect_left(tails, number)
        if at == len(tails):
            tails.append(number)
            last.append(place)
        else:
            tails[at], last[at] = number, place
        before[place] = last[at - 1] if at else -1
    chosen = []
    place = last[-1] if last else -1
    while place >= 0:
        chosen.append(place)
        place = before[place]
    return np.array(chosen[::-1], np.int64)

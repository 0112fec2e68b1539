"""Predicts the types in .BTF of kernel modules from an older release: a prototype, no codec.

A module's BTF goes on where the kernel's ends: numbers of types, and places of names, below a base
are the kernel's. Another kernel moves all of them, each by what was inserted before it.

- A number of the kernel's moves as the nearest one whose move was seen before, in this module or
  in one before it of the same frame: moves are the same for all modules.
- A type of the module's own moves as the alignment says, a name of its own as its string does. So a
  decoder needs instructions and strings before the types.

Source: Documentation/bpf/btf.rst of Linux.
"""

import struct
import zlib
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from benches.elf_prediction import aligned

_HEADER = struct.Struct("<HBBIIIII")
_WORD_BYTES = 4
_SAME = 0x55AA55AA  # stands for any number that is predicted, where types are aligned


class Word(IntEnum):
    """What a word of a type is."""

    NAME = 0
    TYPE = 1
    OTHER = 2


_N, _T, _X = Word.NAME, Word.TYPE, Word.OTHER
_ALIASES = frozenset({2, 8, 9, 10, 11, 12, 13, 14, 17, 18})  # kinds whose third word is a type
_BEHIND = {1: (_X,), 3: (_T, _T, _X), 14: (_X,), 17: (_X,)}
_MEMBER = {4: (_N, _T, _X), 5: (_N, _T, _X), 6: (_N, _X), 13: (_N, _T), 15: (_T, _X, _X)}
_MEMBER[19] = (_N, _X, _X)


class Btf:
    """The words of all types of a section, what each is, and which type it belongs to."""

    def __init__(self, section: bytes, offset: int) -> None:
        """`offset` is where the section stands in its file."""
        self.offset = offset
        _, _, _, header, place, size, strings, strings_size = _HEADER.unpack_from(section)
        self.words: list[int] = np.frombuffer(
            section, "<u4", size // _WORD_BYTES, header + place
        ).tolist()
        self.strings = section[header + strings :][:strings_size]
        self.types_end = header + strings  # strings follow the types
        self.kinds: list[Word] = []
        self.owners: list[int] = []
        self.count = 0
        while len(self.kinds) < len(self.words):
            info = self.words[len(self.kinds) + 1]
            kind = info >> 24 & 0x1F
            words = (_N, _X, _T if kind in _ALIASES else _X, *_BEHIND.get(kind, ()))
            words += _MEMBER.get(kind, ()) * (info & 0xFFFF)
            self.kinds += words
            self.owners += [self.count] * len(words)
            self.count += 1

    def string(self, place: int) -> bytes:
        return self.strings[place : self.strings.find(b"\0", place)]

    def most(self, kind: Word) -> int:
        return max((w for w, k in zip(self.words, self.kinds, strict=True) if k is kind), default=0)


@dataclass(frozen=True, slots=True)
class Base:
    """The first number of a type, and the first place of a name, that is a module's own."""

    type: int
    name: int


def base_of(modules: Iterable[Btf]) -> Base:
    """The base that modules of one kernel have in common; some must use what they define last."""
    types = names = 0
    for one in modules:
        types = max(types, one.most(_T) - one.count + 1)
        last = one.strings.rfind(b"\0", 0, -1) + 1
        names = max(names, one.most(_N) - last)
    return Base(types, names)


@dataclass(slots=True)
class TypesResidual:
    """What predictions leave: for each kind of word the differences, and words without a like; and
    how both interleave."""

    differences: tuple[list[int], ...] = field(default_factory=lambda: ([], [], []))
    literal: tuple[list[int], ...] = field(default_factory=lambda: ([], [], []))
    control: list[int] = field(default_factory=list)


class _Learned:
    """Moves of the kernel's numbers, as they were seen."""

    def __init__(self) -> None:
        self._moves: dict[int, int] = {}
        self._numbers: list[int] = []

    def guess(self, number: int) -> int:
        if number == 0 or not self._numbers:  # no type and no name stay that
            return number
        if number in self._moves:
            return number + self._moves[number]
        at = bisect_left(self._numbers, number)
        beside = self._numbers[max(0, at - 1) : at + 1]
        return number + self._moves[min(beside, key=lambda one: abs(one - number))]

    def learn(self, number: int, made: int) -> None:
        if number not in self._moves:
            insort(self._numbers, number)
        self._moves[number] = made - number


class TypesPredictor:
    """Predicts the modules of one frame, in order; `residual` holds what is left of all of them."""

    def __init__(self, source: Base, target: Base) -> None:
        self.residual = TypesResidual()
        self._source, self._target = source, target
        self._types, self._names = _Learned(), _Learned()

    def predict(self, source: Btf, target: Btf) -> None:
        """Add what is left of `target`."""
        runs = _aligned_words(
            _essence(source, self._source.name), _essence(target, self._target.name)
        )
        types: dict[int, int] = {}
        for at, like, count in runs:
            for old, new in zip(
                source.owners[like : like + count], target.owners[at : at + count], strict=True
            ):
                types.setdefault(old, new)
        strings: dict[bytes, int] = {}
        place = 0
        for text in target.strings.split(b"\0"):
            strings.setdefault(text, place)
            place += len(text) + 1
        done = read = 0
        for at, like, count in runs:
            self._take_literal(target, done, at)
            self.residual.control += [count, at - done, like - read]
            for old, new in zip(range(like, like + count), range(at, at + count), strict=True):
                self._take(source, old, target.words[new], target.kinds[new], types, strings)
            done, read = at + count, like + count
        self._take_literal(target, done, len(target.words))
        self.residual.control += [0, len(target.words) - done, 0]

    def _take(
        self,
        source: Btf,
        at: int,
        made: int,
        made_kind: Word,
        types: dict[int, int],
        strings: dict[bytes, int],
    ) -> None:
        word, kind = source.words[at], source.kinds[at]
        expected = word
        if kind is _N and word >= self._source.name:
            own = word - self._source.name
            expected = self._target.name + strings.get(source.string(own), own)
        elif kind is _T and word >= self._source.type:
            own = word - self._source.type
            expected = self._target.type + types.get(own, own)
        elif kind is not _X:
            learned = self._types if kind is _T else self._names
            expected = learned.guess(word)
            first_own = self._target.type if kind is _T else self._target.name
            if kind is made_kind and word and made < first_own:
                learned.learn(word, made)
        self.residual.differences[kind].append(made - expected)

    def _take_literal(self, target: Btf, first: int, end: int) -> None:
        for at in range(first, end):
            word, kind = target.words[at], target.kinds[at]
            if kind is _N and word >= self._target.name:
                word -= self._target.name
            elif kind is _T and word >= self._target.type:
                word -= self._target.type + target.owners[at]
            self.residual.literal[kind].append(word)


def _essence(btf: Btf, own_names: int) -> npt.NDArray[np.uint32]:
    """The words with what moves taken out: own names as their text's CRC, other numbers as one."""
    words = np.array(btf.words, np.uint32)
    for at, (word, kind) in enumerate(zip(btf.words, btf.kinds, strict=True)):
        if kind is _N and word >= own_names:
            words[at] = zlib.crc32(btf.string(word - own_names))
        elif kind is not _X:
            words[at] = _SAME if word else 0
    return words


def _aligned_words(
    source: npt.NDArray[np.uint32], target: npt.NDArray[np.uint32]
) -> Sequence[tuple[int, int, int]]:
    """Runs of whole words that resemble each other: first of the target, of the source, count."""
    runs = []
    done = 0
    for begin, like, size in aligned(source.view(np.uint8), target.view(np.uint8)):
        if (begin - like) % _WORD_BYTES:
            continue
        first = max(done, -(-begin // _WORD_BYTES))
        end = (begin + size) // _WORD_BYTES
        if first < end:
            runs.append((first, first + (like - begin) // _WORD_BYTES, end - first))
            done = end
    return runs

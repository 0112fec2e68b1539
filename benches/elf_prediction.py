"""Predicts the relocations of an ELF file from an older one: a prototype that measures, no codec.

What it uses, a decoder has by the time it comes to a .rela section, which follows contents and
symbols in a kernel module: the older file, the aligned bytes before, and the symbol table. The
headers at the end of the file would have to come first.

- A symbol is found by its name.
- A place in a section moves as its function does (symbols), as its string does (sections of
  strings), as its bytes do (the alignment), and where all this is silent as the nearest place
  whose move was seen in relocations before it.
- r_offset is such a place, and so is r_addend where the symbol is a section's.
"""

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from benches.elf import EXECUTABLE, RELA, STRINGS, Elf, Section
from slipstream.delta.bsdiff import Segment, SourceIndex
from slipstream.delta.profile import PROFILES

_PC_RELATIVE = (2, 4)  # R_X86_64_PC32, R_X86_64_PLT32: in code the place is 4 bytes past the addend
_PC_BIAS_BYTES = 4
_LEARNED_REACH_BYTES = 4096  # a move seen farther off than this says less than the alignment

Name = TypeVar("Name", bound=Hashable)
Key = tuple[str, int]  # name of a section, and how many of that name stand before it


@dataclass(slots=True)
class Residual:
    """What is left to say about relocations: for each aligned row four differences, which are 0
    where the prediction holds; rows without a like; and how both interleave."""

    offsets: list[int] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    symbols: list[int] = field(default_factory=list)
    addends: list[int] = field(default_factory=list)
    literal: list[int] = field(default_factory=list)
    control: list[int] = field(default_factory=list)


class _Move(NamedTuple):
    first: int
    size: int
    shift: int
    exact: bool  # whether the whole stretch keeps together; else only its first byte is sure


class _Moves:
    """Where places of one section of the source stand in the target's."""

    def __init__(self, aligned: Iterable[_Move], named: Iterable[_Move]) -> None:
        self._aligned, self._named = sorted(aligned), sorted(named)
        self._learned: dict[int, int] = {}
        self._learned_places: list[int] = []

    def at(self, place: int) -> tuple[int, bool]:
        """The place in the target by what is known beforehand, and whether that is sure."""
        named = _last(self._named, place)
        inside = named is not None and place <= named.first + named.size
        if named and inside and (named.exact or place == named.first):
            return place + named.shift, True
        aligned = _last(self._aligned, place)
        if aligned and place < aligned.first + aligned.size:
            return place + aligned.shift, True
        nearest = named if inside else aligned
        return place + (nearest.shift if nearest else 0), False

    def guess(self, place: int) -> int:
        """The place in the target, also by what was learned."""
        if place in self._learned:
            return place + self._learned[place]
        made, sure = self.at(place)
        number = bisect_left(self._learned_places, place)
        beside = self._learned_places[max(0, number - 1) : number + 1]
        if sure or not beside:
            return made
        nearest = min(beside, key=lambda one: abs(one - place))
        if abs(nearest - place) < _LEARNED_REACH_BYTES:
            return place + self._learned[nearest]
        return made

    def learn(self, place: int, made: int) -> None:
        if place not in self._learned:
            insort(self._learned_places, place)
        self._learned[place] = made - place


def _last(moves: Sequence[_Move], place: int) -> _Move | None:
    """The last move that begins at `place` or before."""
    number = bisect_right(moves, place, key=lambda one: one.first)
    return moves[number - 1] if number else None


def predict(source: Elf, target: Elf, segments: Sequence[Segment], residual: Residual) -> None:
    """Add to `residual` what predictions leave of all .rela sections of `target`.

    `segments` align the two files.
    """
    _Predictor(source, target, segments, residual).run()


class _Predictor:
    def __init__(
        self, source: Elf, target: Elf, segments: Sequence[Segment], residual: Residual
    ) -> None:
        self.source, self.target, self.residual = source, target, residual
        self.source_keys = _counted(one.name for one in source.sections)
        self.target_keys = _counted(one.name for one in target.sections)
        self.source_sections = dict(zip(self.source_keys, source.sections, strict=True))
        self.symbols = self._map_symbols()
        self.moves = self._map_sections(segments)

    def _map_symbols(self) -> list[int]:
        """For each symbol of the source the target's of that name, or its own number."""
        names = _counted(one.name for one in self.target.symbols)
        numbers = {name: number for number, name in enumerate(names)}
        return [
            numbers.get(name, number)
            for number, name in enumerate(_counted(one.name for one in self.source.symbols))
        ]

    def _map_sections(self, segments: Sequence[Segment]) -> dict[Key, _Moves]:
        named: dict[Key, list[_Move]] = {key: [] for key in self.source_keys}
        ours, theirs = _definitions(self.source), _definitions(self.target)
        for key, (section, value, size) in ours.items():
            if key in theirs:
                _, made, made_size = theirs[key]
                home = self.source_keys[section]
                named[home].append(_Move(value, size, made - value, size == made_size))
        moves = {}
        for key, after in zip(self.target_keys, self.target.sections, strict=True):
            before = self.source_sections.get(key)
            if before is not None:
                if after.flags & STRINGS:
                    named[key] += _string_moves(
                        self.source.bytes_of(before), self.target.bytes_of(after)
                    )
                moves[key] = _Moves(_aligned_moves(before, after, segments), named[key])
        return moves

    def run(self) -> None:
        for key, section in zip(self.target_keys, self.target.sections, strict=True):
            if section.is_rela:
                before = self.source_sections.get(key)
                rows = self.source.relocations(before) if before else []
                self._predict_section(section, rows)

    def _predict_section(self, section: Section, before: list[tuple[int, int, int, int]]) -> None:
        residual, after = self.residual, self.target.relocations(section)
        places = self.moves.get(self.target_keys[section.info])
        in_code = bool(self.target.sections[section.info].flags & EXECUTABLE)
        offsets = [places.at(row[0]) if places else (row[0], False) for row in before]
        addressed = [self._addressed(row, in_code=in_code) for row in before]
        guessed = np.zeros(len(before), RELA)
        for number, (_, kind, symbol, addend) in enumerate(before):
            moves, bias = addressed[number]
            made = moves.at(addend + bias)[0] - bias if moves else addend
            guessed[number] = (offsets[number][0], kind, self.symbols[symbol], made)
        done = read = last = 0
        for at, like, count in self._aligned_rows(guessed, section):
            self._take_literal(after[done:at], last)
            residual.control += [count, at - done, like - read]
            for step in range(count):
                offset, kind, symbol, addend = after[at + step]
                old, old_kind, old_symbol, old_addend = before[like + step]
                expected, sure = offsets[like + step]
                if step:
                    # As far behind the row before as it was, unless something moved between them.
                    old_gap = old - before[like + step - 1][0]
                    if not sure or expected - offsets[like + step - 1][0] == old_gap:
                        expected = after[at + step - 1][0] + old_gap
                residual.offsets.append(offset - expected)
                residual.types.append(kind ^ old_kind)
                residual.symbols.append(symbol - self.symbols[old_symbol])
                moves, bias = addressed[like + step]
                if moves is None:
                    residual.addends.append(addend - old_addend)
                    continue
                residual.addends.append(addend + bias - moves.guess(old_addend + bias))
                if symbol == self.symbols[old_symbol]:
                    moves.learn(old_addend + bias, addend + bias)
            done, read = at + count, like + count
            last = after[done - 1][0]
        self._take_literal(after[done:], last)
        residual.control += [0, len(after) - done, 0]

    def _addressed(
        self, row: tuple[int, int, int, int], *, in_code: bool
    ) -> tuple[_Moves | None, int]:
        """What the addend is a place of, and how many bytes the place is past it."""
        _, kind, number, _ = row
        symbol = self.source.symbols[number]
        if not symbol.is_section or symbol.section is None:
            return None, 0
        bias = _PC_BIAS_BYTES if in_code and kind in _PC_RELATIVE else 0
        return self.moves.get(self.source_keys[symbol.section]), bias

    def _aligned_rows(
        self, guessed: "np.ndarray[tuple[int], np.dtype[np.void]]", section: Section
    ) -> list[tuple[int, int, int]]:
        """Runs of whole rows that resemble each other: first of the target, of the source, count."""
        width = RELA.itemsize
        if len(guessed) == 0 or section.size < width:
            return []
        after = np.frombuffer(self.target.bytes_of(section), np.uint8)
        runs = []
        done = 0
        for target, source, size in aligned(guessed.view(np.uint8), after):
            if (target - source) % width:
                continue
            first = max(done, (target + width // 2) // width)
            like = first + (source - target) // width
            first, like = first - min(0, like), max(0, like)
            end = min((target + size + width // 2) // width, first + len(guessed) - like)
            if first < end:
                runs.append((first, like, end - first))
                done = end
        return runs

    def _take_literal(self, rows: list[tuple[int, int, int, int]], last: int) -> None:
        for offset, kind, symbol, addend in rows:
            self.residual.literal += [offset - last, kind, symbol, addend]
            last = offset


def _counted(names: Iterable[Name]) -> list[tuple[Name, int]]:
    """Each name with the number of its equals before it."""
    seen: Counter[Name] = Counter()
    counted = []
    for name in names:
        counted.append((name, seen[name]))
        seen[name] += 1
    return counted


def _definitions(elf: Elf) -> dict[Hashable, tuple[int, int, int]]:
    """Functions and objects, by section and name: section, value, size."""
    defined = [
        (elf.sections[one.section].name, one.name, one.section, one.value, one.size)
        for one in elf.symbols
        if one.section is not None and not one.is_section and one.size
    ]
    keys = _counted((name, symbol) for name, symbol, _, _, _ in defined)
    return {key: one[2:] for key, one in zip(keys, defined, strict=True)}


def _string_moves(before: bytes, after: bytes) -> list[_Move]:
    places: dict[bytes, int] = {}
    for place, text in _strings(after):
        places.setdefault(text, place)
    return [
        _Move(place, len(text), places[text] - place, exact=True)
        for place, text in _strings(before)
        if text and text in places
    ]


def _strings(data: bytes) -> Iterable[tuple[int, bytes]]:
    place = 0
    for text in data.split(b"\0"):
        yield place, text
        place += len(text) + 1


def _aligned_moves(before: Section, after: Section, segments: Sequence[Segment]) -> list[_Move]:
    """Segments that lead from one section into the other, in places of the section."""
    moves = []
    for target, source, size in segments:
        shift = source - target
        low = max(target, after.offset, before.offset - shift)
        high = min(target + size, after.offset + after.size, before.offset + before.size - shift)
        if low < high:
            place = low + shift - before.offset
            moves.append(_Move(place, high - low, low - after.offset - place, exact=True))
    return moves


def aligned(source: npt.NDArray[np.uint8], target: npt.NDArray[np.uint8]) -> tuple[Segment, ...]:
    """Segments of two tables, as the encoder's profile `small` finds them without looking ahead."""
    candidates = PROFILES["small"].candidates
    index = SourceIndex(source)
    return index.align(target, candidates=candidates, gain_ahead_bytes=0).segments

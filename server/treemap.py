"""A treemap as SVG: areas in proportion to sizes, folders around what is in them.

Pure: leaves in, text out; the same leaves give the same bytes. The layout is squarified (Bruls,
Huizing, van Wijk: Squarified Treemaps, 2000): a row takes one more area as long as that makes
its worst one more like a square.

Not here: what the sizes are of. Colours come by group, with a legend of those that occur.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from xml.sax.saxutils import escape

from slipstream.delta.errors import UsageError

WIDTH, HEIGHT = 1200, 800
_MARGIN, _TITLE, _LEGEND = 16, 44, 34  # around the picture, above and below it
_HEADER = 16  # of a folder: its name
_GAP = 2
_FOLDER_MIN = 46, 34  # a smaller folder is one area
_AREA_MIN = 12.0  # square pixels: smaller leaves of a folder are drawn as one
_FONT, _CHARACTER = 11, 6.3  # pixels: letter height, and mean width of a letter of it
_DARK, _GREY = "#1d2530", "#4a5563"  # letters
_FOLDER, _REST = "#f3f5f7", "#dfe3e8"  # behind folders, and areas of no group


class Leaf(NamedTuple):
    """One area: a path with slashes, its size, the group that colours it, and words for a pointer
    that rests on it."""

    path: str
    size: int
    group: str
    words: str = ""


class Rect(NamedTuple):
    """A rectangle of the picture, in pixels."""

    x: float
    y: float
    width: float
    height: float

    def inset(self, left: float, top: float) -> "Rect":
        """Without a border, which is wider at the top."""
        width, height = self.width - 2 * left, self.height - top - left
        return Rect(self.x + left, self.y + top, max(0, width), max(0, height))


@dataclass(slots=True)
class _Folder:
    """A folder of the tree, or, with a leaf, a file."""

    name: str
    size: int = 0
    leaf: Leaf | None = None
    inside: dict[str, "_Folder"] = field(default_factory=dict)


def draw(
    title: str,
    subtitle: str,
    leaves: Iterable[Leaf],
    colours: Mapping[str, str],
    say_size: Callable[[int], str],
) -> str:
    """The picture. `colours` are CSS colours by group, in the order of the legend; `say_size` puts
    a size into a few letters.

    UsageError where nothing has a size.
    """
    drawn = [leaf for leaf in leaves if leaf.size > 0]
    if not drawn:
        raise UsageError("nothing to draw: no byte belongs to anything")
    painter = _Painter(colours, say_size)
    plot = Rect(_MARGIN, _MARGIN + _TITLE, WIDTH - 2 * _MARGIN, HEIGHT - 2 * _MARGIN - _TITLE)
    plot = plot._replace(height=plot.height - _LEGEND)
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _letters(title, _MARGIN, _MARGIN + 14, _DARK, 18),
        _letters(subtitle, _MARGIN, _MARGIN + 33, _GREY, 12),
        *painter.inside(_tree(drawn), plot),
        *painter.legend(drawn),
        "</svg>",
    ]
    return "\n".join(line for line in lines if line) + "\n"


def squarify(sizes: Sequence[int], within: Rect) -> list[Rect]:
    """A rectangle for each size, in the same order; largest first looks best. All sizes above 0."""
    placed: list[Rect] = []
    left = within
    scale = within.width * within.height / sum(sizes) if sizes else 0.0
    areas = [size * scale for size in sizes]
    first = 0
    while first < len(areas):
        side = min(left.width, left.height)
        end = first + 1
        total = areas[first]
        while end < len(areas):
            more = total + areas[end]
            # Sizes fall or are close: the first of a row is its largest, the last its smallest.
            if _worst(areas[first : end + 1], more, side) > _worst(areas[first:end], total, side):
                break
            total = more
            end += 1
        row, left = _lay(areas[first:end], total, left)
        placed += row
        first = end
    return placed


def _worst(row: Sequence[float], total: float, side: float) -> float:
    """The greatest ratio of sides in a row of these areas along `side`."""
    if not side or not total:
        return float("inf")
    thickness = total / side
    return max(
        max(thickness * thickness / area, area / (thickness * thickness)) if area else 1.0
        for area in (max(row), min(row))
    )


def _lay(row: Sequence[float], total: float, within: Rect) -> tuple[list[Rect], Rect]:
    """A row along the shorter side, and what is left beside it."""
    x, y, width, height = within
    placed = []
    if width >= height:
        thickness = min(width, total / height) if height else 0.0
        for area in row:
            length = height * area / total if total else 0.0
            placed.append(Rect(x, y, thickness, length))
            y += length
        return placed, Rect(x + thickness, within.y, width - thickness, height)
    thickness = min(height, total / width) if width else 0.0
    for area in row:
        length = width * area / total if total else 0.0
        placed.append(Rect(x, y, length, thickness))
        x += length
    return placed, Rect(within.x, y + thickness, width, height - thickness)


def _tree(leaves: Iterable[Leaf]) -> _Folder:
    """All leaves, each in the folders that its path names. Files stand apart from folders, whatever
    their names: a map of several partitions may have both under one."""
    root = _Folder("")
    for number, leaf in enumerate(leaves):
        folder = root
        folder.size += leaf.size
        *folders, name = leaf.path.split("/")
        for one in folders:
            folder = folder.inside.setdefault(one, _Folder(one))
            folder.size += leaf.size
        folder.inside[f"{name}/{number}"] = _Folder(name, leaf.size, leaf)
    return root


@dataclass(frozen=True, slots=True)
class _Painter:
    """Draws folders and files; colours by group."""

    colours: Mapping[str, str]
    say_size: Callable[[int], str]

    def inside(self, folder: _Folder, place: Rect) -> Iterator[str]:
        """What a folder holds, largest first; what is too small to be seen as one area."""
        held = sorted(folder.inside.values(), key=lambda one: (-one.size, one.name))
        scale = place.width * place.height / folder.size
        shown = [one for one in held if one.size * scale >= _AREA_MIN]
        small = held[len(shown) :]
        if small:
            size = sum(one.size for one in small)
            words = f"{len(small)} smaller ones"
            shown.append(_Folder(words, size, Leaf(words, size, "")))
        for one, rect in zip(shown, squarify([one.size for one in shown], place), strict=True):
            yield from self._one(one, rect)

    def legend(self, leaves: Sequence[Leaf]) -> Iterator[str]:
        """The groups that occur, with their sizes."""
        x, y = float(_MARGIN), HEIGHT - _MARGIN - 8
        for group, colour in self.colours.items():
            size = sum(leaf.size for leaf in leaves if leaf.group == group)
            if size:
                words = f"{group}  {self.say_size(size)}"
                yield f'<rect x="{x:.0f}" y="{y - 11}" width="14" height="14" fill="{colour}"/>'
                yield _letters(words, x + 20, y + 1, _DARK, 12)
                x += 48 + 1.1 * _CHARACTER * len(words)

    def _one(self, one: _Folder, place: Rect) -> Iterator[str]:
        while one.leaf is None and len(one.inside) == 1:  # a chain of folders has one header
            (only,) = one.inside.values()
            one = _Folder(f"{one.name}/{only.name}", only.size, only.leaf, only.inside)
        size = self.say_size(one.size)
        if one.leaf is not None:
            colour = self.colours.get(one.leaf.group, _REST)
            yield _box(place, colour, one.leaf.words or f"{one.leaf.path}: {size}")
            yield _text(one.name, place, _FONT + 1, _DARK)
            yield _text(size, place, 2 * _FONT + 3, _GREY)
        elif place.width < _FOLDER_MIN[0] or place.height < _FOLDER_MIN[1]:
            yield _box(place, self._colour(one), f"{one.name}/: {size}")
            yield _text(f"{one.name}/", place, _FONT + 1, _DARK)
        else:
            yield _box(place, _FOLDER, f"{one.name}/: {size}")
            yield _text(f"{one.name}/  {size}", place, _FONT + 1, _GREY)
            yield from self.inside(one, place.inset(_GAP, _HEADER))

    def _colour(self, folder: _Folder) -> str:
        """That of the group which most bytes of a folder are of."""
        sums: Counter[str] = Counter()
        waiting = [folder]
        while waiting:
            one = waiting.pop()
            waiting += one.inside.values()
            if one.leaf is not None:
                sums[one.leaf.group] += one.leaf.size
        return self.colours.get(max(sorted(sums), key=lambda group: sums[group]), _REST)


def _box(place: Rect, colour: str, words: str) -> str:
    x, y, width, height = (f"{value:.1f}" for value in place)
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{colour}"'
        f' stroke="#ffffff"><title>{escape(words)}</title></rect>'
    )


def _text(words: str, place: Rect, below: float, colour: str) -> str:
    """Words in a box, as many of them as fit; nothing where not even four letters do."""
    room = int((place.width - 6) / _CHARACTER)
    if place.height < below + 4 or room < min(len(words), 4):
        return ""
    shown = words if len(words) <= room else words[: room - 1] + "…"
    return _letters(shown, place.x + 4, place.y + below, colour, _FONT)


def _letters(words: str, x: float, y: float, colour: str, height: int) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{height}" fill="{colour}"'
    # Without pointer events the box below says its words when a pointer rests on its name.
    return f'<text {place} pointer-events="none">{escape(words)}</text>'

"""treemap.py: areas in proportion, nothing over another, text that any SVG reader takes."""

import re
from itertools import combinations
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta.errors import UsageError
from slipstream.server.treemap import HEIGHT, WIDTH, Leaf, Rect, draw, squarify

COLOURS = {"changed": "#8fb8de", "new": "#a9d3a0", "other": "#d3d3d3"}
SVG = "{http://www.w3.org/2000/svg}"


def drawn(*leaves: Leaf) -> ET.Element:
    text = draw("title", "subtitle", leaves, COLOURS, lambda size: f"{size} B")
    return ET.fromstring(text)


def boxes(picture: ET.Element) -> dict[str, Rect]:
    """The areas by the words that they say when a pointer rests on them."""
    found = {}
    for box in picture.iter(f"{SVG}rect"):
        title = box.find(f"{SVG}title")
        if title is not None:
            x, y, width, height = (float(box.attrib[k]) for k in ("x", "y", "width", "height"))
            assert title.text is not None
            found[title.text] = Rect(x, y, width, height)
    return found


def letters(picture: ET.Element) -> list[str]:
    return [one.text or "" for one in picture.iter(f"{SVG}text")]


@settings(deadline=None)  # other work may hold the processor
@given(
    st.lists(st.integers(1, 10**9), min_size=1, max_size=60),
    st.floats(1, 2000),
    st.floats(1, 2000),
)
def test_areas_are_in_proportion_inside_and_apart(
    sizes: list[int], width: float, height: float
) -> None:
    sizes.sort(reverse=True)
    within = Rect(10, 20, width, height)
    placed = squarify(sizes, within)

    scale = width * height / sum(sizes)
    slack = 1e-6 * max(width, height)
    for size, rect in zip(sizes, placed, strict=True):
        assert rect.width * rect.height == pytest.approx(size * scale, rel=1e-4, abs=1e-4)
        assert rect.x >= within.x - slack
        assert rect.y >= within.y - slack
        assert rect.x + rect.width <= within.x + width + slack
        assert rect.y + rect.height <= within.y + height + slack
    for one, other in combinations(placed, 2):
        across = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
        down = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
        assert across <= slack or down <= slack


def test_squarified_areas_are_nearly_square() -> None:
    # The example of Bruls, Huizing and van Wijk, figure 4: no area is worse than 25/9.
    placed = squarify([6, 6, 4, 3, 2, 2, 1], Rect(0, 0, 6, 4))

    assert placed[0] == Rect(0, 0, 3, 2)
    worst = max(max(r.width / r.height, r.height / r.width) for r in placed)
    assert worst == pytest.approx(25 / 9)


def test_folders_are_around_what_is_in_them() -> None:
    found = boxes(
        drawn(
            Leaf("usr/bin/one", 3000, "changed"),
            Leaf("usr/bin/two", 1000, "new"),
            Leaf("etc/three", 2000, "changed"),
        )
    )

    folder, one, two = (
        found["usr/bin/: 4000 B"],
        found["usr/bin/one: 3000 B"],
        found["usr/bin/two: 1000 B"],
    )
    for inside in (one, two):
        assert folder.x <= inside.x
        assert inside.x + inside.width <= folder.x + folder.width
        assert folder.y < inside.y
    assert one.width * one.height == pytest.approx(3 * two.width * two.height, rel=0.01)
    assert "etc/three: 2000 B" in found


def test_what_is_too_small_to_see_is_one_area() -> None:
    small = [Leaf(f"small {n}", 1, "new") for n in range(500)]
    picture = drawn(Leaf("the large one", 10**6, "changed"), *small)

    assert set(boxes(picture)) == {"the large one: 1000000 B", "500 smaller ones: 500 B"}


def test_the_legend_has_the_groups_that_occur() -> None:
    words = letters(drawn(Leaf("a", 30, "changed"), Leaf("b", 10, "new"), Leaf("c", 5, "new")))

    assert words[:2] == ["title", "subtitle"]
    assert words[-2:] == ["changed  30 B", "new  15 B"]


def test_a_file_and_a_folder_may_have_one_name() -> None:
    found = boxes(drawn(Leaf("boot", 500, "new"), Leaf("boot/kernel", 500, "new")))

    assert {"boot: 500 B", "boot/kernel: 500 B"} <= set(found)


@settings(deadline=None)  # other work may hold the processor
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs", "Cc"])),
            st.integers(0, 1 << 44),
            st.sampled_from([*COLOURS, "unknown"]),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_any_leaves_give_a_picture_that_parses(rows: list[tuple[str, int, str]]) -> None:
    leaves = [Leaf(*row) for row in rows]
    if not any(leaf.size for leaf in leaves):
        with pytest.raises(UsageError, match="nothing to draw"):
            drawn(*leaves)
        return
    for rect in boxes(drawn(*leaves)).values():
        assert rect.x + rect.width <= WIDTH
        assert rect.y + rect.height <= HEIGHT


def test_letters_stay_inside_their_areas() -> None:
    picture = drawn(*(Leaf("x" * 70 + str(n), 10 + n, "new") for n in range(40)))
    within = list(boxes(picture).values())

    for one in picture.iter(f"{SVG}text"):
        if re.fullmatch(r"x+…", one.text or ""):
            x, y = float(one.attrib["x"]), float(one.attrib["y"])
            holders = [
                r for r in within if r.x <= x <= r.x + r.width and r.y <= y <= r.y + r.height
            ]
            assert holders
            assert x + 6.3 * len(one.text or "") <= holders[0].x + holders[0].width


def test_the_order_of_leaves_does_not_matter() -> None:
    leaves = [Leaf(f"a/{n % 7}/{n}", n + 1, "new") for n in range(50)]

    assert ET.tostring(drawn(*leaves)) == ET.tostring(drawn(*reversed(leaves)))

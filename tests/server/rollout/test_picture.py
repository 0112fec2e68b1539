"""picture.py: what stands on the picture is what came of the rollout, and nothing covers a name."""

import re
from dataclasses import replace
from itertools import pairwise
from random import Random
from xml.etree import ElementTree as ET

import pytest

from slipstream.server.rollout.behaviour import Behaviour, Failing, synthetic_fleet
from slipstream.server.rollout.outcome import Outcome
from slipstream.server.rollout.picture import HEIGHT, WIDTH, description_of, draw, title_of
from slipstream.server.rollout.plan import AbortRule, FailureClass, Halting, Phase, Plan
from slipstream.server.rollout.simulate import simulate

SVG = "{http://www.w3.org/2000/svg}"
PLAN = Plan(
    "spring",
    "gateway",
    "2.0",
    2,
    (
        Phase(selector="counter<2;id==device-00000*"),
        *(Phase(percent=p, soak_s=3600) for p in (20.0, 100.0)),
    ),
    abort=(AbortRule(percent=20.0, min_sample=20, action=Halting.ABORT),),
)


def outcome(share: float, plan: Plan = PLAN, devices: int = 100) -> Outcome:
    random = Random(3)
    fleet = synthetic_fleet(plan, devices, [], random)
    return simulate(plan, fleet, Behaviour((Failing(FailureClass.BOOT, share),)), random)


def elements(picture: str, tag: str, kind: str = "") -> list[ET.Element]:
    found = ET.fromstring(picture).iter(f"{SVG}{tag}")
    return [one for one in found if not kind or kind in one.attrib.get("class", "").split()]


def words(picture: str) -> list[str]:
    return [one.text or "" for one in elements(picture, "text")]


@pytest.mark.parametrize(
    "made",
    [
        outcome(0.0),
        outcome(0.6, replace(PLAN, phases=PLAN.phases[1:])),
        outcome(0.0, devices=1),
        outcome(0.0, replace(PLAN, phases=(Phase(selector="tag==x"),))),
        simulate(PLAN, [], Behaviour(), Random(1)),
        replace(outcome(0.0), name='<&">', reason="<"),
    ],
    ids=["finished", "stopped", "one device", "waiting", "nobody", "hostile words"],
)
def test_any_outcome_can_be_drawn(made: Outcome) -> None:
    picture = draw(made)

    root = ET.fromstring(picture)
    assert root.attrib["role"] == "img"
    named = {one.attrib.get("id"): one.text for one in root}
    title, description = (named[name] for name in root.attrib["aria-labelledby"].split())
    assert (title, description) == (title_of(made), description_of(made))
    for one in elements(picture, "rect"):
        x, y, width, height = (float(one.attrib.get(k, 0)) for k in ("x", "y", "width", "height"))
        assert 0 <= x <= x + width <= WIDTH + 0.1
        assert 0 <= y <= y + height <= HEIGHT
    for one in elements(picture, "path"):
        numbers = [float(n) for n in re.findall(r"-?[\d.]+", one.attrib["d"])]
        assert all(0 <= n <= WIDTH for n in numbers)
    for one in elements(picture, "text"):
        assert 0 <= float(one.attrib["x"]) <= WIDTH
        assert 0 <= float(one.attrib["y"]) <= HEIGHT
    assert draw(made) == picture


def test_a_band_for_each_phase_and_a_name_for_each_curve() -> None:
    made = outcome(0.0)
    picture = draw(made)

    assert len(elements(picture, "rect", "band")) == 3
    assert {"offered 100", "confirmed 100", "failed 0", "may be offered 100"} <= set(words(picture))
    assert elements(picture, "line", "halt") == []
    labels = [one for one in elements(picture, "text") if float(one.attrib["x"]) > 1010]
    heights = sorted(float(one.attrib["y"]) for one in labels)
    assert all(low - high >= 19.9 for high, low in pairwise(heights))


def test_the_moment_that_it_stopped() -> None:
    made = outcome(0.6, replace(PLAN, phases=PLAN.phases[1:]))
    picture = draw(made)

    assert made.stop is not None
    (line,) = elements(picture, "line", "halt")
    assert line.attrib["x1"] == line.attrib["x2"]
    assert any(one.startswith("aborted after ") for one in words(picture))
    assert made.stop.reason in description_of(made)
    # Nothing is drawn of phases that never opened, and the band ends at the line.
    (band,) = elements(picture, "rect", "band")
    assert float(band.attrib["x"]) + float(band.attrib["width"]) == pytest.approx(
        float(line.attrib["x1"]), abs=0.2
    )


def test_both_backgrounds_can_be_read() -> None:
    """Contrast of every letter with the paper and the bands, as WCAG 2.2 counts it: at least 4.5."""
    (style,) = re.findall(r"<style>(.*?)</style>", draw(outcome(0.0)), re.DOTALL)
    light, dark = style.split("@media (prefers-color-scheme:dark)")

    for sheet in (light, dark):
        fills = {
            name: colour
            for names, colour in re.findall(r"([^{}]+)\{fill:(#[0-9a-f]{6})", sheet)
            for name in [names.strip()]
        }
        papers = [fills[f".rollout .{name}"] for name in ("paper", "band", "band.odd")]
        letters = [fills[".rollout text"], fills[".rollout .soft"]]
        letters += [
            fills[f".rollout text.{name}"] for name in ("offered", "confirmed", "failed", "halt")
        ]
        for letter in letters:
            for paper in papers:
                assert contrast(letter, paper) >= 4.5, (letter, paper)


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

"""`slipstream rollout simulate` as it is typed: plans from options and files, words, JSON, a picture."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import click
import msgspec
import pytest
from click.testing import CliRunner

from slipstream.cli import cli
from slipstream.cli.durations import DURATION
from slipstream.cli.rollout_plan import Moment, parse_rule
from slipstream.delta.errors import SlipstreamError, UsageError
from slipstream.server.rollout.facts import Facts
from slipstream.server.rollout.plan import (
    AbortRule,
    Budget,
    FailureClass,
    Halting,
    Phase,
    Plan,
    SuccessRule,
)

BOOT, ROOT = FailureClass.BOOT, FailureClass.ROOT
PHASES = ("--phase", "5%", "--phase", "20%", "--phase", "100%", "--soak", "1h")


def simulate(*words: object) -> str:
    done = CliRunner().invoke(
        cli, ["rollout", "simulate", *map(str, words)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return done.output


def told(*words: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(simulate(*words, "--json"))
    return found


def plan_of(*words: object) -> Plan:
    return msgspec.convert(told(*words)["plan"], Plan)


def test_options_make_the_plan() -> None:
    rules = SuccessRule(90.0, 2)

    plan = plan_of(
        *("--name", "spring", "--product", "gateway", "--release", "2.0", "--counter", 7),
        *("--filter", "hardware==rev-a", "--spread", "hardware=rev-a:1,rev-b:1"),
        *("--phase", "tag==canary", "--phase", "12.5%", "--phase", "500", "--soak", "90m"),
        *("--success", "90%/2", "--pause-at", "5%/20", "--abort-at", "boot+root:3"),
        *("--silent-after", "1d", "--stratify-by", "group", "--salt", "x", "--max-downloads", 9),
        *("--budget", "attribute.site=4", "--window", "Sat 02:00-04:00", "--zone", "Europe/Berlin"),
        *("--start", "2026-07-01T22:00"),
    )

    assert plan == Plan(
        "spring",
        "gateway",
        "2.0",
        7,
        (
            Phase(selector="tag==canary", soak_s=5400, success=rules),
            Phase(percent=12.5, soak_s=5400, success=rules),
            Phase(count=500, soak_s=5400, success=rules),
        ),
        filter="hardware==rev-a",
        salt="x",
        stratify_by="group",
        abort=(
            AbortRule(percent=5.0, min_sample=20),
            AbortRule((BOOT, ROOT), count=3, action=Halting.ABORT),
        ),
        silent_after_s=86_400,
        budgets=(Budget("attribute.site", 4),),
        max_downloads=9,
        start_at=1_782_936_000,  # 20:00 UTC
        windows=("Sat 02:00-04:00",),
        zone="Europe/Berlin",
    )


def test_without_options_everybody_at_once() -> None:
    plan = plan_of("--devices", 3)

    assert plan == Plan("rollout", "product", "next", 2, (Phase(percent=100.0),))


def test_a_plan_from_a_file(tmp_path: Path) -> None:
    plan = Plan("spring", "gateway", "2.0", 2, (Phase(count=5), Phase(percent=100.0)))
    file = tmp_path / "plan.json"
    file.write_bytes(msgspec.json.encode(plan))

    assert plan_of("--plan", file) == plan
    with pytest.raises(UsageError, match="whole plan; got --plan and phases, salt"):
        simulate("--plan", file, "--phase", "1%", "--salt", "x")
    file.write_text('{"name": "x"}')
    with pytest.raises(UsageError, match=r"plan\.json: not a plan"):
        simulate("--plan", file)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "plan.json: not a plan: not JSON: it ends too early"),
        ("[]", "plan.json: not a plan: it does not belong there; expected an object, got a list"),
        (
            '{"abort": [{"action": "stop"}]}',
            "$.abort[0].action: no such value; expected pause, abort",
        ),
    ],
)
def test_a_file_that_is_no_plan(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "plan.json"
    file.write_text(text)
    with pytest.raises(SlipstreamError, match=re.escape(words)):
        simulate("--plan", str(file))


def test_a_recorded_fleet(tmp_path: Path) -> None:
    file = tmp_path / "fleet.jsonl"
    one = Facts("a", "camera", counter=41, tags=frozenset({"lab"}))
    fleet = [
        msgspec.structs.replace(one, id=str(n), tags=one.tags if n < 5 else frozenset())
        for n in range(40)
    ]
    file.write_bytes(b"\n".join(msgspec.json.encode(one) for one in fleet))

    found = told("--fleet", file, "--phase", "tag==lab", "--phase", "100%")

    assert (found["plan"]["product"], found["plan"]["counter"]) == ("camera", 42)
    assert [one["members"] for one in found["phases"]] == [5, 35]
    assert found["confirmed"] == 40
    with pytest.raises(UsageError, match="no device of the fleet"):
        simulate("--fleet", file, "--channel", "beta")
    with pytest.raises(UsageError, match="made up"):
        simulate("--fleet", file, "--spread", "group=a:1")


def test_words_of_one_that_finishes() -> None:
    text = simulate(*PHASES, "--success", "90%", "--fail", "boot=1")

    assert "release next for 1,000 devices in 3 phases, seed 1" in text
    assert re.search(r"^1  5 % +50 +50 +\d+ +\d+ +at once +\d+ min$", text, re.MULTILINE)
    assert re.search(r"^finished +after 4 h", text, re.MULTILINE)
    assert re.search(r"in the end +1,000 of 1,000 devices \(100.0%\) offered", text)


def test_words_of_one_that_stops() -> None:
    text = simulate(*PHASES, "--fail", "boot=30", "--abort-at", "boot:2")

    assert re.search(
        r"^aborted +after \d+ min: phase 1: 2 failed \(boot\), at most 1", text, re.MULTILINE
    )
    assert re.search(
        r"^exposed +50 of 1,000 devices \(5.0%\); \d+ were confirmed then", text, re.MULTILINE
    )
    assert re.search(r"^3  100 % .* never", text, re.MULTILINE)


def test_words_of_one_that_waits() -> None:
    text = simulate("--phase", "tag==nobody")

    assert "unfinished  it waits, and nothing more happens: phase 1: 0 of 0" in text


def test_several_runs() -> None:
    words = (*PHASES, "--devices", 100, "--fail", "boot=20", "--runs", 4)

    text, found = simulate(*words), told(*words)

    assert "4 runs, seeds 1 to 4" in text
    assert found["summary"]["runs"] == len(found["runs"]) == 4
    assert re.search(
        rf"^devices exposed +4 +{found['summary']['exposed']['least']} ", text, re.MULTILINE
    )
    assert [one["seed"] for one in found["runs"]] == [1, 2, 3, 4]
    assert found["runs"][2]["failures"] == told(*words[:-2], "--seed", 3)["failures"]


def test_the_json_adds_up() -> None:
    found = told(*PHASES, "--fail", "boot=30", "--fail", "fetch=5", "--offline", "10%")

    assert found["failed"] == sum(found["failures"].values())
    assert set(found["failures"]) <= {"boot", "fetch"}
    assert found["exposed"] == found["stop"]["offered"]
    assert found["curve"][-1]["offered"] == found["offered"]


def test_a_picture(tmp_path: Path) -> None:
    file = tmp_path / "rollout.svg"

    simulate(*PHASES, "--fail", "boot=30", "--picture", file)

    assert ET.parse(file).getroot().tag == "{http://www.w3.org/2000/svg}svg"


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("--fail", "bot=1"), "not a failure"),
        (("--fail", "boot"), "not a failure"),
        (("--fail", "boot=x"), "not a percentage"),
        (("--fail", "boot=101"), "not a percentage; expected 0 to 100"),
        (("--fail", "boot=1:nope==1"), "no selector"),
        (("--offline", "x"), "not a percentage"),
        (("--spread", "hardware"), "not a spread"),
        (("--spread", "hardware=a"), "not a spread"),
        (("--pause-at", "x:3"), "not a rule"),
        (("--pause-at", "5%/x"), "not a rule"),
        (("--success", "boot:3"), "not a rule"),
        (("--budget", "group"), "not a budget"),
        (("--phase", "nope"), "not a filter"),
        (("--phase", "0%"), "percentage of a phase"),
        (("--phase", "10%", "--phase", "5%"), "phases must grow"),
        (("--zone", "Mars"), "no such time zone"),
        (("--soak", "91d"), "soak time"),
    ],
)
def test_refused(words: tuple[str, ...], match: str) -> None:
    with pytest.raises(SlipstreamError, match=match):
        simulate(*words)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("3", AbortRule(count=3)),
        ("5%", AbortRule(percent=5.0)),
        ("0.5%/200", AbortRule(percent=0.5, min_sample=200)),
        ("boot:1", AbortRule((BOOT,), count=1)),
        ("boot+root:10%/5", AbortRule((BOOT, ROOT), 10.0, 5)),
    ],
)
def test_rules(text: str, rule: AbortRule) -> None:
    assert parse_rule(text, Halting.PAUSE) == rule
    assert parse_rule(text, Halting.ABORT) == replace(rule, action=Halting.ABORT)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("3d", 259_200), ("0s", 0)]
)
def test_durations(text: str, seconds: int) -> None:
    assert DURATION.convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "-1s", "1 h", "1w", "1e3s", "9999999999s"])
def test_no_durations(text: str) -> None:
    with pytest.raises(
        click.BadParameter, match="not a duration; expected a number and its unit: 0s,"
    ):
        DURATION.convert(text, None, None)


@pytest.mark.parametrize("text", ["tomorrow", "2026-05-01", "2026-05-01 22:00", "2026-02-30T22:00"])
def test_no_times(text: str) -> None:
    with pytest.raises(click.BadParameter, match="expected such as 2026-05-01T22:00") as caught:
        Moment().convert(text, None, None)
    assert "%" not in str(caught.value)

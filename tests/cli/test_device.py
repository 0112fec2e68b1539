"""`slipstream device`: exit codes and words, for whoever stands in front of the device."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from slipstream.cli import main
from slipstream.cli.device import UNITS
from slipstream.installer.config import load_config
from tests.installer.test_trial import DOWN, Rig, rig, template

__all__ = ["rig", "template"]  # fixtures

SLOW = '[[health]]\nname = "slow"\ncommand = ["true"]\ntimeout_s = 3000\n'
Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(rig: Rig, capsys: pytest.CaptureFixture[str]) -> Say:
    """Run `slipstream device WORDS`: exit code, standard output, standard error. No server is there."""
    rig.lab.make_static()

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["device", *words, "--config", str(rig.lab.config_path)])
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


def updated(rig: Rig, boots: int) -> None:
    rig.release(2)
    rig.install()
    for _ in range(boots):
        rig.boot()


def test_confirm(rig: Rig, say: Say) -> None:
    updated(rig, 1)

    code, out, _ = say("confirm")
    assert (code, out) == (0, "health: app: passed\nrelease 2.0 is confirmed\n")
    code, out, error = say("confirm")
    assert (code, out) == (3, "")
    assert error == ("slipstream: no release is on trial. Last update: release 2.0 was confirmed\n")


def test_confirm_of_an_unhealthy_release(rig: Rig, say: Say) -> None:
    updated(rig, 1)
    rig.well.unlink()

    code, out, error = say("confirm")
    assert (code, out) == (1, f"health: app: {DOWN}\n")
    assert error.endswith(
        f"slipstream: release 2.0 is not healthy and is given up: {DOWN}. "
        "Reboot: the other release comes back\n"
    )
    assert rig.boot() == "a"
    code, _, error = say("confirm")
    assert code == 1
    assert f"did not prove itself, and the device runs the other one: {DOWN}. It is not" in error
    code, _, error = say("confirm")
    assert code == 3
    assert f"release 2.0 did not prove itself and was left: {DOWN}" in error


def test_confirm_after_three_failed_boots(rig: Rig, say: Say) -> None:
    updated(rig, 4)

    assert say("confirm", "--force")[0] == 3
    code, out, error = say("confirm", "--json")
    assert code == 1
    assert json.loads(out)["verdict"] == "fell back"
    assert "tries ran out" in error


@pytest.mark.parametrize(
    "boots, well, opens",
    [(0, True, True), (1, True, True), (1, False, False), (4, True, True)],
    ids=["not tried yet", "healthy", "given up", "fell back"],
)
def test_the_gate_of_a_device_without_an_agent(
    rig: Rig, say: Say, boots: int, well: bool, opens: bool
) -> None:
    """boot-complete.target is reached in every release but one that was not proved: the shipped
    unit's commands, one after the other, as systemd runs them."""
    updated(rig, boots)
    if not well:
        rig.well.unlink()
    lines = say("unit", "slipstream-health.service")[1].splitlines()
    commands = [line.partition("=")[2] for line in lines if line.startswith("ExecStart=")]
    (also_success,) = [line for line in lines if line.startswith("SuccessExitStatus=")]

    for command in commands:
        assert " device confirm --config " in command
        code = say("confirm")[0]
        if not command.startswith("-") and str(code) not in ("0", also_success.partition("=")[2]):
            assert not opens
            break
    else:
        assert opens


@pytest.mark.parametrize("first", [True, False])
def test_the_deadline_resets_where_that_leads_somewhere(rig: Rig, say: Say, *, first: bool) -> None:
    """The shipped unit's own command, and what systemd makes of its exit code."""
    updated(rig, 1)
    if first:
        rig.lose_entry("a")
    lines = say("unit", "slipstream-trial.service")[1].splitlines()
    (command,) = [line for line in lines if line.startswith("ExecStart=")]
    assert " device deadline --config " in command
    assert "FailureAction=reboot-force" in lines
    assert not any(line.startswith("SuccessExitStatus=") for line in lines)

    code, out, error = say("deadline")

    assert (code == 0) == first
    if first:
        assert "release 2.0: it did not prove itself in time" in out
    else:
        assert "is to be reset" in error


def test_confirm_before_the_reboot(rig: Rig, say: Say) -> None:
    updated(rig, 0)

    code, _, error = say("confirm")
    assert code == 3
    assert "release 2.0 does not run: the next boot tries it" in error


@pytest.mark.parametrize("boots", [0, 1])
def test_check_and_plan_while_a_release_is_on_trial(rig: Rig, say: Say, boots: int) -> None:
    updated(rig, boots)

    code, out, error = say("check")
    assert (code, out) == (3, "")
    assert "release 2.0 waits for its trial" in error
    code, out, _ = say("check", "--json")
    found = json.loads(out)
    assert (code, found["release"], found["fetch_bytes_max"]) == (3, None, 0)
    assert "release 2.0 waits for its trial" in found["reason"]
    code, out, error = say("plan")
    assert (code, out) == (1, "")
    assert "release 2.0 waits for its trial" in error


@pytest.mark.parametrize("command", ["status", "doctor", "plan", "install", "confirm", "rollback"])
def test_a_failure_is_an_object_for_programs(rig: Rig, say: Say, command: str) -> None:
    """One on standard output, the same words on standard error."""
    rig.lab.config_path.write_text("product = 3")

    code, out, error = say(command, "--json")

    (line,) = out.splitlines()
    found = json.loads(line)
    assert code == found["error"]["exit_code"] == 2
    assert found["error"]["kind"] == "UsageError"
    assert error == f"slipstream: {found['error']['message']}\n"
    assert found.get("stage") == ("result" if command == "install" else None)


def test_an_answer_that_was_given_is_not_followed_by_its_error(rig: Rig, say: Say) -> None:
    updated(rig, 1)
    rig.well.unlink()

    code, out, _ = say("confirm", "--json")

    (line,) = out.splitlines()
    assert (code, json.loads(line)["verdict"]) == (1, "condemned")


def test_rollback_says_whether_to_reboot(rig: Rig, say: Say) -> None:
    updated(rig, 0)
    code, out, _ = say("rollback")
    assert (code, out) == (0, "release 2.0 is given up: given up by an operator\n")

    rig.release(3)
    rig.install()
    rig.boot()
    code, out, _ = say("rollback")
    assert code == 0
    assert out.endswith("operator. Reboot: the other release comes back\n")


def test_status_and_confirm_without_the_state_folder(rig: Rig, say: Say) -> None:
    """Two commands, two processes: what the first one makes anew does not confuse the second."""
    updated(rig, 1)
    for path in sorted((rig.folder / "state").rglob("*"), reverse=True):
        if path.is_file():
            path.unlink()

    code, out, _ = say("status")
    assert code == 0
    assert "Booted: release unknown from slot b, on trial" in out
    code, out, _ = say("confirm")
    assert (code, out.splitlines()[-1]) == (0, "release with counter 2 is confirmed")


def test_unit_names_this_installation_and_this_configuration(rig: Rig, say: Say) -> None:
    code, out, error = say("unit")

    assert (code, error) == (0, "")
    program = Path(sys.executable).parent / "slipstream"
    start = f"ExecStart={program} device run --config {rig.lab.config_path}"
    assert [line for line in out.splitlines() if line.startswith("ExecStart=")] == [start]
    assert "RequiredBy=boot-complete.target" in out


def test_units_wait_for_the_places_and_the_checks_of_this_device(rig: Rig, say: Say) -> None:
    path = rig.lab.config_path
    path.write_text(path.read_text() + SLOW)
    config = load_config(path)

    code, out, _ = say("unit", "--all")
    assert code == 0
    assert [line for line in out.splitlines() if line.startswith("# /etc/systemd/")] == [
        *(f"# /etc/systemd/system/{name}" for name in UNITS),
        "# /etc/systemd/system.conf.d/90-slipstream-trial.conf",
    ]
    assert out.count(f"RequiresMountsFor={config.state} {config.boot.esp}") == 2
    timer = say("unit", "slipstream-trial.timer")[1]
    assert f"OnBootSec={300 + 60 + 3000}s" in timer
    assert out.count(f"TimeoutStartSec={3600 + 60 + 3000}s") == 2  # no check is cut off by systemd


def test_the_documented_commands_install_what_is_printed(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path(__file__).resolve().parents[2].joinpath("docs/boot.md").read_text()
    lines = page.split("    mkdir -p /etc/systemd/system.conf.d\n")[1].splitlines()
    program = lines[0].partition(" | awk ")[2].strip("'")
    monkeypatch.chdir(tmp_path)
    for folder in ("system", "system.conf.d"):
        (tmp_path / "etc/systemd" / folder).mkdir(parents=True)
    printed = say("unit", "--all")[1]

    subprocess.run(
        ["awk", program.replace("file = $2", "file = substr($2, 2)")],
        input=printed,
        text=True,
        check=True,
    )

    made = {path.name: path.read_text() for path in tmp_path.glob("etc/systemd/*/*")}
    assert sorted(made) == sorted([*UNITS, "90-slipstream-trial.conf"])
    assert all(made[name].strip() == say("unit", name)[1].strip() for name in made)
    assert "RuntimeWatchdogSec=60s\n" in made["90-slipstream-trial.conf"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_the_units(rig: Rig, say: Say, tmp_path: Path) -> None:
    files = []
    for name in UNITS:
        files.append(tmp_path / name)
        files[-1].write_text(say("unit", name)[1])
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *files],
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "slipstream" in line]
    assert (done.returncode, ours) == (0, [])


def test_an_interrupted_install_says_how_to_go_on(
    rig: Rig, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("slipstream.cli.device.load_config", interrupted)
    code, _, error = say("install")

    assert code == 130
    assert error == (
        "slipstream: interrupted; nothing is lost. Run it again: it goes on where it was\n"
    )


@pytest.mark.parametrize("fault", ["same file", "missing", "root", "cmdline"])
def test_a_fault_in_the_configuration_is_said_before_anything_is_offered(
    rig: Rig, say: Say, fault: str
) -> None:
    slot, root = rig.lab.slot("b"), rig.lab.folder / "root.json"
    match fault:
        case "same file":
            slot.unlink()
            slot.hardlink_to(rig.lab.slot("a"))
            words, refused = "share bytes", 6
        case "missing":
            slot.unlink()
            words, refused = "slot b rootfs", 6
        case "cmdline":
            (rig.lab.folder / "cmdline").unlink()
            words, refused = "boot.cmdline cannot be read", 2
        case _:
            root.write_bytes(b"{}")
            words, refused = f"server.root {root}", 4

    code, out, _ = say("status")
    assert code == 0
    assert [line for line in out.splitlines() if line.startswith("Note: ") and words in line]
    for command in ("check", "plan", "install"):
        code, _, error = say(command)
        assert (code, words in error) == (refused, True), error

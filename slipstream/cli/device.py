"""`slipstream device`: what a device, or the person in front of it, can do.

What only some commands need is imported in them: `run` stays in memory, and loads no more than
an agent that waits (docs/device.md, "Memory").
"""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, assert_never

import click

from slipstream.cli.progress import Steps, megabytes
from slipstream.delta.errors import (
    DeviceFault,
    Interrupted,
    NothingToDo,
    SlipstreamError,
    UsageError,
)
from slipstream.installer import agent, by_hand, trial
from slipstream.installer.allocator import give_memory_back
from slipstream.installer.config import Config, load_config
from slipstream.installer.contact import open_contact
from slipstream.installer.device import Device, open_device
from slipstream.installer.notify import Notifier
from slipstream.installer.progress import InstallEvent
from slipstream.installer.states import Idle, Refused
from slipstream.installer.verdict import Outcome, Verdict

if TYPE_CHECKING:
    from slipstream.installer.install import InstallResult

UNITS = (
    "slipstream.service",
    "slipstream-trial.timer",
    "slipstream-trial.service",
    "slipstream-health.service",
)
DROP_IN = "90-slipstream-trial.conf"
FOLDERS = {**dict.fromkeys(UNITS, "/etc/systemd/system"), DROP_IN: "/etc/systemd/system.conf.d"}
TRIAL_BOOT_S = 300.0  # for a release on trial to boot, before its health checks begin
TRIAL_S_MIN = 900.0
START_S_MIN = 3600.0  # as shipped; and longer than the agent's own wait after its deaths

config_option = click.option(
    "--config",
    "config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("/etc/slipstream/device.toml"),
    show_default=True,
    help="The device's configuration.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
release_option = click.option(
    "--release", metavar="V", help="This release; by default what the server wants, or the newest."
)


class _Answer:
    """What a command prints for programs under --json: one object, whatever the exit code is.

    Used as a context: an error that leaves it before an answer was given becomes the answer, the
    words `under` it beside.
    """

    def __init__(self, *, as_json: bool, **under: str) -> None:
        self._as_json, self._under = as_json, under
        self._given = False

    def give(self, value: Mapping[str, Any], words: Callable[[], str] | None = None) -> None:
        """Print the value, or its words for people where there are any."""
        self._given = True
        if self._as_json:
            click.echo(json.dumps({**self._under, **value}))
        elif words is not None:
            click.echo(words())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: object, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, SlipstreamError) and not self._given:
            self.give({"error": error.to_json()})


@click.group()
def device() -> None:
    """Check, plan, install, confirm, roll back, run."""


@device.command()
@config_option
@json_option
def status(config: Path, as_json: bool) -> None:
    """Say what is booted, on trial, installed, failed and why, from what is on disk."""
    from slipstream.installer.status import read_status  # noqa: PLC0415

    with _Answer(as_json=as_json) as answer:
        found = read_status(open_device(load_config(config)))
        answer.give(found.to_json(), found.to_words)


@device.command()
@config_option
@json_option
def doctor(config: Path, as_json: bool) -> None:
    """Look for what would stop or endanger an update; say how to mend it. Changes nothing.

    Reads the boot partition below its file system, the boot entries, and both copies of the
    partition tables. Exit 0: nothing, or notes only. 6: faults. docs/doctor.md explains each.
    """
    from slipstream.installer.doctor.examine import examine  # noqa: PLC0415

    with _Answer(as_json=as_json) as answer:
        found = examine(load_config(config))
        answer.give(found.to_json(), found.to_words)
    if found.faults:
        many = f"{found.faults} faults would" if found.faults > 1 else "1 fault would"
        raise DeviceFault(
            f"{many} stop or endanger an update",
            hint="Mend them before the next one" if as_json else "Each has its mend above",
        )


@device.command()
@config_option
@json_option
def check(config: Path, as_json: bool) -> None:
    """Ask whether there is something to install: exit 0 if so, 3 if not. Installs nothing.

    Not while a release waits for its trial or is in it: that comes first.

    With --json: an object, whatever the exit code is. `release` is null where nothing can be
    installed, and `reason` says why.
    """

    from slipstream.installer.prepare import check_configuration, prepare  # noqa: PLC0415

    def answer(release: str | None, counter: int | None, fetch_bytes: int, reason: str) -> None:
        if as_json:
            words = {"release": release, "counter": counter, "fetch_bytes_max": fetch_bytes}
            click.echo(json.dumps({**words, "reason": reason}))

    async def job(found: Device) -> None:
        check_configuration(found)
        try:
            plan = await prepare(found, await _wanted(found, None))
        except Refused as error:  # a release is on trial: nothing can be installed now
            raise NothingToDo(error.what, hint=error.hint) from error
        answer(plan.manifest.release, plan.manifest.counter, plan.fetch_bytes, "")
        if not as_json:
            click.echo(
                f"release {plan.manifest.release} can be installed: "
                f"at most {megabytes(plan.fetch_bytes)} to fetch"
            )

    try:
        _run(config, job)
    except SlipstreamError as error:
        answer(None, None, 0, str(error))
        raise


@device.command()
@config_option
@release_option
@json_option
def plan(config: Path, release: str | None, as_json: bool) -> None:
    """Say what an install would fetch and do. Does nothing."""

    from slipstream.installer.prepare import check_configuration, prepare  # noqa: PLC0415

    async def job(found: Device) -> None:
        check_configuration(found)
        made = await prepare(found, await _wanted(found, release))
        answer.give(made.to_json(), made.to_words)

    with _Answer(as_json=as_json) as answer:
        _run(config, job)


@device.command()
@config_option
@release_option
@click.option("--retry", is_flag=True, help="Though it was given up or fell back here.")
@json_option
def install(config: Path, release: str | None, retry: bool, as_json: bool) -> None:
    """Install a release into the inactive slot; the next boot tries it. Resumes what was cut off.

    Before that it settles a trial that the last boot left, as `confirm` does: it runs the health
    checks. Ctrl-C loses nothing: running it again goes on where it was.

    With --json: a line for each event; the last one is the result, with `error` where it failed.
    """

    if retry and release is None:
        raise UsageError("--retry needs --release: which release shall be tried again?")
    from slipstream.installer.install import install as install_release  # noqa: PLC0415
    from slipstream.installer.prepare import check_configuration  # noqa: PLC0415

    async def job(found: Device) -> None:
        await _settle(found)
        watch = _json_events if as_json else _Watch()
        try:
            check_configuration(found)
            wanted = await _wanted(found, release)
            result = await install_release(found, wanted, watch, retry=retry)
        finally:
            if isinstance(watch, _Watch):
                watch.close()
            async with open_contact(found) as contact:
                await contact.deliver(_note)
        answer.give(asdict(result), lambda: _installed_words(result))

    with _Answer(as_json=as_json, stage="result") as answer:
        try:
            _run(config, job)
        except KeyboardInterrupt as error:
            raise Interrupted(
                "interrupted; nothing is lost", hint="Run it again: it goes on where it was"
            ) from error


@device.command()
@config_option
@click.option("--force", is_flag=True, help="End the trial without the health checks.")
@json_option
def confirm(config: Path, force: bool, as_json: bool) -> None:
    """After a boot: run the health checks; confirm the release if all pass, else give it up.

    Exit 0: confirmed. 1: it failed, or the device fell back since the last look. 3: nothing was on
    trial.
    """

    async def job(found: Device) -> None:
        say = _note if not as_json else _silent
        outcome = await (by_hand.confirm(found) if force else trial.settle(found, say))
        stays = outcome.verdict is Verdict.UNHEALTHY
        Notifier.of_environment(os.environ).say_stays(stays)
        async with open_contact(found) as contact:
            await contact.deliver(_note)
        answer.give(_outcome_json(outcome))
        _tell(found, outcome, as_json=as_json)

    with _Answer(as_json=as_json) as answer:
        _run(config, job)


@device.command()
@config_option
def deadline(config: Path) -> None:
    """Whether a release on trial that did not prove itself in time stays. For a service.

    slipstream-trial.service resets the machine unless this exits with 0: the boot loader has nothing
    else to start in the end (that is reported), or the release is confirmed. Does not ask the health
    checks.
    """
    from slipstream.installer.deadline import why_to_stay  # noqa: PLC0415

    why = why_to_stay(open_device(load_config(config)))
    if why is None:
        raise SlipstreamError(
            "the running release did not prove itself in time",
            hint="The machine is to be reset: the boot loader counts its tries",
        )
    click.echo(f"{why}. The machine is not reset")


@device.command()
@config_option
@json_option
def rollback(config: Path, as_json: bool) -> None:
    """Give up the running release, or the one that the next boot would try; then reboot."""

    async def job(found: Device) -> None:
        outcome = await by_hand.rollback(found)
        reboot = ". Reboot: the other release comes back" if outcome.reboot_wanted else ""
        words = f"{_name(outcome)} is given up: {outcome.reason}{reboot}"
        answer.give(_outcome_json(outcome), lambda: words)

    with _Answer(as_json=as_json) as answer:
        _run(config, job)


@device.command()
@config_option
def run(config: Path) -> None:
    """Run the agent: settle the last boot, then poll, install, reboot, report. For a service."""

    async def job(found: Device) -> None:
        notifier = Notifier.of_environment(os.environ)
        await agent.run(found, say=click.echo, notifier=notifier)

    _run(config, job)


@device.command()
@config_option
@click.argument("name", type=click.Choice(tuple(FOLDERS)), default=UNITS[0])
@click.option("--all", "every", is_flag=True, help="All of them, each below a line with its path.")
def unit(config: Path, name: str, every: bool) -> None:
    """Print a systemd unit, for this installation and this configuration.

    slipstream.service is the agent; slipstream-trial.timer and .service reset a release on trial
    that does not prove itself in time; slipstream-health.service is the gate of a device that does
    not run the agent; 90-slipstream-trial.conf sets the hardware watchdog.

    slipstream device unit > /etc/systemd/system/slipstream.service

    docs/boot.md, "With systemd", installs what --all prints.
    """
    loaded = load_config(config)  # a unit for a configuration that does not load would only fail
    for one in FOLDERS if every else (name,):
        if every:
            click.echo(f"# {FOLDERS[one]}/{one}")
        click.echo(_unit_text(one, loaded, config.absolute()))


def _unit_text(name: str, config: Config, path: Path) -> str:
    """A unit of installer/dist with the paths, and the deadline, of this device."""
    from importlib.resources import files  # noqa: PLC0415

    program = Path(sys.executable).parent / "slipstream"  # the script of this environment
    # Time to boot, and for every check to take as long as it may.
    health_s = sum(check.timeout_s for check in config.health)
    deadline_s = TRIAL_BOOT_S + health_s
    mounts = " ".join(_quoted(one, command=False) for one in (config.state, config.boot.esp))
    text = files("slipstream.installer").joinpath("dist", name).read_text()
    for shipped, ours in (
        ("/usr/bin/slipstream", _quoted(program)),
        ("/etc/slipstream/device.toml", _quoted(path)),
        ("For=/var/lib/slipstream /efi", f"For={mounts}"),
        ("OnBootSec=15min", f"OnBootSec={max(deadline_s, TRIAL_S_MIN):.0f}s"),
        ("TimeoutStartSec=1h", f"TimeoutStartSec={START_S_MIN + health_s:.0f}s"),
    ):
        text = text.replace(shipped, ours)
    return text.rstrip()


def _quoted(path: Path, *, command: bool = True) -> str:
    """A path as systemd reads it (man systemd.syntax; in ExecStart man systemd.service)."""
    text = str(path).replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    text = text.replace("$", "$$") if command else text
    return f'"{text}"' if " " in text or text != str(path) else text


def _run(config: Path, job: Callable[[Device], Awaitable[None]]) -> None:
    give_memory_back()

    async def with_device() -> None:
        async with open_device(load_config(config)) as found:
            try:
                await job(found)
            finally:
                for notice in dict.fromkeys(found.notices):
                    _note(notice)

    asyncio.run(with_device())


async def _settle(found: Device) -> None:
    """What the last boot proved comes before a new install."""
    outcome = await trial.settle(found, _note)
    if outcome.verdict in (Verdict.CONFIRMED, Verdict.FELL_BACK):
        reason = f": {outcome.reason}" if outcome.reason else ""
        _note(f"{_name(outcome)}: {outcome.verdict}{reason}")


async def _wanted(found: Device, release: str | None) -> str | None:
    if release is not None:
        return release
    async with open_contact(found) as contact:
        await contact.deliver(_note)
        answer = await contact.ask()
    if not answer.install:
        raise NothingToDo(answer.reason)
    return answer.release


def _tell(found: Device, outcome: Outcome, *, as_json: bool) -> None:
    if not as_json:
        for result in outcome.health:
            click.echo(f"health: {result.name}: " + ("passed" if result.passed else result.reason))
    name = _name(outcome)
    match outcome.verdict:
        case Verdict.CONFIRMED:
            if not as_json:
                click.echo(f"{name} is confirmed")
        case Verdict.NOTHING:
            from slipstream.installer.status import last_words  # noqa: PLC0415

            state = found.journal.state
            last = state.last if isinstance(state, Idle) else None
            raise NothingToDo("no release is on trial", hint=last_words(last) if last else None)
        case Verdict.REBOOT:
            why = f" ({outcome.reason})" if outcome.reason else ""
            raise NothingToDo(f"{name} does not run: the next boot tries it{why}")
        case Verdict.CONDEMNED:
            raise SlipstreamError(
                f"{name} is not healthy and is given up: {outcome.reason}",
                hint="Reboot: the other release comes back",
            )
        case Verdict.UNHEALTHY:
            raise SlipstreamError(
                f"{name} is not healthy, and no other good release is there: {outcome.reason}",
                hint="Mend what the check names and confirm again",
            )
        case Verdict.FELL_BACK:
            raise SlipstreamError(
                f"{name} did not prove itself, and the device runs the other one: {outcome.reason}",
                hint="It is not tried again; a newer one is",
            )
        case _:
            assert_never(outcome.verdict)


def _installed_words(result: "InstallResult") -> str:
    return (
        f"release {result.release} is installed in slot {result.slot}: "
        f"{megabytes(result.bytes_fetched)} fetched, "
        f"{megabytes(result.bytes_written)} of {megabytes(result.image_bytes)} written. "
        "Reboot to try it."
    )


def _name(outcome: Outcome) -> str:
    """The release in words; its counter where no record of its name is left."""
    return f"release {outcome.release or f'with counter {outcome.counter}'}"


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "verdict": outcome.verdict,
        "release": outcome.release,
        "counter": outcome.counter,
        "reason": outcome.reason,
        "reboot_wanted": outcome.reboot_wanted,
        "health": [asdict(result) for result in outcome.health],
    }


def _json_events(event: InstallEvent) -> None:
    click.echo(json.dumps(asdict(event)))


class _Watch:
    """Events of an install for people: a bar for each stage of each image, words between."""

    def __init__(self) -> None:
        self._steps = Steps(quiet=False)

    def __call__(self, event: InstallEvent) -> None:
        if event.text:
            self._steps.close()
            click.echo(f"{event.image}: {event.text}" if event.image else event.text, err=True)
        else:
            self._steps.report(f"{event.stage} {event.image}", event.done_bytes, event.total_bytes)

    def close(self) -> None:
        self._steps.close()


def _note(text: str) -> None:
    click.echo(f"note: {text}", err=True)


def _silent(_: str) -> None:
    """Nobody listens."""

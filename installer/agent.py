"""`device run`: settle the last boot, then poll, install, reboot, report, for ever.

One round is one screen, `Agent.round`. How long the agent waits between two rounds is a function
of the journal's state, of the server's wish, and of how often it failed in a row; it is spread by
chance, so that a fleet does not come in step. Cancelling it is safe at any moment: everything
that it does can be interrupted and goes on next time.
"""

import asyncio
import contextlib
import random
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from slipstream.delta.errors import (
    Busy,
    NothingToDo,
    Rejected,
    SlipstreamError,
    Unavailable,
    UsageError,
)
from slipstream.delta.limits import NAME_CHARS_MAX, POLL_INTERVAL_S_MAX
from slipstream.installer import poll
from slipstream.installer.command import run_command
from slipstream.installer.device import Device
from slipstream.installer.install import install
from slipstream.installer.notify import Notifier
from slipstream.installer.ports import EntryState
from slipstream.installer.progress import InstallEvent
from slipstream.installer.reboots import note_reboot
from slipstream.installer.slots import Report
from slipstream.installer.states import Committed, Idle, delay_of
from slipstream.installer.trial import Verdict, settle

REBOOT_TIMEOUT_S = 60.0  # the command only asks for a reboot; it does not wait for it
TOKEN_BYTES_MAX = 4096
FAILURES_COUNTED_MAX = 6  # the wait doubles with each failure in a row, at most 64-fold
JITTER = 0.25  # of the wait, to either side

Say = Callable[[str], None]


async def run(
    device: Device,
    *,
    say: Say = print,
    chance: Callable[[], float] = random.random,
    notifier: Notifier | None = None,
) -> None:
    """Run the agent until SIGTERM or SIGINT, then return. Raises UsageError, DeviceFault at start.

    `say` hears one line for each thing that happens; `chance` gives floats in [0, 1).
    """
    notifier = notifier or Notifier()
    async with _server_of(device) as server:
        agent = Agent(device, server, say=say, chance=chance, notifier=notifier)
        with _stopped_by_signals() as stopped:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_feed_watchdog(device, notifier))
                    await agent.run()
            except asyncio.CancelledError:
                if not stopped.is_set():
                    raise
                # By a signal: a clean end. What was under way is taken up again next time.
                say("stopping")
            finally:
                notifier.send(STOPPING="1", STATUS="stopping")


@dataclass
class Agent:
    """The loop and what it remembers between two rounds; nothing of it must survive."""

    device: Device
    server: poll.Server | None
    say: Say
    chance: Callable[[], float]
    notifier: Notifier
    failures: int = 0
    interval_s: float | None = None  # the server's wish
    _ready: bool = field(default=False, init=False)
    _reboot_noted: bool = field(default=False, init=False)

    async def run(self) -> None:
        """Rounds, and the waits between them. Ends only when cancelled."""
        while True:
            try:
                await self.round()
                self.failures, wish_s = 0, None
            except SlipstreamError as error:
                self.failures += 1
                wish_s = error.retry_after_s if isinstance(error, Unavailable) else None
                self._tell(str(error))
            await self.device.clock.sleep(self.wait_s(wish_s))

    async def round(self) -> None:
        """Settle, deliver, ask, install, reboot. Raises SlipstreamError: try again later."""
        if not await self._settle():
            return
        await self._deliver()
        release = await self._ask()
        if release is None:
            return
        if await self._install(release.name):
            await self._deliver()
            await self._reboot("to try the new release")

    def wait_s(self, wish_s: float | None = None) -> float:
        """Seconds until the next round."""
        state = self.device.journal.state
        delay = delay_of(state)
        seconds = delay.seconds
        if isinstance(state, Idle) and self.interval_s is not None:
            seconds = self.interval_s
        # A trial has no delay of its own: its health is asked again as soon as after a failure.
        seconds = max(seconds, 1.0) * 2.0 ** min(self.failures, FAILURES_COUNTED_MAX)
        seconds = min(seconds, float(POLL_INTERVAL_S_MAX))
        if delay.jitter:
            seconds *= 1 - JITTER + 2 * JITTER * self.chance()
        return max(seconds, wish_s or 0.0)

    # --- the steps of a round

    async def _settle(self) -> bool:
        """What the last boot proved. False: no update is taken now."""
        outcome = await settle(self.device, self._tell)
        name = outcome.release or f"counter {outcome.counter}"
        match outcome.verdict:
            case Verdict.NOTHING:
                pass
            case Verdict.CONFIRMED:
                self._tell(f"release {name} is confirmed")
            case Verdict.FELL_BACK:
                self._tell(f"release {name} did not prove itself: {outcome.reason}")
            case Verdict.UNHEALTHY:
                await self._deliver()
                raise SlipstreamError(
                    f"release {name} is not healthy and there is nothing to fall back to: "
                    f"{outcome.reason}"
                )
            case Verdict.REBOOT | Verdict.CONDEMNED:
                await self._reboot(outcome.reason or f"to try release {name}")
                return False
        if not self._ready:
            # READY orders boot-complete.target behind a settled trial (docs/boot.md).
            self._ready = True
            self.notifier.send(READY="1")
        return True

    async def _deliver(self) -> None:
        """Send the reports that wait, oldest first. Each is sent until the server has it."""
        if self.server is None:
            return
        for report in self.device.slots.reports():
            try:
                await self.server.report(_wire_report(self.device, report))
            except Unavailable as error:
                self._tell(f"reports wait: {error}")
                return
            except Rejected as error:
                # Kept: an operator may mend the token. The others go their way.
                self._tell(f"report {report.key} was refused: {error}")
            else:
                self.device.slots.delivered(report.key)

    async def _ask(self) -> "Wanted | None":
        """Which release to install; None: stay as you are. A static repository: its newest."""
        if self.server is None:
            return Wanted(None)
        answer = await self.server.poll(_poll_request(self.device))
        self.interval_s = float(answer.interval_s)
        if answer.offer is None:
            self._tell(answer.reason or "nothing to install")
            return None
        return Wanted(answer.offer.release)

    async def _install(self, release: str | None) -> bool:
        """Install; True if the next boot tries a release."""
        try:
            result = await install(self.device, release, self._progress)
        except NothingToDo as error:
            self._tell(str(error))
            return False
        except Rejected:
            await self._deliver()
            raise
        except Busy as error:
            self._tell(str(error))
            return False
        self._tell(f"release {result.release} is installed in slot {result.slot}")
        return True

    async def _reboot(self, why: str) -> None:
        """Ask for a reboot. The caller waits; SIGTERM ends the agent when it comes."""
        command = self.device.config.boot.reboot
        self._tell(f"rebooting: {why}")
        if not self._reboot_noted and isinstance(self.device.journal.state, Committed):
            self._reboot_noted = True
            note_reboot(self.device)
        try:
            code = await run_command(command, REBOOT_TIMEOUT_S)
            how = "does not end" if code is None else f"exited with {code}"
        except (OSError, ValueError) as error:
            code, how = None, f"could not be started: {error}"
        if code != 0:
            raise SlipstreamError(
                f"the reboot command {how}",
                where=self.device.config.path,
                got=" ".join(command),
                hint="Correct [boot] reboot, or reboot by hand",
            )

    def _tell(self, text: str) -> None:
        self.say(text)
        self.notifier.send(STATUS=text)

    def _progress(self, event: InstallEvent) -> None:
        if event.text:
            self._tell(event.text)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A release to install; None: the newest on offer."""

    name: str | None


def _poll_request(device: Device) -> poll.PollRequest:
    booted = device.boot.booted()
    records = device.slots.records()
    entries = {entry.slot: entry for entry in device.boot.entries()}
    running = entries.get(booted.slot or "")
    return poll.PollRequest(
        device=device.config.device_id,
        product=device.config.product,
        hardware=device.config.hardware,
        release=records[booted.slot].release if booted.slot in records else None,
        counter=booted.counter,
        booted_root=None if booted.root is None else booted.root.hex,
        slots=tuple(
            poll.SlotReport(
                name,
                records[name].release if name in records else None,
                entries[name].state if name in entries else "empty",
            )
            for name in sorted(device.config.slots)
        ),
        failed=tuple(
            poll.FailedRelease(one.release, one.reason[: NAME_CHARS_MAX * 16])
            for one in device.slots.denied()
        ),
        trial=running is not None and running.state is EntryState.TRIAL,
    )


def _wire_report(device: Device, report: Report) -> poll.Report:
    return poll.Report(
        key=f"{device.config.device_id}-{report.key}",
        device=device.config.device_id,
        kind=report.kind,  # type: ignore[arg-type]
        at=report.at,
        release=report.release or None,
        counter=report.counter,
        booted_root=report.booted_root or None,
        reason=report.reason,
        details=dict(report.details),
    )


@asynccontextmanager
async def _server_of(device: Device) -> AsyncIterator[poll.Server | None]:
    """The server that is polled, or None for a static repository."""
    config = device.config.server
    if config.token_file is None:
        yield None
        return
    try:
        token = config.token_file.read_bytes()[:TOKEN_BYTES_MAX].decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            "server.token_file cannot be read",
            where=config.token_file,
            got=error,
            hint="Write the token that the server gave this device into it, mode 0600",
        ) from error
    async with poll.Server(config.url, token, clock=device.clock, ca_file=config.ca_file) as server:
        yield server


async def _feed_watchdog(device: Device, notifier: Notifier) -> None:
    """Say twice in the manager's interval that the event loop still turns."""
    while notifier.watchdog_s is not None:
        notifier.send(WATCHDOG="1")
        await device.clock.sleep(notifier.watchdog_s / 2)


@contextmanager
def _stopped_by_signals() -> Iterator[asyncio.Event]:
    """SIGTERM and SIGINT cancel the current task and set the event. Main thread of a program."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    stopped = asyncio.Event()

    def stop() -> None:
        stopped.set()
        task.cancel()

    installed = []
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, stop)
            installed.append(number)
    try:
        yield stopped
    finally:
        for number in installed:
            loop.remove_signal_handler(number)

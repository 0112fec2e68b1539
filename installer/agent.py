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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from slipstream.delta.errors import (
    Busy,
    NothingToDo,
    Rejected,
    SlipstreamError,
    Unavailable,
)
from slipstream.delta.limits import POLL_INTERVAL_S_MAX
from slipstream.installer.command import run_command
from slipstream.installer.contact import Contact, open_contact
from slipstream.installer.device import Device
from slipstream.installer.install import install
from slipstream.installer.notify import Notifier
from slipstream.installer.progress import InstallEvent
from slipstream.installer.reboots import note_reboot
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
    async with open_contact(device) as contact:
        agent = Agent(device, contact, say=say, chance=chance, notifier=notifier)
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
    contact: Contact
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
        answer = await self.contact.ask()
        self.interval_s = answer.interval_s
        if not answer.install:
            self._tell(answer.reason)
        elif await self._install(answer.release):
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
        await self.contact.deliver(self._tell)

    async def _install(self, release: str | None) -> bool:
        """Install; True if the next boot tries a release."""
        try:
            result = await install(self.device, release, self._progress, attended=False)
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
        """S10: ask for a reboot. The caller waits; SIGTERM ends the agent when it comes."""
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

"""`device run`: settle the last boot, then poll, install, reboot, report, for ever.

One round is one screen, `Agent.round`. How long the agent waits between two rounds is a function
of the journal's state, of what holds it, of the server's wish, and of how often it failed in a
row; it is spread by chance, so that a fleet does not come in step. Cancelling it is safe at any
moment: everything that it does can be interrupted and goes on next time.

Whether it may install or reboot now is decided in holds.py. Only what was planned is held: the
way back from a release that failed is taken at once.
"""

import asyncio
import contextlib
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime

from slipstream.delta.errors import (
    Busy,
    DeviceFault,
    NothingToDo,
    Rejected,
    SlipstreamError,
    Unavailable,
)
from slipstream.delta.limits import POLL_INTERVAL_S, POLL_INTERVAL_S_MAX
from slipstream.delta.maintenance import Schedule
from slipstream.installer.attempts import begin_start, end_start
from slipstream.installer.command import run_command
from slipstream.installer.contact import Answer, Contact, Look, open_contact
from slipstream.installer.device import Device
from slipstream.installer.holds import (
    Hold,
    HoldKind,
    Policy,
    Step,
    draw_turn,
    find_hold,
    recheck_s,
    stop_after_s,
)
from slipstream.installer.look import look as look_in_a_process
from slipstream.installer.notify import Notifier, feed_watchdog
from slipstream.installer.permission import find_reason_to_wait, gather_facts, remember_hold
from slipstream.installer.progress import InstallEvent
from slipstream.installer.reboots import note_reboot
from slipstream.installer.reports import queue_hold_report
from slipstream.installer.states import Committed, Idle, Verified, delay_of
from slipstream.installer.trial import settle
from slipstream.installer.verdict import Verdict
from slipstream.installer.wake import Bell

REBOOT_TIMEOUT_S = 60.0  # the command only asks for a reboot; it does not wait for it
FAILURES_COUNTED_MAX = 6  # the wait doubles with each failure in a row, at most 64-fold
HOLD_KEPT_S = 900.0  # the reason of one kind of hold is written no more often
JITTER = 0.25  # of the wait, to either side

Say = Callable[[str], None]


async def run(
    device: Device,
    *,
    say: Say = print,
    chance: Callable[[], float] = random.random,
    notifier: Notifier | None = None,
    look: Look | None = look_in_a_process,
) -> None:
    """Run the agent until SIGTERM or SIGINT, then return. Raises UsageError, DeviceFault at start.

    `say` hears one line for each thing that happens; `chance` gives floats in [0, 1). `look` finds out
    what a static repository has; None: the install does, which loads what verifies metadata.
    """
    notifier = notifier or Notifier()
    async with open_contact(device, look) as contact:
        agent = Agent(device, contact, say=say, chance=chance, notifier=notifier)
        if device.config.agent.wake and contact.server is not None:
            agent.bell = Bell(contact.server, device.clock, chance)
        with _stopped_by_signals() as stopped:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(feed_watchdog(device.clock, notifier))
                    if agent.bell is not None:
                        group.create_task(agent.bell.listen())
                    await agent.run()
            except asyncio.CancelledError:
                if not stopped.is_set():
                    raise
                # By a signal: a clean end. What was under way is taken up again next time.
                end_start(device)
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
    bell: Bell | None = None  # by which the server wakes it; None: it only polls
    _hold: Hold | None = field(default=None, init=False)  # what this round waits for
    _held: tuple[str, int] | None = field(default=None, init=False)  # release and counter of it
    _kept: Hold | None = field(default=None, init=False)  # as `device status` knows it, ...
    _kept_at: float | None = field(default=None, init=False)  # ... since when
    _turn: datetime | None = field(default=None, init=False)  # of the reboot, in the spread
    _asked_at: float | None = field(default=None, init=False)  # when the server answered last
    _offer: Answer | None = field(default=None, init=False)  # of a look; its install is held
    _forced: bool = field(default=False, init=False)  # by the server's last answer
    _told: set[str] = field(default_factory=set, init=False)  # while a release waits for its boot
    _ready: bool = field(default=False, init=False)

    @property
    def policy(self) -> Policy:
        """When it may install and reboot. What the server forces waits for no window; for inhibitors,
        the command and its turn it does: they know what the server does not."""
        policy = self.device.config.agent.policy
        return replace(policy, schedule=Schedule()) if self._forced else policy

    async def run(self) -> None:
        """Rounds, and the waits between them. Ends only when cancelled."""
        first = True
        delay_s = begin_start(self.device)
        if delay_s:
            self._tell(f"the agent died in its first round: waiting {delay_s:g} s before this one")
            await self.device.clock.sleep(delay_s)
        while True:
            try:
                await self.round()
                self.failures, wish_s = 0, None
            except SlipstreamError as error:
                self.failures += 1
                wish_s = error.retry_after_s if isinstance(error, Unavailable) else None
                self._tell(str(error))
            if first:
                first = False
                end_start(self.device)
            await self._rest(self.wait_s(wish_s))

    async def round(self) -> None:
        """Settle, deliver, ask, install, reboot. Raises SlipstreamError: try again later."""
        self._hold = None
        try:
            if not await self._settle():
                return
            await self._deliver()
            if self._is_look_held():
                return
            answer = await self._ask()
            if not answer.install:
                self._stay(answer)
            elif self._is_downloaded(answer):
                self._wait_for_reboot(answer)
            elif await self._may_install(answer) and await self._install(answer):
                await self._deliver()
                await self._reboot_as_planned()
        finally:
            self._keep_hold()

    def wait_s(self, wish_s: float | None = None) -> float:
        """Seconds until the next round."""
        state = self.device.journal.state
        delay = delay_of(state)
        seconds = delay.seconds
        waits_for_server = self._hold is not None and self._hold.kind is HoldKind.SERVER
        if (isinstance(state, Idle) or waits_for_server) and self.interval_s is not None:
            seconds = self.interval_s
        # A trial has no delay of its own: its health is asked again as soon as after a failure.
        seconds = max(seconds, 1.0) * 2.0 ** min(self.failures, FAILURES_COUNTED_MAX)
        seconds = min(seconds, float(POLL_INTERVAL_S_MAX))
        if delay.jitter:
            seconds *= 1 - JITTER + 2 * JITTER * self.chance()
        if self._hold is not None and not waits_for_server and not self.failures:
            seconds = recheck_s(self._hold, self.device.clock.now())
        return max(seconds, wish_s or 0.0)

    async def _rest(self, seconds: float) -> None:
        """Wait for the next round; a device that waits for a poll, or its time, can be woken."""
        waits = self._hold is not None or isinstance(self.device.journal.state, Idle)
        if self.bell is None or not waits or self.failures:
            await self.device.clock.sleep(seconds)
        elif await self.bell.rest(seconds, self.device.clock.monotonic() - (self._asked_at or 0)):
            self._tell("the server has news")
            self._asked_at = None  # a poll is due

    # --- the steps of a round

    async def _settle(self) -> bool:
        """What the last boot proved. False: no update is taken now."""
        outcome = await settle(self.device, self._tell_once)
        self.notifier.say_stays(outcome.verdict is Verdict.UNHEALTHY)
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
            case Verdict.REBOOT if isinstance(self.device.journal.state, Committed):
                await self._reboot_as_planned(outcome.reason)
                return False
            case Verdict.REBOOT | Verdict.CONDEMNED:
                is_bad = outcome.verdict is Verdict.CONDEMNED
                await self._reboot(outcome.reason, uncounted=is_bad)
                return False
        self._told.clear()
        if not self._ready:
            # READY orders boot-complete.target behind a settled trial (docs/boot.md).
            self._ready = True
            self.notifier.send(READY="1")
        return True

    async def _deliver(self) -> None:
        await self.contact.deliver(self._tell)

    def _is_look_held(self) -> bool:
        """A static repository is not even looked at while an install may not be: a look fetches.

        The command is not asked before there is something to install: it may take a lock.
        """
        if self.contact.server is None:
            self._hold = find_hold(Step.INSTALL, self.policy, gather_facts(self.device))
            self._held = None
        return self._hold is not None

    async def _ask(self) -> Answer:
        """What is wanted of this device. What a look found is good until the next poll is due: while
        the command refuses, it is asked each minute."""
        if self._offer is not None and not self._is_poll_due():
            return self._offer
        answer = await self.contact.ask()
        self.interval_s, self._forced = answer.interval_s, answer.forced
        self._asked_at = self.device.clock.monotonic()
        return answer

    async def _may_install(self, answer: Answer) -> bool:
        release = answer.release or ""
        self._hold = await find_reason_to_wait(self.device, Step.INSTALL, release, self.policy)
        self._held = None if answer.counter is None else (release, answer.counter)
        is_kept = self._hold is not None and self.contact.server is None
        self._offer = answer if is_kept else None
        return self._hold is None

    def _is_downloaded(self, answer: Answer) -> bool:
        """Whether all that the server wants for now is done: the release stands, unpublished."""
        state = self.device.journal.state
        if not answer.download_only or not isinstance(state, Verified):
            return False
        offered = (answer.release, answer.counter)
        return (state.transaction.release, state.transaction.counter) == offered

    def _stay(self, answer: Answer) -> None:
        """An install that has begun goes no further: its rollout was paused, or the offer taken back."""
        if self.contact.server is None or isinstance(self.device.journal.state, Idle):
            self._tell(answer.reason)
            return
        self._wait_for_server(Step.INSTALL, answer.reason)

    def _wait_for_reboot(self, answer: Answer) -> None:
        reason = f"release {answer.release} is to be downloaded only, for now"
        self._wait_for_server(Step.REBOOT, reason)

    def _wait_for_server(self, step: Step, reason: str) -> None:
        self._hold, self._held = Hold(step, HoldKind.SERVER, f"the server: {reason}"), None

    async def _install(self, answer: Answer) -> bool:
        """Install; True if the next boot tries a release."""
        # Loaded when there is something to install: trust and decoders take as much memory as all
        # the rest of an agent that waits (docs/device.md, "Memory").
        from slipstream.installer.install import install  # noqa: PLC0415

        window = asyncio.timeout(stop_after_s(self.policy, self.device.clock.now()))
        try:
            async with window:
                result = await install(
                    self.device,
                    answer.release,
                    self._progress,
                    attended=False,
                    publish=not answer.download_only,
                )
        except TimeoutError:
            if not window.expired():
                raise
            self._tell("the window closed: the install goes on in the next one")
            return False
        except NothingToDo as error:
            self._tell(str(error))
            return False
        except Rejected:
            await self._deliver()
            raise
        except Busy as error:
            self._tell(str(error))
            return False
        self._told.clear()
        if answer.download_only:
            self._wait_for_reboot(answer)
            await self._deliver()
            return False
        self._tell(f"release {result.release} is installed in slot {result.slot}")
        return True

    async def _reboot_as_planned(self, why: str = "") -> None:
        """Reboot to try a release, if that may be done now; else a later round asks again."""
        state = self.device.journal.state
        assert isinstance(state, Committed)
        transaction = state.transaction
        hold = await self._find_reboot_hold(transaction.release)
        if hold is not None and self.contact.server is not None and self._is_poll_due():
            # A device that waits for days still says that it lives, and hears if it is forced.
            await self._deliver()
            await self._ask()
            hold = await self._find_reboot_hold(transaction.release)
        self._hold = hold
        if hold is None:
            await self._reboot(why or f"to try release {transaction.release}")
            return
        if hold.kind in (HoldKind.WINDOW, HoldKind.CLOCK):
            self._turn = None  # another window, another turn
        self._held = (transaction.release, transaction.counter)

    async def _find_reboot_hold(self, release: str) -> Hold | None:
        self._draw_turn()
        return await find_reason_to_wait(self.device, Step.REBOOT, release, self.policy, self._turn)

    def _draw_turn(self) -> None:
        """Once nothing else holds the reboot: when in the spread it is due."""
        if self._turn is not None or not self.policy.reboot_spread_s:
            return
        facts = gather_facts(self.device)
        if find_hold(Step.REBOOT, self.policy, facts) is None:
            self._turn = draw_turn(self.policy, facts.clock, self.chance())

    def _is_poll_due(self) -> bool:
        interval_s = float(POLL_INTERVAL_S) if self.interval_s is None else self.interval_s
        now = self.device.clock.monotonic()
        return self._asked_at is None or now - self._asked_at >= interval_s

    def _keep_hold(self) -> None:
        """Say what is waited for when it changed: to the log, the server, and `device status`."""
        hold, now = self._hold, self.device.clock.monotonic()
        if hold is not None:
            self.notifier.send(STATUS=hold.words(self.device.clock.now()))
        is_new = _kind_of(hold) != _kind_of(self._kept)
        # A command that says something else each time must not wear out the medium.
        early = self._kept_at is not None and now - self._kept_at < HOLD_KEPT_S
        if self._kept_at is not None and not is_new and (hold == self._kept or early):
            return
        if hold is not None:
            self._tell(hold.words(self.device.clock.now()))
            if is_new and self._held is not None and hold.kind is not HoldKind.TURN:
                queue_hold_report(self.device, hold, *self._held)
        remember_hold(self.device, hold)
        self._kept, self._kept_at = hold, now

    async def _reboot(self, why: str, *, uncounted: bool = False) -> None:
        """S10: ask for a reboot. The caller waits; SIGTERM ends the agent when it comes.

        `uncounted`: also where the state folder, full or worse, does not take the count. A release
        that was found bad is left all the same.
        """
        command = self.device.config.boot.reboot
        self._tell(f"rebooting: {why}")
        try:
            note_reboot(self.device)
        except DeviceFault as error:
            if not uncounted:
                raise
            self._tell(f"this reboot is not counted: {error}")
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

    def _tell_once(self, text: str) -> None:
        """What is found again in every round while a release waits for its reboot."""
        if text in self._told:
            return
        self._told.add(text)
        self._tell(text)

    def _tell(self, text: str) -> None:
        self.say(text)
        self.notifier.send(STATUS=text)

    def _progress(self, event: InstallEvent) -> None:
        if event.text:
            self._tell(event.text)


def _kind_of(hold: Hold | None) -> tuple[Step, HoldKind] | None:
    return None if hold is None else (hold.step, hold.kind)


@contextmanager
def _stopped_by_signals() -> Iterator[asyncio.Event]:
    """SIGTERM and SIGINT cancel the current task and set the event. Main thread of a program."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    stopped = asyncio.Event()

    def stop() -> None:
        stopped.set()
        task.cancel()

    before = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            handler = signal.getsignal(number)
            loop.add_signal_handler(number, stop)
            before[number] = handler
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)

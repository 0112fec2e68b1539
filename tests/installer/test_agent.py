"""The agent: its rounds on a static repository and with a server, its waits, its end."""

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from slipstream.delta.digest import Digest
from slipstream.delta.errors import DeviceFault, Rejected, SlipstreamError, Unavailable, UsageError
from slipstream.delta.limits import (
    DENIED_RELEASES_MAX,
    POLL_BYTES_MAX,
    POLL_INTERVAL_S,
    POLL_INTERVAL_S_MAX,
    REBOOTS_ALL_MAX,
    REBOOTS_MAX,
)
from slipstream.installer import agent
from slipstream.installer.agent import Agent
from slipstream.installer.boot import chooser
from slipstream.installer.contact import Contact, poll_request
from slipstream.installer.device import Device
from slipstream.installer.notify import Notifier
from slipstream.installer.poll import Offer, PollAnswer, PollRequest, Receipt, Report, SlotReport
from slipstream.installer.ports import EntryState
from slipstream.installer.slots import Denied
from slipstream.installer.states import Committed, Idle, Open, Transaction, delay_of
from slipstream.installer.status import read_status
from tests.installer.boot.uki import make_uki
from tests.installer.lab import Lab, LabClock, change, make_image

IMAGE = make_image(1)
HEALTH = '\n[[health]]\nname = "app"\ncommand = ["test", "-e", "{well}"]\n'


class Enough(Exception):
    """The test has seen enough of an endless loop."""


class CountedClock(LabClock):
    """Sleeping takes no time; after `sleeps_max` of them the loop is broken off."""

    sleeps_max = 50

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds)
        await asyncio.sleep(0)
        if len(self.slept_s) >= self.sleeps_max:
            raise Enough


class FakeServer:
    """What the agent needs of poll.Server."""

    def __init__(self) -> None:
        self.answer = PollAnswer(None, 900, "nothing new")
        self.polled: list[PollRequest] = []
        self.reported: list[Report] = []
        self.fault: dict[str, SlipstreamError] = {}  # by kind of report, or "poll"

    async def poll(self, request: PollRequest) -> PollAnswer:
        self.polled.append(request)
        if "poll" in self.fault:
            raise self.fault["poll"]
        return self.answer

    async def report(self, report: Report) -> Receipt:
        if report.kind in self.fault:
            raise self.fault[report.kind]
        self.reported.append(report)
        return Receipt(accepted=True)


class Rig:
    def __init__(self, folder: Path, server: FakeServer | None) -> None:
        self.folder = folder
        self.well = folder / "well"
        self.lab = Lab(
            folder, real_boot=True, settings=HEALTH.format(well=self.well), static=server is None
        )
        self.well.touch()
        self.lab.clock = CountedClock()
        self.server = server
        self.said: list[str] = []
        self.set_reboot(f'["sh", "-c", "echo >> {folder}/rebooted"]')
        self.agent = self.restart()

    def set_reboot(self, command: str) -> None:
        path = self.lab.config_path
        text = path.read_text().replace(
            'entry = "selected"', f'entry = "selected"\nreboot = {command}'
        )
        path.write_text(text)

    def restart(self) -> Agent:
        """The agent as a new process."""
        device = self.lab.device()
        self.agent = Agent(
            device,
            Contact(device, self.server),  # type: ignore[arg-type]
            say=self.said.append,
            chance=lambda: 0.5,
            notifier=Notifier(),
        )
        return self.agent

    def publish(self, counter: int) -> None:
        image = change(IMAGE, 4096 * 100 * counter)
        self.lab.publish(f"{counter}.0", counter, image)

    def start_again(self) -> None:
        """The device starts what it ran before: the boot loader was not asked, or did not listen."""
        self.lab.boots += 1
        self.restart()

    def round(self) -> None:
        asyncio.run(self.agent.round())

    def boot(self) -> None:
        self.lab.boots += 1
        choice = chooser.boot(self.folder / "esp")
        assert choice is not None
        (self.folder / "cmdline").write_text(choice.cmdline)
        (self.folder / "selected").write_text(choice.entry.id)
        self.restart()

    @property
    def reboots(self) -> int:
        path = self.folder / "rebooted"
        return len(path.read_text().splitlines()) if path.exists() else 0

    @property
    def device(self) -> Device:
        return self.lab.device()


@pytest.fixture
def static(tmp_path: Path) -> Rig:
    return Rig(tmp_path, None)


@pytest.fixture
def fleet(tmp_path: Path) -> Rig:
    return Rig(tmp_path, FakeServer())


def server_of(rig: Rig) -> FakeServer:
    assert rig.server is not None
    return rig.server


# --- rounds


def test_static_repository_from_nothing_to_confirmed(static: Rig) -> None:
    static.publish(1)
    static.publish(2)
    static.round()
    assert static.reboots == 1
    assert isinstance(static.device.journal.state, Committed)
    static.boot()
    static.round()
    assert "release 2.0 is confirmed" in static.said
    assert static.reboots == 1
    assert [(e.counter, e.state) for e in static.device.boot.entries()] == [(2, EntryState.GOOD)]
    static.publish(3)
    static.round()
    assert static.reboots == 2


def test_an_unhealthy_release_reboots_back_and_is_left_alone(static: Rig) -> None:
    static.publish(1)
    static.round()
    static.boot()
    static.round()
    static.publish(2)
    static.round()
    static.boot()
    static.well.unlink()
    static.round()
    assert static.reboots == 3
    static.boot()
    static.round()
    static.round()
    assert any("2.0 did not prove itself: health check app" in text for text in static.said)
    assert static.reboots == 3
    assert isinstance(static.device.journal.state, Idle)


def test_no_update_is_taken_before_the_reboot(static: Rig) -> None:
    static.publish(1)
    static.round()
    static.publish(2)
    static.round()
    assert static.reboots == 2
    state = static.device.journal.state
    assert isinstance(state, Committed)
    assert state.transaction.release == "1.0"


def test_a_reboot_is_counted_once_by_one_process(static: Rig) -> None:
    """A reboot command that does nothing does not use up the release's chances."""
    static.publish(1)
    for _ in range(8):
        static.round()
    assert isinstance(static.device.journal.state, Committed)
    assert static.device.slots.denied() == ()


def test_a_boot_partition_that_is_not_mounted_decides_nothing(static: Rig) -> None:
    """An empty mount point looks as if the entry were lost: it must not be put back into it."""
    static.publish(1)
    static.round()
    esp = static.folder / "esp"
    esp.rename(static.folder / "away")
    esp.mkdir()
    static.restart()
    with pytest.raises(SlipstreamError, match="not mounted here"):
        static.round()
    assert isinstance(static.device.journal.state, Committed)
    assert list(esp.iterdir()) == []
    assert "not mounted here" in read_status(static.device).to_words()

    esp.rmdir()
    (static.folder / "away").rename(esp)
    static.boot()
    static.round()
    assert "release 1.0 is confirmed" in static.said


def test_an_entry_that_stays_lost_while_it_runs_ends_the_reboots(static: Rig) -> None:
    """The boot loader starts it from somewhere else: rebooting does not help."""
    static.publish(1)
    static.round()
    static.boot()
    for path in (static.folder / "esp/loader/entries").iterdir():
        path.unlink()
    factory = static.folder / "esp/EFI/Linux/factory.efi"  # without it no reboot is asked for
    factory.parent.mkdir(exist_ok=True)
    factory.write_bytes(make_uki("0", image_id="zz-factory"))
    before = static.reboots
    for _ in range(REBOOTS_ALL_MAX - 1):  # the one into it counts
        static.start_again()
        static.round()
    static.start_again()
    with pytest.raises(SlipstreamError, match="lost while it ran"):
        static.round()
    assert static.reboots == before + REBOOTS_ALL_MAX - 1


def fill(rig: Rig, name: str) -> None:
    """A state file that cannot be written any more: what stands in its way is a folder."""
    (rig.folder / f"state/.{name}.tmp").mkdir()


def test_a_bad_release_is_left_though_the_state_folder_is_full(static: Rig) -> None:
    for counter in (1, 2):
        static.publish(counter)
        static.round()
        static.boot()
        if counter == 1:
            static.round()
    static.well.unlink()
    before = static.reboots
    fill(static, "reboots.json")
    static.round()
    assert static.reboots == before + 1
    assert any(text.startswith("this reboot is not counted: ") for text in static.said)
    fill(static, "tx.json")  # nor can it be said again why
    static.round()
    assert static.reboots == before + 2
    static.boot()
    assert static.device.boot.booted().slot == "a"


def test_a_planned_reboot_that_cannot_be_counted_is_not_asked_for(static: Rig) -> None:
    static.publish(1)
    fill(static, "reboots.json")
    with pytest.raises(DeviceFault, match="could not be written"):
        static.round()
    assert static.reboots == 0


def test_an_unhealthy_only_release_is_told_and_asked_again(static: Rig) -> None:
    static.publish(1)
    static.round()
    static.boot()
    static.well.unlink()
    with pytest.raises(SlipstreamError, match="nothing to fall back to"):
        static.round()
    static.well.touch()
    static.round()
    assert "release 1.0 is confirmed" in static.said


@pytest.mark.parametrize(
    "command, message",
    [('["false"]', "exited with 1"), ('["/no/such/command"]', "could not be started")],
)
def test_a_reboot_command_that_fails_says_so(tmp_path: Path, command: str, message: str) -> None:
    rig = Rig(tmp_path, None)
    text = rig.lab.config_path.read_text()
    rig.lab.config_path.write_text(
        "\n".join(
            f"reboot = {command}" if line.startswith("reboot") else line
            for line in text.splitlines()
        )
    )
    rig.publish(1)
    # A reboot that was refused says nothing of the boot loader, however often the agent starts.
    for _ in range(REBOOTS_MAX + 1):
        rig.restart()
        with pytest.raises(SlipstreamError, match=message):
            rig.round()
    assert rig.device.slots.denied() == ()


# --- with a server


def test_poll_says_what_the_device_is(fleet: Rig) -> None:
    fleet.publish(1)
    server_of(fleet).answer = PollAnswer(Offer("1.0", 1), 900, "")
    fleet.round()
    fleet.boot()
    server_of(fleet).answer = PollAnswer(None, 1200, "")
    fleet.round()
    first, second = server_of(fleet).polled
    assert (first.device, first.product, first.hardware) == ("device-1", "gateway", "x86-64")
    assert (first.release, first.counter, first.booted_root) == (None, None, None)
    root = fleet.lab.releases["1.0"].images["rootfs"].tree.tuple.root
    assert (second.release, second.counter, second.booted_root) == ("1.0", 1, root.hex)
    assert second.slots == (
        SlotReport("a", "1.0", "good"),
        SlotReport("b", None, "empty"),
    )
    assert not second.trial
    assert fleet.agent.interval_s == 1200


def test_the_offered_release_is_installed_not_the_newest(fleet: Rig) -> None:
    fleet.publish(1)
    fleet.publish(2)
    server_of(fleet).answer = PollAnswer(Offer("1.0", 1), 900, "")
    fleet.round()
    assert [entry.counter for entry in fleet.device.boot.entries()] == [1]


def test_reports_are_delivered_in_order_and_once(fleet: Rig) -> None:
    fleet.publish(1)
    server = server_of(fleet)
    server.answer = PollAnswer(Offer("1.0", 1), 900, "")
    fleet.round()
    fleet.boot()
    server.answer = PollAnswer(None, 900, "")
    fleet.round()
    fleet.round()
    assert [report.kind for report in server.reported] == ["installed", "confirmed"]
    root = fleet.lab.releases["1.0"].images["rootfs"].tree.tuple.root
    confirmed = server.reported[1]
    assert (confirmed.release, confirmed.counter, confirmed.booted_root) == ("1.0", 1, root.hex)
    assert len({report.key for report in server.reported}) == 2
    assert all(report.key.startswith("device-1-") for report in server.reported)
    assert fleet.device.slots.reports() == ()


def test_reports_wait_for_a_server_that_is_away(fleet: Rig) -> None:
    fleet.publish(1)
    server = server_of(fleet)
    server.answer = PollAnswer(Offer("1.0", 1), 900, "")
    server.fault["installed"] = Unavailable("away")
    fleet.round()
    assert server.reported == []
    key = fleet.device.slots.reports()[0].key
    server.fault.clear()
    fleet.boot()
    server.answer = PollAnswer(None, 900, "")
    fleet.round()
    assert [report.kind for report in server.reported] == ["installed", "confirmed"]
    assert server.reported[0].key == f"device-1-{key}"


def test_a_refused_report_does_not_hold_the_others(fleet: Rig) -> None:
    fleet.publish(1)
    server = server_of(fleet)
    server.answer = PollAnswer(Offer("1.0", 1), 900, "")
    server.fault["installed"] = Rejected("no")
    fleet.round()
    fleet.boot()
    server.answer = PollAnswer(None, 900, "")
    fleet.round()
    assert [report.kind for report in server.reported] == ["confirmed"]
    assert [report.kind for report in fleet.device.slots.reports()] == ["installed"]


def test_a_server_that_is_away_does_not_stop_a_trial(fleet: Rig) -> None:
    fleet.publish(1)
    server = server_of(fleet)
    server.answer = PollAnswer(Offer("1.0", 1), 900, "")
    fleet.round()
    fleet.boot()
    server.fault |= {"poll": Unavailable("away"), "confirmed": Unavailable("away")}
    with pytest.raises(Unavailable):
        fleet.round()
    assert "release 1.0 is confirmed" in fleet.said


def test_a_poll_stays_within_its_limit_whatever_was_denied(fleet: Rig) -> None:
    """A poll that is too large is refused for ever: the device would never be updated again."""
    for counter in range(DENIED_RELEASES_MAX):
        fleet.device.slots.deny(
            Denied(f"{counter:064}", counter, Digest.of(b"%d" % counter), "\U0001f4a5" * 1000, 0)
        )
    request = poll_request(fleet.device)
    assert len(request.failed) == DENIED_RELEASES_MAX
    assert len(msgspec.json.encode(request)) <= POLL_BYTES_MAX


def test_failed_releases_are_told_with_every_poll(fleet: Rig) -> None:
    server = server_of(fleet)
    for counter in (1, 2):
        fleet.publish(counter)
        server.answer = PollAnswer(Offer(f"{counter}.0", counter), 900, "")
        if counter == 2:
            fleet.round()
            fleet.well.unlink()
        else:
            fleet.round()
        fleet.boot()
        server.answer = PollAnswer(None, 900, "")
        fleet.round()
    fleet.boot()
    fleet.round()
    failed = server.polled[-1].failed
    assert [one.release for one in failed] == ["2.0"]
    assert "health check app" in failed[0].reason
    assert [report.kind for report in server.reported][-1] == "fell_back"


# --- waits


def committed(rig: Rig) -> None:
    rig.publish(1)
    rig.round()


@pytest.mark.parametrize(
    "failures, interval_s, wish_s, expected",
    [
        (0, None, None, POLL_INTERVAL_S),
        (0, 900.0, None, 900),
        (1, 900.0, None, 1800),
        (3, None, None, POLL_INTERVAL_S * 8),
        (99, 900.0, None, min(900 * 64, POLL_INTERVAL_S_MAX)),
        (1, None, 5000.0, 5000),
        (1, None, 1.0, POLL_INTERVAL_S * 2),
    ],
)
def test_waits_when_idle(
    static: Rig, failures: int, interval_s: float | None, wish_s: float | None, expected: float
) -> None:
    static.agent.failures = failures
    static.agent.interval_s = interval_s
    assert static.agent.wait_s(wish_s) == expected


def test_waits_are_spread_by_chance(static: Rig) -> None:
    static.agent.chance = lambda: 0.0
    low = static.agent.wait_s()
    static.agent.chance = lambda: 0.999999
    high = static.agent.wait_s()
    assert low == POLL_INTERVAL_S * 0.75
    assert high == pytest.approx(POLL_INTERVAL_S * 1.25, rel=1e-4)


def test_waits_follow_the_state(static: Rig) -> None:
    static.agent.interval_s = 86_400.0
    transaction = Transaction("t", Digest.of(b""), "1.0", 1, "a", ("rootfs",))
    static.agent.device.journal.record(Open(transaction))
    expected = delay_of(static.agent.device.journal.state).seconds
    assert static.agent.wait_s() == expected
    assert expected < POLL_INTERVAL_S


def test_the_loop_backs_off_and_recovers(static: Rig) -> None:
    faults = [Unavailable("away"), Unavailable("away", retry_after_s=7000.0), Unavailable("away")]

    def hook(path: str) -> None:
        if path.endswith("timestamp.json") and faults:
            raise faults.pop(0)

    static.lab.fetcher.hook = hook
    clock = static.lab.clock
    assert isinstance(clock, CountedClock)
    clock.sleeps_max = 5
    with pytest.raises(Enough):
        asyncio.run(static.agent.run())
    base = POLL_INTERVAL_S
    assert clock.slept_s == [base * 2, 7000.0, base * 8, base, base]
    assert [text for text in static.said if "away" in text] == ["away"] * 3


# --- the process


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    """The service manager's end of sd_notify."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(f"\0slipstream-test-{os.getpid()}")
        channel.setblocking(False)
        yield channel


def address_of(manager: socket.socket) -> str:
    return "@" + manager.getsockname()[1:].decode()


def heard(manager: socket.socket) -> list[str]:
    messages = []
    while True:
        try:
            messages += manager.recv(4096).decode().splitlines()
        except BlockingIOError:
            return messages


def test_sigterm_ends_the_agent_cleanly(static: Rig, manager: socket.socket) -> None:
    def say(text: str) -> None:
        static.said.append(text)
        if "no release is on offer" in text:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    notifier = Notifier(address_of(manager), watchdog_s=30.0)
    asyncio.run(agent.run(static.device, say=say, chance=lambda: 0.5, notifier=notifier, look=None))
    assert static.said[-1] == "stopping"
    messages = heard(manager)
    assert "READY=1" in messages
    assert "WATCHDOG=1" in messages
    assert messages[-2:] == ["STOPPING=1", "STATUS=stopping"]
    assert 15.0 in static.lab.clock.slept_s
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_cancelled_agent_stays_cancelled(static: Rig) -> None:
    async def main() -> None:
        task = asyncio.create_task(agent.run(static.device, say=static.said.append, look=None))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_ready_waits_for_a_settled_trial(static: Rig, manager: socket.socket) -> None:
    """boot-complete.target is ordered behind READY: a release on trial must not get there unproved."""
    static.publish(1)
    static.agent.notifier = Notifier(address_of(manager))
    static.round()
    heard(manager)
    static.boot()
    static.agent.notifier = Notifier(address_of(manager))
    static.well.unlink()
    with pytest.raises(SlipstreamError):
        static.round()
    assert "READY=1" not in heard(manager)
    static.well.touch()
    static.round()
    messages = heard(manager)
    assert messages.index("STATUS=release 1.0 is confirmed") < messages.index("READY=1")
    static.round()
    assert "READY=1" not in heard(manager)


def test_a_release_with_nothing_to_fall_back_to_is_not_reset(static: Rig, tmp_path: Path) -> None:
    """slipstream-trial.service looks for the file: the deadline would bring it back for ever."""
    runtime = tmp_path / "run"
    runtime.mkdir()
    static.publish(1)
    static.round()
    static.boot()
    static.agent.notifier = Notifier.of_environment({"RUNTIME_DIRECTORY": f"{runtime}:/other"})
    static.well.unlink()
    with pytest.raises(SlipstreamError):
        static.round()
    assert (runtime / "stays").exists()
    static.well.touch()
    static.round()
    assert not (runtime / "stays").exists()


def test_a_manager_that_is_gone_is_no_reason_to_stop(tmp_path: Path) -> None:
    Notifier(str(tmp_path / "gone")).send(READY="1")
    Notifier("@slipstream-nobody").send(STATUS="x")
    Notifier(None, watchdog_s=5).send(READY="1")
    assert Notifier(None, watchdog_s=5).watchdog_s is None


def test_nothing_is_queued_where_nobody_takes_it(static: Rig) -> None:
    static.publish(1)
    static.round()
    static.boot()
    static.round()
    assert "release 1.0 is confirmed" in static.said
    assert static.device.slots.reports() == ()
    assert not (static.folder / "state/events.jsonl").exists()


def test_a_missing_token_file_is_a_usage_error(static: Rig) -> None:
    text = static.lab.config_path.read_text()
    static.lab.config_path.write_text(
        text.replace('root = "root.json"', 'root = "root.json"\ntoken_file = "token"')
    )
    with pytest.raises(UsageError, match="token_file"):
        asyncio.run(agent.run(static.device, say=static.said.append))


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_token_that_others_can_read_is_refused(static: Rig, mode: int) -> None:
    (static.folder / "token").write_text("secret\n")
    (static.folder / "token").chmod(mode)
    text = static.lab.config_path.read_text()
    static.lab.config_path.write_text(
        text.replace('root = "root.json"', 'root = "root.json"\ntoken_file = "token"')
    )
    with pytest.raises(UsageError, match=rf"token: others can read.*{mode:04o}.*chmod 600"):
        asyncio.run(agent.run(static.device, say=static.said.append))


def test_a_whole_update_through_a_real_server(static: Rig) -> None:
    """poll.Server over loopback: the token is sent, the report arrives, SIGTERM ends it."""
    requests: list[tuple[str, str, dict[str, object]]] = []
    static.publish(1)

    def handler(answer: dict[str, object]) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            body = await request.json()
            requests.append((request.path, request.headers["Authorization"], body))
            return web.json_response(answer)

        return handle

    def say(text: str) -> None:
        static.said.append(text)
        if text.startswith("rebooting"):
            os.kill(os.getpid(), signal.SIGTERM)

    async def main() -> None:
        app = web.Application()
        offer: dict[str, object] = {
            "action": "install", "release": "1.0", "counter": 1, "interval_s": 60, "reason": ""
        }  # fmt: skip
        app.router.add_post("/v1/poll", handler(offer))
        app.router.add_post("/v1/report", handler({"accepted": True, "duplicate": False}))
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        (static.folder / "token").write_text("secret\n")
        (static.folder / "token").chmod(0o600)
        text = static.lab.config_path.read_text()
        text = text.replace("127.0.0.1:1/", f"127.0.0.1:{port}/")
        text = text.replace('root = "root.json"', 'root = "root.json"\ntoken_file = "token"')
        static.lab.config_path.write_text(text)
        try:
            await agent.run(static.device, say=say, chance=lambda: 0.5)
        finally:
            await runner.cleanup()

    asyncio.run(main())
    assert [path for path, *_ in requests] == ["/v1/poll", "/v1/report"]
    assert {token for _, token, _ in requests} == {"Bearer secret"}
    assert requests[1][2]["kind"] == "installed"
    assert static.device.slots.reports() == ()

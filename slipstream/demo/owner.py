"""The device's owner: plans, installs, kills, boots, confirms, and writes down what it took."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from slipstream.cli.progress import megabytes
from slipstream.delta.errors import SlipstreamError
from slipstream.demo.commands import Ran, run_slipstream
from slipstream.demo.fleet import Fleet
from slipstream.demo.machine import Machine
from slipstream.demo.releases import DemoRelease
from slipstream.demo.table import Row

KILL_AT_SHARE = 0.4  # of the root file system's bytes: the middle of the stream
EXIT_NOTHING_TO_DO = 3


@dataclass(slots=True)
class Owner:
    """One device of a fleet. `rows` gets a row for each install."""

    machine: Machine
    fleet: Fleet
    rows: list[Row]

    def install(self, release: DemoRelease, what: str, *, kill: bool = False) -> None:
        """Install a release; with `kill`, SIGKILL the installer once and start it again.

        `what` names the row, beside the kind of the root file system's payload and the kill that
        there were: an installer of small images may end before it is killed.
        """
        asked = ("--release", release.version)
        self._run("plan", *asked)
        plan = self._run("plan", *asked, "--json").lines[0]
        ran = [self._run("install", *asked, "--json", kill_when=_in_the_middle if kill else None)]
        fetched = 0
        if ran[0].was_killed:
            fetched = max(_int(event, "fetched_bytes") for event in ran[0].lines)
            self.fleet.say(
                f"  killed with SIGKILL after {ran[0].seconds:.1f} s and {megabytes(fetched)}; "
                "status says:"
            )
            self._run("status")
            ran.append(self._run("install", *asked, "--json"))
        result = ran[-1].lines[-1]
        self.fleet.say(_in_words(result))
        fetched += _int(result, "bytes_fetched")
        images = _images(plan)
        frames = sum(
            self.fleet.frame_bytes(release.version, name, image["source_root"])
            for name, image in images.items()
        )
        rootfs, killed = images["rootfs"], ", killed once" if ran[0].was_killed else ""
        self.rows.append(
            Row(
                f"{what}, {rootfs['payload']}{killed}",
                image_bytes=_int(rootfs, "image_bytes"),
                payload_bytes=_int(rootfs, "payload_bytes"),
                uki_payload_bytes=_int(images["uki"], "payload_bytes"),
                fetched_bytes=fetched,
                twice_bytes=max(0, fetched - frames),
                seconds=sum(one.seconds for one in ran),
                peak_kib=max(one.peak_kib for one in ran),
            )
        )

    def expect_offer(self) -> None:
        """The rollout's phase is open for this device, too."""
        self._run("check")

    def boot(self, release: DemoRelease, text: str) -> None:
        """Boot, and check that it is the release that it must be. `text` introduces the entry."""
        name = self.machine.boot()
        self.fleet.say(f"\n{text}: {name}")
        if int(name[:4]) != release.counter:
            raise SlipstreamError("the wrong release boots", expected=release.counter, got=name)
        self.rows[-1].add_boot(release.version)

    def confirm(self) -> None:
        """Run the health checks; all pass, so the trial ends."""
        self._run("confirm")
        self._run("status")

    def fail_health(self) -> None:
        """Run the health checks of a broken release: they fail, and its entry is condemned."""
        if self._run("confirm", expect=None).code == 0:
            raise SlipstreamError("the broken release was confirmed")

    def report_fall_back(self) -> None:
        """Back in the release before: record, report, and do not take the broken one again."""
        self._run("confirm", expect=None)
        self._run("status")
        self._run("check", expect=EXIT_NOTHING_TO_DO)
        self.fleet.show_devices()

    def _run(
        self,
        verb: str,
        *words: str,
        expect: int | None = 0,
        kill_when: Callable[[dict[str, object]], bool] | None = None,
    ) -> Ran:
        config = ("--config", str(self.machine.config))
        return run_slipstream(
            "device", verb, *config, *words, say=self.fleet.say, expect=expect, kill_when=kill_when
        )


def _in_the_middle(event: dict[str, object]) -> bool:
    """Whether a progress event says that KILL_AT_SHARE of the root file system is written."""
    done, total = event.get("done_bytes"), event.get("total_bytes")
    return (
        event.get("stage") == "write"
        and event.get("image") == "rootfs"
        and isinstance(done, int)
        and isinstance(total, int)
        and total > 0
        and done >= KILL_AT_SHARE * total
    )


def _in_words(result: dict[str, object]) -> str:
    return (
        f"  fetched {megabytes(_int(result, 'bytes_fetched'))}; "
        f"wrote {megabytes(_int(result, 'bytes_written'))} "
        f"of {megabytes(_int(result, 'image_bytes'))}; "
        f"{_int(result, 'chunks_standing')} of {_int(result, 'chunks')} chunks stood already"
    )


def _images(plan: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The images of a plan by name."""
    return {image["name"]: image for image in plan["images"]}


def _int(found: dict[str, object], key: str) -> int:
    value = found[key]
    assert isinstance(value, int)
    return value

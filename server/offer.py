"""What a polling device is offered. Pure: values in, a decision out; later grown to rollouts."""

from dataclasses import dataclass

from slipstream.server.catalog import Release


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a device stands when it polls."""

    release: str | None
    counter: int | None
    booted_root: str | None  # hex; None: the device does not boot by root hash, or cannot tell
    floor: int  # lowest counter it accepts
    trial: bool  # it tries out a release that is not confirmed
    failed: frozenset[str]  # releases it fell back from, or says it will not try again


@dataclass(frozen=True, slots=True)
class Install:
    """Install `release`."""

    release: str
    counter: int
    reason: str


@dataclass(frozen=True, slots=True)
class Stay:
    """Nothing to install now."""

    reason: str


Decision = Install | Stay


def decide_offer(standing: Standing, newest: Release | None) -> Decision:
    """What a device gets when `newest` is the newest release of its product's channel.

    A release that failed on this device is not replaced by an older one: it waits for a newer.
    """
    if newest is None:
        return Stay("no release in this channel")
    if standing.trial:
        return Stay("a trial is under way")
    if _runs(standing, newest):
        return Stay(f"already on {newest.release}")
    if newest.release in standing.failed:
        return Stay(f"{newest.release} failed on this device; waiting for a newer release")
    if newest.counter < standing.floor:
        return Stay(f"{newest.release} is below this device's floor {standing.floor}")
    if standing.counter is not None and newest.counter < standing.counter:
        return Stay(f"runs counter {standing.counter}, newer than {newest.release}")
    return Install(newest.release, newest.counter, f"newest in channel {newest.channel}")


def _runs(standing: Standing, newest: Release) -> bool:
    # The counter is the truth where the device knows it: two releases may share a root, when
    # only the kernel changed.
    if standing.counter is not None:
        return standing.counter == newest.counter
    if standing.release is not None:
        return standing.release == newest.release
    return standing.booted_root in newest.roots

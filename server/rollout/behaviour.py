"""How the devices of a simulated fleet behave: when they poll, how long they take, what goes wrong.

Everything that chance decides is drawn before a simulation begins, device by device and always as
many numbers: with one seed, two plans meet the same devices with the same fates, and differ in
what the plans do alone. What is not modelled: reports that are lost (track.py bears them), links
that share their bandwidth, and devices that try again after they gave up.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random
from statistics import NormalDist

import msgspec
from msgspec.structs import replace

from slipstream.delta.errors import UsageError
from slipstream.delta.limits import POLL_INTERVAL_S, SIMULATED_DEVICES_MAX, SIMULATED_S_MAX
from slipstream.server.rollout.facts import Facts, check_selector
from slipstream.server.rollout.plan import FailureClass, Plan
from slipstream.server.rollout.rsql import Filter, matches, parse_filter

_SPREAD = (
    0.5  # of the log of a duration: two of three devices take between 0.6 and 1.65 of its median
)
_NORMAL = NormalDist()
_TINY = 1e-12  # logarithms and quantiles are of what lies between 0 and 1


@dataclass(frozen=True, slots=True)
class Failing:
    """`share` (0 to 1) of the devices that `where` selects fail with `failure`."""

    failure: FailureClass
    share: float
    where: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UsageError("not a share of devices", expected="0 to 1", got=self.share)
        parse_filter(self.where)

    @property
    def condition(self) -> Filter:
        return parse_filter(self.where)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Of a fleet. Times in seconds.

    A device of class `silent` installs and is never heard of again, one of class `regressed` is
    confirmed and falls back later, one of class `boot` or `root` tries the release and comes back.
    """

    failing: tuple[Failing, ...] = ()
    poll_interval_s: int = POLL_INTERVAL_S
    fetch_s: int = 600  # median: fetched, written, switched
    boot_s: int = 90  # median: rebooted and confirmed; the way back takes as long again
    regress_after_s: int = 86_400  # mean
    offline: float = 0.0  # share that does not poll when the rollout begins
    offline_s: int = 7 * 86_400  # mean time until such a device polls again

    def __post_init__(self) -> None:
        for what, value in (
            ("poll interval", self.poll_interval_s),
            ("time to fetch", self.fetch_s),
            ("time to boot", self.boot_s),
            ("time to a regression", self.regress_after_s),
            ("time offline", self.offline_s),
        ):
            if not 1 <= value <= SIMULATED_S_MAX:
                raise UsageError(
                    f"{what} is out of range", expected=f"1 to {SIMULATED_S_MAX} s", got=value
                )
        if not 0 <= self.offline <= 1:
            raise UsageError("not a share of devices offline", expected="0 to 1", got=self.offline)
        if sum(one.share for one in self.failing if not one.where) > 1:
            raise UsageError("more devices fail than there are", expected="at most 100 % in all")


@dataclass(frozen=True, slots=True)
class Fate:
    """What will become of one device, if it is offered the release. Times in seconds."""

    poll_offset_s: int  # its polls are at this, modulo the interval
    online_s: int  # since the start; it does not poll before
    fetch_s: int
    boot_s: int
    regress_s: int  # after it was confirmed
    failure: FailureClass | None


def draw_fates(behaviour: Behaviour, devices: Iterable[Facts], random: Random) -> list[Fate]:
    """A fate for each device, in their order. Of rates that a device meets, the first ones go
    first: they are shares of all devices, not of those that the rates before them left over."""
    rates = [(one, one.condition) for one in behaviour.failing]
    fates = []
    for device in devices:
        offset, failing, offline, back, fetch, boot, regress = (
            min(max(random.random(), _TINY), 1 - _TINY) for _ in range(7)
        )
        fates.append(
            Fate(
                int(offset * behaviour.poll_interval_s),
                _exponential(back, behaviour.offline_s) if offline < behaviour.offline else 0,
                _around(fetch, behaviour.fetch_s),
                _around(boot, behaviour.boot_s),
                _exponential(regress, behaviour.regress_after_s),
                _failure(rates, device, failing),
            )
        )
    return fates


def _failure(
    rates: Sequence[tuple[Failing, Filter]], device: Facts, drawn: float
) -> FailureClass | None:
    below = 0.0
    for rate, condition in rates:
        if rate.where and not matches(condition, device):
            continue
        below += rate.share
        if drawn < below:
            return rate.failure
    return None


def _exponential(drawn: float, mean_s: int) -> int:
    return max(1, round(-math.log(drawn) * mean_s))


def _around(drawn: float, median_s: int) -> int:
    """Log-normal, as download times are."""
    return max(1, round(median_s * math.exp(_SPREAD * _NORMAL.inv_cdf(drawn))))


@dataclass(frozen=True, slots=True)
class Spread:
    """A selector whose values the devices of a synthetic fleet share out, by weight."""

    selector: str
    weights: Mapping[str, float] = field(default_factory=dict)  # "": not known of the device

    def __post_init__(self) -> None:
        check_selector(self.selector)
        if self.selector not in ("hardware", "release", "group", "tag") and (
            not self.selector.startswith("attribute.")
        ):
            raise UsageError(
                f"{self.selector} is not spread over a synthetic fleet",
                expected="hardware, release, group, tag or attribute.KEY",
            )
        if not self.weights or min(self.weights.values()) < 0 or not sum(self.weights.values()):
            raise UsageError(
                f"weights of {self.selector} have no sum", expected="such as berlin:3,oslo:1"
            )


def synthetic_fleet(
    plan: Plan, count: int, spreads: Sequence[Spread], random: Random
) -> list[Facts]:
    """`count` devices that the plan is for, with values spread over them."""
    if not 1 <= count <= SIMULATED_DEVICES_MAX:
        raise UsageError(
            "number of devices is out of range", expected=f"1 to {SIMULATED_DEVICES_MAX}", got=count
        )
    columns = [
        (one.selector, list(one.weights), list(accumulate(one.weights.values()))) for one in spreads
    ]
    fleet = []
    for number in range(count):
        device = Facts(f"device-{number:06}", plan.product, plan.channel, counter=plan.counter - 1)
        for selector, values, weights in columns:
            (value,) = random.choices(values, cum_weights=weights)
            if value:
                device = _with(device, selector, value)
        fleet.append(device)
    return fleet


def _with(device: Facts, selector: str, value: str) -> Facts:
    match selector:
        case "hardware":
            return replace(device, hardware=value)
        case "release":
            return replace(device, release=value)
        case "group":
            return replace(device, group=value)
        case "tag":
            return replace(device, tags=device.tags | {value})
        case _:
            key = selector.removeprefix("attribute.")
            return replace(device, attributes={**device.attributes, key: value})


def parse_fleet(lines: Iterable[bytes]) -> Iterator[Facts]:
    """A recorded fleet: one JSON object a line, with the fields of Facts. Raises UsageError."""
    decoder = msgspec.json.Decoder(Facts)
    seen: set[str] = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            device = decoder.decode(line)
        except msgspec.MsgspecError as error:
            raise UsageError(f"line {number} is not a device", got=error) from error
        if device.id in seen:
            raise UsageError(f"line {number} has a device a second time", got=repr(device.id))
        seen.add(device.id)
        if len(seen) > SIMULATED_DEVICES_MAX:
            raise UsageError("too many devices", expected=f"at most {SIMULATED_DEVICES_MAX}")
        yield device

"""Who failed to log in how often, and has to wait. Pure: the time is given.

Three counts within windows of LOGIN_WINDOW_S, each with its own bound:

- a name from an address (LOGIN_FAILURES_MAX): who guesses at a name locks it for their own address
  alone, not for its owner elsewhere;
- an address (LOGIN_ADDRESS_FAILURES_MAX): who tries many names;
- a name over all addresses (LOGIN_NAME_FAILURES_MAX): who guesses from many addresses. An address
  from which the name has logged in before is not held by it, and does not count for it: a crowd of
  strangers locks strangers out. (OWASP, "Slow Down Online Guessing Attacks with Device Cookies";
  the address stands for the cookie.)
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

from slipstream.delta.limits import (
    LOGIN_ADDRESS_FAILURES_MAX,
    LOGIN_FAILURES_MAX,
    LOGIN_NAME_FAILURES_MAX,
    LOGIN_TOLD_MAX,
    LOGIN_WATCHED_MAX,
    LOGIN_WINDOW_S,
)

_K = TypeVar("_K", bound=Hashable)
_Pair = tuple[str, str]  # name, address


class Told(Enum):
    """What the audit log has heard of a name at an address in this window."""

    NOTHING = 0
    FAILED = 1  # the first failure
    WAITS = 2  # and that it came to the bound


@dataclass(slots=True)
class _Window:
    begun: int  # seconds since 1970
    tries: int = 0
    told: Told = Told.NOTHING

    def lasts(self, now: int) -> bool:
        """Not when the clock has jumped back before its beginning, either."""
        return 0 <= now - self.begun < LOGIN_WINDOW_S


@dataclass
class _Counter(Generic[_K]):
    """Tries by key. At most LOGIN_WATCHED_MAX keys: the oldest window goes first."""

    bound: int
    windows: OrderedDict[_K, _Window] = field(default_factory=OrderedDict)

    def wait_s(self, key: _K, now: int) -> int:
        window = self.windows.get(key)
        if window is None or window.tries < self.bound:
            return 0
        return min(LOGIN_WINDOW_S, max(0, window.begun + LOGIN_WINDOW_S - now))

    def count(self, key: _K, now: int) -> None:
        window = self.windows.get(key)
        if window is None or not window.lasts(now):
            self.windows.pop(key, None)
            window = self.windows[key] = _Window(now)
        window.tries += 1
        while len(self.windows) > LOGIN_WATCHED_MAX:
            self.windows.popitem(last=False)

    def take_back(self, key: _K) -> None:
        window = self.windows.get(key)
        if window is not None:
            window.tries = max(0, window.tries - 1)


@dataclass
class Throttle:
    """Counts the tries of this process."""

    _pairs: _Counter[_Pair] = field(default_factory=lambda: _Counter(LOGIN_FAILURES_MAX))
    _addresses: _Counter[str] = field(default_factory=lambda: _Counter(LOGIN_ADDRESS_FAILURES_MAX))
    _names: _Counter[str] = field(default_factory=lambda: _Counter(LOGIN_NAME_FAILURES_MAX))
    # Where a name has logged in; the one that was longest ago first.
    _familiar: OrderedDict[_Pair, None] = field(default_factory=OrderedDict)
    _telling: _Window = field(default_factory=lambda: _Window(0))

    def wait_s(self, name: str, address: str, now: int) -> int:
        """Seconds until the next try; 0: now."""
        pair = (name, address)
        waits = [self._pairs.wait_s(pair, now), self._addresses.wait_s(address, now)]
        if pair not in self._familiar:
            waits.append(self._names.wait_s(name, now))
        return max(waits)

    def begin(self, name: str, address: str, now: int) -> None:
        """Count a try; before the password is looked at, or a crowd of tries would all pass."""
        pair = (name, address)
        self._pairs.count(pair, now)
        self._addresses.count(address, now)
        if pair not in self._familiar:
            self._names.count(name, now)

    def succeed(self, name: str, address: str) -> None:
        """Take back the try of one who knew the password, and know the address from now on."""
        pair = (name, address)
        self._pairs.take_back(pair)
        self._addresses.take_back(address)
        if pair not in self._familiar:
            self._names.take_back(name)
        self._familiar[pair] = None
        self._familiar.move_to_end(pair)
        while len(self._familiar) > LOGIN_WATCHED_MAX:
            self._familiar.popitem(last=False)

    def fail(self, name: str, address: str, now: int) -> Told:
        """What the audit log is to hear of a failure: NOTHING, if it has.

        The first of a name at an address in its window, and the one behind which it waits; of all
        names and addresses together LOGIN_TOLD_MAX in a window.
        """
        window = self._pairs.windows.get((name, address))
        if window is None:  # forgotten already: there is a flood
            window = _Window(now)
        if window.told is Told.NOTHING:
            news = Told.FAILED
        elif window.told is Told.FAILED and window.tries >= LOGIN_FAILURES_MAX:
            news = Told.WAITS
        else:
            return Told.NOTHING
        if not self._telling.lasts(now):
            self._telling = _Window(now)
        if self._telling.tries >= LOGIN_TOLD_MAX:
            return Told.NOTHING
        self._telling.tries += 1
        window.told = news
        return news

"""Who failed to log in how often: names and addresses wait after too many failures. Pure."""

from collections import OrderedDict
from dataclasses import dataclass, field

from slipstream.delta.limits import LOGIN_FAILURES_MAX, LOGIN_WATCHED_MAX, LOGIN_WINDOW_S


@dataclass
class Throttle:
    """Counts failures of this process within windows of LOGIN_WINDOW_S."""

    # By name or address: when the window began, and failures in it. Oldest window first.
    _failures: OrderedDict[str, tuple[int, int]] = field(default_factory=OrderedDict)

    def wait_s(self, who: str, now: int) -> int:
        """Seconds until `who` may try again; 0: now."""
        begun, count = self._failures.get(who, (now, 0))
        if count < LOGIN_FAILURES_MAX:
            return 0
        return min(LOGIN_WINDOW_S, max(0, begun + LOGIN_WINDOW_S - now))

    def begin(self, who: str, now: int) -> None:
        """Count a try; before the password is looked at, or a crowd of tries would all pass."""
        begun, count = self._failures.get(who, (now, 0))
        if not 0 <= now - begun < LOGIN_WINDOW_S:
            begun, count = now, 0
            self._failures.pop(who, None)
        self._failures[who] = (begun, count + 1)
        while len(self._failures) > LOGIN_WATCHED_MAX:
            self._failures.popitem(last=False)

    def succeed(self, who: str) -> None:
        """Take back the try of one who knew the password."""
        begun, count = self._failures.get(who, (0, 0))
        if count > 1:
            self._failures[who] = (begun, count - 1)
        else:
            self._failures.pop(who, None)

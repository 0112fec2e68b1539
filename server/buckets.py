"""Token buckets in bounded memory: who may ask now, and who has to wait how long. Pure.

Kept of each is one number, the time at which its bucket is full again (the generic cell rate
algorithm: ITU-T I.371, annex A). Who is not in the table has a full bucket.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field

from slipstream.delta.limits import BUCKETS_MAX


@dataclass
class Buckets:
    """`per_s` tokens run into each bucket a second, up to `burst`. `per_s` 0: no limit."""

    per_s: float
    burst: int
    _full_at: dict[Hashable, float] = field(default_factory=dict)

    def take(self, who: Hashable, now: float) -> float:
        """Take a token: 0.0; or seconds until there is one. `now`: of a clock that never runs back."""
        if not self.per_s:
            return 0.0
        full_at = max(now, self._full_at.get(who, now))
        wait_s = full_at + 1 / self.per_s - now - self.burst / self.per_s
        if wait_s > 1e-9:  # sums of floats: a token that is there must not be missed by a rounding
            return wait_s
        self._full_at[who] = full_at + 1 / self.per_s
        if len(self._full_at) > BUCKETS_MAX:
            self._forget(now)
        return 0.0

    def __len__(self) -> int:
        return len(self._full_at)

    def _forget(self, now: float) -> None:
        """Drop full buckets, which say nothing; of too many others, those that are fullest."""
        kept = sorted(
            (one for one in self._full_at.items() if one[1] > now), key=lambda one: one[1]
        )
        self._full_at = dict(kept[-BUCKETS_MAX // 2 :])

"""Which long streams frames read, in target order, within what a device has memory for (build machine).

A device holds a cursor from the first frame that reads a stream to the last one. So a stream is
either not begun, or open, or ended for good: it is ended when others need its memory.
"""

from collections.abc import Iterable, Mapping

from slipstream.delta.limits import LONG_STREAMS_MAX


class Cursors:
    """Streams are known by the address of their content; `costs` says what a cursor on each holds."""

    def __init__(self, costs: Mapping[int, int]) -> None:
        self._costs = costs
        self._open: dict[int, None] = {}  # the one read last stands last
        self._ended: set[int] = set()
        self._left = LONG_STREAMS_MAX  # of a payload

    def spare(self, room: int) -> int:
        """What the open cursors leave of `room` bytes."""
        return max(0, room - sum(self._costs[one] for one in self._open))

    def barred(self, room: int) -> set[int]:
        """Streams that a frame may not read beside which cursors may hold `room` bytes.

        Ends what does not fit beside it.
        """
        self._end_until(room, ())
        closed = self._costs.keys() - self._open.keys() - self._ended
        if self._left:
            closed = {one for one in closed if self._costs[one] > room}
        return self._ended | closed

    def take(self, wanted: Iterable[int], room: int) -> set[int]:
        """Note that such a frame reads these streams, which are not barred: those that it may not."""
        refused: set[int] = set()
        taken: list[int] = []
        for one in wanted:
            if one not in self._open:
                fits = sum(self._costs[other] for other in taken) + self._costs[one] <= room
                if not fits or not self._left:
                    refused.add(one)
                    continue
                self._end_until(room - self._costs[one], taken)
                self._left -= 1
            self._open.pop(one, None)
            self._open[one] = None
            taken.append(one)
        return refused

    def _end_until(self, room: int, needed: Iterable[int]) -> None:
        """End those read longest ago, but for those needed, until the rest fits."""
        kept = set(needed)
        held = sum(self._costs[one] for one in self._open)
        for one in [one for one in self._open if one not in kept]:
            if held <= room:
                return
            held -= self._costs[one]
            del self._open[one]
            self._ended.add(one)

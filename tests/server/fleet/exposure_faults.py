"""Seeded faults: the real code with one guard taken out, in which the machine must find a victim.

Each is a function of the store or the engine, a piece of its source, and what stands there
instead.
"""

import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from slipstream.server.fleet import hear, moves, polls
from slipstream.server.rollout import judge
from slipstream.server.store import grants, holds, quarantines, rollouts, tallies


@dataclass(frozen=True, slots=True)
class Fault:
    """One guard that is missing."""

    words: str
    owner: Any  # the module in which its caller looks the function up
    name: str
    old: str
    new: str

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """The function without its guard, while inside."""
        with patch.object(self.owner, self.name, self._broken()):
            yield

    def _broken(self) -> Callable[..., Any]:
        function = getattr(self.owner, self.name)
        source = textwrap.dedent(inspect.getsource(function))
        assert self.old in source, f"{self.words}: {self.name} has changed"
        module = sys.modules[function.__module__]
        found: dict[str, Any] = {}
        # In the module's own namespace, so that it sees everything that the real one sees.
        exec(
            compile(source.replace(self.old, self.new), module.__file__ or "", "exec"),
            vars(module),
            found,
        )
        return found[self.name]  # type: ignore[no-any-return]


FAULTS = (
    Fault(
        "an offer is granted without a look at its phase's limit",
        grants,
        "_count_in",
        "sa.or_(phases.c.limit.is_(None), phases.c.offered < phases.c.limit)",
        "sa.true()",
    ),
    Fault(
        "an offer is granted though its rollout was paused",
        grants,
        "grant",
        "rollouts.c.status.in_(_OFFERING)",
        "sa.true()",
    ),
    Fault(
        "an offer is granted though the release was quarantined meanwhile",
        grants,
        "grant",
        ') is not None:\n        raise NoRoom(f"it is quarantined',
        ') == 0:\n        raise NoRoom(f"it is quarantined',
    ),
    Fault(
        "an offer is granted to a device that has left the filter meanwhile",
        grants,
        "_lock_as_decided",
        "if not _is_as_decided(",
        "if False and not _is_as_decided(",
    ),
    Fault(
        "an offer is said again to a device that has left the filter meanwhile",
        grants,
        "stands",
        "if not _is_as_decided(",
        "if False and not _is_as_decided(",
    ),
    Fault(
        "an offer of a halted rollout is said again",
        grants,
        "stands",
        "if rows[0].status not in _OFFERING:",
        "if False:",
    ),
    Fault(
        "a quarantined offer is said again",
        grants,
        "stands",
        "if rows[0].reason is not None:",
        "if False:",
    ),
    Fault(
        "a device that tries again needs no place in the budget",
        grants,
        "stands",
        "wanted.labels.keys() <=",
        "True or wanted.labels.keys() <=",
    ),
    Fault(
        "a budget has room for one more",
        holds,
        "take",
        ">= max_unavailable",
        "> max_unavailable",
    ),
    Fault(
        "a fall back is not remembered",
        quarantines,
        "add",
        "if (await connection.execute(statement.on_conflict_do_nothing())).rowcount == 0:",
        "if True:",
    ),
    Fault(
        "an installed device counts as confirmed",
        tallies,
        "of_rollouts",
        "if state == State.CONFIRMED:",
        "if state in (State.CONFIRMED, State.INSTALLED):",
    ),
    Fault(
        "any root hash confirms",
        hear,
        "_confirmed",
        "if booted in release.roots:",
        "if booted:",
    ),
    Fault(
        "a phase needs one confirmed device less",
        judge,
        "unmet",
        "if confirmed >= wanted:",
        "if confirmed >= wanted - 1:",
    ),
    Fault(
        "a phase is opened on what was read some time ago",
        rollouts,
        "_raise_version",
        ", rollouts.c.version == rollout.version",
        "",
    ),
    Fault(
        "a phase takes one device more than its share",
        moves,
        "draw",
        "max(0, wanted - taken)",
        "max(0, wanted - taken) + 1",
    ),
    Fault(
        "what was offered to devices that are gone is room for others",
        moves,
        "draw",
        "max(len(offered), sum(counts))",
        "len(offered)",
    ),
    Fault(
        "what a poll was decided on is not asked of the database",
        polls,
        "make_offer",
        "if decision.fresh or",
        "if not decision.fresh and",
    ),
)

"""Exposure is bounded, whatever happens in whatever order; `python -m` this for the long run.

python -m tests.server.fleet.test_exposure --steps 100000
"""

import argparse
import sys
import time
from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from slipstream.server.store.database import parse_url
from tests.server.fleet.exposure import Exposure, postgresql_machine, sqlite_machine
from tests.server.fleet.exposure_faults import FAULTS, Fault
from tests.server.fleet.exposure_page import Hunt, write_page

SETTINGS = settings(
    max_examples=42,
    stateful_step_count=120,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
    phases=[Phase.generate],
    report_multiple_bugs=False,
)
CHANCES = settings(SETTINGS, derandomize=False)  # others each time
RUNS_MAX = 10  # for a seeded fault, of about 7,000 steps each


def test_exposure_is_bounded_on_sqlite():
    with sqlite_machine(Exposure) as machine:
        run_state_machine_as_test(machine, settings=SETTINGS)
        assert machine.steps >= 5000


def test_exposure_is_bounded_on_postgresql(new_postgresql: Callable[[], str]):
    with postgresql_machine(Exposure, lambda: parse_url(new_postgresql())) as machine:
        few = settings(SETTINGS, max_examples=2, stateful_step_count=60)
        run_state_machine_as_test(machine, settings=few)
        assert machine.steps >= 100


def test_a_missing_guard_is_found():
    """One of them; `make bench-exposure` seeds them all."""
    with (
        sqlite_machine(Exposure) as machine,
        FAULTS[-1].seeded(),
        pytest.raises(AssertionError, match="never written down"),
    ):
        run_state_machine_as_test(machine, settings=SETTINGS)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda one: one.words)
def test_every_fault_can_be_seeded(fault: Fault):
    """The code that it breaks still reads as it did."""
    with fault.seeded():
        pass


def main() -> None:
    """At least `--steps` steps with other chances each time, then every seeded fault.

    Ends with 1 where a fault was not found.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=100_000)
    wanted: int = parser.parse_args().steps
    with sqlite_machine(Exposure) as machine:
        for number in count(1):
            run_state_machine_as_test(machine, settings=CHANCES)
            seconds = time.process_time()
            print(f"{machine.steps} steps, {number} runs, {seconds:.0f} s of processor", flush=True)
            if machine.steps >= wanted:
                break
    hunts = []
    for fault in FAULTS:
        hunts.append(hunt := hunt_for(fault))
        print(f"{hunt.evidence or 'NOT FOUND'} ({hunt.steps} steps): {hunt.words}", flush=True)
    write_page(wanted, machine, hunts, seconds)
    sys.exit(any(hunt.evidence is None for hunt in hunts))


def hunt_for(fault: Fault) -> Hunt:
    """Whether the machine notices that the guard is missing, and how soon."""
    with sqlite_machine(Exposure) as machine, fault.seeded():
        for _ in range(RUNS_MAX):
            try:
                run_state_machine_as_test(machine, settings=CHANCES)
            except AssertionError as error:
                evidence = str(error).splitlines() or ["an assertion without words"]
                return Hunt(fault.words, machine.steps, evidence[0])
        return Hunt(fault.words, machine.steps, None)


if __name__ == "__main__":
    main()

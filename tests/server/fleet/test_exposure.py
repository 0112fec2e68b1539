"""Exposure is bounded, whatever happens in whatever order; `python -m` this for the long run.

python -m tests.server.fleet.test_exposure --steps 100000
"""

import argparse
import time
from itertools import count

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.server.fleet.exposure import Exposure, sqlite_machine
from tests.server.fleet.exposure_faults import FAULTS, Fault

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


def test_exposure_is_bounded_on_sqlite():
    with sqlite_machine(Exposure) as machine:
        run_state_machine_as_test(machine, settings=SETTINGS)
        assert machine.steps >= 5000


def test_a_missing_guard_is_found():
    """One of them; `make bench-exposure` seeds them all."""
    with (
        sqlite_machine(Exposure) as machine,
        FAULTS[-1].seeded(),
        pytest.raises(AssertionError, match="never written down"),
    ):
        run_state_machine_as_test(machine, settings=SETTINGS)


def main() -> None:
    """At least `--steps` steps with other chances each time, then every seeded fault."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=100_000)
    wanted: int = parser.parse_args().steps
    done = 0
    with sqlite_machine(Exposure) as machine:
        for number in count():
            run_state_machine_as_test(machine, settings=settings(SETTINGS, derandomize=False))
            done = machine.steps
            print(f"{done} steps, {number + 1} runs, {time.process_time():.0f} s of processor time")
            if done >= wanted:
                break
    for fault in FAULTS:
        print(f"{'found' if found(fault) else 'NOT FOUND'}: {fault.words}", flush=True)


def found(fault: Fault) -> bool:
    """Whether the machine notices that the guard is missing."""
    with sqlite_machine(Exposure) as machine, fault.seeded():
        try:
            run_state_machine_as_test(machine, settings=settings(SETTINGS, derandomize=False))
        except AssertionError:
            return True
    return False


if __name__ == "__main__":
    main()

"""Exposure is bounded, whatever happens in whatever order; `python -m` this for the long run.

python -m tests.server.fleet.test_exposure --steps 100000
"""

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.server.fleet.exposure import Exposure, sqlite_machine
from tests.server.fleet.exposure_faults import FAULTS

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


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.words)
def test_a_missing_guard_is_found(fault):
    with sqlite_machine(Exposure) as machine, fault.seeded(), pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=SETTINGS)

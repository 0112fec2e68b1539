"""Failures to log in."""

from itertools import count

import pytest

from slipstream.delta.limits import (
    LOGIN_ADDRESS_FAILURES_MAX,
    LOGIN_FAILURES_MAX,
    LOGIN_NAME_FAILURES_MAX,
    LOGIN_TOLD_MAX,
    LOGIN_WATCHED_MAX,
    LOGIN_WINDOW_S,
)
from slipstream.server.api.throttle import Throttle, Told

HOME, CAFE = "192.0.2.7", "198.51.100.9"


def fail(throttle, name, address, times=1, now=1000):
    for _ in range(times):
        throttle.begin(name, address, now)


def test_too_many_failures_wait_until_the_window_is_over():
    throttle = Throttle()
    fail(throttle, "ada", HOME, LOGIN_FAILURES_MAX - 1)
    assert throttle.wait_s("ada", HOME, 1000) == 0
    fail(throttle, "ada", HOME)
    assert throttle.wait_s("ada", HOME, 1010) == LOGIN_WINDOW_S - 10
    assert throttle.wait_s("bea", HOME, 1010) == 0
    assert throttle.wait_s("ada", HOME, 1000 + LOGIN_WINDOW_S) == 0
    fail(throttle, "ada", HOME, now=1000 + LOGIN_WINDOW_S)
    assert throttle.wait_s("ada", HOME, 1000 + LOGIN_WINDOW_S) == 0


def test_who_guesses_at_a_name_locks_nobody_out_elsewhere():
    throttle = Throttle()
    fail(throttle, "ada", CAFE, LOGIN_ADDRESS_FAILURES_MAX)
    assert throttle.wait_s("ada", CAFE, 1000) > 0
    assert throttle.wait_s("ada", HOME, 1000) == 0


def test_an_address_that_tries_many_names_waits():
    throttle = Throttle()
    for number in range(LOGIN_ADDRESS_FAILURES_MAX):
        assert throttle.wait_s("ada", CAFE, 1000) == 0
        fail(throttle, f"user-{number}", CAFE)
    assert throttle.wait_s("ada", CAFE, 1000) == LOGIN_WINDOW_S
    assert throttle.wait_s("ada", HOME, 1000) == 0


@pytest.mark.parametrize("tries_each", [1, LOGIN_FAILURES_MAX])
def test_a_guess_from_many_addresses_is_slow_and_locks_only_strangers_out(tries_each):
    throttle = Throttle()
    throttle.begin("ada", HOME, 1000)
    throttle.succeed("ada", HOME)
    # Some of the crowd sit where ada does: that is bounded by name and address.
    fail(throttle, "ada", HOME, LOGIN_FAILURES_MAX - 1)
    guesses = 0
    for number in range(3 * LOGIN_NAME_FAILURES_MAX):
        for _ in range(tries_each):
            if throttle.wait_s("ada", f"stranger {number}", 1000) == 0:
                throttle.begin("ada", f"stranger {number}", 1000)
                guesses += 1
    assert guesses == LOGIN_NAME_FAILURES_MAX
    assert throttle.wait_s("ada", CAFE, 1000) == LOGIN_WINDOW_S
    assert throttle.wait_s("ada", HOME, 1000) == 0
    assert throttle.wait_s("bea", CAFE, 1000) == 0
    assert throttle.wait_s("ada", CAFE, 1000 + LOGIN_WINDOW_S) == 0


def test_success_takes_only_its_own_try_back():
    throttle = Throttle()
    fail(throttle, "ada", HOME, LOGIN_FAILURES_MAX - 1)
    for _ in range(LOGIN_ADDRESS_FAILURES_MAX):
        throttle.begin("ada", HOME, 1000)
        throttle.succeed("ada", HOME)
    assert throttle.wait_s("ada", HOME, 1000) == 0
    fail(throttle, "ada", HOME)
    assert throttle.wait_s("ada", HOME, 1000) > 0


def test_a_clock_that_jumps_back_locks_nobody_out():
    throttle = Throttle()
    fail(throttle, "ada", HOME, LOGIN_FAILURES_MAX, now=1_000_000)
    assert throttle.wait_s("ada", HOME, 0) <= LOGIN_WINDOW_S


def test_strangers_do_not_fill_the_memory():
    throttle = Throttle()
    for number in range(LOGIN_WATCHED_MAX + 100):
        throttle.begin(f"user {number}", f"address {number}", 1000)
        throttle.succeed(f"user {number}", f"address {number}")
    for counter in (throttle._pairs, throttle._addresses, throttle._names):
        assert len(counter.windows) == LOGIN_WATCHED_MAX
    assert len(throttle._familiar) == LOGIN_WATCHED_MAX


def failures(throttle, name, address, times, now=1000):
    """What is told of so many failures, one after the other."""
    told = []
    for _ in range(times):
        throttle.begin(name, address, now)
        told.append(throttle.fail(name, address, now))
    return [one for one in told if one is not Told.NOTHING]


def test_the_first_failure_of_a_window_is_told_and_the_one_that_waits():
    throttle = Throttle()
    assert failures(throttle, "ada", HOME, LOGIN_FAILURES_MAX - 1) == [Told.FAILED]
    assert failures(throttle, "ada", HOME, 1) == [Told.WAITS]
    assert failures(throttle, "ada", HOME, 3) == []
    assert failures(throttle, "ada", CAFE, 1) == [Told.FAILED]
    assert failures(throttle, "bea", HOME, 1) == [Told.FAILED]
    assert failures(throttle, "ada", HOME, 1, now=1000 + LOGIN_WINDOW_S) == [Told.FAILED]


def test_a_first_failure_is_told_though_another_try_began_before_it():
    throttle = Throttle()
    throttle.begin("ada", HOME, 1000)
    throttle.begin("ada", HOME, 1000)
    throttle.succeed("ada", HOME)
    assert throttle.fail("ada", HOME, 1000) is Told.FAILED


def test_a_flood_does_not_fill_the_audit_log():
    throttle, addresses = Throttle(), count()
    told = [failures(throttle, "ada", f"a{next(addresses)}", 1) for _ in range(3 * LOGIN_TOLD_MAX)]
    assert told.count([Told.FAILED]) == LOGIN_TOLD_MAX
    later = 1000 + LOGIN_WINDOW_S
    assert failures(throttle, "ada", f"a{next(addresses)}", 1, later) == [Told.FAILED]

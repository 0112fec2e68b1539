"""Failures to log in."""

from slipstream.delta.limits import LOGIN_FAILURES_MAX, LOGIN_WATCHED_MAX, LOGIN_WINDOW_S
from slipstream.server.api.throttle import Throttle


def fail(throttle, who, times, now=1000):
    for _ in range(times):
        throttle.begin(who, now)


def test_too_many_failures_wait_until_the_window_is_over():
    throttle = Throttle()
    fail(throttle, "ada", LOGIN_FAILURES_MAX - 1)
    assert throttle.wait_s("ada", 1000) == 0
    fail(throttle, "ada", 1)
    assert throttle.wait_s("ada", 1010) == LOGIN_WINDOW_S - 10
    assert throttle.wait_s("bea", 1010) == 0
    assert throttle.wait_s("ada", 1000 + LOGIN_WINDOW_S) == 0
    fail(throttle, "ada", 1, 1000 + LOGIN_WINDOW_S)
    assert throttle.wait_s("ada", 1000 + LOGIN_WINDOW_S) == 0


def test_success_takes_only_its_own_try_back():
    throttle = Throttle()
    fail(throttle, "address", LOGIN_FAILURES_MAX - 1)
    for _ in range(LOGIN_FAILURES_MAX):
        throttle.begin("address", 1000)
        throttle.succeed("address")
    fail(throttle, "address", 1)
    assert throttle.wait_s("address", 1000) > 0


def test_a_clock_that_jumps_back_locks_nobody_out():
    throttle = Throttle()
    fail(throttle, "ada", LOGIN_FAILURES_MAX, now=1_000_000)
    assert throttle.wait_s("ada", 0) <= LOGIN_WINDOW_S


def test_strangers_do_not_fill_the_memory():
    throttle = Throttle()
    for number in range(LOGIN_WATCHED_MAX + 100):
        throttle.begin(str(number), 1000)
    assert len(throttle._failures) == LOGIN_WATCHED_MAX

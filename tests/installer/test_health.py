"""Health commands: what passes, what fails and why, and that nothing outlives its time."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from slipstream.delta.limits import HEALTH_OUTPUT_BYTES_MAX
from slipstream.installer.config import HealthCheck
from slipstream.installer.health import HealthResult, reason_of, run_health

SHORT_S = 0.3
LONG_S = 30.0


def check(*command: str, name: str = "app", timeout_s: float = LONG_S) -> HealthCheck:
    return HealthCheck(name, command, timeout_s)


def shell(script: str, **rest: float) -> HealthCheck:
    return check("sh", "-c", script, **rest)  # type: ignore[arg-type]


def run(*checks: HealthCheck) -> tuple[HealthResult, ...]:
    return asyncio.run(run_health(checks))


def test_no_checks_is_healthy() -> None:
    assert run() == ()
    assert reason_of(()) is None


def test_exit_zero_passes() -> None:
    (result,) = run(shell("echo fine; echo also >&2"))
    assert result == HealthResult("app", True, "", "fine\nalso\n", 0)
    assert reason_of([result]) is None


@pytest.mark.parametrize(
    "one, reason, code",
    [
        (shell("echo one; echo no route; echo; exit 3"), "exited with 3: no route", 3),
        (shell("exit 1"), "exited with 1", 1),
        (shell("kill -SEGV $$"), "was killed by SIGSEGV", -11),
        (check("/no/such/command"), "could not be started", None),
        (check("/etc"), "could not be started", None),
        (check("sh", "-c", "\0"), "could not be started", None),
        (
            shell("echo waiting; sleep 60", timeout_s=SHORT_S),
            "took longer than 0.3 s: waiting",
            None,
        ),
    ],
)
def test_failures_say_why(one: HealthCheck, reason: str, code: int | None) -> None:
    (result,) = run(one)
    assert not result.passed
    assert result.reason.startswith(f"health check app {reason}")
    assert result.exit_code == code


def test_all_checks_run_and_all_reasons_are_told() -> None:
    results = run(
        check("false", name="a"), check("true", name="b"), check("sh", "-c", "exit 9", name="c")
    )
    assert [result.passed for result in results] == [False, True, False]
    assert reason_of(results) == "health check a exited with 1; health check c exited with 9"


def test_output_is_bounded_and_never_blocks_the_command() -> None:
    code = f"import sys; sys.stdout.write('x' * {5 * HEALTH_OUTPUT_BYTES_MAX} + '\\nend\\n'); sys.exit(1)"
    (result,) = run(check(sys.executable, "-c", code))
    assert len(result.output) == HEALTH_OUTPUT_BYTES_MAX
    assert result.reason == "health check app exited with 1: end"


def test_reasons_are_one_printable_line() -> None:
    (result,) = run(shell("printf 'a\\033[31mred\\000 \\377'; exit 1"))
    assert result.reason == "health check app exited with 1: a[31mred \ufffd"
    many = run(*[shell(f"echo {'y' * 500}; exit 1") for _ in range(8)])
    reason = reason_of(many)
    assert reason is not None
    assert len(reason) <= 1000


def test_the_whole_group_dies_at_the_limit(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    (result,) = run(shell(f"sleep 60 & echo $! > {pid_file}; wait", timeout_s=SHORT_S))
    assert not result.passed
    assert not alive(int(pid_file.read_text()))


def test_the_group_dies_when_cancelled(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"

    async def main() -> None:
        task = asyncio.create_task(
            run_health(
                [shell(f"sleep 60 & echo $! > {pid_file}.new; mv {pid_file}.new {pid_file}; wait")]
            )
        )
        while not pid_file.exists():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert not alive(int(pid_file.read_text()))


def test_a_process_that_left_the_group_does_not_hold_the_agent() -> None:
    (result,) = run(shell("setsid sleep 5 & exit 0"))
    assert result.passed


def alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped by init does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX" and os.path.exists(f"/proc/{pid}")

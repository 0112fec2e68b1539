"""What feedback means: hawkBit's words, and what its clients mean by them, as events of an offer.

Pure. The table of hawkBit is in docs/ddi.md, with where this one differs: success counts as
confirmed only where the rollout's plan takes the device's word for it (Proof.REPORT), and an
installation that failed after the device had said that it was installed is a fall-back.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from slipstream.delta.errors import FormatError
from slipstream.delta.limits import (
    ATTRIBUTE_KEY_CHARS_MAX,
    ATTRIBUTE_VALUE_CHARS_MAX,
    ATTRIBUTES_MAX,
    FEEDBACK_DETAILS_MAX,
    REASON_CHARS_MAX,
)
from slipstream.server.rollout.plan import FailureClass, Plan, Proof
from slipstream.server.rollout.track import Event, State

# SWUpdate's own texts (suricatta/server_hawkbit.c), the only place where it says these things.
_INSTALLED = ("All Chunks Installed.", "Update Installed, Testing Pending.")
_SKIPPED = "Skipped Update."


class Execution(StrEnum):
    """How far the device is."""

    CLOSED = "closed"
    PROCEEDING = "proceeding"
    CANCELED = "canceled"
    SCHEDULED = "scheduled"
    REJECTED = "rejected"
    RESUMED = "resumed"
    DOWNLOAD = "download"
    DOWNLOADED = "downloaded"


class Finished(StrEnum):
    """How it ended, where it did."""

    SUCCESS = "success"
    FAILURE = "failure"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Feedback:
    """The body of a feedback, without what clients send and nobody reads (id, time)."""

    execution: Execution
    finished: Finished
    details: tuple[str, ...] = ()
    code: int | None = None

    @property
    def reason(self) -> str:
        """Its last line: what a person is shown."""
        return self.details[-1][:REASON_CHARS_MAX] if self.details else ""

    @property
    def said(self) -> str:
        """In hawkBit's words."""
        return f"{self.execution.value}/{self.finished.value}"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a feedback does to an offer."""

    event: Event | None  # None: it is kept, and moves nothing
    closes: bool = False  # the device's last word: it is not offered to it any more
    failure: FailureClass | None = None
    runs: bool = False  # the device says that it runs the release


class Reply(StrEnum):
    """What a device answers to a cancel."""

    ACCEPTED = "accepted"
    FAILED = "failed"
    REFUSED = "refused"
    LATER = "later"  # neither yet


def parse_feedback(body: Mapping[str, Any]) -> Feedback:
    """Value of a body that was parsed; FormatError says which field is wrong."""
    status = body.get("status")
    if not isinstance(status, dict):
        raise FormatError("no status", expected="an object", where="$.status")
    result = status.get("result")
    finished = result.get("finished") if isinstance(result, dict) else None
    details = status.get("details")
    lines = details if isinstance(details, list) else [] if details is None else [details]
    code = status.get("code")
    try:
        return Feedback(
            Execution(str(status.get("execution")).lower()),
            Finished(str(finished or "none").lower()),
            tuple(str(line)[:REASON_CHARS_MAX] for line in lines[:FEEDBACK_DETAILS_MAX]),
            code if isinstance(code, int) else None,
        )
    except ValueError as error:
        raise FormatError(str(error), where="$.status") from error


def read_feedback(feedback: Feedback, plan: Plan, state: State) -> Meaning:
    """What a feedback to a deployment means for an offer in `state`."""
    proved = plan.proof is Proof.REPORT
    match feedback.execution, feedback.finished:
        case Execution.CLOSED, Finished.FAILURE:
            # It had said that it was installed: it came up, or tried to, and went back.
            if state is State.INSTALLED:
                return Meaning(Event.FELL_BACK, closes=True, failure=FailureClass.BOOT)
            return Meaning(Event.FAILED, closes=True, failure=FailureClass.DEVICE)
        case Execution.CLOSED, _:
            if _SKIPPED in feedback.details:
                return Meaning(Event.CANCELLED, closes=True)
            if plan.download_only:
                return Meaning(Event.CONFIRMED if proved else Event.FETCHING, closes=True)
            event = Event.CONFIRMED if proved else Event.INSTALLED
            return Meaning(event, closes=True, runs=proved)
        case Execution.DOWNLOADED, _ if plan.download_only:
            return Meaning(Event.CONFIRMED if proved else Event.FETCHING, closes=True)
        case Execution.CANCELED, _:
            return Meaning(Event.CANCELLED, closes=True)
        case Execution.REJECTED, _:
            return Meaning(None)
        case _:
            if any(line in _INSTALLED for line in feedback.details):
                return Meaning(Event.INSTALLED)
            return Meaning(Event.FETCHING)


def read_reply(feedback: Feedback) -> Reply:
    """What a feedback to a cancel means. `canceled` is no acceptance (hawkBit's issue 952)."""
    match feedback.execution, feedback.finished:
        case Execution.CLOSED, Finished.FAILURE:
            return Reply.FAILED
        case Execution.CLOSED, _:
            return Reply.ACCEPTED
        case Execution.REJECTED, _:
            return Reply.REFUSED
        case _:
            return Reply.LATER


def parse_attributes(body: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """(mode, attributes) of the body of configData; FormatError says what is wrong."""
    data = body.get("data")
    if not isinstance(data, dict):
        raise FormatError("no data", expected="an object of attributes", where="$.data")
    mode = str(body.get("mode") or "merge").lower()
    if mode not in ("merge", "replace", "remove"):
        raise FormatError("unknown mode", expected="merge, replace or remove", where="$.mode")
    return mode, {str(key): _text(value) for key, value in data.items()}


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def change_attributes(
    before: Mapping[str, str], mode: str, data: Mapping[str, str]
) -> dict[str, str]:
    """A device's attributes after a change. FormatError: too many, too long, or without a name."""
    for key, value in data.items():
        if not 0 < len(key) <= ATTRIBUTE_KEY_CHARS_MAX or not key.strip():
            raise FormatError(
                "name of an attribute",
                where="$.data",
                expected=f"1 to {ATTRIBUTE_KEY_CHARS_MAX} characters",
                got=repr(key[:80]),
            )
        if len(value) > ATTRIBUTE_VALUE_CHARS_MAX:
            raise FormatError(
                "value of an attribute is too long",
                where=f"$.data.{key}",
                expected=f"at most {ATTRIBUTE_VALUE_CHARS_MAX} characters",
                got=len(value),
            )
    match mode:
        case "replace":
            after = dict(data)
        case "remove":
            after = {key: value for key, value in before.items() if key not in data}
        case _:
            after = {**before, **data}
    if len(after) > ATTRIBUTES_MAX:
        raise FormatError("too many attributes", expected=f"at most {ATTRIBUTES_MAX}")
    return after

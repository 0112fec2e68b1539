"""hawkBit's words, and what they do to an offer."""

import pytest

from slipstream.delta.errors import FormatError
from slipstream.server.ddi.feedback import (
    Execution,
    Feedback,
    Finished,
    Meaning,
    Reply,
    change_attributes,
    parse_attributes,
    parse_feedback,
    read_feedback,
    read_reply,
)
from slipstream.server.rollout.plan import FailureClass, Phase, Plan, Proof
from slipstream.server.rollout.track import Event, State

REPORT = Plan("p", "gateway", "2.0", 2, (Phase(percent=100),), proof=Proof.REPORT)
ROOT = Plan("p", "gateway", "2.0", 2, (Phase(percent=100),))
LOAD = Plan("p", "gateway", "2.0", 2, (Phase(percent=100),), proof=Proof.REPORT, download_only=True)
LOAD_ROOT = Plan("p", "gateway", "2.0", 2, (Phase(percent=100),), download_only=True)
FAILED = Meaning(Event.FAILED, closes=True, failure=FailureClass.DEVICE)
FELL_BACK = Meaning(Event.FELL_BACK, closes=True, failure=FailureClass.BOOT)


@pytest.mark.parametrize(
    ("said", "plan", "state", "meaning"),
    [
        (
            "closed/success",
            REPORT,
            State.FETCHING,
            Meaning(Event.CONFIRMED, closes=True, runs=True),
        ),
        ("closed/none", REPORT, State.INSTALLED, Meaning(Event.CONFIRMED, closes=True, runs=True)),
        ("closed/success", ROOT, State.FETCHING, Meaning(Event.INSTALLED, closes=True)),
        ("closed/failure", REPORT, State.OFFERED, FAILED),
        ("closed/failure", ROOT, State.FETCHING, FAILED),
        ("closed/failure", REPORT, State.INSTALLED, FELL_BACK),
        ("closed/success", LOAD, State.FETCHING, Meaning(Event.CONFIRMED, closes=True)),
        ("downloaded/success", LOAD, State.FETCHING, Meaning(Event.CONFIRMED, closes=True)),
        ("downloaded/none", LOAD_ROOT, State.OFFERED, Meaning(Event.FETCHING, closes=True)),
        ("downloaded/success", REPORT, State.FETCHING, Meaning(Event.FETCHING)),
        ("canceled/none", REPORT, State.FETCHING, Meaning(Event.CANCELLED, closes=True)),
        ("rejected/none", REPORT, State.FETCHING, Meaning(None)),
        *(
            (f"{word}/none", REPORT, State.OFFERED, Meaning(Event.FETCHING))
            for word in ("proceeding", "scheduled", "resumed", "download")
        ),
    ],
)
def test_the_table(said, plan, state, meaning):
    execution, finished = said.split("/")
    feedback = Feedback(Execution(execution), Finished(finished), ("a line",))
    assert read_feedback(feedback, plan, state) == meaning


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ("All Chunks Installed.", Event.INSTALLED),
        ("Update Installed, Testing Pending.", Event.INSTALLED),
        ("Installed Chunk.", Event.FETCHING),
    ],
)
def test_swupdate_says_in_words_that_it_is_installed(line, event):
    feedback = Feedback(Execution.PROCEEDING, Finished.NONE, (line,))
    assert read_feedback(feedback, REPORT, State.FETCHING) == Meaning(event)


def test_swupdate_calls_a_skipped_update_a_success():
    feedback = Feedback(Execution.CLOSED, Finished.SUCCESS, ("Skipped Update.",))
    assert read_feedback(feedback, REPORT, State.OFFERED) == Meaning(Event.CANCELLED, closes=True)


@pytest.mark.parametrize(
    ("said", "reply"),
    [
        ("closed/success", Reply.ACCEPTED),
        ("closed/none", Reply.ACCEPTED),
        ("closed/failure", Reply.FAILED),
        ("rejected/none", Reply.REFUSED),
        ("canceled/success", Reply.LATER),  # no acceptance, whatever it sounds like
        ("proceeding/none", Reply.LATER),
    ],
)
def test_replies_to_a_cancel(said, reply):
    execution, finished = said.split("/")
    assert read_reply(Feedback(Execution(execution), Finished(finished))) is reply


def test_a_body_as_clients_send_it():
    body = {
        "id": "8",
        "time": "20261123T153744",
        "status": {
            "execution": "CLOSED",
            "result": {"finished": "success", "progress": {"cnt": 2, "of": 5}},
            "code": 200,
            "details": ["one", "two"],
        },
    }
    feedback = parse_feedback(body)
    assert feedback == Feedback(Execution.CLOSED, Finished.SUCCESS, ("one", "two"), 200)
    assert (feedback.reason, feedback.said) == ("two", "closed/success")
    assert parse_feedback({"status": {"execution": "closed", "details": "one"}}) == Feedback(
        Execution.CLOSED, Finished.NONE, ("one",)
    )


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"status": 1},
        {"status": {}},
        {"status": {"execution": "gone"}},
        {"status": {"execution": "closed", "result": {"finished": "maybe"}}},
        {"status": {"execution": ["closed"]}},
    ],
)
def test_a_body_that_makes_no_sense(body):
    with pytest.raises(FormatError, match=r"\$\.status"):
        parse_feedback(body)


def test_attributes():
    body = {"data": {"board": "qemu", "cores": 4, "uki": True, "note": None}, "id": "", "time": "x"}
    data = {"board": "qemu", "cores": "4", "uki": "true", "note": ""}
    assert parse_attributes(body) == ("merge", data)
    before = {"a": "1", "b": "2"}
    assert change_attributes(before, "merge", {"b": "3"}) == {"a": "1", "b": "3"}
    assert change_attributes(before, "replace", {"b": "3"}) == {"b": "3"}
    assert change_attributes(before, "remove", {"b": "x"}) == {"a": "1"}
    for data in ({"": "x"}, {" ": "x"}, {"k" * 129: "x"}, {"k": "v" * 129}):
        with pytest.raises(FormatError, match="attribute"):
            change_attributes({}, "merge", data)
    with pytest.raises(FormatError, match="too many"):
        change_attributes({}, "merge", {str(number): "" for number in range(501)})
    for body in ({}, {"data": []}, {"data": {}, "mode": "swap"}):
        with pytest.raises(FormatError):
            parse_attributes(body)

"""The fleet's front door as the device sees it: what to install, and what became of it.

What the server says here is advice, signed by nobody: it can hold an update back, not choose
the bytes. One attempt a call; the agent's interval is the retry.
"""

from pathlib import Path
from types import TracebackType
from typing import Annotated, Literal, Self, TypeVar

import msgspec

from slipstream.delta.errors import Rejected, Unavailable, UsageError
from slipstream.delta.limits import (
    COUNTER_MAX,
    NAME_CHARS_MAX,
    POLL_BYTES_MAX,
    POLL_INTERVAL_S,
    POLL_INTERVAL_S_MAX,
    REASON_CHARS_MAX,
    REPORT_BYTES_MAX,
    WAKE_SILENCE_S,
)
from slipstream.installer.backoff import parse_retry_after
from slipstream.installer.link import Counters, Link, Reply
from slipstream.installer.ports import Clock

_T = TypeVar("_T")

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_CHARS_MAX)]
Reason = Annotated[str, msgspec.Meta(max_length=REASON_CHARS_MAX)]
ReleaseCounter = Annotated[int, msgspec.Meta(ge=0, le=COUNTER_MAX)]


class SlotReport(msgspec.Struct, frozen=True):
    """What a slot holds. `state` is a word of `device status`."""

    name: str
    release: str | None
    state: str


class FailedRelease(msgspec.Struct, frozen=True):
    """A release that this device does not take again, and why."""

    release: str
    reason: str


class PollRequest(msgspec.Struct, frozen=True):
    """The device's state, sent with every poll. `booted_root` is lowercase hex."""

    device: str
    product: str
    hardware: str
    release: str | None
    counter: int | None
    booted_root: str | None
    slots: tuple[SlotReport, ...] = ()
    failed: tuple[FailedRelease, ...] = ()
    trial: bool = False
    floor: int = 0
    channel: str | None = None


class Offer(msgspec.Struct, frozen=True):
    """The release that the server wants on this device.

    `forced`: this device's own windows do not hold it. `download_only`: write it, do not boot it.
    """

    release: str
    counter: int
    forced: bool = False
    download_only: bool = False


class PollAnswer(msgspec.Struct, frozen=True):
    """No offer: stay as you are. Poll again after `interval_s` seconds."""

    offer: Offer | None
    interval_s: int
    reason: str


class Report(msgspec.Struct, frozen=True):
    """Something that happened, at `at` seconds since 1970. `key` makes a repeat harmless."""

    key: str
    device: str
    kind: Literal["installed", "confirmed", "fell_back", "failed", "progress"]
    at: int
    release: str | None = None
    counter: int | None = None
    booted_root: str | None = None
    reason: str | None = None
    details: dict[str, str | int | float | bool | None] = {}


class Receipt(msgspec.Struct, frozen=True):
    """The server has the report; `duplicate` if it had it before."""

    accepted: bool
    duplicate: bool = False


class _PollBody(msgspec.Struct, frozen=True):
    # Fields that a later server adds are ignored; types and bounds of ours are not.
    action: Literal["install", "none"]
    release: Name | None = None
    counter: ReleaseCounter | None = None
    interval_s: Annotated[int, msgspec.Meta(ge=1, le=POLL_INTERVAL_S_MAX)] = POLL_INTERVAL_S
    reason: Reason = ""
    forced: bool = False
    download_only: bool = False


class _ErrorBody(msgspec.Struct, frozen=True):
    error: Reason


class Server:
    """Client of /v1/poll and /v1/report. Use as an async context manager.

    `token` is the device's own; it is sent to `base_url`'s host only. Both calls raise Rejected
    for what the server will never accept (an unknown token, a body it refuses) and Unavailable
    (with `retry_after_s` where the server said so) for what may pass.
    """

    def __init__(
        self, base_url: str, token: str, *, clock: Clock, ca_file: Path | None = None
    ) -> None:
        if not token.isascii() or not token.isprintable() or not token.strip():
            raise UsageError("not a device token", expected="one line of printable characters")
        self._clock = clock
        self._link = Link(
            base_url, clock=clock, authorization=f"Bearer {token.strip()}", ca_file=ca_file
        )

    @property
    def counters(self) -> Counters:
        return self._link.counters

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._link.close()

    async def poll(self, request: PollRequest) -> PollAnswer:
        """Say what this device is; hear what it shall be."""
        failed = tuple(FailedRelease(f.release, _cut(f.reason)) for f in request.failed)
        request = msgspec.structs.replace(request, failed=failed)
        where, raw = await self._post("v1/poll", msgspec.json.encode(request), POLL_BYTES_MAX)
        body = _parse(where, raw, _PollBody)
        offer = None
        if body.action == "install":
            if body.release is None or body.counter is None:
                raise Unavailable(
                    "the server's offer is incomplete", where=where, expected="release and counter"
                )
            offer = Offer(body.release, body.counter, body.forced, body.download_only)
        return PollAnswer(offer, body.interval_s, body.reason)

    async def report(self, report: Report) -> Receipt:
        """Deliver one report; repeat it with the same key until it is accepted."""
        report = msgspec.structs.replace(report, reason=_cut(report.reason or ""))
        where, raw = await self._post("v1/report", msgspec.json.encode(report), REPORT_BYTES_MAX)
        receipt = _parse(where, raw, Receipt)
        if not receipt.accepted:
            raise Unavailable("the server did not take the report", where=where)
        return receipt

    async def listen(self) -> Reply:
        """The stream in which the server says that a poll is worth while (wake.py). Ends it: you."""
        reply = await self._link.listen("v1/wake", WAKE_SILENCE_S)
        if reply.status != 200:
            raise self._refusal(reply, await reply.read_whole(POLL_BYTES_MAX))
        return reply

    async def _post(self, path: str, body: bytes, size_max: int) -> tuple[str, bytes]:
        if len(body) > size_max:
            raise Rejected("message too large", where=path, expected=size_max, got=len(body))
        reply = await self._link.post(path, body)
        raw = await reply.read_whole(POLL_BYTES_MAX)
        if reply.status != 200:
            raise self._refusal(reply, raw)
        return reply.where, raw

    def _refusal(self, reply: Reply, raw: bytes) -> Rejected | Unavailable:
        got = f"HTTP {reply.status}"
        if reply.status in {401, 403}:
            return Rejected(
                "the server does not know this device",
                where=reply.where,
                got=got,
                hint="Check the token file, and that the device is registered with this server",
            )
        if reply.status in {400, 413, 422}:
            return Rejected(
                "the server refuses the message", where=reply.where, got=f"{got}: {_said(raw)}"
            )
        if reply.status in {404, 405} or 300 <= reply.status < 400:
            return Unavailable(
                "no update server at this address",
                where=reply.where,
                got=got,
                hint="A static repository has no poll: leave token_file out",
            )
        return Unavailable(
            "the server did not serve the request",
            where=reply.where,
            got=got,
            retry_after_s=parse_retry_after(reply.headers.get("Retry-After"), self._clock.now()),
        )


def _parse(where: str, raw: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        # Not Rejected: a captive portal's page must not stop the agent.
        raise Unavailable(
            "the server's answer does not parse", where=where, got=str(error)[:200]
        ) from error


def _cut(reason: str) -> str:
    # A reason that is too long must not keep its report from ever being delivered.
    return reason.replace("\0", "?")[:REASON_CHARS_MAX]


def _said(raw: bytes) -> str:
    try:
        return msgspec.json.decode(raw, type=_ErrorBody).error
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return "no reason given"

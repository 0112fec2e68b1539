"""The calls of /v1 as the OpenAPI document tells of them: what devices speak. Types only.

Their handlers: devices.py, reports.py, wake.py, fleetlock.py.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from slipstream.server.devices import Poll
from slipstream.server.fleetlock import HEADER, LockError, LockRequest
from slipstream.server.reports import ReportBody


class PollAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What to do, why, and when to ask again. `forced`, `download_only`: only of a rollout."""

    action: Literal["install", "none"]
    release: str | None
    counter: int | None
    reason: str
    interval_s: int
    forced: bool | msgspec.UnsetType = msgspec.UNSET
    download_only: bool | msgspec.UnsetType = msgspec.UNSET


class ReportAnswer(msgspec.Struct, frozen=True):
    """It is durable. `duplicate`: this key was there already."""

    accepted: bool
    duplicate: bool


class LockAnswer(msgspec.Struct, frozen=True):
    """The place is held, or given back."""


@dataclass(frozen=True, slots=True)
class NativeCall:
    """A call of /v1."""

    method: str
    path: str
    name: str
    summary: str
    text: str
    body: Any
    answer: Any
    statuses: frozenset[int]
    error: Any = None  # None: as everywhere
    header: str | None = None  # that has to say "true"
    stream: bool = False  # its answer is one of server-sent events, without end


@dataclass(frozen=True, slots=True)
class FileCall:
    """A file of the repository, for anybody."""

    path: str
    name: str
    summary: str
    text: str


_BODY = frozenset({400, 401, 408, 413, 415, 429, 503})
CALLS: Final = (
    NativeCall(
        "POST",
        "/v1/poll",
        "device.poll",
        "Ask what to install",
        "A device says where it stands, and hears what to do.",
        Poll,
        PollAnswer,
        _BODY,
    ),
    NativeCall(
        "POST",
        "/v1/report",
        "device.report",
        "Tell how it went",
        "Durable before it is answered; sent again under the same key, it counts once.",
        ReportBody,
        ReportAnswer,
        _BODY,
    ),
    NativeCall(
        "GET",
        "/v1/wake",
        "device.wake",
        "Hear when a poll is worth while",
        'Server-sent events: `event: wake` with `data: {"within_s": 12}` asks the device to poll within so many '
        "seconds, at a moment that it draws. A comment every 45 s says that the stream lives; after an hour at most "
        "it ends, and is opened again. One stream a device: another ends the one before.",
        None,
        None,
        frozenset({401, 429, 503}),
        stream=True,
    ),
    NativeCall(
        "POST",
        "/v1/pre-reboot",
        "fleetlock.take",
        "May I reboot?",
        "FleetLock. 200: a place is held; 409: none is free, ask again later.",
        LockRequest,
        LockAnswer,
        _BODY | {409},
        error=LockError,
        header=HEADER,
    ),
    NativeCall(
        "POST",
        "/v1/steady-state",
        "fleetlock.give_back",
        "I am healthy again",
        "FleetLock. Gives the place back; without one it is fine as well.",
        LockRequest,
        LockAnswer,
        _BODY,
        error=LockError,
        header=HEADER,
    ),
)
_RANGES = "GET or HEAD. One range or up to 256 (`multipart/byteranges`), If-Range, If-Match, If-None-Match. "
FILES: Final = (
    FileCall(
        "/metadata/{path}",
        "files.metadata",
        "Signed metadata",
        _RANGES + "TUF 1.0: `timestamp.json`, then by version `7.snapshot.json`, `7.targets.json`, "
        "`7.deltas.json`, `7.root.json`. `Cache-Control: no-cache`.",
    ),
    FileCall(
        "/targets/{path}",
        "files.target",
        "A manifest, or another signed target",
        _RANGES + "Its path as TUF names it in a consistent snapshot, with slashes as they are: "
        "`releases/2.0/<sha256>.manifest.json`. Never changes.",
    ),
    FileCall(
        "/blobs/{path}",
        "files.blob",
        "A payload, a chunk list, a boot file or an artifact",
        _RANGES + "Named by digest, as signed metadata name it: `<sha256>.payload`. Never changes.",
    ),
)

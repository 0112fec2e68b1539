"""The bodies that devices get: values in, plain dicts out. Pure.

Bound by what the clients can read: ids are strings (SWUpdate, RAUC), sizes whole numbers (SWUpdate
asserts it), `sleep` exactly HH:MM:SS (Zephyr), all four links of an artifact (Zephyr takes
`download-http` alone), hrefs that a path can be appended to (SWUpdate adds /feedback to a cancel's).
tests/server/ddi/test_lint.py holds every answer to that.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from slipstream.server.catalog import ArtifactOffer, Release
from slipstream.server.ddi.step import Cancel, Confirm, Deploy, Rest, Step
from slipstream.server.rollout.plan import Plan
from slipstream.server.store.controllers import AutoConfirm

_SLEEP_MAX_S = 24 * 3600 - 1  # Zephyr's parser has two digits for the hours, of a day
_PARTS = {"application": "bApp", "runtime": "jvm"}  # hawkBit's names for its oldest module types
_IN_PATH = (
    ":@+"  # of the characters of a device's id, those that a path segment may hold as they are
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a device finds its things: the base of every link."""

    origin: str  # such as https://updates.example.com
    tenant: str
    device: str

    @property
    def base(self) -> str:
        device = quote(self.device, safe=_IN_PATH)
        return f"{self.origin}/{self.tenant}/controller/v1/{device}"

    def artifact(self, release: Release, artifact: ArtifactOffer) -> str:
        return f"{self.base}/softwaremodules/{release.counter}/artifacts/{artifact.file_name}"


@dataclass(frozen=True, slots=True)
class Terms:
    """How hard the device is asked, in DDI's words."""

    download: str
    update: str
    window: str | None  # None: the rollout has no maintenance window

    @property
    def tag(self) -> str:
        """What changes in a link when the terms do: clients fetch again what it leads to."""
        return str(zlib.crc32(f"{self.download} {self.update} {self.window}".encode()))


def terms_of(plan: Plan, now: int) -> Terms:
    """The terms of a plan at a moment, by hawkBit's rules."""
    hard = "forced" if plan.forced(now) else "attempt"
    if plan.download_only:
        return Terms("forced", "skip", None)
    if not plan.schedule.windows:
        return Terms(hard, hard, None)
    if plan.schedule.open_at(datetime.fromtimestamp(now, UTC)) is not None:
        return Terms(hard, hard, "available")
    return Terms(hard, "skip", "unavailable")


def poll_answer(
    place: Place,
    step: Step,
    interval_s: int,
    *,
    terms: Terms | None,
    installed: int | None,
    wants_attributes: bool,
) -> dict[str, Any]:
    """The answer to a poll. `installed`: the id of the last action, where that ended well."""
    links: dict[str, Any] = {}
    tag = "" if terms is None else f"?c={terms.tag}"
    match step:
        case Deploy(attempt):
            links["deploymentBase"] = _href(f"{place.base}/deploymentBase/{attempt.id}{tag}")
        case Confirm(attempt):
            links["confirmationBase"] = _href(f"{place.base}/confirmationBase/{attempt.id}{tag}")
        case Cancel(attempt):
            links["cancelAction"] = _href(f"{place.base}/cancelAction/{attempt.id}")
        case Rest():
            pass
    if installed is not None:
        links["installedBase"] = _href(f"{place.base}/installedBase/{installed}")
    if wants_attributes:
        links["configData"] = _href(f"{place.base}/configData")
    answer: dict[str, Any] = {"config": {"polling": {"sleep": sleep_text(interval_s)}}}
    if links:
        answer["_links"] = links
    return answer


def sleep_text(interval_s: int) -> str:
    """HH:MM:SS, below a day."""
    seconds = max(1, min(interval_s, _SLEEP_MAX_S))
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def deployment(
    key: str,
    number: int,
    place: Place,
    release: Release,
    terms: Terms,
    history: tuple[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """What to install. `key`: deployment, or confirmation; `history`: (status, lines)."""
    what: dict[str, Any] = {"download": terms.download, "update": terms.update}
    if terms.window is not None:
        what["maintenanceWindow"] = terms.window
    what["chunks"] = [_chunk(place, release, artifact) for artifact in release.artifacts]
    answer: dict[str, Any] = {"id": str(number), key: what}
    if history is not None:
        answer["actionHistory"] = {"status": history[0], "messages": list(history[1])}
    return answer


def _chunk(place: Place, release: Release, artifact: ArtifactOffer) -> dict[str, Any]:
    return {
        "part": _PARTS.get(artifact.artifact, artifact.artifact),
        "version": release.release,
        "name": f"{release.product} {artifact.artifact}",
        "artifacts": [describe_artifact(place, release, artifact)],
    }


def describe_artifact(place: Place, release: Release, artifact: ArtifactOffer) -> dict[str, Any]:
    """One file: name, size, digests and where it is."""
    href = place.artifact(release, artifact)
    return {
        "filename": artifact.file_name,
        "size": artifact.size_bytes,
        "hashes": {"sha1": artifact.sha1, "md5": artifact.md5, "sha256": artifact.sha256},
        "_links": {
            "download": _href(href),
            "md5sum": _href(f"{href}.MD5SUM"),
            "download-http": _href(href),
            "md5sum-http": _href(f"{href}.MD5SUM"),
        },
    }


def cancel(number: int) -> dict[str, Any]:
    """The action that shall be stopped."""
    return {"id": str(number), "cancelAction": {"stopId": str(number)}}


def confirmation_state(
    place: Place, agreed: AutoConfirm | None, step: Step, terms: Terms | None
) -> dict[str, Any]:
    """Whether the person at the device agreed beforehand, and what waits for an answer."""
    base = f"{place.base}/confirmationBase"
    state: Mapping[str, Any] = {"active": False}
    act = "activateAutoConfirm"
    if agreed is not None:
        state = {
            "active": True,
            "initiator": agreed.by,
            "remark": agreed.remark,
            "activatedAt": agreed.at * 1000,
        }
        act = "deactivateAutoConfirm"
    links = {act: _href(f"{base}/{act}")}
    if isinstance(step, Confirm) and terms is not None:
        links["confirmationBase"] = _href(f"{base}/{step.attempt.id}?c={terms.tag}")
    return {"autoConfirm": state, "_links": links}


def _href(url: str) -> dict[str, str]:
    return {"href": url}

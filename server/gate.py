"""What every request passes, and every answer: limits on how often, and headers for safety.

plain HTTP      where proxies bring the TLS, it is taken from them and from this machine alone
an address      a number of requests a second, files not counted: a fleet behind one address
                streams ranges by the thousand, and sendfile bears that
a device        a number of its own calls a second, polls, reports, feedback; told by its
                credential as it is sent, right or wrong, so that nobody uses up another's
failures        wrong credentials from an address: beyond the limit it hears 429 instead of
                401. Who has a right one is let in all the same: one device with a revoked
                token must not lock out the others behind its address
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Final

from aiohttp import web

from slipstream.delta.limits import (
    ADDRESS_BURST_S,
    ADDRESS_RATE,
    DEVICE_BURST_S,
    DEVICE_RATE,
    FAILURE_BURST_S,
    FAILURE_RATE,
    HSTS_S,
)
from slipstream.server.buckets import Buckets
from slipstream.server.proxies import Proxies, household, is_loopback
from slipstream.server.wire import refusal

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
DDI: Final = "/{tenant}/controller/v1/{device}"
_FILES: Final = ("/blobs/", "/targets/", "/metadata/", "/static/", f"{DDI}/softwaremodules/")
_DEVICES: Final = ("/v1/poll", "/v1/report", "/v1/wake", "/v1/pre-reboot", "/v1/steady-state", DDI)
# Pages have a longer policy of their own (pages/desk.py).
_HEADERS: Final = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Frame-Options", "DENY"),
    ("Cache-Control", "no-store"),  # files say otherwise themselves
)
_HSTS: Final = f"max-age={HSTS_S}"


@dataclass(frozen=True, slots=True)
class GateSettings:
    """Rates are requests a second; 0: no limit."""

    proxies: Proxies = field(default_factory=Proxies)
    only_proxies: bool = False  # plain HTTP is taken from no one else, but from this machine
    address_rate: float = ADDRESS_RATE
    device_rate: float = DEVICE_RATE
    failure_rate: float = FAILURE_RATE
    monotonic: Callable[[], float] = time.monotonic


class Gate:
    """The middleware `admit`, and `dress`, for the signal on_response_prepare."""

    def __init__(self, settings: GateSettings) -> None:
        self._settings = settings
        self._proxies, self._clock = settings.proxies, settings.monotonic
        self._addresses = _buckets(settings.address_rate, ADDRESS_BURST_S)
        self._devices = _buckets(settings.device_rate, DEVICE_BURST_S)
        self._failures = _buckets(settings.failure_rate, FAILURE_BURST_S)
        self._kinds: dict[str, tuple[bool, bool]] = {}  # of paths: counted, a device's own

    def middleware(self) -> Any:
        """`admit`, as aiohttp takes it."""

        @web.middleware
        async def admit(request: web.Request, handler: _Handler) -> web.StreamResponse:
            return await self.admit(request, handler)

        return admit

    async def admit(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Hand a request on, or refuse with 403 or 429."""
        peer, now = request.remote, self._clock()
        if self._settings.only_proxies and not (self._proxies.trusts(peer) or is_loopback(peer)):
            raise refusal(web.HTTPForbidden, "plain HTTP is taken from the named proxies alone")
        who = household(self._proxies.client(peer, request.headers))
        resource = request.match_info.route.resource
        counted, own = self._kind("" if resource is None else resource.canonical)
        if counted and not is_loopback(who) and (wait_s := self._addresses.take(who, now)):
            raise _too_many("this address", wait_s)
        if own and (wait_s := self._devices.take(self._credential(request), now)):
            raise _too_many("this device", wait_s)
        try:
            response = await handler(request)
        except web.HTTPUnauthorized as error:
            self._note_failure(who, now, error)
            raise
        if response.status == web.HTTPUnauthorized.status_code:
            self._note_failure(who, now, None)
        return response

    async def dress(self, request: web.Request, response: web.StreamResponse) -> None:
        """The headers of every answer, whoever made it."""
        headers = response.headers
        for name, value in _HEADERS:
            headers.setdefault(name, value)
        headers["Server"] = "slipstream"  # no versions, which aiohttp would tell
        if self._proxies.scheme(request.remote, request.headers, request.scheme) == "https":
            headers.setdefault("Strict-Transport-Security", _HSTS)

    def _kind(self, path: str) -> tuple[bool, bool]:
        """Whether requests of a route count for an address, and for a device."""
        found = self._kinds.get(path)
        if found is None:  # there are as many as routes
            counted = not path.startswith(_FILES)
            found = counted, counted and path.startswith(_DEVICES)
            self._kinds[path] = found
        return found

    def _credential(self, request: web.Request) -> int:
        """Which device, told apart by a keyed hash (Python's own): no secret is kept for it."""
        sent = request.headers.get("Authorization")
        if sent is None and self._proxies.trusts(request.remote):
            sent = request.headers.get("X-Controller-Id")
        # The gateway's token speaks for many devices.
        return hash((sent, request.match_info.get("device")))

    def _note_failure(self, who: str, now: float, error: web.HTTPUnauthorized | None) -> None:
        """Count a 401; HTTPTooManyRequests in its place beyond the limit."""
        if wait_s := self._failures.take(who, now):
            raise _too_many("wrong credentials from this address", wait_s) from error


def _buckets(per_s: float, burst_s: float) -> Buckets:
    return Buckets(per_s, max(1, ceil(per_s * burst_s)))


def _too_many(of: str, wait_s: float) -> web.HTTPError:
    reason = f"too many requests: {of}" if of.startswith("this") else f"too many {of}"
    return refusal(web.HTTPTooManyRequests, reason, {"Retry-After": str(ceil(wait_s))})

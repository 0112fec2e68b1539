"""JSON over HTTP: bodies read with a limit and parsed strictly, answers and errors as JSON."""

import asyncio
import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, TypeVar

import msgspec
from aiohttp import web

from slipstream.delta.limits import BODY_TIMEOUT_S, COUNTER_MAX, NAME_CHARS_MAX, REASON_CHARS_MAX
from slipstream.server.misfit import misfit

# Names go into URLs, pages and log lines: one word, no control characters.
DeviceId = Annotated[
    str, msgspec.Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._:@+-]+\Z")
]
Name = Annotated[
    str, msgspec.Meta(min_length=1, max_length=NAME_CHARS_MAX, pattern=r"^[A-Za-z0-9._:@+~-]+\Z")
]
OptionalWord = Annotated[str, msgspec.Meta(max_length=NAME_CHARS_MAX, pattern=r"^[ -~]*\Z")]
Root = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Counter = Annotated[int, msgspec.Meta(ge=0, le=COUNTER_MAX)]
# PostgreSQL's text holds no NUL; neither does anything that a person should read.
Reason = Annotated[str, msgspec.Meta(max_length=REASON_CHARS_MAX, pattern=r"^[^\x00]*\Z")]
Seconds = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]

_T = TypeVar("_T")
CODES = {
    400: "invalid",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    409: "conflict",
    412: "changed_meanwhile",
    413: "too_large",
    415: "unsupported",
    416: "no_such_range",
    422: "key_used",
    429: "too_many",
    500: "internal",
    503: "unavailable",
}


class Body(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Base of all request bodies: a field that nobody knows is an error, not a surprise."""


def answer_json(
    value: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A JSON answer that no cache keeps."""
    return web.Response(
        body=msgspec.json.encode(value),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


def describe_error(status: int, reason: str, field: str | None = None) -> dict[str, str | None]:
    """The body of every error: the reason in words, its kind for programs, the field at fault.

    A field stands in JSON's own path (`$.phases[0].percent`), as `?name` or as a header's name.
    """
    return {"error": reason, "code": CODES.get(status, "failed"), "field": field}


def answer_tagged(request: web.Request, value: object) -> web.Response:
    """A JSON answer with an ETag; 304 for a client that has it, and says so."""
    body = msgspec.json.encode(value)
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": "no-store"}
    if request.headers.get("If-None-Match") == etag:
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, content_type="application/json", headers=headers)


def refusal(
    kind: type[web.HTTPError],
    reason: str,
    headers: Mapping[str, str] | None = None,
    *,
    field: str | None = None,
) -> web.HTTPError:
    """An HTTP error, to be raised, that carries what describe_error says."""
    body = describe_error(kind.status_code, reason, field)
    return kind(text=json.dumps(body), content_type="application/json", headers=headers)


def error_of(error: web.HTTPError) -> str:
    """The reason that a refusal carries, or its status in words."""
    try:
        return str(json.loads(error.text or "")["error"])
    except (ValueError, KeyError, TypeError):
        return error.reason


def too_large(size_max: int, size: int) -> web.HTTPError:
    """413, to be raised: a body of `size` bytes or more where `size_max` are allowed."""
    return web.HTTPRequestEntityTooLarge(
        size_max,
        size,
        text=json.dumps(describe_error(413, f"body larger than {size_max} bytes")),
        content_type="application/json",
    )


async def read_json(request: web.Request, kind: type[_T], size_max: int) -> _T:
    """The request's body as a `kind`.

    Refuses with 400 and the reason and field, and like read_body.
    """
    return parse_json(await read_body(request, size_max), kind)


async def read_body(request: web.Request, size_max: int) -> bytes:
    """The request's body, up to `size_max` bytes.

    Refuses with 408 when it does not arrive in time, 413 as soon as it is known to be too large,
    415 when it is compressed.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise refusal(web.HTTPUnsupportedMediaType, "compressed bodies are not taken")
    if request.content_length is not None and request.content_length > size_max:
        raise too_large(size_max, request.content_length)
    if request.content.is_eof():  # it came with the head, as most do: no need to wait for it
        raw = request.content.read_nowait()
        if len(raw) > size_max:
            raise too_large(size_max, len(raw))
        return raw
    return await _read_slowly(request, size_max)


async def _read_slowly(request: web.Request, size_max: int) -> bytes:
    raw = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for piece in request.content.iter_any():
                raw += piece
                if len(raw) > size_max:
                    raise too_large(size_max, len(raw))
    except TimeoutError as error:
        reason = f"body not complete after {BODY_TIMEOUT_S:g} s"
        raise refusal(web.HTTPRequestTimeout, reason) from error
    return bytes(raw)


def parse_json(raw: bytes, kind: type[_T]) -> _T:
    """`raw` as a `kind`; refuses with 400, the reason and the field."""
    try:
        value = msgspec.json.decode(raw, type=kind)
        # A lone surrogate can be spelled in JSON but not stored as UTF-8.
        msgspec.json.encode(value)
    except RecursionError as error:
        raise refusal(web.HTTPBadRequest, "nested too deeply", field="$") from error
    except (msgspec.MsgspecError, ValueError) as error:
        found = misfit(error, kind)
        raise refusal(web.HTTPBadRequest, str(found), field=found.field) from error
    return value


def query_integer(request: web.Request, name: str, default: int, least: int, most: int) -> int:
    """A number from the query string, cut to `least`..`most`; 400 if it is none."""
    text = request.query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise refusal(web.HTTPBadRequest, f"?{name}: not a number", field=f"?{name}")
    return max(least, min(most, int(text)))

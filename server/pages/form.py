"""Submitted forms, read with a limit: application/x-www-form-urlencoded only."""

import asyncio
from collections.abc import Mapping
from urllib.parse import parse_qsl

from aiohttp import web

from slipstream.delta.limits import BODY_TIMEOUT_S, FORM_BYTES_MAX
from slipstream.server.wire import refusal, too_large

_FIELDS_MAX = 256


async def read_form(request: web.Request) -> Mapping[str, str]:
    """The fields of a submitted form. 400, 408, 413 or 415 for what is none."""
    if request.content_type != "application/x-www-form-urlencoded":
        raise refusal(web.HTTPUnsupportedMediaType, "not a form")
    raw = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for piece in request.content.iter_any():
                raw += piece
                if len(raw) > FORM_BYTES_MAX:
                    raise too_large(FORM_BYTES_MAX, len(raw))
    except TimeoutError as error:
        raise refusal(web.HTTPRequestTimeout, "the form did not arrive in time") from error
    try:
        pairs = parse_qsl(
            raw.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_FIELDS_MAX,
        )
    except ValueError as error:
        raise refusal(web.HTTPBadRequest, "not a form") from error
    if any("\0" in value for _, value in pairs):
        raise refusal(web.HTTPBadRequest, "a field holds a NUL")  # PostgreSQL's text cannot
    return dict(pairs)

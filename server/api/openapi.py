"""The OpenAPI 3.1 document of /api/v1 and /v1, made of the tables of calls and their types. Pure."""

import inspect
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec

from slipstream import __version__
from slipstream.server.access import WHO_MAY
from slipstream.server.api.door import COOKIE, CSRF_HEADER, KEY_HEADER
from slipstream.server.api.native import CALLS, FILES, FileCall, NativeCall
from slipstream.server.api.route import PLACES, PREFIX, Route
from slipstream.server.api.table import SECTIONS
from slipstream.server.wire import CODES

_REF: Final = "#/components/schemas/{name}"
_JSON: Final = "application/json"
_STATUS_WORDS: Final = {
    200: "Done",
    201: "Made",
    204: "Done; nothing to say",
    400: "Not a call that can be carried out: `field` names what is wrong",
    401: "Nobody known calls",
    403: "Not allowed",
    404: "Not there",
    408: "The body did not arrive in time",
    409: "Not as things stand",
    412: "Changed since the version in If-Match",
    413: "The body is too large",
    415: "Compressed bodies are not taken",
    422: "The Idempotency-Key was used for another call",
    416: "None of the ranges is in the file",
    429: "Too many requests or failures; Retry-After says how long to wait",
    503: "The database or the repository cannot be read now; try again",
}


class Problem(msgspec.Struct, frozen=True):
    """Every error: in words, its kind for programs, and the field at fault."""

    error: str
    code: str
    field: str | None


@lru_cache(maxsize=1)
def document() -> Mapping[str, Any]:
    """The document as JSON's own values."""
    routes = tuple(route for _, some in SECTIONS for route in some)
    types: list[Any] = [Problem]
    for route in routes:
        types += [route.query, _shape(route), route.answer]
    for call in CALLS:
        types += [call.body, call.answer, call.error]
    wanted = [one for one in types if one is not None]
    shown, components = msgspec.json.schema_components(wanted, ref_template=_REF)
    schemas = _Schemas(wanted, shown, components)
    paths: dict[str, dict[str, Any]] = {}
    for heading, some in SECTIONS:
        for route in some:
            place = paths.setdefault(PREFIX + route.path, {})
            place[route.method.lower()] = _operation(route, heading, schemas)
    for call in CALLS:
        paths.setdefault(call.path, {})[call.method.lower()] = _native(
            call, "Devices' own", schemas
        )
    for file in FILES:
        paths[file.path] = {"get": _file(file, "The repository's files", schemas)}
    queries = {route.query.__name__ for route in routes}  # told as parameters
    made = {
        "openapi": "3.1.0",
        "info": {
            "title": "Slipstream",
            "version": __version__,
            "description": "The operators' door (/api/v1) and the devices' (/v1) of slipstream serve.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": {
                name: components[name] for name in sorted(components) if name not in queries
            },
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
                "device": {"type": "http", "scheme": "bearer"},
            },
        },
    }
    plain: Mapping[str, Any] = _plain(made)
    return plain


class _Schemas:
    """The schemas of types, as msgspec makes them."""

    def __init__(
        self, types: list[Any], shown: tuple[Any, ...], components: Mapping[str, Any]
    ) -> None:
        self._shown = [(one, schema) for one, schema in zip(types, shown, strict=True)]
        self._components = components

    def of(self, kind: Any) -> Any:
        """A reference, or the schema itself where it is no object."""
        return next(schema for one, schema in self._shown if one == kind)

    def fields(self, kind: type) -> Mapping[str, Any]:
        """The properties of an object's schema."""
        found: Mapping[str, Any] = self._components[kind.__name__].get("properties", {})
        return found


def _operation(route: Route, tag: str, schemas: _Schemas) -> dict[str, Any]:
    handler = route.look or route.change
    made: dict[str, Any] = {
        "operationId": route.name,
        "tags": [tag],
        "summary": route.summary,
        "description": inspect.getdoc(handler) or "",
        "parameters": _parameters(route, schemas),
        "responses": _responses(route, schemas),
    }
    if route.deed is None:
        made["security"] = []
    else:
        made["security"] = [{"token": []}, {"session": []}]
        made["x-role"] = WHO_MAY[route.deed].value
    if route.text_body is not None:
        made["requestBody"] = {
            "required": True,
            "content": {route.text_body: {"schema": {"type": "string"}}},
        }
    elif (shape := _shape(route)) is not None:
        made["requestBody"] = {
            "required": bool(_required(shape)),
            "content": {_JSON: {"schema": schemas.of(shape)}},
        }
    return made


def _parameters(route: Route, schemas: _Schemas) -> list[dict[str, Any]]:
    made = [_place(name) for name in route.places]
    for name, schema in schemas.fields(route.query).items():
        made.append({"name": name, "in": "query", "required": False, "schema": schema})
    if route.change is not None and route.deed is not None:
        made.append(
            _header(KEY_HEADER, "Sent again with the same key, the call is carried out once.")
        )
        made.append(_header(CSRF_HEADER, "Of a session, from GET /api/v1/session."))
    if route.versioned:
        made.append(_header("If-Match", "The ETag that was looked at: 412 if it is not any more."))
    return made


def _place(name: str) -> dict[str, Any]:
    spelling, kind = PLACES[name]
    schema = dict(msgspec.json.schema(kind))
    if schema["type"] == "string" and "pattern" not in schema:
        schema["pattern"] = f"^{spelling}$"
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _header(name: str, text: str) -> dict[str, Any]:
    schema = {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[ -~]+$"}
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": text,
        "schema": schema,
    }


def _responses(route: Route, schemas: _Schemas) -> dict[str, Any]:
    statuses = {400, 401, 429, 503} | set(route.refuses)
    if route.deed is not None:
        statuses.add(403)
    if route.places:
        statuses.add(404)
    if route.body is not None:
        statuses |= {408, 413, 415}
    if route.change is not None and route.deed is not None:
        statuses.add(422)
    if route.answer is None:
        made: dict[str, Any] = {"204": {"description": _STATUS_WORDS[204]}}
    else:
        done: dict[str, Any] = {
            "description": _STATUS_WORDS[route.status],
            "content": {_JSON: {"schema": schemas.of(route.answer)}},
        }
        if route.versioned or route.tagged:
            tag = {"description": "The rollout's version", "schema": {"type": "string"}}
            done["headers"] = {"ETag": tag}
        made = {str(route.status): done}
    for status in sorted(statuses):
        made[str(status)] = _error(status, schemas.of(Problem))
    return made


def _native(call: NativeCall, tag: str, schemas: _Schemas) -> dict[str, Any]:
    done: dict[str, Any] = {"description": _STATUS_WORDS[200]}
    if call.stream:
        done["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
    elif call.answer is not None:
        done["content"] = {_JSON: {"schema": schemas.of(call.answer)}}
    made: dict[str, Any] = {
        "operationId": call.name,
        "tags": [tag],
        "summary": call.summary,
        "description": call.text,
        "security": [{"device": []}],
        "parameters": [],
        "responses": {"200": done},
    }
    if call.header is not None:
        made["parameters"].append(
            {
                "name": call.header,
                "in": "header",
                "required": True,
                "schema": {"type": "string", "const": "true"},
            }
        )
    if call.body is not None:
        content = {_JSON: {"schema": schemas.of(call.body)}}
        made["requestBody"] = {"required": True, "content": content}
    for one in sorted({401, 429, 503} | call.statuses):
        # The limits on a body are the server's, whatever the protocol.
        own = call.error is not None and one in (400, 401, 409)
        made["responses"][str(one)] = _error(one, schemas.of(call.error if own else Problem))
    return made


def _file(call: FileCall, tag: str, schemas: _Schemas) -> dict[str, Any]:
    """GET of a file; its path may hold slashes, which OpenAPI has no word for."""
    whole: dict[str, Any] = {
        "application/octet-stream": {"schema": {}},
        "application/json": {"schema": {}},
    }
    parts = {**whole, "multipart/byteranges": {"schema": {}}}
    tag_header = {"ETag": {"description": "SHA-256 of the file", "schema": {"type": "string"}}}
    responses: dict[str, Any] = {
        "200": {"description": "The file", "headers": tag_header, "content": whole},
        "206": {"description": "The ranges", "headers": tag_header, "content": parts},
        "304": {"description": "Not another one than in If-None-Match"},
    }
    for status in (404, 412, 416):
        responses[str(status)] = _error(status, schemas.of(Problem))
    spelled = {"type": "string", "pattern": "^[A-Za-z0-9._+~/-]+$"}
    return {
        "operationId": call.name,
        "tags": [tag],
        "summary": call.summary,
        "description": call.text,
        "security": [],
        "parameters": [
            {"name": "path", "in": "path", "required": True, "schema": spelled},
            _header("Range", "`bytes=0-4095`, or several, as RFC 9110 has them."),
        ],
        "responses": responses,
    }


def _error(status: int, schema: Any) -> dict[str, Any]:
    return {
        "description": f"{_STATUS_WORDS[status]} (`{CODES[status]}`)",
        "content": {_JSON: {"schema": schema}},
    }


def _shape(route: Route) -> Any:
    """The type of a JSON body."""
    if route.text_body is not None:
        return None
    return route.shape if route.body is bytes else route.body


def _required(kind: Any) -> list[str]:
    schema = msgspec.json.schema(kind)
    name = schema["$ref"].rpartition("/")[2]
    found: list[str] = schema["$defs"][name].get("required", [])
    return found


def _plain(value: Any) -> Any:
    """JSON's values, with patterns as ECMA-262 has them: Python's \\Z is its $."""
    if isinstance(value, Mapping):
        return {
            key: one.replace("\\Z", "$")
            if key == "pattern" and isinstance(one, str)
            else _plain(one)
            for key, one in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return msgspec.to_builtins(value)

"""The body of a new rollout: a Plan, read so that an error names the field. Pure."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web

from slipstream.delta.errors import UsageError
from slipstream.server.misfit import misfit
from slipstream.server.rollout.plan import AbortRule, Budget, Phase, Plan, SuccessRule
from slipstream.server.wire import parse_json, refusal

# Fields that hold values of their own; the rest is words and numbers.
_PARTS: Final[Mapping[type, Mapping[str, type]]] = {
    Plan: {"phases": Phase, "abort": AbortRule, "budgets": Budget},
    Phase: {"success": SuccessRule, "abort": AbortRule},
}
_T = TypeVar("_T")


def parse_plan(raw: bytes) -> Plan:
    """The plan. Refuses with 400, the reason and the field; unknown fields are errors."""
    return _build(parse_json(raw, Any), Plan, "$")


def _build(value: Any, kind: type[_T], path: str) -> _T:
    if not isinstance(value, dict):
        what = "it does not belong there; expected an object"
        raise refusal(web.HTTPBadRequest, what if path == "$" else f"{path}: {what}", field=path)
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in value:
        if name not in known:
            field = f"{path}.{name:.80}"
            raise refusal(
                web.HTTPBadRequest,
                f"{field}: no such field; expected {', '.join(sorted(known))}",
                field=field,
            )
    # Parts first: what is wrong inside one is told with its own path.
    for name, part in _PARTS.get(kind, {}).items():
        inside = value.get(name)
        if isinstance(inside, list):
            for index, one in enumerate(inside):
                _build(one, part, f"{path}.{name}[{index}]")
        elif isinstance(inside, dict):
            _build(inside, part, f"{path}.{name}")
    try:
        return msgspec.convert(value, kind)
    except UsageError as error:
        raise refusal(web.HTTPBadRequest, str(error), field=path) from error
    except msgspec.ValidationError as error:
        found = misfit(error, kind)
        found = dataclasses.replace(found, field=path + found.field.removeprefix("$"))
        raise refusal(web.HTTPBadRequest, str(found), field=found.field) from error

"""From the bytes of a body to a checked request, or to the refusal that names the wrong field."""

import json
import re
from math import isfinite
from typing import Any

from msgspec import DecodeError, ValidationError
from msgspec.json import Decoder

from aps.service.errors import Refusal
from aps.service.wire import InferRequest, components
from aps.service.wording import LONGEST_NAME, given, must_be, shown, unknown

SCHEMA = components()["InferRequest"]
_decode = Decoder(InferRequest).decode
_PLACE = re.compile(r" - at `\$\.(\w+)`$")
_UNKNOWN = re.compile(r"unknown field `(.+)`$", re.DOTALL)
_NOTHING = object()


def infer_request(body: bytes) -> InferRequest:
    """The request in a body. Refusal, 422: it does not fit the schema; the first thing wrong is named."""
    try:
        asked = _decode(body)
    except (DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(error, body) from None
    if (asked.prompt is None) == (asked.prompt_tokens is None):
        raise Refusal("invalid", "give exactly one of prompt and prompt_tokens", field="prompt")
    if asked.stream and asked.wait is False:
        raise Refusal("invalid", "stream needs wait: a stream is a wait", field="stream")
    return asked


def no_tenant() -> Refusal:
    """422: nothing says who asks."""
    return _wrong("tenant_id", "nothing")


def _invalid(error: Exception, body: bytes) -> Refusal:
    found, message = _loose(body), str(error)
    fields = found if isinstance(found, dict) else {}
    if not isinstance(error, ValidationError):
        field = _not_a_number(fields)
        if field:
            return _wrong(field, shown(fields[field]))
        return Refusal("invalid", f"the body is not JSON: {message}", field="body")
    made_up = _UNKNOWN.search(message)
    if made_up:
        name = made_up[1]
        return Refusal("invalid", unknown("field", name, SCHEMA["properties"]), field=name[:LONGEST_NAME])
    place = _PLACE.search(message)
    if place is None:
        got = "" if found is _NOTHING else shown(found)
        return Refusal("invalid", must_be("the body", {"type": "object"}, got), field="body")
    return _wrong(place[1], shown(fields[place[1]]) if place[1] in fields else "")


def _wrong(field: str, got: str) -> Refusal:
    return Refusal("invalid", must_be(field, given(SCHEMA["properties"][field]), got), field=field)


def _loose(body: bytes) -> Any:
    """The body by Python's reader, which takes NaN and Infinity; _NOTHING when that fails too."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return _NOTHING


def _not_a_number(fields: dict[str, Any]) -> str | None:
    """The first of our fields that is NaN or infinite, if that is what is wrong."""
    numbers = (name for name, value in fields.items() if isinstance(value, float) and not isfinite(value))
    return next((name for name in numbers if name in SCHEMA["properties"]), None)

"""From the bytes of a body to a checked request, or to the refusal that names the wrong field."""

import json
import re
from math import isfinite
from typing import Any

from msgspec import DecodeError, ValidationError
from msgspec.json import Decoder

from aps.service.errors import Refusal
from aps.service.wire import InferRequest

_decode = Decoder(InferRequest).decode
_PLACE = re.compile(r" - at `\$\.(\w+)`$")
_FIELD = re.compile(r"(unknown|missing required) field `(.+)`$", re.DOTALL)
LONGEST_FIELD = 64  # of a name that the client made up


def infer_request(body: bytes) -> InferRequest:
    """The request in a body. Refusal, 422: it does not fit the schema; the first thing wrong is named."""
    try:
        asked = _decode(body)
    except (DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(error, body) from None
    if (asked.prompt is None) == (asked.prompt_tokens is None):
        raise Refusal("invalid", "give exactly one of prompt and prompt_tokens", field="prompt")
    if asked.stream and not asked.wait:
        raise Refusal("invalid", "stream needs wait: a stream is a wait", field="stream")
    return asked


def _invalid(error: Exception, body: bytes) -> Refusal:
    message = str(error)
    if not isinstance(error, ValidationError):
        field = _not_a_number(body)
        if field:
            return Refusal("invalid", f"{field}: NaN and Infinity are not JSON", field=field)
        return Refusal("invalid", f"the body is not JSON: {message}", field="body")
    made_up = _FIELD.search(message)
    if made_up:
        field = made_up[2][:LONGEST_FIELD]
        return Refusal("invalid", f"{field}: {made_up[1]} field", field=field)
    place = _PLACE.search(message)
    if place is None:
        return Refusal("invalid", f"the body: {_small(message)}", field="body")
    what, got = _small(message[: place.start()]), _got(body, place[1])
    if got:
        what = what.partition(", got ")[0]  # the value says its type
    return Refusal("invalid", f"{place[1]}: {what}{got}", field=place[1])


def _small(message: str) -> str:
    return message[0].lower() + message[1:].replace("`", "")


def _loose(body: bytes) -> dict[str, Any]:
    """The body by Python's reader, which takes NaN and Infinity; {} when that fails too."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _not_a_number(body: bytes) -> str | None:
    """The first of our fields that is NaN or infinite, if that is what is wrong."""
    fields = InferRequest.__struct_fields__
    numbers = ((name, value) for name, value in _loose(body).items() if name in fields and isinstance(value, float))
    return next((name for name, value in numbers if not isfinite(value)), None)


def _got(body: bytes, field: str) -> str:
    value = _loose(body).get(field)
    if value is None or isinstance(value, (dict, list)):
        return ""
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python writes
        return ""
    return f", got {text if len(text) <= 60 else text[:57] + '...'}"

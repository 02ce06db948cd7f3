"""What is wrong with a field, as the whole project says it: the field, what is allowed, the value.

What is allowed is read from the JSON schema that the service publishes.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]
LONGEST = 60  # of a value
LONGEST_NAME = 64  # of a name that the client made up


def must_be(field: str, schema: Schema, got: str = "") -> str:
    """`bid must be an int in 1..10, got 11`; got: see `shown`, "" where it is not to be told."""
    return f"{field} must be {allowed(schema)}" + (f", got {got}" if got else "")


def unknown(kind: str, name: str, there: Iterable[str]) -> str:
    """`unknown field 'x', there are bid, prompt`."""
    names = ", ".join(sorted(there))
    return f"unknown {kind} {name[:LONGEST_NAME]!r}, there are {names or 'none here'}"


def shown(value: object) -> str:
    """A value that came as JSON."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"an array of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    try:
        return cut(repr(value))
    except ValueError:  # an int of more digits than Python writes
        return "a long number"


def cut(text: str) -> str:
    """At most as much of it as a message has of a value."""
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def given(schema: Schema) -> Schema:
    """Without null, where that means that nothing was given."""
    return {"anyOf": [part for part in schema.get("anyOf", [schema]) if part.get("type") != "null"]}


def allowed(schema: Schema) -> str:
    """What a schema takes, in words."""
    *others, last = _alternatives(schema)
    return f"{', '.join(others)} or {last}" if others else last


def _alternatives(schema: Schema) -> Iterator[str]:
    if "anyOf" in schema:
        for part in schema["anyOf"]:
            yield from _alternatives(part)
    elif "enum" in schema:
        yield from map(repr, schema["enum"])
    else:
        match schema["type"]:
            case "boolean":
                yield from ("true", "false")
            case "integer":
                yield f"an int{_range(schema)}"
            case "number":
                yield f"a number{_range(schema)}"
            case "string":
                yield f"a str{_length(schema, 'Length', ' characters')}{_pattern(schema)}"
            case "array":
                yield f"an array{_length(schema, 'Items', ' items')}"
            case kind:
                yield "null" if kind == "null" else f"an {kind}"


def _range(schema: Schema) -> str:
    least, above, most = (schema.get(name) for name in ("minimum", "exclusiveMinimum", "maximum"))
    if most is not None and least is not None:
        return f" in {_bound(least)}..{_bound(most)}"
    if most is not None and above is not None:
        return f" in ({_bound(above)}, {_bound(most)}]"
    bounds = ((">=", least), (">", above), ("<=", most))
    return "".join(f" {sign} {_bound(bound)}" for sign, bound in bounds if bound is not None)


def _bound(number: float) -> str:
    if isinstance(number, int):
        return str(number)
    short = f"{number:.0e}"  # a power of ten is read more easily so
    if float(short) == number and not 1e-3 <= number < 1e6:
        return short.replace("e+0", "e").replace("e-0", "e-")
    return f"{number:.10g}"


def _length(schema: Schema, of: str, unit: str) -> str:
    least, most = schema.get(f"min{of}"), schema.get(f"max{of}")
    if most is None:
        return "" if not least else f" of {least} or more{unit}"
    return f" of {least} to {most}{unit}" if least else f" of at most {most}{unit}"


def _pattern(schema: Schema) -> str:
    return f" that matches {schema['pattern']}" if "pattern" in schema else ""

"""docs/http.md: its tables and examples of `GET /tenants/{id}/status` and `GET /health` are what the service says.

`python -m tests.test_service_fields` prints the tables.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from aps.service.health import Health
from aps.service.status import TenantStatus

SECTIONS: dict[str, type[BaseModel]] = {
    "## `GET /tenants/{id}/status`": TenantStatus,
    "## `GET /health`, `/health/live`, `/health/ready`": Health,
}


def table(model: type[BaseModel]) -> list[str]:
    """A row a field; of an object first what it is, then its own fields. A second one of a kind is as the first."""
    schema = model.model_json_schema()
    return [f"| `{name}` | {kind} | {text} |" for name, kind, text in rows(schema, schema.get("$defs", {}), "", {})]


def rows(
    schema: dict[str, Any], defined: dict[str, Any], within: str, seen: dict[str, str]
) -> Iterator[tuple[str, str, str]]:
    for name, field in schema["properties"].items():
        full, text = within + name, field.get("description", "")
        kinds, object_, many = kinds_of(field)
        if object_ is None:
            yield full, kinds, text
        elif object_ in seen:
            yield full, kinds.replace("object", f"as `{seen[object_]}`"), text
        else:
            seen[object_] = full
            about = defined[object_]
            yield full, kinds, f"{about['description']} {text}".strip()
            yield from rows(about, defined, f"{full}[]." if many else f"{full}.", seen)


def kinds_of(field: dict[str, Any]) -> tuple[str, str | None, bool]:
    """Which values it has, in words; the name of the object that it is, and whether it is an array of them."""
    if "anyOf" in field:
        found = [kinds_of(part) for part in field["anyOf"]]
        return (
            " or ".join(words for words, _, _ in found),
            next((name for _, name, _ in found if name), None),
            any(many for _, _, many in found),
        )
    if "$ref" in field or "allOf" in field:
        return "object", (field.get("$ref") or field["allOf"][0]["$ref"]).rpartition("/")[2], False
    if "enum" in field:
        return " or ".join(f'`"{value}"`' for value in field["enum"]), None, False
    if field["type"] == "array":
        words, name, _ = kinds_of(field["items"])
        return f"array of {words}s", name, True
    if field.get("format") == "date-time":
        return "instant", None, False
    return str(field["type"]), None, False


@pytest.fixture
def document(root: Path) -> str:
    return (root / "docs/http.md").read_text()


def section(document: str, title: str) -> str:
    found = re.search(rf"^{re.escape(title)}\n(.*?)(?=^## |\Z)", document, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


@pytest.mark.parametrize("title", SECTIONS)
def test_the_table_has_every_field_and_no_other(document: str, title: str) -> None:
    documented = [line for line in section(document, title).splitlines() if re.match(r"\| `[a-z]", line)]
    assert documented == table(SECTIONS[title]), "python -m tests.test_service_fields prints the tables"
    assert all(line.split("|")[3].strip() for line in documented)


@pytest.mark.parametrize("title", SECTIONS)
def test_the_example_fits_its_schema(document: str, title: str) -> None:
    model = SECTIONS[title]
    (example,) = re.findall(r"^```json\n(.*?)^```", section(document, title), re.MULTILINE | re.DOTALL)
    said = model.model_validate_json(example, extra="forbid")
    assert json.loads(said.model_dump_json()) == json.loads(example)
    assert [*json.loads(example)] == [*model.model_fields]


if __name__ == "__main__":
    for title, model in SECTIONS.items():
        print(title, *table(model), sep="\n")

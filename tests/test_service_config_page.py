"""Keys of the configuration, the fields they set and the page that documents them agree."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from aps.cli.serve import FLAGS, POLICIES
from aps.policy import Limits, Policy
from aps.service.config import Devices, Settings
from aps.service.config_keys import BY_NAME, CORNERS, KEYS, LIVE, TENANT_KEYS, VARIABLES, Key
from aps.service.config_reader import read_config
from aps.service.config_view import notes
from aps.tenants import Tenant


def test_every_field_has_one_key() -> None:
    for owner in (Settings, Devices, Policy, Limits):
        named = [key.field for key in KEYS if key.owner is owner and key.field != "base"]
        assert sorted(named) == sorted(field.name for field in fields(owner) if field.init)
    assert sorted(key.field for key in TENANT_KEYS) == sorted(
        [*(field.name for field in fields(Tenant) if field.name != "name"), "keys"]
    )
    assert POLICIES == CORNERS
    assert set(FLAGS.values()) <= set(BY_NAME)


def as_toml(key: Key) -> str:
    value = key.default
    if key.name == "keys":
        return "`[]`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return (
        f'`"{value if value is not None else "none"}"`' if value is None or isinstance(value, str) else f"`{value!r}`"
    )


def kind(key: Key) -> str:
    names = {str: "string", int: "integer", float: "number", bool: "boolean"}
    text = "array" if key.name == "keys" else names[key.kind]
    return f'{text} or `"none"`' if key.optional else text


def row(key: Key) -> str:
    return f"| `{key.name}` | {kind(key)} | {as_toml(key)} | {key.meaning} | {key.live} |"


@pytest.fixture
def page(root: Path) -> str:
    return (root / "docs/configuration.md").read_text()


@pytest.mark.parametrize("key", [*KEYS, *TENANT_KEYS], ids=lambda key: key.full)
def test_the_page_has_every_key_as_it_is(page: str, key: Key) -> None:
    table = re.search(rf"^### `\[{re.escape(key.table)}\]`\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL)
    assert table is not None
    assert row(key) in table[1].splitlines()


def test_the_page_has_no_key_that_there_is_not(page: str) -> None:
    assert len(re.findall(r"^\| `\w+` \|.*\| (?:yes|restart) \|$", page, re.MULTILINE)) == len(KEYS) + len(TENANT_KEYS)
    for name, meaning in VARIABLES.items():
        assert f"| `{name}` | {meaning} |" in page
    assert {key.full for key in KEYS if key.live == LIVE} == {
        "policy.aging_horizon_s",
        "policy.fairness_window",
        "price.gpu_hour_dollars",
        "price.source",
    }


def test_the_page_names_every_flag(page: str) -> None:
    for flag, full in FLAGS.items():
        assert f"| `--{flag.replace('_', '-')}` | `{BY_NAME[full].variable}` | `{full}` |" in page


def test_the_example_of_the_page_is_right_and_has_every_table(page: str, tmp_path: Path) -> None:
    (example,) = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    file = tmp_path / "aps.toml"
    file.write_text(example)
    config = read_config(file)
    assert not config.open
    assert {name.split(".")[0] for name in config.origins} == {key.table for key in KEYS}
    assert len(config.tenants) >= 2
    assert not [note for note in notes(config) if "GET /metrics" not in note]

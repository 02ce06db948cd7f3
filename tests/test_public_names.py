"""The names that users see: exactly these, in order, documented; and the words of the rules page."""

import importlib
import importlib.metadata
import inspect
import re
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import pytest

import aps
from aps.verdicts import REASONS, RELEASES, STATUSES

ROOT = Path(__file__).parents[1]


def enum_names(enum: str) -> list[str]:
    """The lower-case names of a C enum of types.pxd, which must be numbered from 0 up."""
    text = files("aps_core").joinpath("types.pxd").read_text()
    body = re.search(rf"cdef enum {enum}:.*\n((?:    \w+ = \d+.*\n)+)", text)
    assert body is not None
    pairs = re.findall(r"(\w+) = (\d+)", body[1])
    assert [int(number) for _, number in pairs] == list(range(len(pairs)))
    return [name.lower() for name, _ in pairs]


def test_all_is_exactly_the_public_names_sorted() -> None:
    public = {name for name, value in vars(aps).items() if name[0] != "_" and not isinstance(value, ModuleType)}
    assert set(aps.__all__) == public
    assert aps.__all__ == sorted(aps.__all__)


@pytest.mark.parametrize("name", aps.__all__)
def test_every_public_name_and_method_is_documented(name: str) -> None:
    item = getattr(aps, name)
    assert inspect.getdoc(item)
    assert item.__module__.startswith("aps.")
    for member, value in vars(item).items() if inspect.isclass(item) else ():
        if member[0] != "_" and (callable(value) or isinstance(value, property | classmethod)):
            assert inspect.getdoc(getattr(item, member)), f"{name}.{member} has no docstring"


def test_version_comes_from_the_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "version", lambda name: f"1.2.3 of {name}")
        assert importlib.reload(aps).__version__ == "1.2.3 of aps-scheduler"
    importlib.reload(aps)


def test_version_without_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "version", missing)
        assert importlib.reload(aps).__version__ == "0+source"
    importlib.reload(aps)


def test_reasons_and_releases_are_the_core_s() -> None:
    assert list(REASONS) == enum_names("Reason")
    assert ["not_released", *(str(release) for release in RELEASES[1:])] == enum_names("Release")
    assert RELEASES[0] is None


def test_statuses_are_those_of_the_rules_page() -> None:
    rows = re.findall(r"^\|.*\| `(\w+)` \| (\w+) \|$", (ROOT / "docs" / "rules.md").read_text(), re.MULTILINE)
    assert len(rows) == 13
    expected = {"admitted": "admitted", **dict(rows), "deadline_expired": "throttled"}
    assert dict(zip(REASONS, STATUSES, strict=True)) == expected

"""Devices: every rule of every field."""

from typing import Any

import pytest

from aps import Device


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("slots", 0, "Device.slots must be an int in 1..65536, got 0"),
        ("slots", 65537, "Device.slots must be an int in 1..65536, got 65537"),
        ("kv_blocks", 0, "Device.kv_blocks must be an int in 1..2147483647, got 0"),
        ("token_budget", 0, "Device.token_budget must be an int in 1..2147483647 or None, got 0"),
        ("name", "", "Device.name must be a non-empty str, got ''"),
    ],
)
def test_a_value_out_of_range_is_named(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        Device(**{field: value})
    assert str(error.value) == message


@pytest.mark.parametrize("field", ["slots", "kv_blocks", "token_budget", "name"])
def test_a_wrong_type_is_named(field: str) -> None:
    with pytest.raises(TypeError, match=f"^Device.{field} must be .*, got 1.5$"):
        Device(**{field: 1.5})  # type: ignore[arg-type]


def test_defaults_and_value_semantics() -> None:
    assert Device() == Device(16, 4096, 512, "gpu0")
    assert Device(token_budget=None).token_budget is None

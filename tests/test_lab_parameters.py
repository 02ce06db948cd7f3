"""Parameters of scenarios: what is read from text, what is refused, and how."""

from typing import Any

import pytest

from aps.lab.parameters import Parameter, Scenario, choice, count, number, tokens, yes_or_no
from aps.lab.workload import Workload
from aps.tenants import Tenant


def make(seed: int, given: Any) -> Workload:
    n = given["requests"]
    ones = [1] * n
    return Workload("toy", (Tenant("a"),), [0] * n, [float(seed)] * n, ones, ones, ones, ones)  # type: ignore[arg-type]


TOY = Scenario(
    "toy",
    "A toy.",
    (
        Parameter("requests", 2, "requests", count(1, 10)),
        Parameter("load", 0.5, "load", number(0, 2, above=True)),
        Parameter("wait_s", 0.0, "pause", number(0)),
        Parameter("drain", True, "to the end", yes_or_no()),
        Parameter("variant", "one", "which", choice("one", "two")),
        Parameter("prompt", "10-20", "prompt tokens", tokens()),
    ),
    make,
)


def test_text_becomes_values() -> None:
    texts = ["requests=3", " load = 1e-1 ", "wait_s=2", "drain=no", "variant=two", "prompt=lognormal:9:1<=50"]
    assert TOY.parse(texts) == {
        "requests": 3,
        "load": 0.1,
        "wait_s": 2.0,
        "drain": False,
        "variant": "two",
        "prompt": "lognormal:9:1<=50",
    }
    assert TOY.parse([]) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("speed=1", "toy has no parameter 'speed'; it has: requests, load, wait_s, drain, variant, prompt"),
        ("requests", "toy: a parameter must be written key=value, got 'requests'"),
        ("requests=", "toy: requests must be an integer from 1 to 10, got ''"),
        ("requests=2.5", "toy: requests must be an integer from 1 to 10, got '2.5'"),
        ("requests=11", "toy: requests must be an integer from 1 to 10, got 11"),
        ("load=0", r"toy: load must be a number above 0 to 2, got 0.0"),
        ("load=nan", "toy: load must be a number above 0 to 2, got nan"),
        ("wait_s=inf", "toy: wait_s must be a number of at least 0, got inf"),
        ("wait_s=soon", "toy: wait_s must be a number of at least 0, got 'soon'"),
        ("drain=true", "toy: drain must be yes or no, got 'true'"),
        ("variant=three", "toy: variant must be one or two, got 'three'"),
        ("prompt=long", "toy: prompt: lengths must be N, LOW-HIGH .* got 'long'"),
    ],
)
def test_wrong_text_is_told_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        TOY.parse([text])


def test_a_parameter_is_given_once() -> None:
    with pytest.raises(ValueError, match="toy: load is given twice"):
        TOY.parse(["load=1", "load=1"])


@pytest.mark.parametrize(
    "wrong", [{"requests": True}, {"requests": 2.0}, {"load": "1"}, {"load": 10**400}, {"drain": 1}, {"prompt": 5}]
)
def test_values_of_wrong_types_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"toy: {next(iter(wrong))} must be"):
        TOY.build(0, **wrong)


def test_building_fills_in_defaults_and_names_what_was_changed() -> None:
    assert TOY.build(4).name == "toy"
    assert TOY.build(4).at_s.tolist() == [4.0, 4.0]
    assert TOY.build(0, requests=2, load=1).name == "toy(load=1)"
    assert TOY.build(0, drain=False, requests=1).name == "toy(requests=1, drain=no)"
    with pytest.raises(ValueError, match="toy has no parameter 'speed'"):
        TOY.build(0, speed=1)
    for seed in (-1, 1.5, True, None):
        with pytest.raises(ValueError, match="toy: seed must be an integer of at least 0"):
            TOY.build(seed)  # type: ignore[arg-type]

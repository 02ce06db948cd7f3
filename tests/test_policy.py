"""Policies and limits: every rule of every field, the named corners of the plane."""

from dataclasses import FrozenInstanceError
from math import inf, nan
from typing import Any

import pytest

from aps import Limits, Policy
from aps.policy import core_options


@pytest.mark.parametrize(
    ("field", "values", "allowed"),
    [
        ("aging_horizon_s", (-1, nan, 1.1e8), "seconds in 0..1e8, or inf (no aging)"),
        ("fairness_window", (-1, nan), "a cost >= 0 (inf: no fairness)"),
        ("input_weight", (-0.1, inf, nan), "a number in 0..1e6"),
        ("output_weight", (-0.1, inf, nan), "a number in 0..1e6"),
        ("expected_output", (-1, 2**31), "an int in 0..2147483647 or None"),
        ("bid_premium", (-0.1, inf, nan), "a number in 0..1e6"),
        ("max_passes", (-1, 2**16), "an int in 0..65535"),
        ("backfill_depth", (-1, 2**20 + 1), "an int in 0..1048576"),
        ("preemption", ("on", True, None), "'off' or 'recompute' or 'swap'"),
        ("preempt_margin", (0, 10), "an int in 1..9"),
        ("max_preemptions", (-1, 256), "an int in 0..255"),
        ("batching", ("static", None), "'continuous' or 'micro'"),
        ("batch_window_s", (-0.01, inf, nan), "seconds in 0..1e6"),
        ("batch_fill_target", (0, 1.1, nan), "a number in (0, 1]"),
        ("kv_high_watermark", (0, 1.1, nan), "a number in (0, 1]"),
    ],
)
def test_a_value_out_of_range_is_named(field: str, values: tuple[Any, ...], allowed: str) -> None:
    for value in values:
        with pytest.raises(ValueError) as error:
            Policy(**{field: value})
        assert str(error.value) == f"Policy.{field} must be {allowed}, got {value!r}"


@pytest.mark.parametrize("field", sorted(set(Policy.__dataclass_fields__) - {"preemption", "batching"}))
@pytest.mark.parametrize("value", ["3", True, [1]])
def test_a_wrong_type_is_named(field: str, value: Any) -> None:
    with pytest.raises(TypeError) as error:
        Policy(**{field: value})
    assert str(error.value).startswith(f"Policy.{field} must be ")
    assert str(error.value).endswith(f"got {value!r}")


def test_micro_batches_are_never_preempted() -> None:
    with pytest.raises(ValueError, match=r"preemption with batching=\"micro\" must be 'off', got 'swap'"):
        Policy(batching="micro", preemption="swap")


def test_a_policy_is_a_frozen_value() -> None:
    assert Policy(aging_horizon_s=30) == Policy()
    assert hash(Policy()) == hash(Policy.aps())
    with pytest.raises(FrozenInstanceError):
        Policy().max_passes = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("policy", "knobs"),
    [
        (Policy.fifo(), "H = 0 s, D = inf"),
        (Policy.strict(), "H = inf, D = inf"),
        (Policy.vtc(), "H = 0 s, D = 0"),
        (Policy.fair(), "H = inf, D = 0"),
        (Policy.bids(), "H = 30 s, D = inf"),
        (Policy.aps(), "H = 30 s, D = 2048"),
        (Policy(aging_horizon_s=0.5, fairness_window=32768), "H = 0.5 s, D = 32768"),
    ],
)
def test_named_policies_and_their_knobs(policy: Policy, knobs: str) -> None:
    assert policy.knobs == knobs


def test_plain_policies_neither_backfill_nor_preempt() -> None:
    for policy in (Policy.fifo(), Policy.strict(), Policy.vtc()):
        assert (policy.max_passes, policy.preemption) == (0, "off")
    for policy in (Policy.fair(), Policy.bids(), Policy.aps()):
        assert policy.max_passes == 64
    assert Policy.vtc().expected_output == 0
    assert Policy.fifo().expected_output is None


@pytest.mark.parametrize("make", [Policy.fifo, Policy.strict, Policy.vtc, Policy.fair, Policy.bids, Policy.aps])
def test_keywords_change_single_fields(make: Any) -> None:
    changed = make(max_passes=7, fairness_window=9.0, aging_horizon_s=8.0, output_weight=2.0)
    assert (changed.max_passes, changed.knobs, changed.output_weight) == (7, "H = 8 s, D = 9", 2.0)
    with pytest.raises(TypeError, match="horizon"):
        make(horizon=3)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("max_queued", -1, "Limits.max_queued must be an int in 0..2147483647 or None, got -1"),
        ("max_queued_tokens", -1, f"Limits.max_queued_tokens must be an int in 0..{2**62} or None, got -1"),
        ("max_context", 1, "Limits.max_context must be an int in 2..2147483647 or None, got 1"),
    ],
)
def test_limits_out_of_range_are_named(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        Limits(**{field: value})
    assert str(error.value) == message
    with pytest.raises(TypeError, match=f"Limits.{field} must be an int"):
        Limits(**{field: 5.5})  # type: ignore[arg-type]


def test_core_options() -> None:
    options = core_options(Policy(), Limits(max_queued=None))
    assert options["expected_output"] == -1
    assert options["preemption"] == 0
    assert options["micro"] is False
    assert not {"max_queued", "max_queued_tokens", "max_context", "batching"} & set(options)
    options = core_options(Policy(expected_output=0, preemption="swap"), Limits(5, 6, 7))
    assert (options["expected_output"], options["preemption"]) == (0, 2)
    assert [options[name] for name in ("max_queued", "max_queued_tokens", "max_context")] == [5, 6, 7]
    assert core_options(Policy(batching="micro"), Limits())["micro"] is True

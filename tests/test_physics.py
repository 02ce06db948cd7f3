"""The physics of a step: its formula to the last bit, what it refuses, and that models are values."""

import pickle
from math import inf, nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aps_core.gpu import Engine
from aps_core.physics import PhysicsModel
from aps_core.step_time import ReferenceModel, StepTimeModel
from tests.twins.physics import seconds

LLAMA2_7B: dict[str, Any] = {
    "layers": 32,
    "width": 4096,
    "kv_bytes_per_token_layer": 16384.0,
    "decoder_bytes": 12_952_010_752.0,
    "head_bytes": 262_144_000.0,
}
NAMES = list(PhysicsModel(**LLAMA2_7B).constants())


def step(model: StepTimeModel, decodes: list[int], chunks: list[tuple[int, int]], emits: int, swapped: int) -> float:
    return model.step_seconds(
        prefill_tokens=sum(length for length, _ in chunks),
        chunks=len(chunks),
        decodes=len(decodes),
        emits=emits,
        decode_context=sum(decodes),
        prefill_squares=float(sum(length * length for length, _ in chunks)),
        prefill_past=float(sum(length * past for length, past in chunks)),
        swapped_tokens=swapped,
    )


@st.composite
def models(draw: st.DrawFn) -> PhysicsModel:
    return PhysicsModel(
        layers=draw(st.integers(1, 200)),
        width=draw(st.integers(1, 20_000)),
        kv_bytes_per_token_layer=draw(st.floats(1, 1e6)),
        decoder_bytes=draw(st.floats(1, 1e12)),
        head_bytes=draw(st.floats(1, 1e10)),
        weight_bandwidth=draw(st.floats(1e9, 1e13)),
        compute=draw(st.floats(1e12, 1e15)),
        roofline_power=draw(st.floats(1, 16)),
        linear_token_s=draw(st.floats(0, 1e-5)),
        linear_layer_s=draw(st.floats(0, 1e-3)),
        host_s=draw(st.floats(0, 1)),
        swap_bandwidth=draw(st.floats(1e6, 1e12)),
    )


@given(
    model=models() | st.just(PhysicsModel(**LLAMA2_7B)),
    decodes=st.lists(st.integers(1, 30_000), max_size=70),
    chunks=st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 30_000)), max_size=5),
    emits=st.integers(0, 300),
    swapped=st.just(0) | st.integers(0, 10**6),
)
def test_the_formula_to_the_last_bit(
    model: PhysicsModel, decodes: list[int], chunks: list[tuple[int, int]], emits: int, swapped: int
) -> None:
    expected = seconds(model.constants(), decodes, chunks, emits, swapped)
    assert step(model, decodes, chunks, emits, swapped) == expected


@pytest.mark.parametrize("model", [PhysicsModel(**LLAMA2_7B), ReferenceModel()], ids=["physics", "reference"])
def test_many_steps_at_once(model: StepTimeModel) -> None:
    rows = [(0, 0, 0, 0.0), (0, 1, 0, 0.0), (512, 0, 0, 512.0 * 3000), (17, 40, 40 * 300, 0.0), (1, 64, 64, 5.0)]
    names = ("prefill_tokens", "decodes", "decode_context", "prefill_past")
    columns = dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))
    expected = [
        model.step_seconds(prefill_tokens=tokens, decodes=decodes, decode_context=context, prefill_past=past)
        for tokens, decodes, context, past in rows
    ]
    assert model.steps_seconds(**columns).tolist() == expected
    with pytest.raises(ValueError, match="must have one length, got 5, 4, 5, 5"):
        model.steps_seconds(**{**columns, "decodes": columns["decodes"][:4]})
    with pytest.raises(ValueError, match="step 1 must have finite numbers, 0 or more, got 0, -1, 0, 0"):
        model.steps_seconds(**{**columns, "decodes": np.array([0, -1, 0, 0, 0])})
    with pytest.raises(ValueError, match="step 0 must have finite numbers"):
        model.steps_seconds(**{**columns, "prefill_past": np.full(5, nan)})
    with pytest.raises(TypeError, match="decodes must be integers"):
        model.steps_seconds(**{**columns, "decodes": np.full(5, 1.5)})


@pytest.mark.parametrize("tokens", [0, 1, 63, 64, 65, 127, 128, 129, 256, 4095, 4096, 4097, 4224, 4225, 100_000])
def test_the_corners_of_the_tiles(tokens: int) -> None:
    model = PhysicsModel(**LLAMA2_7B)
    chunks = [(tokens, 7)] if tokens else []
    assert step(model, [], chunks, 1, 0) == seconds(model.constants(), [], chunks, 1, 0)


def test_memory_bounds_a_decode_and_arithmetic_a_long_prompt() -> None:
    model = PhysicsModel(**LLAMA2_7B)
    weights_s = (LLAMA2_7B["decoder_bytes"] + LLAMA2_7B["head_bytes"]) / model.weight_bandwidth
    assert weights_s < model.step_seconds(decodes=1, decode_context=128) < 1.15 * weights_s
    multiply_s = LLAMA2_7B["decoder_bytes"] * 2048 / model.compute
    assert multiply_s < model.step_seconds(prefill_tokens=2048) < 1.4 * multiply_s
    assert model.step_seconds(prefill_tokens=2048) == pytest.approx(0.154, abs=5e-4)
    assert model.step_seconds(prefill_tokens=128) == pytest.approx(0.012, abs=5e-4)


def test_swapping_costs_its_bytes_over_the_link() -> None:
    model = PhysicsModel(**LLAMA2_7B)
    extra = model.step_seconds(decodes=1, swapped_tokens=1000) - model.step_seconds(decodes=1)
    assert extra == pytest.approx(1000 * 524_288 / 25e9)
    stylised = ReferenceModel()
    extra = stylised.step_seconds(decodes=1, swapped_tokens=1000) - stylised.step_seconds(decodes=1)
    assert extra == pytest.approx(1000 * 524_288 / 25e9, rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [nan, inf, -1.0, -inf])
def test_every_constant_is_checked(name: str, value: float) -> None:
    kind = TypeError if name in ("layers", "width") else ValueError
    with pytest.raises(kind, match=rf"^{name} must be .*, got {value}"):
        PhysicsModel(**LLAMA2_7B | {name: value})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"layers": 0}, r"layers must be an integer from 1 to 100000, got 0"),
        ({"width": 2**70}, r"width must be an integer from 1 to 10000000, got"),
        ({"decoder_bytes": 0}, r"decoder_bytes must be from 1 to 1e\+15, got 0"),
        ({"weight_bandwidth": 1540}, r"weight_bandwidth must be from 1e\+06 to 1e\+18, got 1540"),
        ({"compute": 0.0}, r"compute must be from 1e\+06 to 1e\+18, got 0.0"),
        ({"roofline_power": 0.5}, r"roofline_power must be from 1 to 16, got 0.5"),
        ({"host_s": 1e9}, r"host_s must be from 0 to 1e\+06, got 1000000000.0"),
        ({"swap_bandwidth": 10**400}, r"swap_bandwidth must be from 1e\+06 to 1e\+18, got 1000"),
    ],
)
def test_what_is_out_of_range_is_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PhysicsModel(**LLAMA2_7B | changed)


def test_constants_are_needed_and_typed() -> None:
    with pytest.raises(TypeError, match="decoder_bytes"):
        PhysicsModel(**{name: value for name, value in LLAMA2_7B.items() if name != "decoder_bytes"})
    with pytest.raises(TypeError, match="compute must be a number, got 'fast'"):
        PhysicsModel(**LLAMA2_7B | {"compute": "fast"})
    with pytest.raises(TypeError, match=r"layers must be an integer, got 32.5"):
        PhysicsModel(**LLAMA2_7B | {"layers": 32.5})


def test_the_hardest_constants_still_give_a_time() -> None:
    """Powers of the extremes neither overflow nor vanish."""
    slow = PhysicsModel(
        layers=1,
        width=1,
        kv_bytes_per_token_layer=1,
        decoder_bytes=1e15,
        head_bytes=1,
        weight_bandwidth=1e6,
        compute=1e6,
        roofline_power=16,
    )
    assert 1e9 < slow.step_seconds(prefill_tokens=2**31) < inf
    engine = Engine(slow, 1, 10)
    engine.start(1, 10, 5, 5)
    with pytest.raises(RuntimeError, match=r"a step must take 0 to 4e\+08 s, PhysicsModel\(layers=1, width=1"):
        engine.begin_step(0)
    fast = PhysicsModel(
        layers=1,
        width=1,
        kv_bytes_per_token_layer=1,
        decoder_bytes=1,
        head_bytes=1,
        weight_bandwidth=1e18,
        compute=1e18,
        roofline_power=16,
    )
    assert 0 < fast.step_seconds(decodes=1) < 1


@pytest.mark.parametrize(
    ("model", "other"),
    [
        (PhysicsModel(**LLAMA2_7B), PhysicsModel(**LLAMA2_7B, host_s=1e-3)),
        (ReferenceModel(speedup=3.0), ReferenceModel()),
    ],
)
def test_models_are_values(model: StepTimeModel, other: StepTimeModel) -> None:
    again = pickle.loads(pickle.dumps(model))
    assert again == model == type(model)(**model.constants())
    assert hash(again) == hash(model)
    assert again.step_seconds(decodes=3, decode_context=99) == model.step_seconds(decodes=3, decode_context=99)
    assert model != other
    assert model != StepTimeModel()
    assert repr(model).startswith(f"{type(model).__name__}(")
    for name, value in model.constants().items():
        assert getattr(model, name) == value
        with pytest.raises(AttributeError):
            setattr(model, name, value)


@pytest.mark.parametrize("name", ["prefill_tokens", "chunks", "decodes", "emits", "decode_context", "swapped_tokens"])
def test_shapes_count_whole_things(name: str) -> None:
    shape: dict[str, Any] = {name: 2.9}
    with pytest.raises(TypeError, match=f"{name} must be an integer, got 2.9"):
        ReferenceModel().step_seconds(**shape)
    shape = {name: -1}
    with pytest.raises(ValueError, match=f"{name} must be an integer from 0 to {2**53}, got -1"):
        ReferenceModel().step_seconds(**shape)


@pytest.mark.parametrize("name", ["prefill_squares", "prefill_past"])
@pytest.mark.parametrize("value", [-1.0, nan, inf])
def test_shapes_are_finite(name: str, value: float) -> None:
    shape: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=rf"{name} must be from 0 to 1e\+300, got {value}"):
        ReferenceModel().step_seconds(**shape)


def test_the_reference_counts_a_whole_batch() -> None:
    with pytest.raises(TypeError, match=r"speedup_batch must be an integer, got 2.9"):
        ReferenceModel(speedup_batch=2.9)  # type: ignore[arg-type]

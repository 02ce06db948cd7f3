"""The built-in profiles: the models' sizes, the steps' times beside published ones, and what they come to."""

from dataclasses import replace
from math import inf, nan
from typing import Any

import pytest

from aps.models import LLAMA2_7B, LLAMA2_13B, LLAMA3_8B, ModelShape
from aps.profile import Profile, kv_tokens_in, physics
from aps.profiles import PROFILES, REFERENCE, profile_named
from aps_core.step_time import ReferenceModel, StepTimeModel

LLAMA2_70B = ModelShape(80, 8192, 28672, 64, 8, 32000)


@pytest.mark.parametrize(
    ("model", "billions", "kv_bytes"),
    [(LLAMA2_7B, 6.74, 524_288), (LLAMA2_13B, 13.0, 819_200), (LLAMA2_70B, 69.0, 327_680), (LLAMA3_8B, 8.03, 131_072)],
)
def test_models_have_their_published_sizes(model: ModelShape, billions: float, kv_bytes: int) -> None:
    assert model.parameters == pytest.approx(billions * 1e9, rel=2e-3)
    assert model.kv_bytes_per_token == kv_bytes == model.layers * model.kv_bytes_per_token_layer
    assert model.weight_bytes == 2 * model.parameters == model.decoder_bytes + 2 * model.head_bytes
    assert model.flops_per_token == model.decoder_bytes


@pytest.mark.parametrize("field", ["layers", "width", "feed_forward", "heads", "kv_heads", "vocabulary"])
def test_shapes_are_checked(field: str) -> None:
    changed: dict[str, Any] = {field: 0}
    with pytest.raises(ValueError, match=rf"ModelShape\.{field} must be an int in 1\.\.\d+, got 0"):
        replace(LLAMA2_7B, **changed)
    changed = {field: 32.0}
    with pytest.raises(TypeError, match=rf"ModelShape\.{field} must be an int in 1\.\.\d+, got 32\.0"):
        replace(LLAMA2_7B, **changed)


def test_heads_divide() -> None:
    with pytest.raises(ValueError, match=r"ModelShape\.heads must divide width 4096, got 30"):
        replace(LLAMA2_7B, heads=30)
    with pytest.raises(ValueError, match=r"ModelShape\.kv_heads must divide heads 32, got 7"):
        replace(LLAMA2_7B, kv_heads=7)


@pytest.mark.parametrize(
    ("batch", "prompt", "output", "tokens_per_s", "token_ms"),
    [
        (1, 128, 128, 103, 9.6),
        (16, 128, 128, 1275, 11.1),
        (16, 128, 2048, 1034, 15.5),
        (16, 2048, 128, 410, 19.9),
        (16, 2048, 2048, 631, 24.2),
        (64, 128, 128, 2929, 15.9),
    ],
)
def test_static_batches_of_7b_take_their_time(
    batch: int, prompt: int, output: int, tokens_per_s: float, token_ms: float
) -> None:
    """Each prompt prefilled alone, then output - 1 decodes of the whole batch: what these constants gave elsewhere."""
    step = PROFILES["a100-llama2-7b"].step_time.step_seconds
    decodes = [step(decodes=batch, decode_context=batch * (prompt + i)) for i in range(1, output)]
    assert 1e3 * sum(decodes) / len(decodes) == pytest.approx(token_ms, rel=0.01)
    total_s = batch * step(prefill_tokens=prompt) + sum(decodes)
    assert batch * output / total_s == pytest.approx(tokens_per_s, rel=0.01)


def test_the_built_in_profiles() -> None:
    assert list(PROFILES) == ["reference", "a100-llama2-7b", "a100-llama2-13b", "a100-llama3-8b"]
    assert [profile.kv_tokens for profile in PROFILES.values()] == [61_035, 111_625, 56_114, 426_788]
    for name, profile in PROFILES.items():
        assert profile.name == name
        assert profile_named(name) is profile
        assert (profile.slots, profile.dollars_per_hour) == (16, 1.39)
        assert "2026" in profile.price_source
        assert (profile.token_budget, profile.peak_flops) == ((None, None) if profile is REFERENCE else (512, 312e12))
        if profile.model is not None:
            assert profile.step_time == physics(profile.model)
            assert profile.kv_bytes_per_token == profile.model.kv_bytes_per_token
            assert profile.flops_per_token == profile.model.flops_per_token
            assert profile.kv_tokens == (72 * 10**9 - profile.model.weight_bytes) // profile.kv_bytes_per_token
    assert REFERENCE.flops_per_token is None
    assert "stylised" in REFERENCE.description


def test_what_the_reference_implies() -> None:
    implied = REFERENCE.implications()
    assert implied.decode_tokens_per_s == {1: 128.0, 16: 320.0}
    assert implied.speedup == 2.5
    assert implied.prefill_tokens_per_s == pytest.approx(2048 / (2 + 1 / 128))
    # Sixteen prompts prefill in one step of 8 s and emit, 127 steps of 50 ms follow: 10,240 tokens in 14.4 s.
    assert implied.mix_tokens_per_s == pytest.approx(16 * 640 / (8 + 128 * 0.05))
    assert implied.dollars_per_million == pytest.approx(1.39 / 3600 * 14.4 / 10_240 * 1e6)


def test_what_an_a100_implies() -> None:
    seven, thirteen, eight = (profile.implications() for profile in list(PROFILES.values())[1:])
    reference = REFERENCE.implications()
    assert seven.decode_tokens_per_s[1] == pytest.approx(103, rel=0.01)
    assert seven.decode_tokens_per_s[16] == pytest.approx(1277, rel=0.01)
    assert seven.prefill_tokens_per_s == pytest.approx(14_081, rel=0.01)
    for implied in (seven, thirteen, eight):
        assert implied.speedup is not None and 10 < implied.speedup < 16
        assert implied.mix_tokens_per_s is not None and reference.mix_tokens_per_s is not None
        assert implied.mix_tokens_per_s > 3 * reference.mix_tokens_per_s
        assert implied.mix_output_tokens_per_s == pytest.approx(implied.mix_tokens_per_s / 5)
        assert implied.dollars_per_million == pytest.approx(1.39 / 3600 / implied.mix_tokens_per_s * 1e6)


def test_what_does_not_fit_implies_nothing() -> None:
    small = replace(REFERENCE, slots=8, kv_tokens=512).implications()
    assert small.decode_tokens_per_s == {1: None, 16: None}
    assert (small.speedup, small.prefill_tokens_per_s, small.dollars_per_million) == (None, None, None)
    few = replace(REFERENCE, slots=2).implications()
    assert few.decode_tokens_per_s == {1: 128.0, 16: None}
    assert few.dollars_per_million is not None and few.dollars_per_million > 0.54
    for rate in (1e-9, 1e-5):
        slow = replace(REFERENCE, step_time=ReferenceModel(prefill_rate=rate)).implications()
        assert slow.mix_tokens_per_s is None
        assert slow.prefill_tokens_per_s == (None if rate == 1e-9 else pytest.approx(rate))
    assert replace(REFERENCE, step_time=StepTimeModel()).implications().dollars_per_million is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": ""}, "Profile.name must be a str of 1 to 256 printable characters, got ''"),
        ({"name": "a\nb"}, "Profile.name must be a str of 1 to 256 printable characters, got 'a\\nb'"),
        ({"description": 5}, "Profile.description must be a str, got 5"),
        ({"step_time": None}, "Profile.step_time must be a StepTimeModel, got None"),
        ({"slots": 0}, "Profile.slots must be an int in 1..65536, got 0"),
        ({"kv_tokens": 0}, "Profile.kv_tokens must be an int in 1..2147483647, got 0"),
        ({"token_budget": 0}, "Profile.token_budget must be an int in 1..2147483647 or None, got 0"),
        ({"dollars_per_hour": -1}, "Profile.dollars_per_hour must be dollars, a finite number >= 0, got -1"),
        ({"dollars_per_hour": inf}, "Profile.dollars_per_hour must be dollars, a finite number >= 0, got inf"),
        ({"kv_bytes_per_token": 1.5}, "Profile.kv_bytes_per_token must be an int in 1..1099511627776, got 1.5"),
        ({"peak_flops": nan}, "Profile.peak_flops must be FLOP/s, a number in 1e6..1e18, or None, got nan"),
        ({"memory_bytes": -1}, "Profile.memory_bytes must be an int in"),
    ],
)
def test_profiles_are_checked(changed: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        replace(REFERENCE, **changed)
    assert str(caught.value).startswith(message)


def test_weights_must_leave_room() -> None:
    least = LLAMA2_13B.weight_bytes + LLAMA2_13B.kv_bytes_per_token
    assert kv_tokens_in(least, LLAMA2_13B) == 1
    with pytest.raises(ValueError, match=rf"memory_bytes must be above .*, got {least - 1}"):
        kv_tokens_in(least - 1, LLAMA2_13B)


def test_a_profile_is_a_device_in_whole_blocks() -> None:
    profile: Profile = PROFILES["a100-llama2-13b"]
    device = profile.device("gpu7", block_tokens=16)
    assert (device.name, device.slots, device.kv_blocks, device.token_budget) == ("gpu7", 16, 3507, 512)

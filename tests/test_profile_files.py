"""Profiles in TOML: what a file says is what it gives, what is wrong is named, and writing one out round-trips."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aps.backends import SimulatedBackend
from aps.models import LLAMA2_7B, LLAMA2_13B, ModelShape
from aps.profile import Profile, kv_tokens_in, physics
from aps.profile_files import NOT_STATED, TABLES, document, read_profile, to_toml
from aps.profiles import PROFILES, REFERENCE, profile_named
from aps_core.physics import PhysicsModel
from aps_core.step_time import ReferenceModel, StepTimeModel

A100 = PROFILES["a100-llama2-7b"]
WHOLE = to_toml(A100)


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def from_text(text: str, name: str = "mine.toml") -> Profile:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return profile_named(str(path))

    return from_text


# ---- writing and reading again


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_written_out_is_read_again(name: str, read: Any) -> None:
    again = read(to_toml(PROFILES[name]), "other.toml")
    assert again == PROFILES[name]
    assert to_toml(again) == to_toml(PROFILES[name])


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
rates = st.floats(1e6, 1e18)
seconds = st.floats(0, 1e6)


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    model: ModelShape | None = None
    step_time: StepTimeModel
    if draw(st.booleans()):
        step_time = ReferenceModel(
            prefill_rate=draw(st.floats(1e-3, 1e9)),
            speedup=draw(st.floats(0.1, 100)),
            speedup_batch=draw(st.integers(2, 2**31 - 1)),
        )
    else:
        head, groups, kv_heads = (draw(st.integers(1, 40)) for _ in range(3))
        heads = groups * kv_heads
        model = ModelShape(
            draw(st.integers(1, 200)), head * heads, draw(st.integers(1, 10**5)), heads, kv_heads, 50_000
        )
        step_time = physics(model, compute=draw(rates), host_s=draw(seconds), roofline_power=draw(st.floats(1, 16)))
    memory = None
    kv_tokens = draw(st.integers(1, 2**31 - 1))
    if model is not None and draw(st.booleans()):
        memory = model.weight_bytes + model.kv_bytes_per_token * draw(st.integers(1, 10**6))
        if draw(st.booleans()):
            kv_tokens = kv_tokens_in(memory, model)
    return Profile(
        name=draw(texts.filter(lambda text: bool(text) and text.isprintable())),
        description=draw(texts),
        step_time=step_time,
        slots=draw(st.integers(1, 2**16)),
        kv_tokens=kv_tokens,
        token_budget=draw(st.none() | st.integers(1, 2**31 - 1)),
        dollars_per_hour=draw(st.floats(0, 1e9) | st.integers(0, 100)),
        price_source=draw(texts),
        kv_bytes_per_token=draw(st.integers(1, 2**40)) if model is None else model.kv_bytes_per_token,
        measured_on=draw(texts),
        model=model,
        memory_bytes=memory,
        peak_flops=draw(st.none() | rates),
    )


@given(profile=profiles())
def test_any_profile_written_out_is_read_again(profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "round.toml"
    path.write_text(to_toml(profile), encoding="utf-8")
    assert read_profile(path, {}) == profile


@pytest.mark.parametrize(
    "profile",
    [
        replace(REFERENCE, step_time=StepTimeModel()),
        replace(A100, model=None),
        replace(A100, model=LLAMA2_13B),
        replace(REFERENCE, step_time=A100.step_time),
    ],
)
def test_what_no_file_can_hold_is_not_written(profile: Profile) -> None:
    with pytest.raises(ValueError, match=f"profile {profile.name!r} has (no model|a step time)"):
        to_toml(profile)


def test_everything_written_has_its_comment() -> None:
    for profile in PROFILES.values():
        whole = document(profile)
        for table, keys in TABLES.items():
            for name in (whole if not table else whole.get(table, {})).keys() & keys.keys():
                assert f"\n# {keys[name].meaning}\n{name} = " in to_toml(profile)


# ---- what a file says


def test_a_file_on_a_base_changes_only_what_it_says(read: Any) -> None:
    profile = read('base = "a100-llama2-7b"\nslots = 64\n[gpu]\nhost_s = 0.004\n')
    assert profile.step_time == physics(LLAMA2_7B, host_s=0.004)
    assert (profile.name, profile.slots, profile.kv_tokens) == ("mine", 64, A100.kv_tokens)
    assert profile.description == "a100-llama2-7b with its own slots, gpu.host_s"
    assert profile.measured_on == NOT_STATED
    assert (profile.dollars_per_hour, profile.price_source) == (A100.dollars_per_hour, A100.price_source)
    assert read('base = "a100-llama2-7b"\ndollars_per_hour = 2\n').price_source == NOT_STATED
    assert read('base = "reference"\nname = "reference"\n') == REFERENCE


def test_the_kv_cache_follows_the_model_and_the_memory(read: Any) -> None:
    thirteen = "[model]\nlayers = 40\nwidth = 5120\nfeed_forward = 13824\nheads = 40\nkv_heads = 40\n"
    profile = read(f'base = "a100-llama2-7b"\n{thirteen}')
    assert profile.model == LLAMA2_13B
    assert profile.kv_tokens == PROFILES["a100-llama2-13b"].kv_tokens
    assert read(f'base = "a100-llama2-7b"\nkv_tokens = 1000\n{thirteen}').kv_tokens == 1000
    less = read('base = "a100-llama2-7b"\nmemory_bytes = 36_000_000_000\n')
    assert less.kv_tokens == (36_000_000_000 - LLAMA2_7B.weight_bytes) // LLAMA2_7B.kv_bytes_per_token


def test_what_need_not_be_said(read: Any) -> None:
    profile = read("slots = 4\nkv_tokens = 9\nkv_bytes_per_token = 8\ndollars_per_hour = 1\n[reference]\nspeedup = 3\n")
    assert profile.step_time == ReferenceModel(speedup=3.0)
    assert (profile.name, profile.description, profile.token_budget, profile.peak_flops) == ("mine", "", 512, None)
    assert profile.price_source == profile.measured_on == NOT_STATED
    assert read('base = "a100-llama3-8b"\ntoken_budget = 0\n').token_budget is None


def test_a_byte_order_mark_is_no_matter(read: Any) -> None:
    assert read("\ufeff" + to_toml(REFERENCE)) == REFERENCE


def test_a_backend_takes_a_file(tmp_path: Path) -> None:
    path = tmp_path / "big.toml"
    path.write_text('base = "a100-llama2-7b"\nslots = 64\n')
    backend = SimulatedBackend(str(path))
    assert (backend.profile, backend.devices[0].slots) == ("big", 64)


# ---- what is wrong


def changed(old: str, new: str) -> str:
    assert old in WHOLE
    return WHOLE.replace(old, new)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slots = ?", "is not TOML: Invalid value (at line 1, column 9)"),
        ("slots = 1" + "0" * 5000, "is not TOML: Exceeds the limit"),
        ("", "must have either [model] (and [gpu]) or [reference], got none of them"),
        ("[gpu]", "must have either [model] (and [gpu]) or [reference], got [gpu]"),
        (WHOLE + "[reference]", "must have either [model] (and [gpu]) or [reference], got [model], [gpu], [reference]"),
        ("[gpu]\n[reference]", "must have either [model] (and [gpu]) or [reference], got [gpu], [reference]"),
        (
            'base = "reference"\n[model]\nlayers = 3',
            "must have either [model] (and [gpu]) or [reference], got [model], [reference] (with those of base",
        ),
        ('base = "h100"', f"base must be one of {', '.join(PROFILES)}, got 'h100'"),
        ("base = 5", "base must be a string, got 5"),
        (changed("slots", "slotz"), "unknown key 'slotz' in the top level, there are base, name,"),
        (changed("layers =", "depth ="), "unknown key 'depth' in the table [model], there are layers, width,"),
        (WHOLE + "[gpus]", "unknown key 'gpus' in the top level, there are base,"),
        ("model = 5", "model must be a table [model], got 5"),
        ("[[model]]", "model must be a table [model], got [{}]"),
        ('"" = 5', "unknown key '' in the top level"),
        (changed("slots = 16", 'slots = "16"'), "slots must be an integer, got '16'"),
        (changed("slots = 16", "slots = 16.0"), "slots must be an integer, got 16.0"),
        (changed("slots = 16", "slots = true"), "slots must be an integer, got True"),
        (changed("slots = 16", "slots = 0"), "slots must be an int in 1..65536, got 0"),
        (changed("slots = 16", ""), "slots must be given (requests at once)"),
        (
            changed("token_budget = 512", "token_budget = -1"),
            "token_budget must be from 0 (whole prompts) to 2147483647",
        ),
        (changed("name = ", "name = 5 #"), "name must be a string, got 5"),
        (
            changed('name = "a100-llama2-7b"', 'name = ""'),
            "name must be a str of 1 to 256 printable characters, got ''",
        ),
        (changed("dollars_per_hour = 1.39", "dollars_per_hour = inf"), "dollars_per_hour must be dollars, a finite"),
        (changed("dollars_per_hour = 1.39", "dollars_per_hour = true"), "dollars_per_hour must be a number, got True"),
        (changed("dollars_per_hour = 1.39", ""), "dollars_per_hour must be given (price of one GPU, dollars an hour)"),
        (changed("peak_flops = 3.12e+14", "peak_flops = 0"), "peak_flops must be FLOP/s, a number in 1e6..1e18"),
        (changed("memory_bytes = 72000000000", "memory_bytes = 10_000_000"), "memory_bytes must be above the weights'"),
        (changed("memory_bytes = 72000000000", ""), "kv_tokens must be given (tokens that the KV cache holds; else"),
        (changed("memory_bytes = 72000000000", "kv_tokens = 0"), "kv_tokens must be an int in 1..2147483647, got 0"),
        (
            changed("memory_bytes", "kv_bytes_per_token = 5\nmemory_bytes"),
            "kv_bytes_per_token must not be given with [model], from which it follows",
        ),
        (
            'base = "reference"\nmemory_bytes = 72_000_000_000',
            "memory_bytes must not be given without [model]: say kv_tokens",
        ),
        ("slots = 4\nkv_tokens = 9\ndollars_per_hour = 1\n[reference]", "kv_bytes_per_token must be given (bytes of"),
        (changed("layers = 32", ""), "model.layers must be given (decoder layers)"),
        (changed("layers = 32", "layers = 0"), "model.layers must be an int in 1..10000, got 0"),
        (changed("\nheads = 32", "\nheads = 33"), "model.heads must divide width 4096, got 33"),
        (changed("kv_heads = 32", "kv_heads = 5"), "model.kv_heads must divide heads 32, got 5"),
        (
            changed("layers = 32", "layers = 10000").replace("= 11008", "= 1_000_000_0"),
            "model.parameters must be at most 100000000000000, got 12294",
        ),
        (changed("host_s = 0.0", "host_s = -1"), "gpu.host_s must be from 0 to 1e+06, got -1"),
        (changed("host_s = 0.0", "host_s = nan"), "gpu.host_s must be from 0 to 1e+06, got nan"),
        (
            changed("roofline_power = 2.8", 'roofline_power = "sharp"'),
            "gpu.roofline_power must be a number, got 'sharp'",
        ),
        (changed("compute = 2.36e+14", "compute = 236"), "gpu.compute must be from 1e+06 to 1e+18, got 236"),
        ('base = "reference"\n[reference]\nspeedup_batch = 2.9', "reference.speedup_batch must be an integer, got 2.9"),
        ('base = "reference"\n[reference]\nspeedup_batch = 1', "reference.speedup_batch must be an integer from 2 to"),
        (
            'base = "reference"\n[reference]\nprefill_rate = 0',
            "reference.prefill_rate must be finite and above 0, got 0",
        ),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str, read: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        read(text)
    said = str(caught.value)
    path = str(tmp_path / "mine.toml")
    assert said.startswith(path)
    assert said.removeprefix(path).lstrip(": ").startswith(message)
    assert len(said.splitlines()) == 1


def test_what_is_not_text_or_nested_without_end_is_no_toml(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    for content in (b"\xff\xfe\x00", b"a = " + b"[" * 100_000):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not TOML"):
            profile_named(str(path))


@pytest.mark.parametrize("name", ["h100", "", "A100-LLAMA2-7B", "reference "])
def test_a_name_that_is_none_lists_those_there_are(name: str) -> None:
    with pytest.raises(
        ValueError, match=re.escape(f"{', '.join(PROFILES)}, or the path of a .toml file, got {name!r}")
    ):
        profile_named(name)


@pytest.mark.parametrize("name", ["no.toml", "no/such", "."])
def test_a_file_that_is_not_there_is_an_os_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=str(tmp_path)):
        profile_named(f"{tmp_path}/{name}")


# ---- the page


def page(root: Path) -> str:
    return (root / "docs/profiles.md").read_text()


def test_the_page_s_files_are_read(root: Path, read: Any) -> None:
    complete, short = (read(text) for text in re.findall(r"^```toml\n(.*?)^```", page(root), re.MULTILINE | re.DOTALL))
    assert isinstance(complete.step_time, PhysicsModel)
    whole = document(complete)
    for table, keys in TABLES.items():  # it shows every key, except those that go without others
        shown = (whole if not table else whole.get(table, {})).keys()
        missing = {"base", "kv_tokens", "kv_bytes_per_token"} if not table else set()
        assert table == "reference" or keys.keys() - shown == missing
    assert complete.kv_tokens > 10_000
    assert short.step_time == physics(LLAMA2_7B, host_s=0.004)
    assert all(value is not None for value in complete.implications().decode_tokens_per_s.values())


def test_the_page_documents_every_key(root: Path) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.+?) \| (.+?) \| (.+?) \|$", page(root), re.MULTILINE)
    expected = [(name, key.kind.__name__, key.meaning) for keys in TABLES.values() for name, key in keys.items()]
    assert [row[:3] for row in rows] == expected
    constants = A100.step_time.constants() | REFERENCE.step_time.constants()
    defaults = {name: value for name, _, _, _, value in rows if name in constants and name not in TABLES["model"]}
    assert defaults == {name: f"{constants[name]:g}" for name in defaults}
    assert defaults.keys() == TABLES["gpu"].keys() | TABLES["reference"].keys()

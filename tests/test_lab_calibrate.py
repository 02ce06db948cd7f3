"""`aps calibrate`: known constants come back, what the rows do not tell is kept, errors are told by row and load."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from aps.cli import main
from aps.lab.calibrate import NOT_TOLD, Calibration, calibrate
from aps.lab.measured_steps import MeasuredStep, read_steps
from aps.lab.step_fit import CONSTANTS
from aps.profiles import profile_named
from aps_core.physics import PhysicsModel

Shape = tuple[int, int, int, int]  # batch, context, prefill tokens, cached

BASE = cast(PhysicsModel, profile_named("a100-llama2-7b").step_time)
NAMES = [constant.name for constant in CONSTANTS]
DECODES: list[Shape] = [
    (batch, context, 0, 0)
    for batch in (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
    for context in (32, 512, 1024, 2048)
]
PREFILLS: list[Shape] = [
    (0, 0, tokens, cached) for tokens in (16, 64, 128, 256, 512, 1024, 2048, 4096) for cached in (0, 1024, 4096)
]
MIXED: list[Shape] = [(batch, 512, tokens, 0) for batch in (8, 32) for tokens in (64, 256, 480)]
EVERYTHING = DECODES + PREFILLS + MIXED


def physics(**constants: float) -> PhysicsModel:
    return PhysicsModel(**{**BASE.constants(), **constants})


def random_constants(seed: int, factor: float) -> dict[str, float]:
    """The base's, each times or over at most `factor`."""
    rng = np.random.default_rng(seed)
    given = BASE.constants()
    drawn = {name: given[name] * float(np.exp(rng.uniform(-1, 1) * np.log(factor))) for name in NAMES}
    return drawn | {"roofline_power": float(rng.uniform(1.5, 5.0))}


def seconds(model: PhysicsModel, shape: Shape) -> float:
    batch, context, tokens, cached = shape
    return model.step_seconds(
        decodes=batch, decode_context=batch * context, prefill_tokens=tokens, prefill_past=float(tokens * cached)
    )


def measured(model: PhysicsModel, shapes: Iterable[Shape], noise: float = 0.0, seed: int = 0) -> list[MeasuredStep]:
    rng = np.random.default_rng(seed)
    return [
        MeasuredStep(line, *shape, seconds(model, shape) * float(np.exp(noise * rng.standard_normal())))
        for line, shape in enumerate(shapes, start=2)
    ]


def off(found: PhysicsModel, true: PhysicsModel, shapes: Iterable[Shape]) -> list[float]:
    return [abs(seconds(found, shape) / seconds(true, shape) - 1) for shape in shapes]


def kept(calibration: Calibration) -> dict[str, str]:
    return {constant.name: constant.kept for constant in calibration.constants if constant.kept}


# ---- the fit


@pytest.mark.parametrize("seed", range(5))
def test_constants_come_back_from_exact_rows(seed: int) -> None:
    constants = random_constants(seed, 2.5)
    calibration = calibrate(measured(physics(**constants), EVERYTHING), BASE)
    for constant in calibration.constants:
        if constant.name in constants:
            assert constant.value == pytest.approx(constants[constant.name], rel=0.01), constant.name
            assert constant.kept == ""
    assert calibration.loads[-1].max < 1e-3


@pytest.mark.parametrize("seed", range(5))
def test_noisy_rows_give_back_what_they_tell(seed: int) -> None:
    constants = random_constants(seed, 2.0)
    true = physics(**constants)
    calibration = calibrate(measured(true, EVERYTHING, noise=0.03, seed=seed), BASE)
    assert float(np.mean(off(calibration.model, true, EVERYTHING))) < 0.02
    assert calibration.noise == pytest.approx(0.03, rel=0.35)
    told = [constant for constant in calibration.constants if constant.uncertainty and constant.uncertainty < 0.033]
    assert {"kv_bandwidth"} <= {constant.name for constant in told}
    for constant in told:
        assert constant.value == pytest.approx(constants[constant.name], rel=0.1), constant.name


def test_standard_errors_are_about_right() -> None:
    """Of fitted constants over many noisy files, about one in twenty is more than two standard errors off."""
    far = []
    for seed in range(20):
        constants = random_constants(seed, 1.5)
        calibration = calibrate(measured(physics(**constants), EVERYTHING, noise=0.03, seed=seed), BASE)
        far += [
            abs(np.log(constant.value / constants[constant.name])) > 2 * constant.uncertainty
            for constant in calibration.constants
            if constant.uncertainty
        ]
    assert len(far) > 120
    assert 0.01 < float(np.mean(far)) < 0.1


def test_the_base_comes_back_from_its_own_rows() -> None:
    calibration = calibrate(measured(BASE, EVERYTHING), BASE)
    assert calibration.model.constants() == pytest.approx(BASE.constants(), rel=1e-4)
    assert all(load.base_mean < 1e-9 for load in calibration.loads)


def test_a_far_gpu() -> None:
    """Another generation: four times the arithmetic, twice the bandwidth, a slow host."""
    true = physics(compute=9e14, weight_bandwidth=3.2e12, kv_bandwidth=4e12, linear_layer_s=2e-4)
    calibration = calibrate(measured(true, EVERYTHING, noise=0.02), BASE)
    assert float(np.mean(off(calibration.model, true, EVERYTHING))) < 0.015


def test_host_time_is_found_as_time_of_every_step() -> None:
    true = physics(host_s=0.01)
    calibration = calibrate(measured(true, EVERYTHING), BASE)
    assert max(off(calibration.model, true, EVERYTHING)) < 1e-3
    fitted = {constant.name: constant.value for constant in calibration.constants}
    assert fitted["host_s"] == 0.0
    assert fitted["linear_layer_s"] == pytest.approx(21.6e-6 + 0.01 / 32, rel=0.01)


def test_outliers_pull_little() -> None:
    true = physics(**random_constants(3, 1.5))
    rows = measured(true, EVERYTHING, noise=0.01)
    for at in range(0, len(rows), 10):
        rows[at] = MeasuredStep(rows[at].line, *EVERYTHING[at], 3 * rows[at].seconds)
    calibration = calibrate(rows, BASE)
    assert float(np.mean(off(calibration.model, true, EVERYTHING))) < 0.01
    assert calibration.noise < 0.02
    spoiled = {rows[at].line for at in range(0, len(rows), 10)}
    assert {row.line for row in calibration.rows[: len(spoiled)]} == spoiled
    assert f"{len(spoiled)} of {len(rows)} rows are off by more than" in calibration.notes[0]


def test_without_prefill_rows_prefill_is_kept() -> None:
    constants = random_constants(1, 2.0)
    true = physics(**constants)
    calibration = calibrate(measured(true, DECODES, noise=0.02), BASE)
    reasons = kept(calibration)
    assert reasons["self_attention_compute"] == "no row has prefill tokens"
    assert reasons["past_attention_compute"] == "no row prefills after cached tokens"
    assert calibration.model.self_attention_compute == BASE.self_attention_compute
    assert float(np.mean(off(calibration.model, true, DECODES))) < 0.015


def test_without_decodes_their_attention_is_kept() -> None:
    reasons = kept(calibrate(measured(BASE, [shape for shape in PREFILLS if not shape[3]]), BASE))
    assert reasons["kv_bandwidth"] == "no row decodes with cached tokens"
    assert reasons["attention_layer_s"] == reasons["attention_sequence_s"] == "no row decodes"
    assert reasons["past_attention_compute"] == "no row prefills after cached tokens"
    assert "self_attention_compute" not in reasons


def test_what_no_row_can_tell_apart_is_not_fitted_twice() -> None:
    """At one context a sequence costs one sum of kv_bandwidth, attention_sequence_s and linear_token_s."""
    shapes: list[Shape] = [(batch, 512, 0, 0) for batch in (1, 2, 4, 8, 12, 16, 20, 24, 32, 40, 48, 56)]
    true = physics(kv_bandwidth=1.2e12)
    calibration = calibrate(measured(true, shapes, noise=0.01), BASE)
    slopes = {"kv_bandwidth", "attention_sequence_s", "linear_token_s"}
    assert len(slopes & set(kept(calibration))) >= 2
    assert NOT_TOLD in kept(calibration).values()
    assert float(np.mean(off(calibration.model, true, shapes))) < 0.01


def test_too_few_rows_fit_few_constants() -> None:
    calibration = calibrate(measured(physics(weight_bandwidth=1e12), DECODES[:6]), BASE)
    fitted = [constant for constant in calibration.constants if constant.uncertainty is not None]
    assert len(fitted) <= 3
    assert "too few rows: 2 for each fitted constant" in kept(calibration).values()
    with pytest.raises(ValueError, match="expected at least 5 measured rows, found 4"):
        calibrate(measured(BASE, DECODES[:4]), BASE)


def test_rows_of_one_shape_tell_one_constant() -> None:
    """Nothing else differs between them, and the base is clearly wrong: it is not kept as a whole."""
    rows = measured(physics(weight_bandwidth=0.9e12), [(1, 1, 0, 0)] * 12, noise=0.01)
    calibration = calibrate(rows, BASE)
    assert len(NAMES) - len(set(NAMES) & set(kept(calibration))) == 1
    assert calibration.loads[-1].mean < 0.02


def test_a_base_constant_of_zero_can_be_fitted() -> None:
    base = physics(attention_sequence_s=0.0, linear_token_s=0.0)
    calibration = calibrate(measured(BASE, EVERYTHING), base)
    assert max(off(calibration.model, BASE, EVERYTHING)) < 0.01
    assert calibration.model.attention_sequence_s == pytest.approx(BASE.attention_sequence_s, rel=0.02)


def test_a_vanishing_cost_is_told() -> None:
    true = physics(attention_sequence_s=1e-12)
    calibration = calibrate(measured(true, EVERYTHING, noise=0.01), BASE)
    assert calibration.model.attention_sequence_s < 0.1 * BASE.attention_sequence_s


def test_the_result_is_the_same_every_time() -> None:
    rows = measured(physics(**random_constants(2, 2.0)), EVERYTHING, noise=0.03)
    assert calibrate(rows, BASE).plain() == calibrate(rows, BASE).plain()


# ---- what is told


def test_errors_by_row_and_by_load() -> None:
    true = physics(kv_bandwidth=1e12)
    calibration = calibrate(measured(true, EVERYTHING, noise=0.02), BASE)
    sizes = [abs(row.error) for row in calibration.rows]
    assert sizes == sorted(sizes, reverse=True)
    for row in calibration.rows:
        shape = (row.batch, row.context, row.prefill_tokens, row.cached)
        assert EVERYTHING[row.line - 2] == shape
        assert row.predicted_s == pytest.approx(seconds(calibration.model, shape), rel=1e-12)
        assert row.error == pytest.approx(row.predicted_s / row.measured_s - 1, rel=1e-9)
        assert row.base_error == pytest.approx(seconds(BASE, shape) / row.measured_s - 1, rel=1e-9)
    told = {load.load: load for load in calibration.loads}
    assert {name: load.rows for name, load in told.items()} == {
        "decode, batch 1": 4,
        "decode, batch 2-15": 12,
        "decode, batch 16-31": 8,
        "decode, batch 32-63": 8,
        "decode, batch 64 or more": 20,
        "prefill alone": 24,
        "prefill beside decodes": 6,
        "all": 82,
    }
    own = [row for row in calibration.rows if 16 <= row.batch < 32 and not row.prefill_tokens]
    load = told["decode, batch 16-31"]
    assert load.mean == pytest.approx(np.mean([abs(row.error) for row in own]))
    assert load.max == pytest.approx(max(abs(row.error) for row in own))
    assert load.bias == pytest.approx(np.mean([row.error for row in own]))
    assert load.base_mean == pytest.approx(np.mean([abs(row.base_error) for row in own]))


def test_milliseconds_are_suspected() -> None:
    rows = [
        MeasuredStep(s.line, s.batch, s.context, s.prefill_tokens, s.cached, 1e3 * s.seconds)
        for s in measured(BASE, EVERYTHING)
    ]
    assert any("are they milliseconds?" in note for note in calibrate(rows, BASE).notes)
    assert not calibrate(measured(BASE, EVERYTHING), BASE).notes


def test_rows_that_the_formula_does_not_describe() -> None:
    rng = np.random.default_rng(0)
    rows = [MeasuredStep(line, *shape, float(rng.uniform(0.01, 0.1))) for line, shape in enumerate(EVERYTHING, start=2)]
    assert any("does not describe them well" in note for note in calibrate(rows, BASE).notes)


# ---- the command


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(list(map(str, arguments)))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def example(root: Path) -> Path:
    return root / "examples/steps.csv"


def test_the_example(output: Run, example: Path) -> None:
    code, text, _ = output("calibrate", example)
    assert code == 0
    assert "36 measured steps of " in text
    assert "The 10 worst rows, ms" in text
    assert max(len(line) for line in text.splitlines() if not line.startswith("36 measured")) <= 80
    assert "Every row, worst first, ms" in output("calibrate", example, "--all")[1]


def test_it_writes_a_profile(output: Run, example: Path, tmp_path: Path) -> None:
    target = tmp_path / "mine.toml"
    code, text, _ = output("calibrate", example, "--write", target)
    assert code == 0
    assert f"Written: {target}" in text
    profile = profile_named(str(target))
    assert profile.name == "mine"
    assert profile.step_time == calibrate(read_steps(example).steps, BASE).model
    assert profile.measured_on.startswith("36 steps of steps.csv, mean error ")
    assert profile.kv_tokens == profile_named("a100-llama2-7b").kv_tokens
    before = target.read_bytes()
    code, text, said = output("calibrate", example, "--write", target)
    assert (code, text) == (2, "")
    assert f"{target} is there already; --force replaces it" in said
    assert target.read_bytes() == before
    # and on from there: the written file is a base itself
    assert output("calibrate", example, "--base", target, "--write", target, "--force")[0] == 0


def test_json_and_a_report(output: Run, example: Path, tmp_path: Path) -> None:
    code, text, _ = output("calibrate", example, "--json", "--out", tmp_path / "report")
    assert code == 0
    found: dict[str, Any] = json.loads(text)
    assert (found["file"], found["base"]) == (str(example), "a100-llama2-7b")
    fitted = json.loads(json.dumps(calibrate(read_steps(example).steps, BASE).plain()))
    assert {key: found[key] for key in fitted} == fitted
    assert [row["line"] for row in found["rows"]] != sorted(row["line"] for row in found["rows"])
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {
        "report.html", "report.json", "step_times.png", "errors_by_batch.png", "constants.csv", "loads.csv", "rows.csv",
    }  # fmt: skip


def test_a_report_of_prefills_alone(output: Run, tmp_path: Path) -> None:
    rows = "".join(f"0,0,{tokens},{seconds(BASE, (0, 0, tokens, 0))}\n" for tokens in range(64, 1000, 64))
    (tmp_path / "rows.csv").write_text("batch,context,prefill_tokens,seconds\n" + rows)
    assert output("calibrate", tmp_path / "rows.csv", "--out", tmp_path / "report")[0] == 0
    assert not (tmp_path / "report/errors_by_batch.png").exists()


@pytest.mark.parametrize(
    ("content", "arguments", "said"),
    [
        ("batch,context\n", [], "rows.csv, line 1: expected the columns"),
        ("", [], "found an empty file"),
        (
            "batch,context,prefill_tokens,seconds\n1,1,0,0.1\n",
            [],
            "rows.csv: expected at least 5 measured rows, found 1",
        ),
        ("", ["--base", "reference"], "--base must be a physics profile, reference is none"),
        ("", ["--base", "nonsense"], "nonsense"),
        ("", ["--write", "/nonexistent/my.toml"], "the directory /nonexistent must exist"),
        ("", ["--out", "/nonexistent/report"], "the directory /nonexistent must exist"),
    ],
)
def test_wrong_usage(output: Run, tmp_path: Path, content: str, arguments: list[str], said: str) -> None:
    (tmp_path / "rows.csv").write_text(content)
    code, text, error = output("calibrate", tmp_path / "rows.csv", *arguments)
    assert (code, text) == (2, "")
    assert said in error
    assert len(error.splitlines()) == 1


def test_a_file_that_is_not_there(output: Run, tmp_path: Path) -> None:
    code, _, said = output("calibrate", tmp_path / "none.csv")
    assert code == 2
    assert f"No such file or directory: '{tmp_path}/none.csv'" in said


def test_ignored_columns_are_named(output: Run, example: Path, tmp_path: Path) -> None:
    lines = example.read_text().splitlines()
    (tmp_path / "rows.csv").write_text("\n".join([f"{lines[0]},[bold]gpu", *(f"{line},A100" for line in lines[1:])]))
    assert "Columns that mean nothing here: [bold]gpu." in output("calibrate", tmp_path / "rows.csv")[1]


def test_the_page_shows_what_the_command_prints(output: Run, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    page = (root / "docs/validation.md").read_text()
    section = page[page.index("## Your own GPU") :]
    printed = "\n".join(line.rstrip() for line in output("calibrate", "examples/steps.csv")[1].splitlines())
    shown = re.findall(r"```text\n(.*?)\n```", section, re.DOTALL)
    assert len(shown) == 2
    assert not [block for block in shown if block not in printed]


def test_help_needs_no_extra() -> None:
    blocked = "import sys; sys.modules.update(dict.fromkeys(['scipy', 'matplotlib', 'rich', 'jinja2', 'joblib']))"
    for verb in ("validate", "calibrate"):
        script = f"{blocked}\nfrom aps.cli import main\nmain(['{verb}', '--help'])"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "--out DIR" in done.stdout

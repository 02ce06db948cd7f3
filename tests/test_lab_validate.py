"""`aps validate`: the two compositions, the rule about KV, the errors, the verdict, the page that shows them."""

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

import aps.lab.validate
from aps.cli import main
from aps.data.measurements import Attention, StaticBatch, lmdeploy_a100
from aps.lab.static_batch import in_the_engine, one_prompt_a_step
from aps.lab.validate import LIMITS, Errors, Level, Validation, compare, errors, near_saturation, validate
from aps.profiles import profile_named
from aps_core.physics import PhysicsModel
from tests.twins.gpu import Engine
from tests.twins.physics import seconds

SEVEN, THIRTEEN = (profile_named(name) for name in LIMITS)


@pytest.fixture(scope="module")
def validation() -> Validation:
    return validate()


@pytest.mark.parametrize(("batch", "prompt", "output"), [(1, 1, 2), (16, 128, 128), (3, 700, 40), (64, 1, 9)])
def test_the_static_composition(batch: int, prompt: int, output: int) -> None:
    model = SEVEN.step_time
    constants = model.constants()
    prefill_s = seconds(constants, [], [(prompt, 0)], 1, 0)
    decodes_s = [seconds(constants, [prompt + j] * batch, [], batch, 0) for j in range(1, output)]
    times = one_prompt_a_step(model, batch, prompt, output)
    assert times.total_s == pytest.approx(batch * prefill_s + sum(decodes_s), rel=1e-12)
    assert times.decode_p50_s == pytest.approx(median(decodes_s), rel=1e-12)


def test_one_token_has_no_decodes() -> None:
    times = one_prompt_a_step(SEVEN.step_time, 4, 100, 1)
    assert times.total_s == pytest.approx(4 * SEVEN.step_time.step_seconds(prefill_tokens=100))
    assert times.decode_p50_s is None


@pytest.mark.parametrize(("batch", "prompt", "output"), [(1, 600, 3), (16, 128, 12), (5, 1100, 4), (64, 1, 5)])
def test_the_engines_composition(batch: int, prompt: int, output: int) -> None:
    constants = SEVEN.step_time.constants()

    def of_step(decodes: list[int], chunks: list[tuple[int, int]], emits: int, swapped: int) -> float:
        return seconds(constants, decodes, chunks, emits, swapped)

    twin = Engine(of_step, batch, 10**6, token_budget=512)
    for request in range(batch):
        assert twin.start(request, prompt, output, 1, generated=0, prefill=None, account=0)
    now_ns = 0
    while twin.sequences:
        now_ns = twin.begin_step(now_ns)
        twin.end_step()
    assert in_the_engine(SEVEN.step_time, batch, prompt, output) == pytest.approx(now_ns * 1e-9, rel=1e-12)


def test_errors_are_means_of_sizes_and_a_bias() -> None:
    assert errors([0.25, None, -0.5]) == Errors(2, 0.375, 0.5, -0.125)
    assert errors([None]) == Errors(0, None, None, None)


def test_what_the_acceptance_is(validation: Validation) -> None:
    seven, thirteen, second = validation.tables
    assert (seven.limit, thirteen.limit, second.limit) == (0.06, 0.12, None)
    assert validation.met
    assert [table.met for table in validation.tables] == [True, True, None]
    means = [
        (table.fitting.static.mean, table.fitting.token_latency.mean, table.fitting.engine.mean)
        for table in (seven, thirteen)
    ]
    assert means[0] == pytest.approx((0.0504, 0.0445, 0.0637), abs=5e-4)
    assert means[1] == pytest.approx((0.1101, 0.0731, 0.0609), abs=5e-4)
    assert seven.everything.static.mean == pytest.approx(0.0526, abs=5e-4)
    assert thirteen.everything.static.mean == pytest.approx(0.1147, abs=5e-4)


def test_rows_whose_kv_cache_does_not_fit_are_left_out_by_one_rule(validation: Validation) -> None:
    for table, left_out in zip(validation.tables, (4, 7, 2), strict=True):
        model = profile_named(table.profile).model
        assert model is not None
        room = 0.9 * 80e9 - model.weight_bytes
        for row in table.rows:
            assert row.fits == (row.batch * (row.prompt_tokens + row.output_tokens) * model.kv_bytes_per_token <= room)
        assert table.left_out == left_out == sum(not row.fits for row in table.rows)
        assert table.fitting.static.rows + left_out == table.everything.static.rows == len(table.rows)
        assert sum(level.static.rows for level in table.by_load) == table.fitting.static.rows


def test_rows_are_the_published_ones_beside_what_the_model_says(validation: Validation) -> None:
    published = [row for row in lmdeploy_a100() if row.model == "llama2-13b"]
    for row, told in zip(validation.tables[1].rows, published, strict=True):
        assert (row.batch, row.prompt_tokens, row.output_tokens) == told[1:4]
        times = one_prompt_a_step(THIRTEEN.step_time, *told[1:4])
        assert row.static_tokens_per_s == row.batch * row.output_tokens / times.total_s
        assert row.static_error == row.static_tokens_per_s / told.output_tokens_per_s - 1
        assert row.measured_token_latency_s == told.token_latency_p50_s
        assert row.static_token_latency_s == times.decode_p50_s
        assert row.engine_tokens_per_s == row.batch * row.output_tokens / in_the_engine(THIRTEEN.step_time, *told[1:4])


def test_loads_are_the_batch_sizes(validation: Validation) -> None:
    table = validation.tables[0]
    assert [level.batch for level in table.by_load] == [1, 16, 32, 64]
    own = [row.engine_error for row in table.rows if row.batch == 32 and row.fits]
    assert table.by_load[2].engine == errors(own)
    assert table.by_load[2].engine.max == max(abs(error) for error in own)


def test_a_slow_model_does_not_pass() -> None:
    model = SEVEN.step_time
    slow = PhysicsModel(**{**model.constants(), "host_s": 0.002})
    rows = [row for row in lmdeploy_a100() if row.model == "llama2-7b"]
    table = compare("LMDeploy", replace(SEVEN, step_time=slow), rows, 0.06)
    assert table.met is False
    assert table.fitting.static.bias is not None
    assert table.fitting.static.bias < -0.06


def test_both_means_are_judged() -> None:
    exact = one_prompt_a_step(SEVEN.step_time, 4, 100, 50)
    right = StaticBatch("llama2-7b", 4, 100, 50, 4 * 50 / exact.total_s, exact.decode_p50_s)
    assert compare("itself", SEVEN, [right], 1e-9).met is True
    late = right._replace(token_latency_p50_s=2 * (exact.decode_p50_s or 0.0))
    assert compare("itself", SEVEN, [late], 0.1).met is False
    assert compare("itself", SEVEN, [right._replace(output_tokens_per_s=1.0)], 0.1).met is False
    assert compare("nothing fits", replace(SEVEN, kv_tokens=16), [right], 0.1).met is False


@pytest.mark.parametrize(
    ("bias", "said"),
    [
        (
            -0.05,
            "5.0 % too low on average (7.0 % at most), so a device at 90 % of its real capacity is simulated at 95 %",
        ),
        (-0.05, "is 1.9 times the real one"),
        (-0.2, "simulated at 112 %, where a queue grows without end"),
        (0.125, "simulated at 80 %, where 1/(1 - load), and with it a queue's wait, is 0.5 times the real one"),
    ],
)
def test_what_an_error_means_near_saturation(bias: float, said: str) -> None:
    level = Level(64, Errors(0, None, None, None), Errors(2, abs(bias), 0.07, bias), Errors(0, None, None, None))
    assert said in near_saturation(level)


def test_attention_is_what_is_left_without_the_rest() -> None:
    model = SEVEN.step_time
    assert isinstance(model, PhysicsModel)
    decode = Attention("decode", 24, 1472, 1.0)
    expected = 32 * (
        model.attention_layer_s
        + 24 * 1472 * model.kv_bytes_per_token_layer / model.kv_bandwidth
        + 24 * model.attention_sequence_s
    )
    assert aps.lab.validate.attention_s(model, decode) == pytest.approx(expected, rel=1e-9)
    prefill = Attention("prefill", 2688, 1024, 1.0)
    expected = (
        32 * 4 * 4096 * (2688**2 / (2 * model.self_attention_compute) + 2688 * 1024 / model.past_attention_compute)
    )
    assert aps.lab.validate.attention_s(model, prefill) == pytest.approx(expected, rel=1e-9)


def test_the_further_checks(validation: Validation) -> None:
    found = {check.what: (check.errors.rows, round(check.errors.mean or 0.0, 3)) for check in validation.checks}
    assert found == {
        "first token at batch 1": (8, 0.219),
        "decode attention, one layer": (35, 0.077),
        "prefill attention, one layer": (21, 0.01),
    }
    between = validation.tables[2].between_sources
    assert between == errors([3486 / 3024.07 - 1, 1459 / 1462.12 - 1, 529 / 450.43 - 1, 592 / 601.63 - 1])


# ---- the command


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


Run = Callable[..., tuple[int, str, str]]


def test_it_prints_every_row_and_exits_with_0(output: Run) -> None:
    code, text, _ = output("validate")
    assert code == 0
    assert len(re.findall(r"^ *(?:1|16|32|64|384|60|52) +\d+/\d+ ", text, re.MULTILINE)) == 47
    assert max(map(len, text.splitlines())) <= 80
    assert "MET: a100-llama2-7b" in text
    assert "…" not in text
    attention = output("validate", "--all")[1]
    assert len(re.findall(r"^ *vidur ", attention, re.MULTILINE)) == 56


def test_it_exits_with_1_when_a_mean_is_over_its_limit(output: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIMITS, "a100-llama2-7b", 0.045)
    code, text, _ = output("validate")
    assert code == 1
    assert "NOT MET: a100-llama2-7b: mean error of throughput 5.0 %" in text


def test_json_is_everything(output: Run, validation: Validation) -> None:
    code, text, _ = output("validate", "--json")
    assert code == 0
    assert json.loads(text) == json.loads(json.dumps(validation.plain()))


def test_a_report(output: Run, tmp_path: Path, validation: Validation) -> None:
    code, _, _ = output("validate", "--json", "--out", str(tmp_path / "report"))
    assert code == 0
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"report.html", "report.json", "a100_llama2_7b_lmdeploy_throughput.png", "check_rows.csv"} <= names
    with (tmp_path / "report/a100_llama2_13b_lmdeploy_rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["static_error"]) for row in rows] == [row.static_error for row in validation.tables[1].rows]
    manifest = json.loads((tmp_path / "report/report.json").read_text())
    assert manifest["command"] == f"aps validate --json --out {tmp_path}/report"
    assert manifest["data"]["met"] is True


def test_a_file_is_no_place_for_a_report(output: Run, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    code, text, said = output("validate", "--out", str(tmp_path / "taken"))
    assert (code, text) == (2, "")
    assert f"aps validate: {tmp_path}/taken must be a directory" in said
    assert (tmp_path / "taken").read_text() == "mine"


def test_the_page_shows_what_the_command_prints(output: Run, root: Path) -> None:
    page = (root / "docs/validation.md").read_text()
    section = page[page.index("## The tables") : page.index("## ", page.index("## The tables") + 5)]
    printed = "\n".join(line.rstrip() for line in output("validate")[1].splitlines())
    shown = re.findall(r"```text\n(.*?)\n```", section, re.DOTALL)
    missing = [block for block in shown if block not in printed]
    assert not missing
    tables = [table for table in re.split(r"\n\n", printed) if "─" in table]
    assert len(shown) == len(tables)


def test_the_pages_sentences_have_the_figures(validation: Validation, root: Path) -> None:
    seven, thirteen, second = validation.tables

    def percent(value: float | None) -> str:
        return f"{100 * (value or 0.0):.1f} %"

    ones, full = ([table.by_load[at].engine.mean for table in (seven, thirteen)] for at in (0, -1))
    tokens = {at: [row for row in validation.checks[0].rows if row.tokens == at] for at in (128, 2048)}
    late_ms = sorted(1e3 * (row.measured_s - row.predicted_s) for row in tokens[128])
    more = sorted(100 * row.error for row in tokens[2048])
    assert second.between_sources is not None
    page = " ".join((root / "docs/validation.md").read_text().split())
    for said in (
        f"off by {percent(ones[0])} (7B) and {percent(ones[1])} (13B) on average, at batch 64 by {percent(full[0])} "
        f"and {percent(full[1])}.",
        f"up to {percent(second.between_sources.max)} apart",
        f"takes {late_ms[0]:.0f} to {late_ms[-1]:.0f} ms longer than the formula says",
        f"{more[0]:.0f} to {more[-1]:.0f} % more than was measured",
        f"{percent(thirteen.fitting.static.mean)} in the mean, {percent(thirteen.fitting.static.max)} at worst",
    ):
        assert said in page

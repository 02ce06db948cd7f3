"""The physics profiles against published measurements of an A100-80GB, row by row. Nothing is fitted to those rows."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from aps.data.measurements import (
    Attention,
    StaticBatch,
    first_token_a100,
    lmdeploy_a100,
    tensorrt_llm_a100,
    vidur_attention_a100,
)
from aps.lab.static_batch import in_the_engine, one_prompt_a_step
from aps.profiles import Profile, profile_named
from aps_core.step_time import StepTimeModel

# Mean error of throughput, and of token latency, over the rows whose KV cache fits.
LIMITS = {"a100-llama2-7b": 0.06, "a100-llama2-13b": 0.12}
PROFILE_OF = {"llama2-7b": "a100-llama2-7b", "llama2-13b": "a100-llama2-13b"}
NEARLY_FULL = 0.9  # of a device's real capacity: where the effect of an error on waits is told

DEFINITIONS = {
    "static": "each prompt is prefilled alone in one step that emits its first token, then output - 1 decode steps of "
    "the whole batch; tok/s: batch x output over the total time; ms: the median decode step, beside the published "
    "median time between tokens, which is in whole milliseconds (half of one is 5 % of 10 ms)",
    "engine": "the same batch in the simulator's engine: all at t = 0, a slot each, prompts in chunks within 512 "
    "tokens a step; tok/s as above",
    "error": "predicted / measured - 1; a mean error is the mean of its absolute values, a bias the mean with signs",
    "KV": "left out of the judged means: batch x (prompt + output) x KV bytes a token is over 0.9 x 80e9 bytes less "
    "the weights, so the measured engine need not have run the whole batch at once",
}


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative errors over some rows: mean and largest absolute value, and the mean with signs; None without rows."""

    rows: int
    mean: float | None
    max: float | None
    bias: float | None


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One measured static batch beside its two predictions. fits: its KV cache fits the profile's."""

    batch: int
    prompt_tokens: int
    output_tokens: int
    fits: bool
    measured_tokens_per_s: float
    static_tokens_per_s: float
    static_error: float
    engine_tokens_per_s: float
    engine_error: float
    measured_token_latency_s: float | None
    static_token_latency_s: float | None
    token_latency_error: float | None


@dataclass(frozen=True, slots=True)
class Level:
    """Errors at one load: the rows of one batch size, or all (batch None)."""

    batch: int | None
    static: Errors
    engine: Errors
    token_latency: Errors


@dataclass(frozen=True, slots=True)
class Table:
    """A table of static batches against a profile.

    fitting, everything: over the rows whose KV cache fits, over all. by_load: the fitting rows by batch size.
    kv_tokens: what fits. limit: of the mean errors of static throughput and token latency over the fitting rows; None:
    not judged, and met is None too. between_sources: how far apart two publications are on the shapes that both have.
    """

    source: str
    profile: str
    kv_tokens: int
    rows: list[BatchRow]
    left_out: int
    fitting: Level
    everything: Level
    by_load: list[Level]
    limit: float | None
    met: bool | None
    near_saturation: str
    between_sources: Errors | None = None


@dataclass(frozen=True, slots=True)
class SingleRow:
    """One measured duration beside its prediction: a first token, or one layer's attention."""

    source: str
    profile: str
    what: str
    tokens: int
    context_tokens: int
    measured_s: float
    predicted_s: float
    error: float


@dataclass(frozen=True, slots=True)
class Check:
    """Rows of one kind that are shown and not judged."""

    what: str
    rows: list[SingleRow]
    errors: Errors


@dataclass(frozen=True, slots=True)
class Validation:
    """Everything that `aps validate` shows. met: each judged table's mean errors are within its limit."""

    tables: list[Table]
    checks: list[Check]
    met: bool

    def plain(self) -> dict[str, Any]:
        """For JSON: numbers as they are, units in the names."""
        return {**asdict(self), "definitions": DEFINITIONS}


def validate() -> Validation:
    """Compare each profile of `LIMITS` with the tables that ship in `aps.data`."""
    tables = [
        compare(
            "LMDeploy v0.1.0a1",
            profile_named(name),
            [row for row in lmdeploy_a100() if PROFILE_OF[row.model] == name],
            limit,
        )
        for name, limit in LIMITS.items()
    ]
    second = compare("TensorRT-LLM v0.5.0 and v0.6.1", profile_named("a100-llama2-7b"), tensorrt_llm_a100())
    tables.append(replace(second, between_sources=_between(tensorrt_llm_a100(), lmdeploy_a100())))
    attention = [_attention_row(row) for row in vidur_attention_a100()]
    checks = [
        _check("first token at batch 1", _first_token_rows()),
        _check("decode attention, one layer", [row for row in attention if row.what == "decode"]),
        _check("prefill attention, one layer", [row for row in attention if row.what == "prefill"]),
    ]
    return Validation(tables, checks, all(table.met is not False for table in tables))


def compare(source: str, profile: Profile, measured: Sequence[StaticBatch], limit: float | None = None) -> Table:
    """A profile against measured static batches of the same model."""
    rows = [_batch_row(row, profile) for row in measured]
    fitting = [row for row in rows if row.fits]
    judged = _level(fitting)
    means = (judged.static.mean, judged.token_latency.mean)
    by_load = [
        _level([row for row in fitting if row.batch == batch], batch)
        for batch in sorted({row.batch for row in fitting})
    ]
    return Table(
        source=source,
        profile=profile.name,
        kv_tokens=profile.kv_tokens,
        rows=rows,
        left_out=len(rows) - len(fitting),
        fitting=judged,
        everything=_level(rows),
        by_load=by_load,
        limit=limit,
        met=None if limit is None else all(mean is not None and mean <= limit for mean in means),
        near_saturation=near_saturation(by_load[-1]) if by_load else "",
    )


def errors(values: Iterable[float | None]) -> Errors:
    """Of relative errors; None values are left out."""
    known = [value for value in values if value is not None]
    if not known:
        return Errors(0, None, None, None)
    sizes = [abs(value) for value in known]
    return Errors(len(known), sum(sizes) / len(known), max(sizes), sum(known) / len(known))


def near_saturation(level: Level) -> str:
    """What the engine's bias at a load says about simulated waits on a device that is nearly full."""
    bias, most = level.engine.bias, level.engine.max
    if bias is None or most is None:
        return ""
    load = NEARLY_FULL / (1 + bias)
    wait = (
        f"where 1/(1 - load), and with it a queue's wait, is {(1 - NEARLY_FULL) / (1 - load):.2g} times the real one"
        if load < 1
        else "where a queue grows without end"
    )
    return (
        f"At batch {level.batch} the engine's throughput is {100 * abs(bias):.1f} % too "
        f"{'low' if bias < 0 else 'high'} on average ({100 * most:.1f} % at most), so a device at "
        f"{100 * NEARLY_FULL:.0f} % of its real capacity is simulated at {100 * load:.0f} %, {wait}."
    )


def _batch_row(row: StaticBatch, profile: Profile) -> BatchRow:
    shape = (row.batch, row.prompt_tokens, row.output_tokens)
    output = row.batch * row.output_tokens
    times = one_prompt_a_step(profile.step_time, *shape)
    static = output / times.total_s
    engine = output / in_the_engine(profile.step_time, *shape)
    latency, measured = times.decode_p50_s, row.token_latency_p50_s
    return BatchRow(
        *shape,
        fits=row.batch * (row.prompt_tokens + row.output_tokens) <= profile.kv_tokens,
        measured_tokens_per_s=row.output_tokens_per_s,
        static_tokens_per_s=static,
        static_error=static / row.output_tokens_per_s - 1,
        engine_tokens_per_s=engine,
        engine_error=engine / row.output_tokens_per_s - 1,
        measured_token_latency_s=measured,
        static_token_latency_s=latency,
        token_latency_error=None if latency is None or measured is None else latency / measured - 1,
    )


def _level(rows: Sequence[BatchRow], batch: int | None = None) -> Level:
    return Level(
        batch,
        errors(row.static_error for row in rows),
        errors(row.engine_error for row in rows),
        errors(row.token_latency_error for row in rows),
    )


def _between(rows: Sequence[StaticBatch], others: Sequence[StaticBatch]) -> Errors:
    """How far the first throughputs are from the second ones of the same shape."""
    known = {row[:4]: row.output_tokens_per_s for row in others}
    return errors(row.output_tokens_per_s / known[row[:4]] - 1 for row in rows if row[:4] in known)


def _first_token_rows() -> list[SingleRow]:
    rows = []
    for row in first_token_a100():
        name = PROFILE_OF[row.model]
        predicted = profile_named(name).step_time.step_seconds(prefill_tokens=row.prompt_tokens)
        rows.append(_single(row.source, name, "first token", row.prompt_tokens, 0, row.seconds, predicted))
    return rows


def _attention_row(row: Attention) -> SingleRow:
    name = PROFILE_OF["llama2-7b"]
    predicted = attention_s(profile_named(name).step_time, row) / 32
    return _single("vidur", name, row.phase, row.tokens, row.context_tokens, row.layer_s, predicted)


def attention_s(model: StepTimeModel, row: Attention) -> float:
    """Seconds of all layers' attention in a step: the step less one with as many tokens and no attention."""
    n, k = row.tokens, row.context_tokens
    without = model.step_seconds(prefill_tokens=n, emits=0, prefill_squares=0.0)
    if row.phase == "decode":
        return model.step_seconds(decodes=n, emits=0, decode_context=n * k) - without
    return model.step_seconds(prefill_tokens=n, emits=0, prefill_past=float(n * k)) - without


def _single(
    source: str, profile: str, what: str, tokens: int, context_tokens: int, measured_s: float, predicted_s: float
) -> SingleRow:
    return SingleRow(
        source, profile, what, tokens, context_tokens, measured_s, predicted_s, predicted_s / measured_s - 1
    )


def _check(what: str, rows: list[SingleRow]) -> Check:
    return Check(what, rows, errors(row.error for row in rows))

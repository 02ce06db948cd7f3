"""Fits the constants of a GPU's physics to measured steps: which of them, how well, and with what errors."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from aps.lab.measured_steps import MeasuredStep
from aps.lab.step_fit import CONSTANTS, WIDEST, Array, Fit, Problem
from aps_core.physics import PhysicsModel

FEWEST_ROWS = 5
ROWS_A_CONSTANT = 2
TOLERABLE = 0.5  # relative standard error above which the rows do not tell a constant
CLEARLY_WORSE = 4.0  # in variances of the noise: two standard errors
POOR = 0.1  # noise above which the formula does not describe the rows
BATCHES = {1: "1", 2: "2-15", 16: "16-31", 32: "32-63", 64: "64 or more"}  # the least of each bin of loads
LOADS = [*(f"decode, batch {batch}" for batch in BATCHES.values()), "prefill alone", "prefill beside decodes"]
ALL = "all"
NOT_TOLD = "the rows do not tell it, and fit as well with the base's value"
NEVER_FITTED = {
    "host_s": "adds to every step as linear_layer_s does: steps of one model cannot tell them apart",
    "swap_bandwidth": "no row swaps",
}


@dataclass(frozen=True, slots=True)
class FittedConstant:
    """A constant before and after.

    uncertainty: relative standard error when every constant that some row depends on may differ from the base;
    uncertainty_given_kept: when the kept ones are as in the base. None where it is kept itself, and `kept` says why.
    """

    name: str
    symbol: str
    unit: str
    base: float
    value: float
    uncertainty: float | None
    uncertainty_given_kept: float | None
    kept: str


@dataclass(frozen=True, slots=True)
class RowError:
    """A measured step beside the fit; errors are predicted / measured - 1, base_error that of the base's constants."""

    line: int
    batch: int
    context: int
    prefill_tokens: int
    cached: int
    measured_s: float
    predicted_s: float
    error: float
    base_error: float


@dataclass(frozen=True, slots=True)
class LoadErrors:
    """Errors over the rows of one load: mean and largest absolute value, mean with signs; and the base's mean."""

    load: str
    rows: int
    mean: float
    max: float
    bias: float
    base_mean: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """The result of a fit. rows: worst first. loads: errors by load, all rows last. noise: see `Fit`."""

    model: PhysicsModel
    constants: list[FittedConstant]
    rows: list[RowError]
    loads: list[LoadErrors]
    noise: float
    notes: list[str]

    def plain(self) -> dict[str, Any]:
        """For JSON: units in the names."""
        return {
            "constants": [asdict(constant) for constant in self.constants],
            "loads": [asdict(load) for load in self.loads],
            "rows": [asdict(row) for row in self.rows],
            "noise": self.noise,
            "notes": self.notes,
        }


def calibrate(steps: Sequence[MeasuredStep], base: PhysicsModel) -> Calibration:
    """Fit the constants that the steps tell; keep the others, and the shape of the model, from `base`.

    Least squares on the logarithm of time, so that errors are relative, with a soft L1 loss, so that outliers pull
    little, and a weak pull towards the base, as if it were known to a factor of about three. Every constant that some
    row depends on is fitted; then those with a standard error above 50 % go back to their base value, one by one, the
    least missed first, as long as the rows are explained about as well (two standard errors). Fitted constants lie
    within a factor of 1,000 of the base (of an A100's, where the base is 0). ValueError: fewer than 5 steps.
    """
    if len(steps) < FEWEST_ROWS:
        raise ValueError(f"expected at least {FEWEST_ROWS} measured rows, found {len(steps)}")
    problem = Problem(steps, base)
    kept = {constant.name: reason for constant in CONSTANTS if (reason := _untouched(constant.name, steps))}
    names = [constant.name for constant in CONSTANTS if constant.name not in kept]
    for name in names[len(steps) // ROWS_A_CONSTANT :]:
        kept[name] = f"too few rows: {ROWS_A_CONSTANT} for each fitted constant"
    fit = problem.fit([name for name in names if name not in kept], {})
    alone = fit.spread
    while True:
        untold = [name for name in fit.values if fit.spread[name] > TOLERABLE]
        without = {}
        for name in untold:
            rest = {other: value for other, value in fit.values.items() if other != name}
            without[name] = problem.fit(list(rest), rest, fit.noise)
        name = min(untold, key=lambda name: without[name].misfit, default="")
        if not name or without[name].misfit - fit.misfit > CLEARLY_WORSE:
            break
        kept[name] = NOT_TOLD
        fit = without[name]
    return _report(steps, base, problem, fit, alone, kept)


def _untouched(name: str, steps: Sequence[MeasuredStep]) -> str:
    """Why no row depends on a constant; empty when one does."""
    if name in ("attention_layer_s", "attention_sequence_s") and not any(step.batch for step in steps):
        return "no row decodes"
    if name == "kv_bandwidth" and not any(step.context for step in steps):
        return "no row decodes with cached tokens"
    if name == "self_attention_compute" and not any(step.prefill_tokens for step in steps):
        return "no row has prefill tokens"
    if name == "past_attention_compute" and not any(step.cached for step in steps):
        return "no row prefills after cached tokens"
    return ""


def _report(
    steps: Sequence[MeasuredStep],
    base: PhysicsModel,
    problem: Problem,
    fit: Fit,
    alone: dict[str, float],
    kept: dict[str, str],
) -> Calibration:
    model = problem.model(fit.values)
    measured = np.array([step.seconds for step in steps])
    predicted = problem.predict(model)
    error, base_error = predicted / measured - 1, problem.predict(base) / measured - 1
    rows = [
        RowError(s.line, s.batch, s.context, s.prefill_tokens, s.cached, s.seconds, *numbers)
        for s, *numbers in zip(steps, predicted.tolist(), error.tolist(), base_error.tolist(), strict=True)
    ]
    given = base.constants()
    constants = [
        FittedConstant(
            constant.name,
            constant.symbol,
            constant.unit,
            given[constant.name],
            fit.values.get(constant.name, given[constant.name]),
            None if constant.name in kept else alone.get(constant.name),
            fit.spread.get(constant.name),
            kept.get(constant.name, ""),
        )
        for constant in CONSTANTS
    ]
    constants += [
        FittedConstant(name, symbol, unit, given[name], given[name], None, None, NEVER_FITTED[name])
        for name, symbol, unit in (("host_s", "t_host", "s"), ("swap_bandwidth", "BW_swap", "bytes/s"))
    ]
    return Calibration(
        model,
        constants,
        sorted(rows, key=lambda row: (-abs(row.error), row.line)),
        _loads(steps, error, base_error),
        fit.noise,
        _notes(fit, given, base_error, error),
    )


def _load(step: MeasuredStep) -> str:
    if step.prefill_tokens:
        return "prefill beside decodes" if step.batch else "prefill alone"
    least = max(batch for batch in BATCHES if batch <= step.batch)
    return f"decode, batch {BATCHES[least]}"


def _loads(steps: Sequence[MeasuredStep], error: Array, base_error: Array) -> list[LoadErrors]:
    found = []
    load = np.array([_load(step) for step in steps])
    for name in [*LOADS, ALL]:
        here = (load == name) | (name == ALL)
        if here.any():
            sizes, base_sizes = np.abs(error[here]), np.abs(base_error[here])
            numbers = (sizes.mean(), sizes.max(), error[here].mean(), base_sizes.mean())
            found.append(LoadErrors(name, int(here.sum()), *map(float, numbers)))
    return found


def _notes(fit: Fit, given: dict[str, float], base_error: Array, error: Array) -> list[str]:
    """What a user should know before using the constants."""
    notes = []
    slower = float(np.median(1 / (1 + base_error)))
    if 300 < slower < 3000:
        notes.append(f"The rows are {slower:,.0f} times as long as the base says: are they milliseconds?")
    if fit.noise > POOR:
        notes.append(f"The rows scatter by {fit.noise:.0%} about the fit: the formula does not describe them well.")
    far = int((np.abs(error) > max(5 * fit.noise, 0.05)).sum())
    if far:
        notes.append(
            f"{far} of {len(error)} rows are off by more than 5 % and five times the scatter: "
            "outliers, which pull little."
        )
    for name, value in fit.values.items():
        start = given[name]
        if name != "roofline_power" and start and not 1.01 / WIDEST < value / start < WIDEST / 1.01:
            notes.append(f"{name} is at its limit, {WIDEST:,.0f} times from the base: as good as free, or not told.")
    return notes

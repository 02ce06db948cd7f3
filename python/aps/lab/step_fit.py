"""Least squares of a physics model's constants over measured steps: one fit of a chosen set of constants."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aps.lab.measured_steps import MeasuredStep
from aps_core.physics import PhysicsModel

Array = NDArray[np.float64]

WIDEST = 1000.0  # a fitted constant lies within this factor of where it starts
LEAST_NOISE = 1e-4  # relative; no measurement is better, and exact rows have none
FIRST_NOISE = 0.05  # before the rows have been fitted once
OUTLIER = 2.0  # noises above which a row's error pulls less and less
PRIOR = 1.0  # standard deviation of a constant's logarithm about its base: a factor of about 3 either way
NORMAL_MAD = 1.4826  # standard deviation over median absolute deviation, of a normal distribution
ALLOWED = {-1: (1e6, 1e18), 0: (1.0, 16.0), 1: (0.0, 1e6)}  # by `Constant.cost`: what PhysicsModel takes


class Constant(NamedTuple):
    """A constant of `PhysicsModel` that steps may tell.

    symbol: in the formula. cost: 1 when a larger constant makes steps longer, -1 when shorter, 0 for an exponent.
    """

    name: str
    symbol: str
    unit: str
    cost: int


# In the order in which they are kept when the rows tell too few: what decides most steps first.
CONSTANTS = (
    Constant("weight_bandwidth", "BW", "bytes/s", -1),
    Constant("kv_bandwidth", "BW_kv", "bytes/s", -1),
    Constant("compute", "F", "FLOP/s", -1),
    Constant("linear_layer_s", "e0", "s", 1),
    Constant("self_attention_compute", "F_self", "FLOP/s", -1),
    Constant("attention_sequence_s", "a1", "s", 1),
    Constant("linear_token_s", "e1", "s", 1),
    Constant("past_attention_compute", "F_past", "FLOP/s", -1),
    Constant("attention_layer_s", "a0", "s", 1),
    Constant("roofline_power", "p", "", 0),
)


class Fit(NamedTuple):
    """A fit of some constants.

    spread: the relative standard error of each, for a cost below its base relative to the base, so that a vanishing one
    counts as told. noise: relative standard deviation of the rows. misfit: the loss, in its variances.
    """

    values: dict[str, float]
    spread: dict[str, float]
    noise: float
    misfit: float


class Problem:
    """Measured steps, and a base whose constants they may correct."""

    def __init__(self, steps: Sequence[MeasuredStep], base: PhysicsModel) -> None:
        self._given = base.constants()
        usual = PhysicsModel(**{name: self._given[name] for name in _SHAPE}).constants()
        self._start = {
            constant.name: float(self._given[constant.name] or usual[constant.name]) for constant in CONSTANTS
        }
        batch, context, prefill, cached = np.array(
            [(step.batch, step.context, step.prefill_tokens, step.cached) for step in steps], dtype=np.int64
        ).T.copy()
        self._decodes, self._decode_context = batch, batch * context
        self._prefill_tokens, self._prefill_past = prefill, (prefill * cached).astype(np.float64)
        self._logs = np.log([step.seconds for step in steps])

    def model(self, values: dict[str, float]) -> PhysicsModel:
        """The base with some constants replaced."""
        return PhysicsModel(**{**self._given, **values})

    def predict(self, model: PhysicsModel) -> Array:
        """(rows,) seconds."""
        return model.steps_seconds(
            prefill_tokens=self._prefill_tokens,
            decodes=self._decodes,
            decode_context=self._decode_context,
            prefill_past=self._prefill_past,
        )

    def fit(self, names: Sequence[str], near: dict[str, float], noise: float | None = None) -> Fit:
        """Fit the named constants, beginning at `near` where it has them, else at the base.

        noise: of the rows; None: estimated.
        """
        if noise is None:
            noise, near = self._noise(names, near)
        values, _, jacobian, loss = self._solve(names, near, noise)
        return Fit(values, self._spread(values, jacobian), noise, 2 * loss)

    def _noise(self, names: Sequence[str], near: dict[str, float]) -> tuple[float, dict[str, float]]:
        """The rows' noise, and the values of the fit that it was found with."""
        noise = FIRST_NOISE
        while True:
            near, errors, _, _ = self._solve(names, near, noise)
            # A fit can pass through as many rows as it has constants; those tell nothing about the noise.
            told = np.sort(np.abs(errors))[min(len(names), len(errors) - 1) :]
            found = max(LEAST_NOISE, NORMAL_MAD * float(np.median(told)))
            # The prior of a fit with too large a noise adds errors of its own: again, until the noise settles.
            if found > 0.8 * noise:
                return found, near
            noise = found

    def _solve(
        self, names: Sequence[str], near: dict[str, float], noise: float
    ) -> tuple[dict[str, float], Array, Array, float]:
        """Values, errors of the rows, and the loss, in variances, with its Jacobian over the values' logarithms."""
        if not names:
            errors = self._errors({})
            rounded = np.sqrt(1 + (errors / noise / OUTLIER) ** 2) - 1  # soft L1, as SciPy's
            return {}, errors, np.zeros((len(errors), 0)), OUTLIER**2 * float(rounded.sum())
        from scipy.optimize import least_squares

        base = np.log([self._start[name] for name in names])
        least, most = np.array([self._limits(name) for name in names]).T
        limits = np.log(least), np.log(most)
        begin = np.log([near.get(name, self._start[name]) for name in names])
        inside = 1e-6  # the solver begins strictly within the limits

        def values(logs: Array) -> dict[str, float]:
            return dict(zip(names, np.clip(np.exp(logs), least, most).tolist(), strict=True))

        def residuals(logs: Array) -> Array:
            return np.concatenate([self._errors(values(logs)) / noise, (logs - base) / PRIOR])

        found = least_squares(
            residuals,
            np.clip(begin, limits[0] + inside, limits[1] - inside),
            jac="3-point",
            bounds=limits,
            loss="soft_l1",
            f_scale=OUTLIER,
            x_scale="jac",
            ftol=1e-12,
            xtol=1e-12,
            gtol=1e-12,
        )
        return values(found.x), self._errors(values(found.x)), np.asarray(found.jac), float(found.cost)

    def _errors(self, values: dict[str, float]) -> Array:
        return np.log(self.predict(self.model(values))) - self._logs

    def _limits(self, name: str) -> tuple[float, float]:
        start = self._start[name]
        least, most = ALLOWED[_COSTS[name]]
        return (least, most) if not _COSTS[name] else (max(least, start / WIDEST), min(most, start * WIDEST))

    def _spread(self, values: dict[str, float], jacobian: Array) -> dict[str, float]:
        """Standard errors of the linearised fit."""
        if not values:
            return {}
        errors = np.sqrt(np.linalg.inv(jacobian.T @ jacobian).diagonal())
        costs = [(value / self._start[name]) ** _COSTS[name] for name, value in values.items()]
        return dict(zip(values, (errors * np.minimum(1.0, costs)).tolist(), strict=True))


_COSTS = {constant.name: constant.cost for constant in CONSTANTS}
_SHAPE = ("layers", "width", "kv_bytes_per_token_layer", "decoder_bytes", "head_bytes")

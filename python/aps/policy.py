"""How requests are ordered, batched and bounded."""

from dataclasses import asdict, dataclass
from math import inf
from typing import Any, Literal, Self

from aps import _checks as check


@dataclass(frozen=True, slots=True)
class Policy:
    """A point on the plane of two knobs, and how batches are made. Immutable and checked when made.

    The order:
    aging_horizon_s: H, seconds in 0..1e8 or inf, after which a waiting bid-1 request ranks with a fresh bid-10 one.
        0: arrival order; inf: bids alone.
    fairness_window: D, cost units >= 0: how much service a tenant may take ahead of the least served one, in its own
        tokens (divided by its weight). 0: fair only; inf: no fairness.
    input_weight, output_weight: cost of a prompt and of an output token, 0..1e6.
    expected_output: output tokens charged at dispatch; None: the request's max_tokens; 0: as they are generated.
    bid_premium: p in 0..1e6: a request is charged 1 + p * (bid - 1) times its tokens.

    What may pass what:
    max_passes: backfills past the reserved step that a request which does not fit may suffer; 0: no backfill.
    backfill_depth: candidates set aside before a batch is closed.
    preemption: whether a waiting request may displace a running one ("off", "recompute", "swap"); continuous only.
    preempt_margin: by how many bids it must be above (1..9). max_preemptions: times a request may be displaced.

    When a batch goes:
    batching: "continuous": join and leave at step boundaries; "micro": a batch runs to completion.
    batch_window_s, batch_fill_target: a micro batch is released after so many seconds, or when it fills this part
        (0, 1] of the slots or the KV blocks.
    kv_high_watermark: the part (0, 1] of a device's KV blocks that may be reserved.

    Raises ValueError (TypeError for a wrong type) naming the field, the value and what is allowed.
    """

    aging_horizon_s: float = 30.0
    fairness_window: float = 2048.0
    input_weight: float = 1.0
    output_weight: float = 1.0
    expected_output: int | None = None
    bid_premium: float = 0.0
    max_passes: int = 64
    backfill_depth: int = 32
    preemption: Literal["off", "recompute", "swap"] = "off"
    preempt_margin: int = 3
    max_preemptions: int = 2
    batching: Literal["continuous", "micro"] = "continuous"
    batch_window_s: float = 0.010
    batch_fill_target: float = 0.80
    kv_high_watermark: float = 1.0

    def __post_init__(self) -> None:
        allowed = "seconds in 0..1e8, or inf (no aging)"
        check.number("Policy.aging_horizon_s", self.aging_horizon_s, allowed, lambda x: 0 <= x <= 1e8 or x == inf)
        check.number("Policy.fairness_window", self.fairness_window, "a cost >= 0 (inf: no fairness)", lambda x: x >= 0)
        check.number("Policy.input_weight", self.input_weight, "a number in 0..1e6", lambda x: 0 <= x <= 1e6)
        check.number("Policy.output_weight", self.output_weight, "a number in 0..1e6", lambda x: 0 <= x <= 1e6)
        check.integer("Policy.expected_output", self.expected_output, 0, check.INT32_MAX, optional=True)
        check.number("Policy.bid_premium", self.bid_premium, "a number in 0..1e6", lambda x: 0 <= x <= 1e6)
        check.integer("Policy.max_passes", self.max_passes, 0, 2**16 - 1)
        check.integer("Policy.backfill_depth", self.backfill_depth, 0, 2**20)
        check.choice("Policy.preemption", self.preemption, ("off", "recompute", "swap"))
        check.integer("Policy.preempt_margin", self.preempt_margin, 1, 9)
        check.integer("Policy.max_preemptions", self.max_preemptions, 0, 2**8 - 1)
        check.choice("Policy.batching", self.batching, ("continuous", "micro"))
        if self.batching == "micro":
            check.choice('Policy.preemption with batching="micro"', self.preemption, ("off",))
        allowed = "seconds in 0..1e6"
        check.number("Policy.batch_window_s", self.batch_window_s, allowed, lambda x: 0 <= x <= 1e6)
        check.number("Policy.batch_fill_target", self.batch_fill_target, "a number in (0, 1]", lambda x: 0 < x <= 1)
        check.number("Policy.kv_high_watermark", self.kv_high_watermark, "a number in (0, 1]", lambda x: 0 < x <= 1)

    @classmethod
    def aps(cls, **changes: Any) -> Self:
        """Bids that age inside a finite fairness window: the defaults. Keywords change single fields."""
        return cls(**changes)

    @classmethod
    def fifo(cls, **changes: Any) -> Self:
        """Arrival order (H = 0, D = inf), nothing passes anything. Keywords change single fields."""
        return cls(**_PLAIN | {"aging_horizon_s": 0.0, "fairness_window": inf} | changes)

    @classmethod
    def strict(cls, **changes: Any) -> Self:
        """Highest bid first, for ever (H = inf, D = inf), nothing else passes. Keywords change single fields."""
        return cls(**_PLAIN | {"aging_horizon_s": inf, "fairness_window": inf} | changes)

    @classmethod
    def vtc(cls, **changes: Any) -> Self:
        """The virtual token counter (H = 0, D = 0; Sheng et al., OSDI 2024): output charged as it is generated.

        The paper's prices are input_weight=1, output_weight=2. Keywords change single fields.
        """
        return cls(**_PLAIN | {"aging_horizon_s": 0.0, "fairness_window": 0.0, "expected_output": 0} | changes)

    @classmethod
    def fair(cls, **changes: Any) -> Self:
        """Fair between tenants, bids inside one (H = inf, D = 0). Keywords change single fields."""
        return cls(**{"aging_horizon_s": inf, "fairness_window": 0.0} | changes)

    @classmethod
    def bids(cls, **changes: Any) -> Self:
        """Bids that age, no fairness between tenants (H finite, D = inf). Keywords change single fields."""
        return cls(**{"fairness_window": inf} | changes)

    @property
    def knobs(self) -> str:
        """The two knobs to read: "H = 30 s, D = 2048"."""
        unit = " s" if self.aging_horizon_s < inf else ""
        return f"H = {self.aging_horizon_s:g}{unit}, D = {self.fairness_window:.10g}"


# Neither backfill nor preemption: these policies serve in their own order and nothing else.
_PLAIN: dict[str, Any] = {"max_passes": 0, "preemption": "off"}


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds over all tenants. Immutable and checked when made.

    max_queued, max_queued_tokens: waiting requests, and their prompt + max tokens; None: no bound. No tenant fills them
        for the others: of n tenants each keeps an n-th part, and at least one request, for itself, so that up to twice
        as many may wait. Whatever could never wait is rejected: with 0 everything.
    max_context: prompt + max tokens of one request, at most; None: no bound.

    Raises ValueError (TypeError for a wrong type) naming the field, the value and what is allowed.
    """

    max_queued: int | None = 100_000
    max_queued_tokens: int | None = None
    max_context: int | None = None

    def __post_init__(self) -> None:
        check.integer("Limits.max_queued", self.max_queued, 0, check.INT32_MAX, optional=True)
        check.integer("Limits.max_queued_tokens", self.max_queued_tokens, 0, check.TOKENS_MAX, optional=True)
        check.integer("Limits.max_context", self.max_context, 2, check.INT32_MAX, optional=True)


def core_options(policy: Policy, limits: Limits) -> dict[str, Any]:
    """Both as the keywords of the core. A limit that is None is left out: the core's own bound is the largest."""
    options = asdict(policy)
    options["expected_output"] = -1 if policy.expected_output is None else policy.expected_output
    options["preemption"] = ("off", "recompute", "swap").index(policy.preemption)
    options["micro"] = options.pop("batching") == "micro"
    return options | {name: value for name, value in asdict(limits).items() if value is not None}

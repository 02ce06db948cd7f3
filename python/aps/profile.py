"""What a simulated GPU is: how long its steps take, what fits on it, what it costs, and what all that implies."""

from dataclasses import dataclass
from math import inf
from typing import Any

from aps import _checks as check
from aps.devices import Device
from aps.models import ModelShape
from aps_core.gpu import Engine
from aps_core.physics import PhysicsModel
from aps_core.step_time import StepTimeModel

NAME = "a str of 1 to 256 printable characters"

# What the implied figures are of.
DECODE_CONTEXT = 512  # tokens in the cache of each sequence that decodes
BATCHES = (1, 16)
PROMPT = 2048  # of the prefill rate: a prompt alone on the GPU, to its first token
MIX_PROMPT, MIX_OUTPUT, MIX_REQUESTS = 512, 128, 320  # of dollars: so many requests, 16 at once, back to back
TOO_LONG_NS = 2**60  # 36 years


@dataclass(frozen=True, slots=True)
class Implications:
    """What a profile comes to, in tokens and dollars; None: such a batch or request does not fit on it, or takes years.

    decode_tokens_per_s: output tokens a second while 1 or 16 sequences decode with 512 tokens each in the cache.
    speedup: of them, at 16 over 1. prefill_tokens_per_s: a prompt of 2,048 tokens alone, over the time to its first
    token. mix_*: 320 requests of 512 prompt and 128 output tokens back to back, 16 at once (fewer when fewer fit);
    dollars_per_million: of prompt + output tokens.
    """

    decode_tokens_per_s: dict[int, float | None]
    speedup: float | None
    prefill_tokens_per_s: float | None
    mix_tokens_per_s: float | None
    mix_output_tokens_per_s: float | None
    dollars_per_million: float | None


@dataclass(frozen=True, slots=True)
class Profile:
    """A GPU with a model on it. Immutable and checked when made.

    name, description: for people. step_time: seconds of one step. slots: requests at once, 1..65536.
    kv_tokens: tokens that its KV cache holds. token_budget: tokens in a step; None: whole prompts.
    dollars_per_hour: of one GPU, and price_source, where and when that price was seen.
    kv_bytes_per_token: of the cache. measured_on: what the step time comes from.
    model: the model's shape; None: the step time is not made from one. memory_bytes: what weights and KV cache may
    take together; None: not known. peak_flops: the GPU's FLOP/s by its data sheet; None: no MFU.

    Raises ValueError (TypeError for a wrong type) naming the field, the value and what is allowed.
    """

    name: str
    description: str
    step_time: StepTimeModel
    slots: int
    kv_tokens: int
    token_budget: int | None
    dollars_per_hour: float
    price_source: str
    kv_bytes_per_token: int
    measured_on: str
    model: ModelShape | None = None
    memory_bytes: int | None = None
    peak_flops: float | None = None

    def __post_init__(self) -> None:
        check.text("Profile.name", self.name, NAME, lambda x: len(x) <= 256 and x.isprintable())
        for field in ("description", "price_source", "measured_on"):
            if not isinstance(getattr(self, field), str):
                raise TypeError(f"Profile.{field} must be a str, got {getattr(self, field)!r}")
        if not isinstance(self.step_time, StepTimeModel):
            raise TypeError(f"Profile.step_time must be a StepTimeModel, got {self.step_time!r}")
        check.integer("Profile.slots", self.slots, 1, 2**16)
        check.integer("Profile.kv_tokens", self.kv_tokens, 1, check.INT32_MAX)
        check.integer("Profile.token_budget", self.token_budget, 1, check.INT32_MAX, optional=True)
        allowed = "dollars, a finite number >= 0"
        check.number("Profile.dollars_per_hour", self.dollars_per_hour, allowed, lambda x: 0 <= x < inf)
        check.integer("Profile.kv_bytes_per_token", self.kv_bytes_per_token, 1, 2**40)
        check.integer("Profile.memory_bytes", self.memory_bytes, 1, 2**60, optional=True)
        if self.peak_flops is not None:
            allowed = "FLOP/s, a number in 1e6..1e18, or None"
            check.number("Profile.peak_flops", self.peak_flops, allowed, lambda x: 1e6 <= x <= 1e18)

    @property
    def flops_per_token(self) -> int | None:
        """Operations of one token in the model's decoder; None without a model."""
        return None if self.model is None else self.model.flops_per_token

    def device(self, name: str, block_tokens: int = 16) -> Device:
        """The profile as the scheduler sees it: whole blocks only."""
        return Device(
            name=name, slots=self.slots, kv_blocks=self.kv_tokens // block_tokens, token_budget=self.token_budget
        )

    def implications(self) -> Implications:
        """What it comes to: see `Implications`. Computed by its own step time and engine."""
        decode = {batch: self._decode_rate(batch) for batch in BATCHES}
        one, many = decode[1], decode[16]
        prefill_s = self._seconds(PROMPT, 1, requests=1)
        mix_s = self._seconds(MIX_PROMPT, MIX_OUTPUT, requests=MIX_REQUESTS)
        mix = MIX_REQUESTS * (MIX_PROMPT + MIX_OUTPUT) / mix_s if mix_s else None
        return Implications(
            decode_tokens_per_s=decode,
            speedup=many / one if one and many else None,
            prefill_tokens_per_s=PROMPT / prefill_s if prefill_s else None,
            mix_tokens_per_s=mix,
            mix_output_tokens_per_s=MIX_REQUESTS * MIX_OUTPUT / mix_s if mix_s else None,
            dollars_per_million=self.dollars_per_hour / 3600 * 1e6 / mix if mix else None,
        )

    def _decode_rate(self, batch: int) -> float | None:
        if batch > self.slots or batch * (DECODE_CONTEXT + 1) > self.kv_tokens:
            return None
        seconds = self.step_time.step_seconds(decodes=batch, decode_context=batch * DECODE_CONTEXT)
        return batch / seconds if seconds else None

    def _seconds(self, prompt_tokens: int, output_tokens: int, *, requests: int) -> float | None:
        """Of so many equal requests back to back, at most 16 at once; None when not even one fits or would end."""
        together = min(16, self.slots, self.kv_tokens // (prompt_tokens + output_tokens))
        if not together:
            return None
        engine = Engine(self.step_time, together, self.kv_tokens, block_tokens=1, token_budget=self.token_budget or 0)
        sent = now_ns = 0
        while sent < requests or engine.running:
            while sent < requests and engine.running < together:
                engine.start(sent, prompt_tokens, output_tokens, 5)
                sent += 1
            try:
                now_ns = engine.begin_step(now_ns)
            except RuntimeError:  # the step takes more than 4e8 s
                return None
            engine.end_step()
            if now_ns > TOO_LONG_NS:
                return None
        return now_ns / 1e9


def physics(model: ModelShape, **constants: Any) -> PhysicsModel:
    """The step time of a model on a GPU of these constants, an A100-80GB's where none is given."""
    return PhysicsModel(
        layers=model.layers,
        width=model.width,
        kv_bytes_per_token_layer=model.kv_bytes_per_token_layer,
        decoder_bytes=model.decoder_bytes,
        head_bytes=model.head_bytes,
        **constants,
    )


def kv_tokens_in(memory_bytes: int, model: ModelShape) -> int:
    """Tokens of KV cache that the memory holds beside the model's weights; ValueError: not one."""
    tokens = (memory_bytes - model.weight_bytes) // model.kv_bytes_per_token
    if tokens < 1:
        raise ValueError(
            f"memory_bytes must be above the weights' {model.weight_bytes} and a token's {model.kv_bytes_per_token}, "
            f"got {memory_bytes}"
        )
    return tokens

"""A batch of equal requests that start together, composed of engine steps: how static benchmarks are predicted."""

from statistics import median
from typing import NamedTuple

from aps_core.gpu import Engine
from aps_core.step_time import StepTimeModel

BLOCK_TOKENS = 16
TOKEN_BUDGET = 512


class StaticTimes(NamedTuple):
    """Seconds from the start to the last token, and of the median decode step (None: there is none)."""

    total_s: float
    decode_p50_s: float | None


def one_prompt_a_step(model: StepTimeModel, batch: int, prompt_tokens: int, output_tokens: int) -> StaticTimes:
    """Each prompt is prefilled alone in a step that emits its first token; then output - 1 decodes of the whole batch.

    The j-th of these decodes (j = 1, 2, ...) reads batch * (prompt + j) cached tokens. Needs no KV limit.
    """
    prefill_s = model.step_seconds(prefill_tokens=prompt_tokens)
    decodes_s = [
        model.step_seconds(decodes=batch, decode_context=batch * (prompt_tokens + j)) for j in range(1, output_tokens)
    ]
    return StaticTimes(batch * prefill_s + sum(decodes_s), median(decodes_s) if decodes_s else None)


def in_the_engine(model: StepTimeModel, batch: int, prompt_tokens: int, output_tokens: int) -> float:
    """Seconds that the engine takes for the batch: all at t = 0, a slot each, chunks within a budget of 512 tokens.

    It has as many KV blocks as the batch needs.
    """
    blocks = batch * -(-(prompt_tokens + output_tokens) // BLOCK_TOKENS)
    engine = Engine(model, batch, blocks, block_tokens=BLOCK_TOKENS, token_budget=TOKEN_BUDGET)
    for request in range(batch):
        engine.start(request, prompt_tokens, output_tokens, 1)
    now_ns = 0
    while engine.running:
        now_ns = engine.begin_step(now_ns)
        engine.end_step()
    return now_ns * 1e-9

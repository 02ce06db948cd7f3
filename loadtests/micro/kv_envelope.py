"""What the KV envelope gains over adding up everyone's maximum, on a device that always has work waiting.

    python loadtests/micro/kv_envelope.py [--seeds N] [--json]

The same requests, first come first served, run twice on a simulated engine: once started as soon as `KVCache` says that
they fit, once only while the sum of maxima fits. It prints how many run at once (mean over steps) and how many engine
steps the whole work takes.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

from aps_core.kv_cache import KVCache, Need


@dataclass
class Running:
    """A request on the engine: `left` prefill tokens still to compute, `output` tokens in all that it will generate."""

    need: Need
    output: int
    left: int
    computed: int
    generated: int
    number: int


class Engine:
    """One device of an inference engine, step by step, that reports to a KVCache.

    A step gives one token to each request that decodes, then what remains of the token budget to prompts in the order
    of (bid, start); without a budget it takes every prompt whole. The step that ends a prompt emits its first token.
    `peak` is the most blocks ever held, counted here from the tokens themselves.
    """

    def __init__(self, cache: KVCache, device: int, token_budget: int) -> None:
        self.cache, self.device, self.token_budget = cache, device, token_budget
        self.running: dict[int, Running] = {}
        self.starts = 0
        self.peak = 0

    def start(self, need: Need, output: int) -> int:
        row = self.cache.start(self.device, need)
        self.join(row, need, output)
        return row

    def join(self, row: int, need: Need, output: int) -> None:
        self.starts += 1
        left = need.prompt_tokens + need.generated if need.prefill is None else need.prefill
        self.running[row] = Running(need, output, left, 0, need.generated, self.starts)
        self.peak = max(self.peak, self.held())

    def cancel(self, row: int) -> None:
        del self.running[row]
        self.cache.finish(self.device, row)

    def step(self) -> list[int]:
        """Runs one step and returns the rows that finished in it."""
        decoding = [r for r in self.running.values() if r.left == 0]
        prompts = sorted((r for r in self.running.values() if r.left > 0), key=lambda r: (-r.need.bid, r.number))
        budget = self.token_budget - len(decoding) if self.token_budget else sum(r.left for r in prompts)
        for r in prompts:
            chunk = max(0, min(r.left, budget))
            budget -= chunk
            r.left -= chunk
            r.computed += chunk
            r.generated += chunk > 0 and r.left == 0
        for r in decoding:
            r.generated += 1
        self.peak = max(self.peak, self.held())
        for row, r in self.running.items():
            self.cache.advance(self.device, row, r.computed, r.generated)
        finished = [row for row, r in self.running.items() if r.generated >= r.output]
        for row in finished:
            self.cancel(row)
        return finished

    def held(self) -> int:
        """Blocks held now."""
        size = self.cache.block_tokens
        return sum(-(-(r.need.prompt_tokens + r.generated) // size) for r in self.running.values())


class Outcome(TypedDict):
    steps: int
    mean_running: float
    peak_blocks: int


class Gain(TypedDict):
    envelope: Outcome
    maxima: Outcome
    more_running: float
    fewer_steps: float


SLOTS, KV_BLOCKS, TOKEN_BUDGET, BLOCK_TOKENS = 64, 1200, 512, 16


def fits_by_maxima(cache: KVCache, need: Need) -> bool:
    state = cache.device_state(0)
    blocks = -(-(need.prompt_tokens + need.max_tokens) // cache.block_tokens)
    return state.running < state.slots and state.max_blocks + blocks <= state.limit


def fits_by_envelope(cache: KVCache, need: Need) -> bool:
    return cache.can_start(0, need)


def run(work: Sequence[tuple[Need, int]], fits: Callable[[KVCache, Need], bool]) -> Outcome:
    """Runs all the work, in order, starting each request as soon as `fits` allows."""
    cache = KVCache([SLOTS], [KV_BLOCKS], [TOKEN_BUDGET], BLOCK_TOKENS)
    engine = Engine(cache, 0, TOKEN_BUDGET)
    waiting = list(reversed(work))
    steps = busy = 0
    while waiting or engine.running:
        while waiting and fits(cache, waiting[-1][0]):
            engine.start(*waiting.pop())
        steps += 1
        busy += len(engine.running)
        engine.step()
    return Outcome(steps=steps, mean_running=busy / steps, peak_blocks=engine.peak)


def measure(seed: int, requests: int = 400) -> Gain:
    """Prompts of 32 to 512 tokens, max_tokens 32 to 768, outputs anywhere up to it."""
    rng = random.Random(seed)
    work = []
    for _ in range(requests):
        need = Need(rng.randint(32, 512), rng.randint(32, 768), bid=rng.randint(1, 10))
        work.append((need, rng.randint(1, need.max_tokens)))
    envelope, maxima = run(work, fits_by_envelope), run(work, fits_by_maxima)
    return Gain(
        envelope=envelope,
        maxima=maxima,
        more_running=envelope["mean_running"] / maxima["mean_running"] - 1.0,
        fewer_steps=1.0 - envelope["steps"] / maxima["steps"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="What the KV envelope gains over the sum of maxima.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    gains = [measure(seed) for seed in range(arguments.seeds)]
    if arguments.json:
        print(json.dumps(gains, indent=2))
        return
    print(f"{SLOTS} slots, {KV_BLOCKS} blocks of {BLOCK_TOKENS} tokens, token budget {TOKEN_BUDGET}")
    print("seed  running at once: envelope  maxima   more   steps: envelope  maxima  fewer")
    for seed, gain in enumerate(gains):
        new, old = gain["envelope"], gain["maxima"]
        print(
            f"{seed:4}  {new['mean_running']:25.1f}  {old['mean_running']:6.1f}  {gain['more_running']:5.1%}"
            f"  {new['steps']:15}  {old['steps']:6}  {gain['fewer_steps']:5.1%}"
        )


if __name__ == "__main__":
    main()

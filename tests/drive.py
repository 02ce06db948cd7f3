"""A seeded random driver of the compiled scheduler beside its twin: `python -m tests.drive --operations 1000000`.

The same configurations and draws serve the state machine in test_scheduler_machine.py.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tests.scheduler_pair import Pair

INF = math.inf
ONE = {"slots": [3], "kv_blocks": [24], "token_budgets": [16], "block_tokens": 4}
TWO = {"slots": [2, 3], "kv_blocks": [20, 28], "token_budgets": [12, 0], "block_tokens": 4}

CONFIGS: dict[str, dict[str, Any]] = {
    "aps": {**ONE, "fairness_window": 60.0, "aging_horizon_s": 0.5},
    "whole prompts": {**ONE, "token_budgets": [0], "fairness_window": 100.0, "aging_horizon_s": 0.1, "max_passes": 2},
    "small budget": {**ONE, "token_budgets": [4], "fairness_window": 30.0},
    "fifo": {**ONE, "fairness_window": INF, "aging_horizon_s": 0.0, "max_passes": 0},
    "strict": {**ONE, "fairness_window": INF, "aging_horizon_s": INF, "max_passes": 0},
    "vtc": {**ONE, "fairness_window": 0.0, "aging_horizon_s": 0.0, "max_passes": 0, "expected_output": 0},
    "fair bids": {**ONE, "fairness_window": 0.0, "aging_horizon_s": INF, "output_weight": 2.0, "bid_premium": 0.1},
    "forecast": {**ONE, "expected_output": 5, "fairness_window": 20.0, "bid_premium": 0.25, "input_weight": 0.3},
    "recompute": {**ONE, "preemption": 1, "aging_horizon_s": 1.0, "fairness_window": 200.0, "preempt_margin": 2},
    "swap": {**ONE, "preemption": 2, "preempt_margin": 1, "max_preemptions": 1, "fairness_window": 80.0},
    "two devices": {**TWO, "fairness_window": 50.0, "max_passes": 1, "backfill_depth": 4},
    "two swap": {**TWO, "preemption": 2, "fairness_window": INF, "preempt_margin": 1, "expected_output": 0},
    "micro": {**ONE, "micro": True, "fairness_window": 50.0, "slots": [4]},
    "two micro": {**TWO, "micro": True, "batch_window_s": 0.05, "batch_fill_target": 1.0, "preemption": 1},
    "watermark": {**TWO, "kv_high_watermark": 0.8, "aging_horizon_s": 0.01, "epoch": 1.7e9},
    "limits": {**ONE, "max_queued": 8, "max_queued_tokens": 150, "max_context": 60, "epoch": -5.25},
}


def random_config(rng: random.Random) -> dict[str, Any]:
    """A mixture that no name stands for."""
    devices = rng.choice((1, 1, 2, 3))
    return {
        "slots": [rng.randint(1, 5) for _ in range(devices)],
        "kv_blocks": [rng.randint(8, 40) for _ in range(devices)],
        "token_budgets": [rng.choice((0, 3, 8, 16, 40)) for _ in range(devices)],
        "block_tokens": rng.choice((1, 4, 16)),
        "aging_horizon_s": rng.choice((0.0, 0.003, 0.1, 1.7, 30.0, INF)),
        "fairness_window": rng.choice((0.0, 13.7, 60.0, 333.3, INF)),
        "input_weight": rng.choice((1.0, 0.7, 0.0)),
        "output_weight": rng.choice((1.0, 2.0, 0.1)),
        "expected_output": rng.choice((-1, -1, 0, 3, 10)),
        "bid_premium": rng.choice((0.0, 0.0, 0.1, 1.3)),
        "max_passes": rng.choice((0, 1, 3, 64)),
        "backfill_depth": rng.choice((0, 1, 5, 32)),
        "preemption": rng.choice((0, 1, 2)),
        "preempt_margin": rng.choice((1, 1, 3)),
        "max_preemptions": rng.choice((0, 1, 2, 5)),
        "micro": rng.random() < 0.2,
        "batch_window_s": rng.choice((0.0, 0.01, 0.1)),
        "batch_fill_target": rng.choice((0.0, 0.3, 0.8, 1.0)),
        "kv_high_watermark": rng.choice((1.0, 1.0, 0.9, 0.75)),
        "max_queued": rng.choice((2**31 - 1, 20)),
        "epoch": rng.choice((0.0, 1.7e9, -3.3)),
    }


def tenant_keywords(rng: random.Random) -> dict[str, Any]:
    keywords: dict[str, Any] = {"weight": rng.choice((1.0, 1.0, 2.0, 0.3, 7.0))}
    if rng.random() < 0.5:
        keywords["rate"] = rng.choice((5.0, 33.3, 400.0, 1e4))
        keywords["burst"] = rng.choice((40.0, 77.7, 200.0, 1000.0))
        keywords["queue_over_rate"] = rng.random() < 0.6
    if rng.random() < 0.3:
        keywords["request_rate"] = rng.choice((0.3, 7.7, 60.0, 1e3))
        keywords["request_burst"] = rng.choice((1.0, 1.5, 4.0, 20.0))
    if rng.random() < 0.15:
        keywords["max_request_tokens"] = min(rng.choice((2, 17, 40, 60)), int(keywords.get("burst", 60)))
    if rng.random() < 0.2:
        keywords["max_in_flight"] = rng.randint(1, 3)
    if rng.random() < 0.2:
        keywords["kv_share"] = rng.choice((0.2, 0.5, 0.9))
    if rng.random() < 0.2:
        keywords["max_bid"] = rng.randint(1, 9)
    if rng.random() < 0.1:
        keywords["max_queued"] = rng.randint(0, 5)
    if rng.random() < 0.1:
        keywords["max_queued_tokens"] = rng.randint(10, 200)
    return keywords


class Driver:
    """Random operations on a pair; `sloppy` engines report in any order and speed."""

    def __init__(self, rng: random.Random, config: dict[str, Any], kind: type[Pair] = Pair) -> None:
        self.rng = rng
        self.pair = kind(config)
        self.devices = len(config["slots"])
        self.sloppy = rng.random() < 0.3
        self.overruns = self.sloppy and rng.random() < 0.5
        crowd = rng.random() < 0.15
        self.queue, self.tenants = (150, 30) if crowd else (40, 5)
        for _ in range(rng.randint(20, 30) if crowd else rng.randint(1, 4)):
            self.pair.add_tenant(**tenant_keywords(rng))
        self.operations: dict[Callable[[], None], float] = {
            self.submit: 12.0,
            self.submit_many: 0.5,
            self.dispatch: 10.0,
            self.step: 12.0,
            self.poke: 3.0 if self.sloppy else 0.0,
            self.cancel: 1.0,
            self.rebid: 2.0,
            self.preempt: 0.3,
            self.restart: 0.3,
            self.change_tenant: 0.5,
            self.add_or_remove: 0.3,
            self.change_knob: 0.3,
            self.look: 2.0,
            self.nonsense: 0.3,
            self.drain: 0.03,
            self.kill: 0.1 if kind is Pair else 0.0,
        }

    def operation(self) -> None:
        rng = self.rng
        draw = rng.random()
        if draw < 0.5:
            self.pair.now += rng.choice((1e-9, 1e-4, 0.001, 0.01, 0.05)) * rng.random()
        elif draw < 0.53:
            self.pair.now += rng.choice((0.5, 3.0, 100.0)) * rng.random()
        elif draw < 0.58:
            wake = self.pair.next_wakeup(rng.choice(([], [], [rng.randrange(self.devices)])))
            if wake < self.pair.now + 10.0:
                self.pair.now = wake
        (chosen,) = rng.choices(list(self.operations), list(self.operations.values()))
        chosen()

    # -- what happens

    def tenant(self) -> int:
        active = [slot for slot, state in self.pair.states().items() if state == 1]
        if not active:
            active = [self.pair.add_tenant(**tenant_keywords(self.rng))]
        return self.rng.choice(active)

    def size(self) -> tuple[int, int, int]:
        """Prompt, max_tokens and what the engine will generate."""
        rng = self.rng
        prompt = rng.choice((rng.randint(1, 12), rng.randint(1, 40)))
        most = rng.choice((rng.randint(1, 8), rng.randint(1, 40)))
        output = rng.choice((most, rng.randint(0, most), 1))
        return prompt, most, output + (rng.randint(1, 5) if self.overruns and rng.random() < 0.2 else 0)

    def bid(self) -> int:
        return self.rng.choice((1, 5, 5, 10, self.rng.randint(1, 10)))

    def submit(self) -> None:
        if len(self.pair.waiting) >= self.queue:
            return self.cancel()
        rng = self.rng
        prompt, most, output = self.size()
        keywords: dict[str, Any] = {}
        if rng.random() < 0.2:
            keywords["deadline_at"] = self.pair.now + rng.choice((-0.1, 0.0, 1e-9, 0.01, 0.3, 5.0, 1e4)) * rng.random()
        if rng.random() < 0.2:
            keywords["expected_output"] = rng.randint(0, 50)
        self.pair.submit(self.tenant(), prompt, most, self.bid(), output, **keywords)

    def submit_many(self) -> None:
        if len(self.pair.waiting) >= self.queue:
            return
        sizes = [self.size() for _ in range(self.rng.randint(1, 6))]
        rows = [(self.tenant(), prompt, most, self.bid()) for prompt, most, _ in sizes]
        self.pair.submit_many(rows, [output for _, _, output in sizes])

    def dispatch(self) -> None:
        self.pair.next_batch(self.rng.randrange(self.devices))

    def step(self) -> None:
        device = self.rng.randrange(self.devices)
        self.pair.engine_step(device, many=self.rng.random() < 0.1)
        if not self.sloppy and self.rng.random() < 0.2:
            self.check_memory()

    def poke(self) -> None:
        """Progress of one request, out of step with the others."""
        running = [r for r in self.pair.started.values() if r.device >= 0]
        if running:
            r = self.rng.choice(running)
            computed = self.rng.randint(r.computed, r.target)
            generated = r.generated
            if computed == r.target:
                generated += self.rng.randint(0, max(0, r.output - generated))
            self.pair.progress(r.handle, computed, generated)

    def anyone(self) -> int | None:
        alive = [*self.pair.waiting, *self.pair.started]
        return self.rng.choice(alive) if alive else None

    def cancel(self) -> None:
        self._try(self.pair.cancel)

    def rebid(self) -> None:
        self._try(lambda handle: self.pair.rebid(handle, self.bid()))

    def preempt(self) -> None:
        self._try(self.pair.preempt)

    def restart(self) -> None:
        self._try(self.pair.restart)

    def _try(self, act: Callable[[int], object]) -> None:
        """On any request; both may refuse, in the same way."""
        handle = self.anyone()
        if handle is not None:
            try:
                act(handle)
            except (KeyError, ValueError):
                self.pair.compare_snapshot()

    def change_tenant(self) -> None:
        self.pair.set_tenant(self.tenant(), **tenant_keywords(self.rng))

    def add_or_remove(self) -> None:
        states = self.pair.states()
        draining = [slot for slot, state in states.items() if state == 2]
        if draining and self.rng.random() < 0.5:
            with suppress(KeyError):  # its last request may have expired by now
                self.pair.readmit_tenant(self.rng.choice(draining), **tenant_keywords(self.rng))
        elif sum(state == 1 for state in states.values()) < self.tenants and self.rng.random() < 0.5:
            self.pair.add_tenant(**tenant_keywords(self.rng))
        else:
            self.pair.remove_tenant(self.tenant())

    def change_knob(self) -> None:
        if self.rng.random() < 0.5:
            self.pair.set_aging_horizon(self.rng.choice((0.0, 0.01, 0.4, 30.0, INF)))
        else:
            self.pair.set_fairness_window(self.rng.choice((0.0, 25.0, 70.5, 500.0, INF)))

    def look(self) -> None:
        handle = self.anyone()
        if handle is not None:
            try:
                self.pair.compare_explain(handle)
            except KeyError:
                self.pair.compare_snapshot()

    def nonsense(self) -> None:
        """A call that is refused, and changes nothing."""
        now = self.pair.now
        bad: list[Callable[[Any], object]] = [
            lambda s: s.submit(999, 5, 5, 5, now),
            lambda s: s.submit(1, 0, 5, 5, now),
            lambda s: s.submit(1, 5, 5, 11, now),
            lambda s: s.settle(123456789, 5, now),
            lambda s: s.next_batch(self.devices, now),
            lambda s: s.next_wakeup(math.nan),
            lambda s: s.next_wakeup(self.pair.config.get("epoch", 0.0) - 1.0),
            lambda s: s.add_tenant(weight=0.0, now=now),
        ]
        before = self.pair.compare_snapshot()
        call = self.rng.choice(bad)
        try:
            self.pair.both(lambda s, _: call(s))
        except (ValueError, KeyError, IndexError):
            pass
        else:
            raise AssertionError("accepted")
        after = self.pair.compare_snapshot()
        assert str(before) == str(after)

    def drain(self) -> None:
        """Everything goes: then nothing may be left."""
        for handle in [*self.pair.waiting, *self.pair.started]:
            if self.rng.random() < 0.5:
                try:
                    self.pair.cancel(handle)
                except KeyError:
                    continue
        for _ in range(200):
            if not (self.pair.waiting or self.pair.started):
                break
            self.pair.now += 0.05
            for device in range(self.devices):
                self.pair.next_batch(device)
                self.pair.engine_step(device)
        self.pair.compare_snapshot()

    def kill(self) -> None:
        """The process goes, and another starts from its state, maybe with other settings."""
        rng = self.rng
        kept = [slot for slot, state in self.pair.states().items() if state and rng.random() < 0.8]
        tenants = [(slot, self.pair.limits[slot] if rng.random() < 0.6 else tenant_keywords(rng)) for slot in kept]
        tenants += [(0, tenant_keywords(rng)) for _ in range(rng.randint(not kept, 2))]
        rng.shuffle(tenants)
        window = {} if rng.random() < 0.6 else {"fairness_window": rng.choice((0.0, 25.0, 70.5, 500.0, INF))}
        self.pair.kill(tenants, rng.choice((0.0, 1e-9, 0.3, 7.7, 1e5, 1e30)) * rng.random(), **window)
        self.pair.compare_snapshot()

    def check_memory(self) -> None:
        """An engine that keeps to the rule's assumptions never holds more blocks than the limit."""
        devices = self.pair.compare_snapshot()["devices"]
        assert (devices["held_blocks"] <= devices["limit"]).all(), devices


def drive(driver: Driver, operations: int, every: int = 50) -> None:
    for count in range(1, operations + 1):
        driver.operation()
        if count % every == 0:
            driver.pair.compare_snapshot()
            for handle in [*driver.pair.waiting, *driver.pair.started][:5]:
                driver.pair.compare_explain(handle)


def run(seed: int, operations: int, config: dict[str, Any] | None = None, kind: type[Pair] = Pair) -> Driver:
    """`operations` random operations; raises AssertionError at the first answer that differs."""
    rng = random.Random(seed)
    driver = Driver(rng, random_config(rng) if config is None else config, kind)
    drive(driver, operations)
    return driver


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=100_000, help="in all")
    parser.add_argument("--each", type=int, default=1000, help="operations a run; every run has its own configuration")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began, done, seed = time.monotonic(), 0, arguments.seed
    names = [None, *CONFIGS]
    while done < arguments.operations:
        name = names[seed % len(names)]
        try:
            run(seed, arguments.each, None if name is None else CONFIGS[name])
        except BaseException:
            print(f"\nseed {seed}, configuration {name or 'random'}, {arguments.each} operations a run", flush=True)
            raise
        done += arguments.each
        seed += 1
        print(f"\r{done} operations, {time.monotonic() - began:.0f} s, all the same", end="", flush=True)
    print()


if __name__ == "__main__":
    main()

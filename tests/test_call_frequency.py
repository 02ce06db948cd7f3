"""How often anybody calls changes nothing: with calls in between, the same dispatches, S and V."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.drive import CONFIGS, tenant_keywords
from tests.scheduler_pair import Solo, plain, scale


class Script:
    """One workload. `nosy` draws the calls in between; None makes none."""

    def __init__(self, seed: int, config: dict[str, Any], nosy: random.Random | None) -> None:
        self.rng = random.Random(seed)
        self.pair = Solo(config)
        self.nosy = nosy
        self.numbers: dict[int, int] = {}  # handle -> submission
        self.log: list[tuple[float, int, list[int]]] = []

    def play(self) -> dict[str, Any]:
        rng, pair = self.rng, self.pair
        tenants = [pair.add_tenant(**tenant_keywords(rng)) for _ in range(4)]
        for _ in range(150):
            self.wait_until(pair.now + rng.choice((0.0, 1e-4, 0.003, 0.03, 0.3)) * rng.random())
            for _ in range(rng.choice((0, 0, 1, 3))):
                self.submit(rng.choice(tenants))
            if rng.random() < 0.3:
                self.look()
            for device in range(len(pair.config["slots"])):
                pair.engine_step(device)
                started = [self.numbers[h] for h in pair.next_batch(device)]
                self.log.append((pair.now, device, started))
            self.look()
        return pair.compare_snapshot()

    def submit(self, tenant: int) -> None:
        rng = self.rng
        most = rng.randint(1, 30)
        deadline_at = self.pair.now + rng.choice((1e6, 1e6, 0.05, 0.4)) * rng.random()
        handle = self.pair.submit(
            tenant, rng.randint(1, 40), most, rng.randint(1, 10), rng.randint(0, most), deadline_at=deadline_at
        )
        if handle > 0:
            self.numbers[handle] = len(self.numbers)

    def wait_until(self, instant: float) -> None:
        if self.nosy is not None:
            for moment in sorted(self.nosy.uniform(self.pair.now, instant) for _ in range(self.nosy.randint(0, 4))):
                self.pair.now = moment
                self.look()
        self.pair.now = instant

    def look(self) -> None:
        if self.nosy is None:
            return
        pair, nosy = self.pair, self.nosy
        call = nosy.choice(("next_wakeup", "snapshot", "explain", "progress", "next_batch"))
        if call == "next_wakeup":
            pair.next_wakeup()
        elif call == "snapshot":
            pair.compare_snapshot()
        elif call == "explain":
            pair.next_wakeup()
            for handle in [*pair.waiting, *pair.started][:3]:
                pair.compare_explain(handle)
        elif call == "progress":
            for r in pair.running(0):
                pair.progress(r.handle, r.computed, r.generated)
        elif not self.room():
            for device in range(len(pair.config["slots"])):
                assert pair.next_batch(device) == []

    def room(self) -> bool:
        enough = [1 if self.pair.config.get("micro") else slots for slots in self.pair.config["slots"]]
        return any(len(self.pair.running(device)) < most for device, most in enumerate(enough))


# With preemption, a batch asked for while no slot is free is a decision of its own.
QUIET = [name for name, config in CONFIGS.items() if config.get("micro") or not config.get("preemption")]


@pytest.mark.parametrize("name", sorted(QUIET))
def test_calls_in_between_change_nothing(name: str) -> None:
    starts = 0
    for seed in range(scale(8)):
        plainly, nosily = Script(seed, CONFIGS[name], None), Script(seed, CONFIGS[name], random.Random(seed))
        expected, found = plainly.play(), nosily.play()
        assert nosily.log == plainly.log
        assert found["virtual_time"] == expected["virtual_time"]
        for column in (
            "service",
            "credit",
            "threshold",
            "contending",
            "level",
            "request_level",
            "waiting",
            "expired",
            "charged_tokens",
        ):
            assert plain(found["tenants"][column]) == plain(expected["tenants"][column]), column
        starts += sum(len(started) for _, _, started in plainly.log)
    assert starts > 40  # something was compared

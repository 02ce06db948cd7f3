"""A recorded scheduler in place of the core, for the random driver of tests/drive.py."""

from math import inf
from pathlib import Path
from typing import Any

from aps import Device, Limits, Policy, Scheduler, Tenant
from aps.record import Recorder
from tests.scheduler_pair import Solo

PREEMPTION = ("off", "recompute", "swap")
POLICY = (
    "aging_horizon_s", "fairness_window", "input_weight", "output_weight", "bid_premium", "max_passes",
    "backfill_depth", "preempt_margin", "max_preemptions", "batch_window_s", "kv_high_watermark",
)  # fmt: skip


def scheduler_of(config: dict[str, Any]) -> Scheduler:
    """As the core that those keywords make, as far as the face allows."""
    micro = config.get("micro", False)
    expected = config.get("expected_output", -1)
    policy = Policy(
        **{name: config[name] for name in POLICY if name in config},
        expected_output=None if expected < 0 else expected,
        preemption="off" if micro else PREEMPTION[config.get("preemption", 0)],  # type: ignore[arg-type]
        batching="micro" if micro else "continuous",
        batch_fill_target=max(0.01, config.get("batch_fill_target", 0.8)),
    )
    columns = zip(config["slots"], config["kv_blocks"], config["token_budgets"], strict=True)
    return Scheduler(
        [],
        policy=policy,
        devices=[Device(slots, blocks, budget or None, f"gpu{i}") for i, (slots, blocks, budget) in enumerate(columns)],
        limits=Limits(**{name: config.get(name) for name in ("max_queued", "max_queued_tokens", "max_context")}),
        block_tokens=config["block_tokens"],
        epoch=config.get("epoch", 0.0),
    )


def tenant(name: str, given: dict[str, Any]) -> Tenant:
    fields = dict(given)
    over_rate = "queue" if fields.pop("queue_over_rate", False) else "refuse"
    return Tenant(name, over_rate=over_rate, **fields)  # type: ignore[arg-type]


class Face:
    """Tenants by slot on top of names; every other call as the recorded core takes it."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.scheduler.recorded, name)

    def add_tenant(self, *, now: float, **given: Any) -> int:
        name = f"ténant {self.count}"
        self.scheduler.add_tenant(tenant(name, given), now=now)
        self.count += 1
        return int(self.scheduler._roster.slot(name))

    def readmit_tenant(self, slot: int, *, now: float, **given: Any) -> None:
        self.next_wakeup(now)  # the face makes it anew when it has drained
        if self.tenant_state(slot) == 0:
            raise KeyError(slot)
        self.scheduler.add_tenant(tenant(self.scheduler._roster.names[slot], given), now=now)

    def set_tenant(self, slot: int, *, now: float, **given: Any) -> None:
        self.scheduler.set_tenant(tenant(self.scheduler._roster.names[slot], given), now=now)

    def remove_tenant(self, slot: int, now: float) -> bool:
        self.scheduler.remove_tenant(self.scheduler._roster.names[slot], now=now)
        return bool(self.tenant_state(slot) == 0)

    def set_aging_horizon(self, seconds: float, now: float) -> None:
        self.scheduler.set_policy(aging_horizon_s=seconds, now=now)

    def set_fairness_window(self, cost: float, now: float) -> None:
        self.scheduler.set_policy(fairness_window=cost, now=now)


def recorded(path: Path, **options: Any) -> type[Solo]:
    """A kind of pair that leaves its record there when its `close` is called."""

    class Recorded(Solo):
        def build(self) -> None:
            self.recorder = Recorder(path, **options)
            self.core = self.twin = Face(self.recorder.watch(scheduler_of(self.config)))

    return Recorded


def traffic(scheduler: Scheduler, requests: int, *, at_s: float = 0.0) -> None:
    """Requests of the tenants in turn, each with the same sizes, run to their end on device 0."""
    now = at_s
    names = list(scheduler.tenants)
    for number in range(requests):
        now += 0.01
        scheduler.submit(names[number % len(names)], prompt_tokens=20, max_tokens=5, now=now, deadline_at=inf)
        for id in scheduler.next_batch(0, now=now).started:
            scheduler.progress(id, 20, 1, now=now + 0.001)
            scheduler.progress(id, 20, 4, now=now + 0.002)
            scheduler.settle(id, 4, now=now + 0.003)

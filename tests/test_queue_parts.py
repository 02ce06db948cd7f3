"""The queue of all tenants: nobody fills it for the others, and never more than twice its bounds wait."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aps import Limits, Scheduler, Tenant
from tests.drive import ONE
from tests.scheduler_pair import Pair, plain, scale
from tests.twins.scheduler_model import Reason

SHAPED: dict[str, Any] = {"rate": 1.0, "burst": 100.0, "queue_over_rate": True}
slots = st.integers(0, 1000)


class Queue(RuleBasedStateMachine):
    """Submissions to a small queue, on both schedulers, among all that changes who waits and of how many."""

    pair: Pair

    @initialize(most=st.integers(1, 9), tokens=st.one_of(st.just(2**62), st.integers(2, 90)), tenants=st.integers(1, 4))
    def build(self, most: int, tokens: int, tenants: int) -> None:
        self.pair = Pair({**ONE, "max_queued": most, "max_queued_tokens": tokens})
        self.most, self.tokens = most, tokens
        self.crowded = self.crowded_tokens = False  # since the queue was last within its bound, what parts do not cover
        for at in range(tenants):
            self.pair.add_tenant(**(SHAPED if at % 2 else {}))

    def slot(self, pick: int, state: int) -> int | None:
        found = [slot for slot, s in self.pair.states().items() if s == state]
        return found[pick % len(found)] if found else None

    @rule(pick=slots, prompt=st.integers(1, 20), output=st.integers(1, 20), soon=st.booleans(), again=st.integers(1, 4))
    def submit(self, pick: int, prompt: int, output: int, soon: bool, again: int) -> None:
        for _ in range(again):
            slot = self.slot(pick, 1)
            if slot is not None:
                self.offer(slot, prompt, output, {"deadline_at": self.pair.now + 0.5} if soon else {})

    def offer(self, slot: int, prompt: int, output: int, keywords: dict[str, Any]) -> None:
        """A request, and what its answer may be."""
        before = self.pair.compare_snapshot()
        columns = {name: plain(before["tenants"][name]) for name in ("slot", "waiting", "waiting_tokens")}
        row, count = columns["slot"].index(slot), len(columns["slot"])
        asked, part = prompt + output, self.tokens // count
        answer = self.pair.submit(slot, prompt, output, 5, output, **keywords)
        if before["waiting"] < self.most:
            assert answer != -Reason.QUEUE_FULL
        elif columns["waiting"][row] < self.most // count and not self.crowded:
            assert answer != -Reason.QUEUE_FULL
        if before["waiting_tokens"] + asked <= self.tokens:
            assert answer != -Reason.QUEUE_TOKENS_FULL
        elif columns["waiting_tokens"][row] + asked <= part and not self.crowded_tokens:
            assert answer != -Reason.QUEUE_TOKENS_FULL
        self.crowded_tokens = self.crowded_tokens or (answer > 0 and asked > part)

    @rule(wait=st.sampled_from([0.0, 0.01, 0.6, 30.0]))
    def serve(self, wait: float) -> None:
        self.pair.now += wait
        self.pair.next_batch(0)
        self.pair.engine_step(0)

    @precondition(lambda self: self.pair.waiting or self.pair.started)
    @rule(pick=slots, what=st.sampled_from(["cancel", "rebid", "preempt", "restart"]))
    def change(self, pick: int, what: str) -> None:
        running = [r.handle for r in self.pair.started.values() if r.device >= 0]
        among = running if what in ("preempt", "restart") else [*self.pair.waiting, *self.pair.started]
        if among:
            handle = among[pick % len(among)]
            getattr(self.pair, what)(handle, *([1 + pick % 10] if what == "rebid" else []))

    @rule(pick=slots, what=st.sampled_from(["add", "remove", "readmit"]), own=st.integers(0, 3))
    def tenants(self, pick: int, what: str, own: int) -> None:
        active, draining = self.slot(pick, 1), self.slot(pick, 2)
        if what == "add" and len(self.pair.states()) < 6:
            self.pair.add_tenant(**(SHAPED if pick % 2 else {"max_queued": own} if own else {}))
            self.crowded = self.crowded_tokens = True
        elif what == "remove" and active is not None:
            self.pair.remove_tenant(active)
        elif what == "readmit" and draining is not None:
            self.pair.readmit_tenant(draining)

    @invariant()
    def never_more_than_twice(self) -> None:
        if hasattr(self, "pair"):
            there = self.pair.compare_snapshot()
            assert there["waiting"] <= 2 * self.most and there["waiting_tokens"] <= 2 * self.tokens
            if there["waiting"] <= self.most:
                self.crowded = False
            if there["waiting_tokens"] <= self.tokens:
                self.crowded_tokens = False


TestQueue = Queue.TestCase
TestQueue.settings = settings(
    max_examples=scale(60), stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


def fill(scheduler: Scheduler, tenant: str, count: int = 1000, tokens: int = 20) -> int:
    """How many of `count` requests are admitted; the others are refused for want of room in the queue of all."""
    reasons = [scheduler.submit(tenant, prompt_tokens=tokens - 10, max_tokens=10, now=0.0).reason for _ in range(count)]
    assert set(reasons) <= {"admitted", "queue_full", "queue_tokens_full"}
    return reasons.count("admitted")


def test_a_tenant_that_waits_for_its_own_bucket_alone_does_not_shut_out_another() -> None:
    tenants = (Tenant("flood", rate=1e-3, burst=20, over_rate="queue"), Tenant("quiet"))
    scheduler = Scheduler(tenants, limits=Limits(max_queued=100))
    scheduler.submit("flood", prompt_tokens=10, max_tokens=10, now=0.0)
    assert len(scheduler.next_batch(now=0.0).started) == 1
    assert fill(scheduler, "flood") == 100
    for _ in range(200):
        request = scheduler.submit("quiet", prompt_tokens=10, max_tokens=10, now=0.0).id
        assert scheduler.next_batch(now=0.0).started == (request,)
        scheduler.settle(request, 10, now=0.0)
    assert (fill(scheduler, "quiet"), fill(scheduler, "flood"), scheduler.waiting) == (50, 0, 150)


def test_with_more_tenants_than_places_each_keeps_one_until_twice_as_many_wait() -> None:
    names = [f"t{at}" for at in range(10)]
    scheduler = Scheduler([Tenant(name) for name in names], limits=Limits(max_queued=4))
    assert [fill(scheduler, name) for name in names] == [4, 1, 1, 1, 1, 0, 0, 0, 0, 0]


def test_tenants_that_come_while_the_queue_is_full_get_what_twice_as_many_leave() -> None:
    scheduler = Scheduler([Tenant("t1")], limits=Limits(max_queued=12))
    admitted = [fill(scheduler, "t1")]
    for name in ("t2", "t3", "t4", "t5"):
        scheduler.add_tenant(Tenant(name), now=0.0)
        admitted.append(fill(scheduler, name))
    assert admitted == [12, 6, 4, 2, 0]  # the parts of t4 and t5 would be 3 and 2


def test_a_removed_tenant_has_its_part_until_it_has_drained() -> None:
    scheduler = Scheduler([Tenant("a"), Tenant("b"), Tenant("c")], limits=Limits(max_queued=12))
    last = scheduler.submit("c", prompt_tokens=10, max_tokens=10, now=0.0).id
    scheduler.remove_tenant("c", now=0.0)
    assert (fill(scheduler, "a"), fill(scheduler, "b")) == (11, 4)
    scheduler.cancel(last, now=0.0)
    assert (fill(scheduler, "b"), fill(scheduler, "a")) == (2, 0)


def test_a_part_of_the_tokens_is_kept_too_and_a_first_request_may_be_larger() -> None:
    scheduler = Scheduler([Tenant("flood"), Tenant("quiet")], limits=Limits(max_queued_tokens=1000))
    assert fill(scheduler, "flood", tokens=100) == 10
    assert fill(scheduler, "quiet", tokens=100) == 5
    scheduler = Scheduler([Tenant("flood"), Tenant("quiet"), Tenant("other")], limits=Limits(max_queued_tokens=1000))
    assert fill(scheduler, "flood", tokens=100) == 10
    assert (fill(scheduler, "quiet", 1, tokens=900), fill(scheduler, "quiet", tokens=50)) == (1, 0)
    assert (fill(scheduler, "other", 1, tokens=101), fill(scheduler, "other", 1, tokens=100)) == (0, 1)


def test_a_tenant_s_own_bound_is_its_bound() -> None:
    scheduler = Scheduler([Tenant("flood"), Tenant("own", max_queued=2)], limits=Limits(max_queued=10))
    assert (fill(scheduler, "flood"), fill(scheduler, "own", 2)) == (10, 2)
    assert scheduler.submit("own", prompt_tokens=10, max_tokens=10, now=0.0).reason == "tenant_queue_full"


def test_without_a_bound_nothing_is_full() -> None:
    scheduler = Scheduler([Tenant("a"), Tenant("b")], limits=Limits(max_queued=None))
    assert fill(scheduler, "a") == fill(scheduler, "b") == 1000

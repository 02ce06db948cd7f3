"""Request rows: what a whole request costs (submit, dispatch, settle), with buckets, fairness window and KV in force.

Hold model: 100,000 requests stay waiting and the device stays full; each round ends running requests, dispatches as
many and submits as many. Beside it one heapq push + pop at the same length, which knows nothing of tenants or KV.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from loadtests.micro.load import Requests, Stream
from loadtests.micro.queue_rows import HeapqHold
from loadtests.micro.rows import BY_NAME, Row
from loadtests.micro.timing import Case, Timed, measure

WAITING = 100_000
PROMPT, OUTPUT = (16, 512), (16, 256)  # tokens, uniform; outputs used are at most what was asked for
RATE = 1e7  # tokens/s of each tenant: in force, refusing nobody
BURST = 1e9
BLOCK_TOKENS = 16


class Server(NamedTuple):
    """The one device. KV holds every slot's largest request, so that the slots bind (the usual case)."""

    slots: int

    @property
    def kv_blocks(self) -> int:
        return self.slots * -(-(PROMPT[1] + OUTPUT[1]) // BLOCK_TOKENS)


SMALL, LARGE = Server(16), Server(256)


class Sizes:
    """Token counts to go with a stream's requests."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(5)

    def draw(self, count: int) -> tuple[Any, Any, Any]:
        """Prompt tokens, max tokens, output used; int32."""
        prompts = self.random.integers(*PROMPT, count, np.int32, endpoint=True)
        most = self.random.integers(*OUTPUT, count, np.int32, endpoint=True)
        return prompts, most, self.random.integers(1, most, dtype=np.int32, endpoint=True)


class CoreHold:
    """The compiled scheduler with a full device and `waiting` requests behind it.

    `bulk`: a Python call over arrays for each of the three operations, `slots` requests at a time; else a call each.
    """

    def __init__(self, waiting: int, tenants: int, chunk: int, server: Server, bulk: bool) -> None:
        from aps_core.scheduler import Scheduler

        self.stream = Stream(waiting, tenants)
        self.sizes = Sizes()
        self.server = server
        self.chunk = chunk - chunk % server.slots
        self.bulk = bulk
        self.core = Scheduler([server.slots], [server.kv_blocks], [0], block_tokens=BLOCK_TOKENS)
        self.slots = np.array([self.core.add_tenant(rate=RATE, burst=BURST, now=0.0) for _ in range(tenants)], np.int32)
        self.settled = 0
        for requests in (self.stream.initial, self.stream.take(server.slots)):
            for burst, now in requests.bursts():
                self.submit_all(burst, now)
        self.now = self.stream.now_ns / 1e9
        started = self.core.next_batch(0, self.now)
        self.running = self.core.started[:started].copy()
        if started != server.slots or self.core.waiting != waiting:
            raise AssertionError(f"{started} of {server.slots} slots are taken, {self.core.waiting} wait")

    def submit_all(self, requests: Requests, now: float) -> None:
        prompts, most, _ = self.sizes.draw(len(requests.bids))
        handles = self.core.submit_many(self.slots[requests.tenants], prompts, most, requests.bids, now)
        if (handles <= 0).any():
            raise AssertionError(f"refused while filling: reason {-handles.min()}")

    def __call__(self) -> Timed:
        requests = self.stream.take(self.chunk)
        prompts, most, used = self.sizes.draw(self.chunk)
        tenants = self.slots[requests.tenants]
        self.settled += self.chunk
        if self.bulk:
            return self.arrays(tenants, prompts, most, requests.bids, used, requests.at)
        return self.calls(*(column.tolist() for column in (tenants, prompts, most, requests.bids, used, requests.at)))

    def arrays(self, tenants: Any, prompts: Any, most: Any, bids: Any, used: Any, at: Any) -> Timed:
        core, slots = self.core, self.server.slots
        instants = at[slots - 1 :: slots].tolist()

        def timed() -> int:
            running = self.running
            for turn, now in enumerate(instants):
                part = slice(turn * slots, (turn + 1) * slots)
                core.settle_many(running, used[part], now)
                count = core.next_batch(0, now)
                running[:] = core.started[:count]
                core.submit_many(tenants[part], prompts[part], most[part], bids[part], now)
            return len(tenants)

        return timed

    def calls(self, tenants: Any, prompts: Any, most: Any, bids: Any, used: Any, at: Any) -> Timed:
        core, slots = self.core, self.server.slots
        running = self.running.tolist()
        requests = zip(tenants, prompts, most, bids, used, at)  # noqa: B905 - as the peer's loop

        def timed() -> int:
            settle, next_batch, submit = core.settle, core.next_batch, core.submit
            place = 0
            for tenant, prompt, limit, bid, output, now in requests:
                settle(running[place], output, now)
                next_batch(0, now)
                running[place] = core.started.item(0)
                submit(tenant, prompt, limit, bid, now)
                place = place + 1 if place + 1 < slots else 0
            self.running = np.array(running, np.int64)
            return len(tenants)

        return timed

    def check(self) -> None:
        """Everybody accounted for: as many wait and run as before, all others finished, and nothing was refused."""
        snapshot = self.core.snapshot(self.stream.now_ns / 1e9)
        names = ("finished", "waiting", "in_flight", "rejected", "throttled")
        finished, in_queue, in_flight, rejected, throttled = (int(snapshot["tenants"][name].sum()) for name in names)
        waiting, slots = len(self.stream.initial.bids), self.server.slots
        found = (finished, in_queue, in_flight, rejected + throttled)
        if found != (self.settled, waiting, slots, 0):
            raise AssertionError(
                f"finished, waiting, in flight, refused: {found}, not {(self.settled, waiting, slots, 0)}"
            )


class FaceHold:
    """`aps.Scheduler`, the Python face: tenants by name, verdicts with names, a Python call an operation."""

    def __init__(self, waiting: int, tenants: int, chunk: int, server: Server) -> None:
        import aps

        self.stream = Stream(waiting, tenants)
        self.sizes = Sizes()
        self.server = server
        self.chunk = chunk - chunk % server.slots
        self.names = [f"tenant-{number}" for number in range(tenants)]
        self.scheduler = self.watched(
            aps.Scheduler(
                [aps.Tenant(name, rate=RATE, burst=BURST) for name in self.names],
                devices=(aps.Device(slots=server.slots, kv_blocks=server.kv_blocks, token_budget=None),),
                limits=aps.Limits(max_queued=2 * waiting),
                block_tokens=BLOCK_TOKENS,
            )
        )
        for requests in (self.stream.initial, self.stream.take(server.slots)):
            for burst, now in requests.bursts():
                self.submit_all(burst, now)
        self.running = list(self.scheduler.next_batch(now=self.stream.now_ns / 1e9).started)
        if len(self.running) != server.slots:
            raise AssertionError(f"{len(self.running)} of {server.slots} slots are taken")

    def watched(self, scheduler: Any) -> Any:
        """What is called in its place."""
        return scheduler

    def submit_all(self, requests: Requests, now: float) -> None:
        prompts, most, _ = self.sizes.draw(len(requests.bids))
        rows = zip(requests.tenants.tolist(), prompts.tolist(), most.tolist(), requests.bids.tolist(), strict=True)
        for tenant, prompt, limit, bid in rows:
            verdict = self.scheduler.submit(
                self.names[tenant], prompt_tokens=prompt, max_tokens=limit, bid=bid, now=now
            )
            if not verdict.admitted:
                raise AssertionError(f"refused while filling: {verdict.reason}")

    def __call__(self) -> Timed:
        requests = self.stream.take(self.chunk)
        prompts, most, used = (column.tolist() for column in self.sizes.draw(self.chunk))
        names = [self.names[tenant] for tenant in requests.tenants.tolist()]
        rows = zip(names, prompts, most, requests.bids.tolist(), used, requests.at.tolist())  # noqa: B905 - as the peer's loop
        scheduler, running, slots = self.scheduler, self.running, self.server.slots

        def timed() -> int:
            settle, next_batch, submit = scheduler.settle, scheduler.next_batch, scheduler.submit
            place = 0
            for name, prompt, limit, bid, output, now in rows:
                settle(running[place], output, now=now)
                running[place] = next_batch(now=now).started[0]
                submit(name, prompt_tokens=prompt, max_tokens=limit, bid=bid, now=now)
                place = place + 1 if place + 1 < slots else 0
            return len(names)

        return timed


def whole_request(quick: bool) -> Iterator[Row]:
    waiting, chunk, rounds = (2_000, 512, 2) if quick else (WAITING, 4_096, 31)
    call = CoreHold(waiting, 100, chunk, SMALL, bulk=False)
    bulk = CoreHold(waiting, 100, chunk, LARGE, bulk=True)
    cases: dict[str, Case] = {"call": call, "bulk": bulk, "heapq": HeapqHold(waiting, 100, chunk)}
    no_face = ""
    try:
        cases["face"] = FaceHold(waiting, 100, chunk, SMALL)
    except ImportError as error:
        no_face = str(error)
    costs = measure(cases, rounds)
    call.check()
    bulk.check()
    note = f"100 tenants, {waiting:,} waiting, {rounds} rounds of {chunk:,}; "
    yield BY_NAME["request.call"].judge(
        costs["call"], costs["heapq"], f"{note}{SMALL.slots} slots, three calls a request"
    )
    yield BY_NAME["request.bulk"].judge(
        costs["bulk"], costs["heapq"], f"{note}{LARGE.slots} slots, three calls per {LARGE.slots}"
    )
    if no_face:
        yield BY_NAME["request.face"].failed(no_face)
    else:
        yield BY_NAME["request.face"].judge(costs["face"], costs["heapq"], f"{note}{SMALL.slots} slots, aps.Scheduler")


def many_tenants(quick: bool) -> Iterator[Row]:
    waiting, chunk, rounds, tenants = (2_000, 512, 2, 500) if quick else (WAITING, 4_096, 31, 10_000)
    cases = {
        (number, bulk): CoreHold(waiting, number, chunk, LARGE if bulk else SMALL, bulk)
        for number in (2, tenants)
        for bulk in (False, True)
    }
    costs = measure({str(key): case for key, case in cases.items()}, rounds)
    for case in cases.values():
        case.check()
    many, two, many_bulk, two_bulk = (
        costs[str(key)] for key in ((tenants, False), (2, False), (tenants, True), (2, True))
    )
    note = (
        f"{waiting:,} waiting, a call an operation, {rounds} rounds of {chunk:,}; "
        f"in bulk {many_bulk:,.0f} ns against {two_bulk:,.0f} ns, {many_bulk / two_bulk:.2f} times"
    )
    yield BY_NAME["request.10k_tenants"].judge(many, two, note)


def vllm(quick: bool) -> Iterator[Row]:
    """A whole request of ours beside vLLM's queue alone."""
    from loadtests.micro.queue_peers import VLLM

    waiting, chunk, rounds = (2_000, 512, 2) if quick else (WAITING, 10_240, 9)
    peer = VLLM(waiting, 100, chunk)
    ours = CoreHold(waiting, 100, chunk, SMALL, bulk=False)
    costs = measure({"ours": ours, "vllm": peer}, rounds)
    ours.check()
    note = f"{waiting:,} waiting, 100 tenants; ours a whole request, vLLM its queue's order alone"
    yield BY_NAME["request.vllm"].judge(costs["ours"], costs["vllm"], note)


def litellm(quick: bool) -> Iterator[Row]:
    """A whole request of ours beside LiteLLM's add_request + poll."""
    from loadtests.micro.queue_peers import LiteLLM

    waiting, turns, rounds = (1_000, 2, 2) if quick else (10_000, 10, 5)
    peer = LiteLLM(waiting, 100, turns)
    ours = CoreHold(waiting, 100, 1_024, SMALL, bulk=False)
    costs = measure({"ours": ours, "litellm": peer}, rounds)
    ours.check()
    peer.check()
    note = f"{waiting:,} waiting, 100 tenants; ours a whole request, LiteLLM adds one and releases the head"
    yield BY_NAME["request.litellm"].judge(costs["ours"], costs["litellm"], note)

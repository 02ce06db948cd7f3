"""The rows that a run must answer: what each measures, in which unit, and the target it is held to."""

from dataclasses import dataclass
from typing import Literal, TypedDict


class Row(TypedDict):
    """One measured row, as it stands in the JSON file.

    `ratio` is peer / ours where the target is a lower bound (how many times faster), ours / peer where it is an
    upper bound (what part of the peer's cost); None where there is no peer. `target` is None for a mere figure.
    `reason` says why the target is not met or the row did not run, and otherwise how the figure was made.
    """

    name: str
    value: float | None
    unit: str
    peer: str
    ratio: float | None
    target: str | None
    met: bool
    reason: str


@dataclass(frozen=True)
class Promise:
    """A row before it is measured. `bound` is on the ratio, or on the value itself when `of_value`."""

    name: str
    unit: str
    peer: str
    sense: Literal[">=", "<=", "figure"]
    bound: float = 0.0
    of_value: bool = False

    @property
    def target(self) -> str | None:
        return None if self.sense == "figure" else f"{self.sense} {self.bound:g}"

    def judge(
        self,
        value: float,
        peer_value: float | None = None,
        note: str = "",
        peer: str = "",
        ratio: float | None = None,
    ) -> Row:
        """The row for a measured value and the peer's, both in `unit`. peer: its name, when a run chose it. ratio: as
        in `Row`, when it is not that of the two values."""
        if ratio is None and peer_value is not None:
            ratio = value / peer_value if self.sense == "<=" else peer_value / value
        judged = value if self.of_value else ratio
        met = self.sense == "figure"
        if not met and judged is not None:
            met = judged >= self.bound if self.sense == ">=" else judged <= self.bound
        named = peer or self.peer
        if peer_value is not None:
            named = f"{named}: {peer_value:.4g} {self.unit}"
        reason = note if met else f"{judged:.3g} misses {self.target}; {note}".rstrip("; ")
        return Row(
            name=self.name,
            value=value,
            unit=self.unit,
            peer=named,
            ratio=ratio,
            target=self.target,
            met=met,
            reason=reason,
        )

    def failed(self, reason: str) -> Row:
        """The row when it could not be measured."""
        return Row(
            name=self.name,
            value=None,
            unit=self.unit,
            peer=self.peer,
            ratio=None,
            target=self.target,
            met=False,
            reason=reason,
        )


HEAPQ = "heapq of (key, number) tuples, pop + push"
PYTHON_BUCKET = "pure-Python bucket with __slots__"
STEP_LOOP = "a Python step loop of the same GPU"

RAW_ASGI = "raw ASGI echo of the same JSON, on the same server"
WITHOUT = "the same service without a store"
QUEUE_EACH = "an asyncio.Queue a stream, on the same server"

BARE_TASK = "a bare task, future and wake-up a request"

PROMISES: tuple[Promise, ...] = (
    Promise("queue.bulk.1k", "ns", HEAPQ, ">=", 8),
    Promise("queue.call.1k", "ns", HEAPQ, ">=", 2.5),
    Promise("queue.bulk.1k.100t", "ns", HEAPQ, ">=", 4),
    Promise("queue.call.1k.100t", "ns", HEAPQ, ">=", 2),
    Promise("queue.bulk.1m", "ns", HEAPQ, ">=", 30),
    Promise("queue.call.1m", "ns", HEAPQ, ">=", 12),
    Promise("queue.growth.10m", "ns", "itself with 1,000 waiting", "<=", 1.5),
    Promise("queue.reheapify", "ns", "heapq re-keyed and heapified on every pop", "figure"),
    Promise("bucket.call.library", "ns", "the fastest rate-limit library", ">=", 10),
    Promise("bucket.call.python", "ns", PYTHON_BUCKET, ">=", 3),
    Promise("bucket.bulk", "ns", PYTHON_BUCKET, ">=", 40),
    Promise("request.call", "ns", HEAPQ, "<=", 0.25),
    Promise("request.bulk", "ns", HEAPQ, "<=", 0.1),
    Promise("request.face", "ns", HEAPQ, "<=", 1),
    Promise("request.10k_tenants", "ns", "itself with 2 tenants", "<=", 3),
    Promise("request.vllm", "ns", "vLLM's priority request queue, add + pop", "figure"),
    Promise("request.litellm", "ns", "LiteLLM's Scheduler, add_request + poll", "figure"),
    Promise("record.request", "ns", "one json.dumps of its submit line", "<=", 1),
    Promise("sim.light", "ns", STEP_LOOP, ">=", 20),
    Promise("sim.overload", "ns", STEP_LOOP, ">=", 60),
    Promise("sim.backlog", "ns", "itself with 1,000 waiting", "<=", 1.5),
    Promise("sim.simpy", "ns", "the same GPU as SimPy processes", "figure"),
    Promise("sim.memory", "GB", "", "<=", 2, of_value=True),
    Promise("driver.call", "ns", BARE_TASK, ">=", 0.35),
    Promise("http.64", "us", RAW_ASGI, ">=", 0.7),
    Promise("http.512", "us", RAW_ASGI, ">=", 0.7),
    Promise("store.64", "us", WITHOUT, "<=", 1.05),
    Promise("store.512", "us", WITHOUT, "<=", 1.05),
    Promise("sse.64", "ns", QUEUE_EACH, ">=", 1.3),
    Promise("sse.512", "ns", QUEUE_EACH, ">=", 1.3),
    Promise("memory.request", "bytes", "", "<=", 96, of_value=True),
)

BY_NAME: dict[str, Promise] = {promise.name: promise for promise in PROMISES}

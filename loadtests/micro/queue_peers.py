"""Other schedulers' queues in the hold model: add a request, take the best. Each is imported when it is measured."""

import asyncio
import contextlib
import importlib
import io
import os
from typing import Any

from loadtests.micro.load import Requests, Stream
from loadtests.micro.timing import Timed


class VLLM:
    """vLLM's waiting queue under its priority policy. Order only: no tenants, no rates, no KV.

    It orders requests by (priority, arrival time); a light stand-in carries just these, which flatters it.
    """

    def __init__(self, waiting: int, tenants: int, chunk: int) -> None:
        module = importlib.import_module("vllm.v1.core.sched.request_queue")
        self.queue: Any = module.create_request_queue(module.SchedulingPolicy.PRIORITY)
        self.stream = Stream(waiting, tenants)
        self.chunk = chunk
        for priority, arrived_at, number in columns(self.stream.initial):
            self.queue.add_request(Waiting(priority, arrived_at, number))

    def __call__(self) -> Timed:
        requests = columns(self.stream.take(self.chunk))

        def timed() -> int:
            pop, add = self.queue.pop_request, self.queue.add_request
            for priority, arrived_at, number in requests:
                pop()
                add(Waiting(priority, arrived_at, number))
            return len(requests)

        return timed


class Waiting:
    """What vLLM's queue reads of a request, and the order of its Request."""

    __slots__ = ("arrival_time", "priority", "request_id")

    def __init__(self, priority: int, arrival_time: float, request_id: str) -> None:
        self.priority = priority
        self.arrival_time = arrival_time
        self.request_id = request_id

    def __lt__(self, other: "Waiting") -> bool:
        if self.priority != other.priority:
            return self.priority < other.priority
        if self.arrival_time != other.arrival_time:
            return self.arrival_time < other.arrival_time
        return self.request_id < other.request_id


def columns(requests: Requests) -> list[tuple[int, float, str]]:
    """Priority (smaller first), arrival in seconds, id."""
    ids = [str(number) for number in requests.numbers.tolist()]
    return list(zip((10 - requests.bids).tolist(), requests.at.tolist(), ids, strict=True))


class LiteLLM:
    """LiteLLM's Scheduler with its in-memory cache: add a request, then poll once for the one at the head.

    Others' polls, every 3 ms by each that waits, come on top in use.
    """

    MODEL = "model"

    def __init__(self, waiting: int, tenants: int, chunk: int) -> None:
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no network
        with contextlib.redirect_stdout(io.StringIO()):
            self.module = importlib.import_module("litellm.scheduler")
        self.loop = asyncio.new_event_loop()
        self.scheduler: Any = self.module.Scheduler()
        self.stream = Stream(waiting, tenants)
        self.chunk = chunk
        queue = sorted(
            (priority, number) for priority, _, number in columns(self.stream.initial)
        )  # a sorted list is a heap
        self.loop.run_until_complete(self.scheduler.save_queue(queue, self.MODEL))

    def __call__(self) -> Timed:
        requests = columns(self.stream.take(self.chunk))

        async def hold() -> None:
            for priority, _, number in requests:
                await self.scheduler.add_request(self.item(priority, number))
                queue = await self.scheduler.get_queue(self.MODEL)
                if not await self.scheduler.poll(self.item(*queue[0]), []):
                    raise AssertionError("LiteLLM did not release the head of its queue")

        def timed() -> int:
            self.loop.run_until_complete(hold())
            return len(requests)

        return timed

    def item(self, priority: int, number: str) -> Any:
        return self.module.FlowItem(priority=priority, request_id=number, model_name=self.MODEL)

    def check(self) -> None:
        queue = self.loop.run_until_complete(self.scheduler.get_queue(self.MODEL))
        if len(queue) != len(self.stream.initial.bids):
            raise AssertionError(f"{len(queue)} wait at LiteLLM")

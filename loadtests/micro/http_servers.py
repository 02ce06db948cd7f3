"""The servers behind the HTTP rows, each a process of its own: `python -m loadtests.micro.http_servers NAME`.

`service` is `aps serve` as it is, with keys, 1,000 tenants and their buckets, a record of every call, and a simulated
GPU that is never the limit. The peers run on the same server (uvicorn, uvloop, httptools) and answer the same JSON.
Each prints its port.
"""

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from msgspec.json import Decoder, encode
from pydantic import BaseModel, ConfigDict
from starlette.types import Receive, Scope, Send

from aps.backends.simulated import SimulatedBackend
from aps.driver import Driver
from aps.policy import Limits
from aps.profiles import REFERENCE
from aps.record import Recorder
from aps.scheduler import Scheduler
from aps.service.access import Access
from aps.service.app import create_app
from aps.service.keeper import Keeper
from aps.service.keys import digest_of
from aps.service.server import listen, serve
from aps.service.wire import Chunk, InferAnswer, InferRequest, Verdict
from aps.store.database import Database
from aps.tenants import Tenant
from aps_core.step_time import ReferenceModel

TENANTS = 1000
METRICS_KEY = "aps_" + "m" * 43
STREAM_TOKENS = 64
STEP_S, STREAM_STEP_S = 2e-4, 1e-4  # wall seconds; with steps of 0.5 ms the GPU can be the limit of 64 connections
SAVE_S = 5.0  # as `aps serve` does
TOKEN = "scheduler "
ANSWER = InferAnswer(
    id="0123456789abcdef01234567",
    tenant_id="tenant_0123",
    text="the scheduler ",
    prompt_tokens=5,
    output_tokens=2,
    counted_by="bytes/4",
    seconds="simulated",
    time_scale=20.0,
    arrived_at=1234.567890123,
    queue_wait_s=0.123456789,
    ttft_s=0.234567891,
    e2e_s=0.345678912,
    batch_size=32,
    device=0,
    verdict=Verdict("admitted", "admitted", 7, False),
    charge=7.0,
)

# A step takes 10 ms of simulated time however many are in it: requests share steps, as on a GPU, ten times as fast.
FAST = replace(
    REFERENCE,
    name="fast",
    step_time=ReferenceModel(prefill_rate=1e9, decode_rate=100.0, speedup=1024.0, speedup_batch=1024),
)


def tenant(number: int) -> str:
    """The name of a tenant."""
    return f"tenant_{number:04}"


def key(number: int) -> str:
    """A tenant's key: as long as a real one."""
    return f"aps_{sha256(tenant(number).encode()).hexdigest()[:43]}"


def service(step_s: float, store: bool = False) -> None:
    """The whole of it, its record included, on a GPU of `step_s` wall seconds a step; store: with one in SQLite."""
    backend = SimulatedBackend(FAST, time_scale=0.01 / step_s, slots=1024, kv_tokens=1 << 24)
    tenants = [Tenant(tenant(n), rate=1e9, burst=1e9, weight=1 + n % 3) for n in range(TENANTS)]
    keys = {tenant(n): [digest_of(key(n).encode())] for n in range(TENANTS)}
    access = Access(keys, metrics=digest_of(METRICS_KEY.encode()))
    scheduler = Scheduler(tenants, devices=backend.devices, limits=Limits(max_queued=None))
    with tempfile.TemporaryDirectory() as folder, Recorder(Path(folder) / "bench.jsonl", files=2) as recorder:
        driver = Driver(scheduler, backend, recorder=recorder)
        keeper = None
        if store:
            database = Database(str(Path(folder) / "aps.db"))
            database.upgrade()
            keeper = Keeper(database, driver, interval_s=SAVE_S, uses=access.uses)
            keeper.restore()
        app = create_app(driver, access=access, recorder=recorder, keeper=keeper)
        listener = listen("127.0.0.1", 0)
        print(listener.getsockname()[1], flush=True)
        serve(app, driver, listener, drain_s=1.0, say=lambda _: None, log_level="warning")


_decode = Decoder(InferRequest).decode


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the request, answers an answer, and does nothing between: what ASGI and JSON cost alone."""
    _decode((await receive())["body"])
    answer = encode(ANSWER)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


class Queues:
    """The usual way to stream: an asyncio.Queue a request, a chunk a token; the engine takes a step each loop turn."""

    def __init__(self) -> None:
        self._queues: dict[asyncio.Queue[str], int] = {}
        self._engine: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = _decode((await receive())["body"])
        tokens = asked.max_tokens or 0
        queue: asyncio.Queue[str] = asyncio.Queue()
        self._queues[queue] = tokens
        if self._engine is None or self._engine.done():
            self._engine = asyncio.create_task(self._run())
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number in range(1, tokens + 1):
            chunk = b"data: " + encode(Chunk(ANSWER.id, await queue.get(), number)) + b"\n\n"
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        end = b"data: " + encode(ANSWER) + b"\n\ndata: [DONE]\n\n"
        await send({"type": "http.response.body", "body": end})

    async def _run(self) -> None:
        queues = self._queues
        while queues:
            for queue in tuple(queues):
                queue.put_nowait(TOKEN)
                queues[queue] -= 1
                if not queues[queue]:
                    del queues[queue]
            await asyncio.sleep(0)  # every stream that was woken sends before the next step


class Asked(BaseModel):
    """The request, as FastAPI's users write it."""

    model_config = ConfigDict(strict=True, extra="forbid")

    tenant_id: str
    prompt: str
    max_tokens: int
    bid: int
    stream: bool


class Given(BaseModel):
    """The answer, as FastAPI's users write it."""

    id: str
    tenant_id: str
    text: str
    prompt_tokens: int
    output_tokens: int
    counted_by: str
    seconds: str
    time_scale: float
    arrived_at: float
    queue_wait_s: float
    ttft_s: float
    e2e_s: float
    batch_size: int
    device: int
    verdict: dict[str, str | int | bool]
    charge: float


def plain_fastapi() -> FastAPI:
    """A route with a model in and a model out."""
    app = FastAPI()
    given = {name: getattr(ANSWER, name) for name in ANSWER.__struct_fields__}
    given["verdict"] = {"status": "admitted", "reason": "admitted", "bid": 7, "clamped": False}

    @app.post("/infer")
    async def infer(asked: Asked) -> Given:
        return Given(**given)

    return app


def run(app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
    """Serve a peer, with the options that ours is served with."""
    listener = listen("127.0.0.1", 0)
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(
        app,
        loop="auto",
        http="httptools",
        interface="asgi3",
        access_log=False,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
    )
    uvicorn.Server(config).run(sockets=[listener])


SERVERS: dict[str, Callable[[], None]] = {
    "service": lambda: service(STEP_S),
    "kept": lambda: service(STEP_S, store=True),
    "stream": lambda: service(STREAM_STEP_S),
    "echo": lambda: run(echo),
    "queue": lambda: run(Queues()),
    "fastapi": lambda: run(plain_fastapi()),
}

if __name__ == "__main__":
    SERVERS[sys.argv[1]]()

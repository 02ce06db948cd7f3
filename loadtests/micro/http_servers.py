"""The servers behind the HTTP rows, each a process of its own: `python -m loadtests.micro.http_servers NAME`.

`service` is `aps serve` as it is, with keys, 1,000 tenants and their buckets, and a simulated GPU that is never the
limit. The peers run on the same server (uvicorn, uvloop, httptools) and answer the same JSON. Each prints its port.
"""

import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from hashlib import sha256

import uvicorn
from fastapi import FastAPI
from msgspec.json import Decoder, encode
from pydantic import BaseModel, ConfigDict
from starlette.types import Receive, Scope, Send

from aps.backends.simulated import SimulatedBackend
from aps.driver import Driver
from aps.policy import Limits
from aps.profiles import REFERENCE
from aps.scheduler import Scheduler
from aps.service.access import Access
from aps.service.app import create_app
from aps.service.config import Settings
from aps.service.server import listen, serve
from aps.service.wire import InferAnswer, InferRequest, Verdict
from aps.tenants import Tenant
from aps_core.step_time import ReferenceModel

TENANTS = 1000
TEXT = "the scheduler gives every "
ANSWER = InferAnswer(
    id="0123456789abcdef01234567",
    tenant_id="tenant_0123",
    text=TEXT,
    prompt_tokens=5,
    output_tokens=4,
    counted_by="bytes/4",
    seconds="simulated",
    time_scale=1000.0,
    arrived_at=1234.567890123,
    queue_wait_s=0.123456789,
    ttft_s=0.234567891,
    e2e_s=0.345678912,
    batch_size=32,
    device=0,
    verdict=Verdict("admitted", "admitted", 7, False),
    charge=9.0,
)

# A step takes 0.5 ms of this machine's time at the scale below, however many are in it: requests share steps, as on a
# GPU, and 64 connections that ask again at once could be served 50,000 times a second.
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


def service() -> None:
    """The whole of it."""
    from aps.service.keys import digest_of

    backend = SimulatedBackend(FAST, time_scale=20.0, slots=1024, kv_tokens=1 << 24)
    tenants = [Tenant(tenant(n), rate=1e9, burst=1e9, weight=1 + n % 3) for n in range(TENANTS)]
    access = Access({tenant(n): [digest_of(key(n).encode())] for n in range(TENANTS)})
    driver = Driver(Scheduler(tenants, devices=backend.devices, limits=Limits(max_queued=None)), backend)
    app = create_app(driver, settings=Settings(), access=access)
    listener = listen("127.0.0.1", 0)
    print(listener.getsockname()[1], flush=True)
    serve(app, driver, listener, drain_s=1.0, say=lambda _: None, log_level="warning")


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the request, answers an answer, and does nothing between: what ASGI and JSON cost alone."""
    body = (await receive())["body"]
    ANSWER.prompt_tokens = len(_decode(body).prompt or "")
    answer = encode(ANSWER)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


_decode = Decoder(InferRequest).decode


class Asked(BaseModel):
    """The request, as FastAPI's users write it."""

    model_config = ConfigDict(strict=True, extra="forbid")

    tenant_id: str
    prompt: str
    max_tokens: int
    bid: int


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
    given = Given(**({name: getattr(ANSWER, name) for name in ANSWER.__struct_fields__} | {"verdict": {"bid": 7}}))

    @app.post("/infer")
    async def infer(asked: Asked) -> Given:
        return given

    return app


def run(app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
    """Serve a peer."""
    listener = listen("127.0.0.1", 0)
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(app, loop="uvloop", http="httptools", access_log=False, log_level="warning")
    uvicorn.Server(config).run(sockets=[listener])


SERVERS: dict[str, Callable[[], None]] = {
    "service": service,
    "echo": lambda: run(echo),
    "fastapi": lambda: run(plain_fastapi()),
}

if __name__ == "__main__":
    SERVERS[sys.argv[1]]()

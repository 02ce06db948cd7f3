"""The application: a driver behind HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from aps.driver import Driver
from aps.service import errors, routes
from aps.service.limits import BodyLimit, BodyReader
from aps.service.version import VERSION

MAX_BODY_BYTES = 1 << 20
BODY_S = 30.0

DESCRIPTION = """Adaptive Priority Scheduling: several tenants share a few GPUs.

Seconds in bodies are those of the service's clock; with a simulated backend they are simulated, and the answer says so.
`Retry-After` and `retry_after_s` are seconds of *your* clock. Every error has the shape
`{"error": {"reason", "message", ...}}`.
"""


def create_app(
    driver: Driver, *, gpu_hour_dollars: float, max_body_bytes: int = MAX_BODY_BYTES, body_s: float = BODY_S
) -> FastAPI:
    """The ASGI application around `driver`, which it opens when the server starts and closes when it stops.

    gpu_hour_dollars: the price of one GPU-hour behind the dollar figures of `GET /metrics`.
    max_body_bytes, body_s: how large the body of a request may be, and how many wall seconds it may take to arrive.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with driver:
            yield

    app = FastAPI(title="APS", version=VERSION, description=DESCRIPTION, lifespan=lifespan, redoc_url=None)
    app.state.driver = driver
    app.state.gpu_hour_dollars = gpu_hour_dollars
    app.state.bodies = BodyReader(body_s)
    app.add_middleware(BodyLimit, max_bytes=max_body_bytes)
    errors.install(app)
    app.include_router(routes.router)
    return app

"""The application: a driver behind HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from aps.driver import Driver
from aps.service import errors, routes
from aps.service.access import Access
from aps.service.config import Settings
from aps.service.limits import BodyLimit, BodyReader
from aps.service.version import VERSION

DESCRIPTION = """Adaptive Priority Scheduling: several tenants share a few GPUs.

Seconds in bodies are those of the service's clock; with a simulated backend they are simulated, and the answer says so.
`Retry-After` and `retry_after_s` are seconds of *your* clock. Every error has the shape
`{"error": {"reason", "message", ...}}`.
"""


def create_app(driver: Driver, *, settings: Settings | None = None, access: Access | None = None) -> FastAPI:
    """The ASGI application around `driver`, which it opens when the server starts and closes when it stops.

    settings: limits and prices; the defaults when None. access: the keys; None: the service is open to all.
    """
    settings, access = settings or Settings(), access or Access()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with driver:
            yield

    app = FastAPI(title="APS", version=VERSION, description=DESCRIPTION, lifespan=lifespan, redoc_url=None)
    app.state.driver = driver
    app.state.settings = settings
    app.state.access = access
    app.state.bodies = BodyReader(settings.body_s)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    errors.install(app)
    app.include_router(routes.router)
    return app

"""The application: a driver behind HTTP."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from aps.driver import Driver
from aps.service import docs_page, errors, openapi, pages, routes
from aps.service.access import Access
from aps.service.answers import Answers
from aps.service.config import Settings
from aps.service.exchange import Parties
from aps.service.infer import Infer
from aps.service.limits import BodyLimit, BodyReader
from aps.service.logs import RequestLog
from aps.service.metrics import Exporter
from aps.service.paths import TextPaths
from aps.service.pending import Pending
from aps.service.request_ids import naming
from aps.service.requests import Requests
from aps.service.routes import HEAD
from aps.service.streaming import Streams
from aps.service.traffic import Traffic
from aps.service.version import VERSION

if TYPE_CHECKING:
    from aps.record import Recorder  # not for those who record nothing
    from aps.service.keeper import Keeper  # SQLAlchemy: not for those who keep nothing
    from aps.service.tracing import Tracing

DESCRIPTION = """Adaptive Priority Scheduling: several tenants share a few GPUs.

Seconds in bodies are those of the service's clock; with a simulated backend they are simulated, and the answer says so.
`Retry-After` and `retry_after_s` are seconds of *your* clock. Every error has the shape
`{"error": {"reason", "message", ...}}`.
"""


class Service(FastAPI):
    """FastAPI, with `POST /infer` taken before its middleware and router."""

    def __init__(self, infer: Infer, **options: Any) -> None:
        super().__init__(**options)
        self.infer = infer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if scope["path"] == "/infer" and scope["method"] == "POST":
                await self.infer(scope, receive, send)
                return
            if scope["method"] == "HEAD":
                scope = {**scope, "method": "GET", HEAD: True}  # the server, which still knows, leaves the body out
            send = naming(scope, send)
        await super().__call__(scope, receive, send)


def create_app(
    driver: Driver,
    *,
    settings: Settings | None = None,
    access: Access | None = None,
    log: RequestLog | None = None,
    recorder: "Recorder | None" = None,
    tracing: "Tracing | None" = None,
    keeper: "Keeper | None" = None,
) -> Service:
    """The ASGI application around `driver`, which it opens when the server starts and closes when it stops.

    settings: limits and prices; the defaults when None. access: the keys; None: the service is open to all. log: gets
    a line a request; None: nobody does. recorder: the driver's, to be looked at. tracing: gets every request. keeper:
    the driver's, whose run has begun; None: nothing is kept.

    What is put into `app.state.beside` before the server starts is entered after the driver, and left before it.
    """
    settings, access = settings or Settings(), access or Access()

    beside: list[AbstractAsyncContextManager[None]] = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if keeper is not None:
                await stack.enter_async_context(keeper)  # the first, so that its last save has all that there was
            await stack.enter_async_context(driver)
            for part in beside:
                await stack.enter_async_context(part)
            yield

    tenants = driver.scheduler.tenants
    pending = Pending(settings.max_pending_bytes, tenants)
    bodies = BodyReader(settings.max_body_bytes, settings.body_s, pending)
    answers = Answers(driver)
    requests = Requests(driver, settings, answers)
    streams = Streams(driver, answers, settings.comment_s)
    traffic = Traffic(settings.max_connections)
    parties = Parties(driver, tenants, access, answers, requests, pending, log, tracing, traffic)
    infer = Infer(parties, bodies, streams)
    app = Service(
        infer, title="APS", version=VERSION, description=DESCRIPTION, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.driver = driver
    app.state.beside = beside
    app.state.settings = settings
    app.state.access = access
    app.state.bodies = bodies
    app.state.recorder = recorder
    app.state.requests = requests
    app.state.keeper = keeper
    app.state.traffic = traffic
    app.state.exporter = Exporter(driver, recorder, keeper, pending, traffic)
    driver.window_s = settings.jain_window_s
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, pending=pending)
    app.add_middleware(TextPaths)
    app.router.redirect_slashes = False  # to wherever the request's `Host` says
    errors.install(app)
    app.include_router(routes.router)
    app.include_router(pages.router)
    app.include_router(docs_page.router)
    app.router.routes.append(Route("/infer", infer, methods=["POST"]))  # any other method is 405
    openapi.install(app, lambda: not app.state.access.open)
    return app

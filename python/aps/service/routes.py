"""The routes."""

import asyncio
import secrets
from math import inf, isinf
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import ValidationError

from aps.driver import Driver, Result
from aps.metrics import Histogram
from aps.service import prometheus
from aps.service.access import REFUSALS, Identified, reads_metrics, reads_tenant
from aps.service.errors import MEANING, invalid
from aps.service.metrics import page
from aps.service.refusals import refusal_of, unknown_tenant
from aps.service.schemas import (
    Bucket,
    ErrorAnswer,
    Health,
    InferAnswer,
    InferRequest,
    Percentiles,
    Share,
    TenantStatus,
    Verdict,
    openapi_body,
)
from aps.service.version import VERSION

router = APIRouter()
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text} for status, text in MEANING.items()
}


@router.post("/infer", response_model=InferAnswer, responses=ERRORS, openapi_extra=openapi_body(InferRequest))
async def infer(request: Request, role: Identified) -> Response:
    """Generate. Waits its turn, then for its last token. A client that disconnects cancels its request."""
    try:
        asked = InferRequest.model_validate_json(await request.app.state.bodies.read(request))
    except ValidationError as error:
        raise invalid(error) from None
    role.tenant_for(asked.tenant_id)
    driver: Driver = request.app.state.driver
    if asked.tenant_id not in driver.scheduler.tenants:
        raise unknown_tenant(asked.tenant_id)
    prompt_tokens, counted_by = _count(driver, asked)
    ticket = driver.submit(
        asked.tenant_id,
        prompt=asked.prompt,
        prompt_tokens=prompt_tokens,
        max_tokens=asked.max_tokens,
        bid=asked.bid,
        deadline_s=asked.deadline_s,
        id=secrets.token_hex(12),
    )
    watch = asyncio.ensure_future(_cancel_when_gone(request, driver, ticket.id))
    try:
        result = await ticket.result()
    except asyncio.CancelledError:
        driver.cancel(ticket.id)
        raise
    finally:
        watch.cancel()
    if result.status != "finished":
        raise refusal_of(result, asked, prompt_tokens, driver)
    return Response(_answer(result, counted_by, driver).model_dump_json(), media_type="application/json")


@router.get(
    "/metrics",
    response_class=Response,
    responses=REFUSALS | {200: {"content": {prometheus.CONTENT_TYPE: {}}}},
    dependencies=[Depends(reads_metrics)],
)
async def metrics(request: Request) -> Response:
    """The service's counters in the Prometheus text format."""
    state = request.app.state
    return Response(page(state.driver, state.settings.gpu_hour_dollars), media_type=prometheus.CONTENT_TYPE)


@router.get("/health", response_model=Health, responses={503: {"model": Health, "description": "It has failed."}})
async def health(request: Request) -> Response:
    """Whether it runs and takes requests. 200 while it runs, draining included: restart it when it is not."""
    state = _health(request.app.state.driver)
    return Response(state.model_dump_json(), 200 if state.live else 503, media_type="application/json")


@router.get("/health/ready", response_model=Health, responses={503: {"model": Health, "description": "Not ready."}})
async def ready(request: Request) -> Response:
    """200 while it takes requests, else 503: send requests elsewhere."""
    state = _health(request.app.state.driver)
    return Response(state.model_dump_json(), 200 if state.ready else 503, media_type="application/json")


@router.get(
    "/tenants/{tenant_id}/status",
    response_model=TenantStatus,
    responses=REFUSALS | {404: {"model": ErrorAnswer, "description": MEANING[404]}},
    dependencies=[Depends(reads_tenant)],
)
async def tenant_status(request: Request, tenant_id: str) -> TenantStatus:
    """A tenant's bucket, queue, share and waits."""
    return _status(request.app.state.driver, tenant_id)


@router.get("/", include_in_schema=False)
async def root() -> RedirectResponse:
    """To the page that documents the service."""
    return RedirectResponse("/docs")


async def _cancel_when_gone(request: Request, driver: Driver, id: object) -> None:
    """Cancel the request when its client disconnects. The body has been read: nothing else can come."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    driver.cancel(id)


def _count(driver: Driver, asked: InferRequest) -> tuple[int, str]:
    """The prompt's tokens, and who counted them."""
    if asked.prompt is None:
        assert asked.prompt_tokens is not None
        return asked.prompt_tokens, "caller"
    tokens = driver.backend.count_tokens(asked.prompt)
    if tokens is not None:
        return max(1, tokens), "tokenizer"
    return -(-len(asked.prompt.encode()) // 4), "bytes/4"


def _answer(result: Result, counted_by: str, driver: Driver) -> InferAnswer:
    return InferAnswer.model_construct(
        id=result.id,
        tenant_id=result.tenant,
        text=result.text,
        prompt_tokens=result.prompt_tokens,
        output_tokens=result.output_tokens,
        counted_by=counted_by,
        seconds=_seconds(driver),
        time_scale=driver.backend.time_scale,
        arrived_at=_nanoseconds(result.arrived_at - driver.opened_at),
        queue_wait_s=_nanoseconds(result.queue_wait_s),
        ttft_s=_nanoseconds(result.ttft_s),
        e2e_s=_nanoseconds(result.e2e_s),
        batch_size=result.batch_size,
        device=result.device,
        verdict=Verdict.model_construct(
            status="admitted", reason=result.verdict.reason, bid=result.verdict.bid, clamped=result.verdict.clamped
        ),
        charge=result.charge,
    )


def _nanoseconds(seconds: float | None) -> float | None:
    """Instants are whole nanoseconds; below that there is only rounding."""
    return None if seconds is None else max(0.0, round(seconds, 9))


def _seconds(driver: Driver) -> str:
    return "simulated" if driver.backend.simulated else "wall"


def _health(driver: Driver) -> Health:
    scheduler = driver.scheduler
    broken = [health.detail for health in map(driver.backend.health, range(len(scheduler.devices))) if not health.ok]
    return Health.model_construct(
        live=driver.failed is None,
        ready=driver.failed is None and not driver.draining and len(broken) < len(scheduler.devices),
        draining=driver.draining,
        version=VERSION,
        profile=driver.backend.profile,
        policy=scheduler.policy.knobs,
        devices=len(scheduler.devices),
        slots=sum(device.slots for device in scheduler.devices),
        tenants=len(scheduler.tenants),
        waiting=scheduler.waiting,
        seconds=_seconds(driver),
        time_scale=driver.backend.time_scale,
        now_s=driver.now - driver.opened_at,
    )


def _status(driver: Driver, name: str) -> TenantStatus:
    snapshot = driver.snapshot()
    row = snapshot.tenants.get(name)
    tenant = driver.scheduler.tenants.get(name)
    if row is None:
        raise unknown_tenant(name)
    counted = driver.metrics.tenants.get(name)
    given = sum(other.prompt_tokens + other.output_tokens for other in snapshot.tenants.values())
    weights = sum(other.weight for other in snapshot.tenants.values())
    return TenantStatus(
        tenant_id=name,
        state=row.state,
        bucket=Bucket(
            rate=_finite(tenant.rate if tenant else inf),
            burst=_finite(tenant.burst if tenant else inf),
            level=_finite(row.level),
            debt=max(0.0, -row.level),
            over_rate=tenant.over_rate if tenant else "refuse",
        ),
        waiting=row.waiting,
        waiting_tokens=row.waiting_tokens,
        in_flight=row.in_flight,
        contending=row.contending,
        in_window=row.in_window,
        share=Share(
            weight=row.weight,
            promised=row.weight / weights,
            received=(row.prompt_tokens + row.output_tokens) / given if given else None,
        ),
        requests={
            outcome: getattr(row, outcome)
            for outcome in (
                "admitted",
                "throttled",
                "rejected",
                "started",
                "finished",
                "cancelled",
                "expired",
                "preempted",
            )
        },
        queue_wait_s=_percentiles(counted.queue_wait) if counted else None,
        ttft_s=_percentiles(counted.ttft) if counted else None,
        e2e_s=_percentiles(counted.e2e) if counted else None,
    )


def _percentiles(times: Histogram) -> Percentiles | None:
    p50, p95, p99 = (times.quantile(q) for q in (0.5, 0.95, 0.99))
    if p50 is None or p95 is None or p99 is None:
        return None
    return Percentiles(count=times.count, p50=round(p50, 9), p95=round(p95, 9), p99=round(p99, 9))


def _finite(value: float) -> float | None:
    return None if isinf(value) else value

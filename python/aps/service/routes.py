"""The routes."""

from math import inf, isinf

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response

from aps.driver import Driver
from aps.metrics import Histogram
from aps.service import prometheus
from aps.service.access import REFUSALS, Identified, reads_metrics, reads_tenant
from aps.service.metrics import page
from aps.service.openapi import error
from aps.service.refusals import unknown_tenant
from aps.service.requests import Requests
from aps.service.schemas import Bucket, Health, Percentiles, Share, TenantStatus
from aps.service.version import VERSION
from aps.service.wire import RequestState, encode

router = APIRouter()


@router.get("/requests/{id}", include_in_schema=False)
async def request_state(request: Request, id: str, role: Identified) -> Response:
    """Where a request stands, or how it ended. The document: `openapi`."""
    return _json(_requests(request).state(id, role))


@router.delete("/requests/{id}", include_in_schema=False)
async def cancel_request(request: Request, id: str, role: Identified) -> Response:
    """End a request. What it did not use is given back. The document: `openapi`."""
    return _json(_requests(request).cancel(id, role))


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
    responses=REFUSALS | {404: error("No such tenant.")},
    dependencies=[Depends(reads_tenant)],
)
async def tenant_status(request: Request, tenant_id: str) -> TenantStatus:
    """A tenant's bucket, queue, share and waits."""
    return _status(request.app.state.driver, tenant_id)


@router.get("/", include_in_schema=False)
async def root() -> RedirectResponse:
    """To the page that documents the service."""
    return RedirectResponse("/docs")


def _requests(request: Request) -> Requests:
    requests: Requests = request.app.state.requests
    return requests


def _json(state: RequestState) -> Response:
    return Response(encode(state), media_type="application/json")


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

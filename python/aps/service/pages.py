"""The routes that an operator looks at: metrics, health, a tenant's status."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from aps.service import prometheus
from aps.service.access import REFUSALS, is_operator, reads_metrics, reads_tenant
from aps.service.health import Health, health_of
from aps.service.metrics import Exporter
from aps.service.openapi import error
from aps.service.status import TenantStatus, status_of
from aps.service.wire import encode

JSON = "application/json"

Operator = Annotated[bool, Depends(is_operator)]

router = APIRouter()


@router.get(
    "/metrics",
    response_class=Response,
    responses=REFUSALS | {200: {"content": {prometheus.CONTENT_TYPE: {}, JSON: {}}, "description": "By `Accept`."}},
    dependencies=[Depends(reads_metrics)],
)
async def metrics(request: Request) -> Response:
    """The service's counters: the Prometheus text format, or JSON when `Accept` prefers `application/json`."""
    state = request.app.state
    exporter: Exporter = state.exporter
    page = exporter.page(state.settings)
    headers = {"vary": "accept"}
    if wants_json(request.headers.get("accept", "")):
        return Response(encode(page.data()), headers=headers, media_type=JSON)
    return Response(page.render(), headers=headers, media_type=prometheus.CONTENT_TYPE)


@router.get("/health", response_model=Health, responses={503: {"model": Health, "description": "It has failed."}})
@router.get("/health/live", response_model=Health, responses={503: {"model": Health, "description": "It has failed."}})
async def health(request: Request, whole: Operator) -> Response:
    """Whether it runs. 200 while it does, draining included: start it again when it does not."""
    state = health_of(request.app.state.driver, request.app.state.keeper, whole=whole)
    return Response(state.model_dump_json(), 200 if state.live else 503, media_type=JSON)


@router.get("/health/ready", response_model=Health, responses={503: {"model": Health, "description": "Not ready."}})
async def ready(request: Request, whole: Operator) -> Response:
    """200 while it takes requests, else 503: send requests elsewhere."""
    state = health_of(request.app.state.driver, request.app.state.keeper, whole=whole)
    return Response(state.model_dump_json(), 200 if state.ready else 503, media_type=JSON)


@router.get(
    "/tenants/{tenant_id}/status",
    response_model=TenantStatus,
    responses=REFUSALS | {404: error("No such tenant.")},
    dependencies=[Depends(reads_tenant)],
)
async def tenant_status(request: Request, tenant_id: str) -> TenantStatus:
    """A tenant's bucket, queue, share and waits."""
    return status_of(request.app.state.driver, tenant_id)


def wants_json(accept: str) -> bool:
    """Whether a header prefers JSON to text: a higher q, the more exact range first. Text when it says nothing."""
    return _quality(accept, JSON) > _quality(accept, "text/plain")


def _quality(accept: str, kind: str) -> float:
    """The q of a media type: that of the most exact range that it is in, 0 when it is in none."""
    ranges = (kind, f"{kind.partition('/')[0]}/*", "*/*")
    found = {}
    for part in accept.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        if name in ranges:
            found[ranges.index(name)] = _q(parameters)
    return found[min(found)] if found else 0.0


def _q(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0

"""What `/health` and the tenants' status say over the wire."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field


class Health(BaseModel):
    """Whether the service runs (`live`) and takes requests (`ready`)."""

    live: bool
    ready: bool
    draining: bool
    version: str
    profile: str
    policy: Annotated[str, Field(description="The two knobs.")]
    devices: int
    slots: int
    tenants: int
    waiting: int
    seconds: Literal["simulated", "wall"]
    time_scale: float
    now_s: Annotated[float, Field(description="The service's clock, since it started.")]


class Percentiles(BaseModel):
    """Of the tenant's requests since the start, in seconds of the service's clock, within 1 %."""

    count: Annotated[int, Field(description="How many requests these are over.")]
    p50: float
    p95: float
    p99: float


class Bucket(BaseModel):
    """The tenant's token bucket. Null: no limit."""

    rate: Annotated[float | None, Field(description="Tokens a second of the service's clock.")]
    burst: float | None
    level: Annotated[float | None, Field(description="What it can pay now; negative when in debt.")]
    debt: Annotated[float, Field(description="What it owes: the level below zero.")]
    over_rate: Literal["refuse", "queue"]


class Share(BaseModel):
    """Parts of the service, 0 to 1."""

    weight: float
    promised: Annotated[float, Field(description="Its weight over the sum of all tenants' weights.")]
    received: Annotated[
        float | None,
        Field(description="Its part of all prompt and output tokens since the start; null before the first."),
    ]


class TenantStatus(BaseModel):
    """A tenant now."""

    tenant_id: str
    state: Literal["active", "draining"]
    bucket: Bucket
    waiting: int
    waiting_tokens: int
    in_flight: int
    contending: Annotated[bool, Field(description="Whether its first request may go by its own limits.")]
    in_window: Annotated[bool, Field(description="Whether it may be served now by its share.")]
    share: Share
    requests: Annotated[dict[str, int], Field(description="Counts since the start, by what became of them.")]
    queue_wait_s: Percentiles | None
    ttft_s: Percentiles | None
    e2e_s: Percentiles | None

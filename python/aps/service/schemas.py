"""What goes over the wire: the request, the answer, the error. Unknown fields and loose types are refused."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

INT32_MAX = 2**31 - 1
Tokens = Annotated[int, Field(ge=1, le=INT32_MAX)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


class InferRequest(BaseModel):
    """One request to generate. Exactly one of `prompt` and `prompt_tokens`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    tenant_id: Annotated[str, Field(min_length=1, max_length=256, description="Who asks.", examples=["tenant_a"])]
    prompt: Annotated[
        str | None, Field(min_length=1, description="The prompt's text.", examples=["Why is the sky blue?"])
    ] = None
    prompt_tokens: Annotated[Tokens | None, Field(description="The prompt's length, in place of its text.")] = None
    max_tokens: Annotated[
        Tokens | None, Field(description="Output tokens at most; else the tenant's `default_max_tokens` (256).")
    ] = None
    bid: Annotated[
        int | None,
        Field(
            ge=1,
            le=10,
            description="Urgency, 10 the highest; else the tenant's `default_bid`. Lowered to its `max_bid`.",
        ),
    ] = None
    deadline_s: Annotated[
        Seconds | None,
        Field(description="Seconds of the service's clock after arrival; not started by then, it ends with 504."),
    ] = None

    @model_validator(mode="after")
    def _one_prompt(self) -> "InferRequest":
        if (self.prompt is None) == (self.prompt_tokens is None):
            raise ValueError("give exactly one of prompt and prompt_tokens")
        return self


class Verdict(BaseModel):
    """What admission said."""

    status: Literal["admitted"]
    reason: str
    bid: Annotated[int, Field(description="The bid it has.")]
    clamped: Annotated[bool, Field(description="Whether the bid was lowered to the tenant's `max_bid`.")]


class InferAnswer(BaseModel):
    """A finished request. Times are seconds of the service's clock: simulated ones when `seconds` says so."""

    id: Annotated[str, Field(description="Of the request.")]
    tenant_id: str
    text: str
    prompt_tokens: int
    output_tokens: int
    counted_by: Annotated[
        Literal["tokenizer", "bytes/4", "caller"],
        Field(description="Who counted the prompt: the backend's tokenizer, ceil(UTF-8 bytes / 4), or the caller."),
    ]
    seconds: Annotated[
        Literal["simulated", "wall"], Field(description="simulated: `time_scale` of these pass in one second of yours.")
    ]
    time_scale: float
    arrived_at: Annotated[float, Field(description="Arrival: seconds since the service started.")]
    queue_wait_s: Annotated[float, Field(description="Arrival to the first scheduled step.")]
    ttft_s: Annotated[float, Field(description="Arrival to the first output token.")]
    e2e_s: Annotated[float, Field(description="Arrival to the last output token.")]
    batch_size: Annotated[int, Field(description="Requests running on its device when it started, itself included.")]
    device: Annotated[int, Field(description="The device it ran on.")]
    verdict: Verdict
    charge: Annotated[float, Field(description="Tokens its bucket paid in the end, bid premium included.")]


class Error(BaseModel):
    """Why the answer is no. `reason` is for programs, `message` for people."""

    reason: Annotated[str, Field(examples=["over_rate"])]
    message: str
    field: Annotated[str | None, Field(description="The field of the request that is wrong.")] = None
    retry_after_s: Annotated[
        float | None,
        Field(description="Seconds of your clock after which to try again; `Retry-After` is this rounded up."),
    ] = None
    largest_max_tokens: Annotated[
        int | None, Field(description="The largest max_tokens that would do with this prompt and bid; 0: none would.")
    ] = None
    burst: Annotated[float | None, Field(description="The tenant's burst, in tokens; absent when it has no limit.")] = (
        None
    )
    problems: Annotated[list[str] | None, Field(description="All that is wrong in a configuration.")] = None


class ErrorAnswer(BaseModel):
    """The one shape of every error."""

    error: Error


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


def openapi_body(model: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI `requestBody` of a route that reads its body itself."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}}

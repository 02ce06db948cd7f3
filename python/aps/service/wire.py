"""What `/infer` and `/requests` say over the wire, both ways. Decoding checks: unknown fields, loose types are refused.

The OpenAPI document takes its schemas from these types, so what it says is what is checked.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, UnsetType, json

INT32_MAX = 2**31 - 1

Tokens = Annotated[int, Meta(ge=1, le=INT32_MAX)]
WHOLE = "Written without a fraction or an exponent."


class InferRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """One request to generate. Exactly one of `prompt` and `prompt_tokens`; `stream` only while `wait`.

    null is as if the field were left out.
    """

    tenant_id: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=256,
                description="Who asks. With a tenant's key it may be left out, and must be that tenant.",
                examples=["tenant_a"],
            ),
        ]
        | None
    ) = None
    prompt: (
        Annotated[str, Meta(min_length=1, description="The prompt's text.", examples=["Why is the sky blue?"])] | None
    ) = None
    prompt_tokens: Annotated[Tokens, Meta(description=f"The prompt's length, in place of its text. {WHOLE}")] | None = (
        None
    )
    max_tokens: (
        Annotated[
            Tokens, Meta(description=f"Output tokens at most; else the tenant's `default_max_tokens` (256). {WHOLE}")
        ]
        | None
    ) = None
    bid: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=10,
                description="Urgency, 10 the highest; else the tenant's `default_bid`. Lowered to its `max_bid`. "
                + WHOLE,
            ),
        ]
        | None
    ) = None
    deadline_s: (
        Annotated[
            float,
            Meta(
                gt=0,
                le=86_400,
                description="Seconds of the service's clock after arrival; not started by then, it ends with 504.",
            ),
        ]
        | None
    ) = None
    stream: Annotated[bool, Meta(description="Send the output as it comes, as server-sent events.")] | None = False
    wait: (
        Annotated[bool, Meta(description="false: answer 202 with an id at once; see `GET /requests/{id}`.")] | None
    ) = True


class Verdict(Struct):
    """What admission said."""

    status: Literal["admitted"]
    reason: str
    bid: Annotated[int, Meta(description="The bid it has.")]
    clamped: Annotated[bool, Meta(description="Whether the bid was lowered to the tenant's `max_bid`.")]


CountedBy = Annotated[
    Literal["tokenizer", "bytes/4", "caller"],
    Meta(description="Who counted the prompt: the backend's tokenizer, ceil(UTF-8 bytes / 4), or the caller."),
]
Seconds = Literal["simulated", "wall"]


class InferAnswer(Struct):
    """A finished request. Times are seconds of the service's clock: simulated ones when `seconds` says so."""

    id: Annotated[str, Meta(description="Of the request.")]
    tenant_id: str
    text: Annotated[str, Meta(description="Not in the last event of a stream, which has sent it.")] | UnsetType
    prompt_tokens: int
    output_tokens: int
    counted_by: CountedBy
    seconds: Annotated[Seconds, Meta(description="simulated: `time_scale` of these pass in one second of yours.")]
    time_scale: float
    arrived_at: Annotated[float, Meta(description="Arrival: seconds since the service started.")]
    queue_wait_s: Annotated[float, Meta(description="Arrival to the first scheduled step.")]
    ttft_s: Annotated[float, Meta(description="Arrival to the first output token.")]
    e2e_s: Annotated[float, Meta(description="Arrival to the last output token.")]
    batch_size: Annotated[int, Meta(description="Requests running on its device when it started, itself included.")]
    device: Annotated[int, Meta(description="The device it ran on.")]
    verdict: Verdict
    charge: Annotated[float, Meta(description="Tokens its bucket paid in the end, bid premium included.")]


class Accepted(Struct, kw_only=True):
    """A request that nobody waits for (`wait: false`). Its answer: `GET /requests/{id}`, the `Location`."""

    id: str
    tenant_id: str
    prompt_tokens: int
    counted_by: CountedBy
    verdict: Verdict


class Chunk(Struct):
    """One event of a stream: the text of all output tokens that were ready."""

    id: str
    text: str
    output_tokens: Annotated[int, Meta(description="So far, this event's included.")]


class Error(Struct, omit_defaults=True, kw_only=True):
    """Why the answer is no. `reason` is for programs, `message` for people."""

    reason: Annotated[str, Meta(examples=["over_rate"])]
    message: str
    field: Annotated[str, Meta(description="The field of the request that is wrong.")] | None = None
    retry_after_s: (
        Annotated[
            float,
            Meta(description="Seconds of your clock after which to try again; `Retry-After` is this rounded up."),
        ]
        | None
    ) = None
    largest_max_tokens: (
        Annotated[int, Meta(description="The largest max_tokens that would do with this prompt and bid; 0: none.")]
        | None
    ) = None
    burst: Annotated[float, Meta(description="The tenant's burst, in tokens; absent: it has no limit.")] | None = None
    charge: (
        Annotated[
            float,
            Meta(
                description="Of a request that was admitted and did not finish: tokens its bucket paid in the end, bid "
                "premium included."
            ),
        ]
        | None
    ) = None
    problems: Annotated[list[str], Meta(description="All that is wrong in a configuration.")] | None = None


class ErrorAnswer(Struct):
    """The one shape of every error."""

    error: Error


class Standing(Struct, kw_only=True):
    """Where a request stands that has not ended."""

    bid: int
    effective_bid: Annotated[float, Meta(description="What the bid has grown to by waiting.")]
    position: Annotated[int, Meta(description="Earlier requests of its own tenant; 0 when it does not wait.")]
    waits_for: Annotated[
        Literal["rate", "in_flight", "kv_share", "share", "kv", "slot", "batch_window", "turn", ""],
        Meta(
            description="The first thing in its way: the tenant's own limits (rate, in_flight, kv_share), its share "
            "(others are due first), the devices (kv, slot), batch_window, turn (better requests); empty when it runs."
        ),
    ]
    start_in_s: Annotated[float, Meta(description="An estimate; null when there is none.")] | None
    computed: Annotated[int, Meta(description="Prompt tokens in the cache since this start.")]
    generated: Annotated[int, Meta(description="Output tokens so far.")]
    prefill: Annotated[int, Meta(description="Tokens still to compute before output goes on.")]
    device: int | None
    preemptions: Annotated[int, Meta(description="How often it was displaced.")]
    passes: Annotated[int, Meta(description="How often it was passed by a backfill.")]


State = Literal["waiting", "running", "returning", "finished", "cancelled", "expired", "rejected", "failed"]


class RequestState(Struct, kw_only=True):
    """A request: where it stands (`explain`), or how it ended (`answer`, else `error`)."""

    id: str
    tenant_id: str
    state: Annotated[State, Meta(description="returning: displaced, to run again.")]
    explain: Standing | None = None
    answer: InferAnswer | None = None
    error: Error | None = None


encode = json.Encoder().encode


def components() -> dict[str, Any]:
    """JSON schemas of the types above and of those they are made of, by name, as an OpenAPI document has them."""
    types = (InferRequest, InferAnswer, Accepted, Chunk, ErrorAnswer, RequestState)
    return json.schema_components(types, ref_template="#/components/schemas/{name}")[1]

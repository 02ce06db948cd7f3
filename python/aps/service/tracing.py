"""A span for each `POST /infer`, with its queue and its run below it: OpenTelemetry.

Imported only where traces are wanted. What a span may hold is fixed here: names, sizes, instants and reasons. No
prompt, no output, no key. Spans are in wall time; durations among their attributes are seconds of the service's clock.
"""

import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from opentelemetry.context import Context
from opentelemetry.propagate import get_global_textmap
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, set_span_in_context

from aps.driver import Driver, Result
from aps.service.entry import GONE, Entry
from aps.service.errors import Headers
from aps.service.version import VERSION

LOG = logging.getLogger(__name__)
NOBODY = Context()  # without a parent
NAME = "POST /infer"
# Known before anything is read, so a sampler may look at them. The conventions of HTTP servers, and of generative AI.
AT_FIRST = {
    "http.request.method": "POST",
    "http.route": "/infer",
    "url.path": "/infer",
    "url.scheme": "http",
    "gen_ai.operation.name": "text_completion",
    "gen_ai.provider.name": "aps",
}
ERROR = Status(StatusCode.ERROR)
BROKEN = {"expired": "deadline_expired", "failed": "backend_failed"}  # ends that are errors, whatever was answered


class Tracing:
    """Spans of one service's requests. processors: get them when they have ended. resource: who sends them."""

    def __init__(self, driver: Driver, processors: Sequence[SpanProcessor], resource: Resource | None = None) -> None:
        self._devices = tuple(device.name for device in driver.scheduler.devices)
        self._scale = driver.backend.time_scale
        self._model = driver.backend.profile
        # The sampler and the limits are those of the environment. The owner closes it.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        for processor in processors:
            self._provider.add_span_processor(processor)
        self._processors = processors
        self._tracer = self._provider.get_tracer("aps", VERSION)
        self._scope = InstrumentationScope("aps", VERSION)
        self._propagator = get_global_textmap()  # as OTEL_PROPAGATORS says; W3C by default
        self._fields = frozenset(name.lower().encode() for name in self._propagator.fields)
        self._failed = False

    def begin(self, entry: Entry, headers: Headers) -> None:
        """The request's head has come. Fills `entry.span`, `trace` and `trace_id`."""
        try:
            parent = self._parent(headers)
            span = self._tracer.start_span(NAME, context=parent, kind=SpanKind.SERVER, attributes=AT_FIRST)
        except Exception as error:  # a sampler or a propagator of somebody's
            self._say(error)
            return
        entry.span = span
        entry.trace_id = span.get_span_context().trace_id
        entry.trace = _Headers(self._propagator, set_span_in_context(span, parent))

    def end(self, entry: Entry, status: int, reason: str | None = None) -> None:
        """The request is over, with that HTTP status (499: its client had gone); reason: of a refusal."""
        span = entry.span
        if span is None or not span.is_recording():
            return
        try:
            result = entry.result
            if reason is None and result is not None and result.status != "finished":
                reason = result.reason
            if entry.lost:
                reason = reason or "driver_failed"
            if status != GONE:  # which nobody was answered
                span.set_attribute("http.response.status_code", status)
            span.set_attributes(dict(self._of_request(entry, reason)))
            if status >= 500 or entry.lost or (result is not None and result.status in BROKEN):
                span.set_attribute("error.type", reason or str(status))
                span.set_status(ERROR)
            span.end()
            if result is not None and entry.id is not None:
                for part in self._parts(entry, result, span.get_span_context(), span.end_time):
                    for processor in self._processors:
                        processor.on_end(part)
        except Exception as error:
            self._say(error)

    def _parent(self, headers: Headers) -> Context:
        """Of the caller: what its headers say of a trace."""
        carrier: dict[str, list[str]] = {}
        for name, value in headers:
            if name in self._fields:
                carrier.setdefault(name.decode(), []).append(value.decode("latin-1"))
        return self._propagator.extract(carrier, NOBODY) if carrier else NOBODY

    def _of_request(self, entry: Entry, reason: str | None) -> Iterator[tuple[str, Any]]:
        verdict, result = entry.verdict, entry.result
        if reason is not None:
            yield "aps.reason", reason
        if verdict is None:
            return
        yield "aps.tenant", entry.tenant
        yield "aps.verdict", verdict.status
        yield "aps.bid", verdict.bid if result is None else result.bid
        yield "aps.prompt_tokens", entry.prompt_tokens
        yield "gen_ai.request.max_tokens", entry.max_tokens
        yield "gen_ai.request.stream", entry.stream
        if entry.id is None or result is None:
            return
        yield "gen_ai.response.id", entry.id
        yield "gen_ai.response.model", self._model
        yield "gen_ai.usage.output_tokens", result.output_tokens
        yield "aps.ended", result.status
        yield "aps.charge", result.charge
        yield "aps.time_scale", self._scale
        if result.status == "finished":
            yield "gen_ai.usage.input_tokens", result.prompt_tokens
            yield "gen_ai.response.finish_reasons", ["length" if result.output_tokens == entry.max_tokens else "stop"]
        for name in ("queue_wait_s", "ttft_s", "e2e_s"):
            if (seconds := getattr(result, name)) is not None:
                yield f"aps.{name}", seconds
        if result.device >= 0:
            yield "aps.device", self._devices[result.device]
            yield "aps.batch_size", result.batch_size

    def _parts(self, entry: Entry, result: Result, parent: SpanContext, end: int) -> Iterator[ReadableSpan]:
        """Its queue and its run. Made when both are over, which costs a third of what a tracer's own would."""

        def instant(seconds: float) -> int:
            return min(entry.arrived + int(seconds * 1e9 / self._scale), end)

        over, waited = instant(result.e2e_s), result.queue_wait_s
        began = over if waited is None else instant(waited)
        yield self._part("queue", parent, entry.arrived, began, {"aps.tenant": entry.tenant, "aps.bid": result.bid})
        if waited is None:
            return
        batch = {"aps.batch_size": result.batch_size, "aps.released": result.released}
        events = [Event("batch started", batch, began)]
        if result.ttft_s is not None:
            events.append(Event("first token", None, instant(result.ttft_s)))
        about = {"aps.device": self._devices[result.device], "aps.retries": entry.retries}
        yield self._part("run", parent, began, over, about, events, ERROR if result.status == "failed" else None)

    def _part(
        self,
        name: str,
        parent: SpanContext,
        start: int,
        end: int,
        attributes: Mapping[str, Any],
        events: list[Event] | None = None,
        status: Status | None = None,
    ) -> ReadableSpan:
        own = SpanContext(parent.trace_id, random.getrandbits(64) or 1, False, parent.trace_flags, parent.trace_state)
        return ReadableSpan(
            name,
            own,
            parent=parent,
            resource=self._provider.resource,
            attributes=attributes,
            events=events or (),
            kind=SpanKind.INTERNAL,
            status=status or Status(),
            start_time=start,
            end_time=end,
            instrumentation_scope=self._scope,
        )

    def _say(self, error: Exception) -> None:
        """Once. Requests go on."""
        if not self._failed:
            self._failed = True
            LOG.error("a request could not be traced: %r", error, exc_info=error)


class _Headers(Mapping[str, str]):
    """The headers of a span's context. Made when a backend looks at them: most do not."""

    __slots__ = ("_context", "_made", "_propagator")

    def __init__(self, propagator: Any, context: Context) -> None:
        self._propagator, self._context = propagator, context
        self._made: dict[str, str] | None = None

    def _headers(self) -> dict[str, str]:
        if self._made is None:
            self._made = {}
            self._propagator.inject(self._made, self._context)
        return self._made

    def __getitem__(self, name: str) -> str:
        return self._headers()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._headers())

    def __len__(self) -> int:
        return len(self._headers())

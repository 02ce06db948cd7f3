"""Where spans go: exporters as the standard OTEL_ variables say. A collector that is down disturbs nothing.

Imported only where traces are wanted. The sampler, the limits of a span and the batches are OpenTelemetry's own and
read their variables themselves; which exporters there are to be is read here.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import EntryPoint, entry_points

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from aps.driver import Driver
from aps.service.tracing import Tracing
from aps.service.version import VERSION

LOG = logging.getLogger(__name__)
LIBRARY = logging.getLogger("opentelemetry")
CLOSING_S = 5.0  # what a stopping service gives a collector
GROUP = "opentelemetry_traces_exporter"  # of entry points: what is installed
OTLP = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}  # by protocol
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")  # the first that is set


class TelemetryError(ValueError):
    """The environment asks for something that there is not."""


class Telemetry:
    """Exporters and what batches for them, from when it is made until `close`.

    exporters: of finished spans. resource: who sends them.
    """

    def __init__(self, exporters: Sequence[SpanExporter], resource: Resource) -> None:
        self._resource = resource
        self._once = _Once()
        self._processors = [BatchSpanProcessor(_Told(exporter, self._once)) for exporter in exporters]
        self._propagates = LIBRARY.propagate
        LIBRARY.addHandler(self._once)
        LIBRARY.propagate = False

    def tracing(self, driver: Driver) -> Tracing:
        """Of the requests of that driver's service."""
        return Tracing(driver, self._processors, self._resource)

    def close(self, within_s: float = CLOSING_S) -> None:
        """Send what waits, as far as that can be done within so many wall seconds."""
        closing = threading.Thread(target=self._shut_down, name="aps-telemetry", daemon=True)
        closing.start()
        closing.join(within_s)
        if closing.is_alive():
            LOG.warning("the last spans could not be delivered within %g s", within_s)
        LIBRARY.removeHandler(self._once)
        LIBRARY.propagate = self._propagates

    def _shut_down(self) -> None:
        for processor in self._processors:
            processor.shutdown()  # type: ignore[no-untyped-call]


def telemetry(environ: Mapping[str, str]) -> Telemetry | None:
    """As the variables say; None: they say that there is to be none. TelemetryError: what cannot be had.

    environ: the process's, for the library reads it too.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    points = [_point(name, environ) for name in _names(environ)]
    if not points:
        return None
    try:
        return Telemetry([point.load()() for point in points], _resource(environ))
    except Exception as error:  # a number that is none, a certificate that cannot be read
        raise TelemetryError(f"what the OTEL_ variables ask for cannot be had: {error}") from error


def _names(environ: Mapping[str, str]) -> list[str]:
    names = [name.strip() for name in environ.get("OTEL_TRACES_EXPORTER", "").split(",")]
    return [name for name in names if name and name != "none"] if any(names) else ["otlp"]


def _point(name: str, environ: Mapping[str, str]) -> EntryPoint:
    """Where the exporter of that name is made."""
    installed = {point.name: point for point in entry_points(group=GROUP)}
    variable, point = "OTEL_TRACES_EXPORTER", name
    if name == "otlp":
        variable = next((each for each in PROTOCOLS if environ.get(each)), PROTOCOLS[1])
        name = environ.get(variable) or "http/protobuf"
        if name not in OTLP:
            raise TelemetryError(f"{variable} must be one of {', '.join(OTLP)}, got {name!r}")
        point = OTLP[name]
    if point not in installed:
        allowed = ", ".join(sorted({"otlp", "none", *installed}))
        raise TelemetryError(f"{variable}: no exporter {point!r} is installed for {name!r}; there are {allowed}")
    return installed[point]


def _resource(environ: Mapping[str, str]) -> Resource:
    """Who this is: as the environment says, "aps" when it says nothing."""
    named = "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "") or environ.get("OTEL_SERVICE_NAME")
    return Resource.create({"service.version": VERSION} | ({} if named else {"service.name": "aps"}))


class _Told(SpanExporter):
    """An exporter, and whether it delivers: said when it begins to fail and when that is over."""

    def __init__(self, exporter: SpanExporter, once: "_Once") -> None:
        self._exporter, self._once = exporter, once
        self._lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            answer = self._exporter.export(spans)
        except Exception as error:
            LIBRARY.error("an exporter of spans failed: %r", error)
            answer = SpanExportResult.FAILURE
        if answer is SpanExportResult.SUCCESS:
            if self._lost:
                LOG.warning("spans are delivered again; %d were lost", self._lost)
                self._lost = 0
            self._once.forget()
        else:
            if not self._lost:
                LOG.warning("spans cannot be delivered and are dropped until they can; serving goes on")
            self._lost += len(spans)
        return answer

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class _Once(logging.Handler):
    """What OpenTelemetry says, each thing once until spans are delivered: it would say the same for every batch."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg not in self._said:
            self._said.add(record.msg)
            with suppress(Exception):
                LOG.log(record.levelno, "%s", record.getMessage())

    def forget(self) -> None:
        """Spans are delivered: what is said next is news."""
        self._said.clear()

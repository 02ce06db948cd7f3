"""`aps serve --traces`: what a collector gets over OTLP, and that one that is down disturbs nobody."""

import gzip
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from aps.cli import main
from aps.driver import Driver
from aps.service.telemetry import Telemetry, TelemetryError, telemetry
from tests.serving import serving, until

TRACE = "0af7651916cd43dd8448eb211c80319c"
BODY = {"tenant_id": "tenant_a", "prompt": "Why is the sky blue?", "max_tokens": 3}


class Collector:
    """OTLP over HTTP on a free port. status: what it answers."""

    def __init__(self, status: int = 200) -> None:
        self.spans: list[tuple[dict[str, Any], Any]] = []  # (its resource, a span)
        self.headers: list[Mapping[str, str]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers["content-encoding"] == "gzip":
                    body = gzip.decompress(body)
                collector.headers.append({"path": self.path, **{k.lower(): v for k, v in self.headers.items()}})
                if status == 200:
                    asked = ExportTraceServiceRequest.FromString(body)
                    for part in asked.resource_spans:
                        whose = {each.key: each.value.string_value for each in part.resource.attributes}
                        collector.spans += [(whose, span) for scope in part.scope_spans for span in scope.spans]
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "Collector":
        self._thread = threading.Thread(target=self.server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@contextmanager
def service(log: Path, *options: str, **otel: str) -> Iterator[httpx.Client]:
    """`aps serve --traces` with these variables; stopped by SIGTERM at the end."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "APS_"))}
    command = [sys.executable, "-m", "aps", "serve", "--port", "0", "--traces", "--time-scale", "50", *options]
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environ | {"no_proxy": "*"} | otel
        )
        assert process.stdout is not None
        try:
            url = process.stdout.readline().split()[2]
            with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
                yield client
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
            assert process.returncode == 0
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def test_a_collector_gets_spans_and_the_log_their_trace(tmp_path: Path) -> None:
    log = tmp_path / "log"
    variables = {
        "OTEL_SERVICE_NAME": "prod",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-token=abc",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
    }
    with Collector() as collector:
        options = ("--log-level", "info", "--log-format", "json")
        with service(log, *options, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **variables) as client:
            headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
            id = client.post("/infer", json=BODY, headers=headers).json()["id"]
            assert client.post("/infer", json=BODY | {"bid": 11}).status_code == 422
        names = [span.name for _, span in collector.spans]
    assert sorted(names) == ["POST /infer", "POST /infer", "queue", "run"]
    assert all(sent["path"] == "/v1/traces" and sent["x-token"] == "abc" for sent in collector.headers)
    for whose, _ in collector.spans:
        assert (whose["service.name"], whose["deployment.environment.name"]) == ("prod", "test")
    spans = {span.name: span for _, span in collector.spans if span.trace_id.hex() == TRACE}
    server, run = spans["POST /infer"], spans["run"]
    assert server.parent_span_id.hex() == "b7ad6b7169203331"
    assert run.parent_span_id == spans["queue"].parent_span_id == server.span_id
    assert [event.name for event in run.events] == ["batch started", "first token"]
    said = {each.key: each.value for each in server.attributes}
    assert said["gen_ai.response.id"].string_value == id
    assert said["gen_ai.usage.output_tokens"].int_value == 3
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    requests = [line for line in lines if line["event"] == "request"]
    assert requests[0]["trace_id"] == TRACE
    assert len(requests[1]["trace_id"]) == 32


@pytest.mark.parametrize("status", [None, 400])
def test_a_collector_that_is_down_disturbs_nobody(tmp_path: Path, status: int | None) -> None:
    log = tmp_path / "log"
    with Collector(status or 200) as collector:
        if status is None:
            collector.server.socket.close()
        soon = {"OTEL_BSP_SCHEDULE_DELAY": "20", "OTEL_EXPORTER_OTLP_TIMEOUT": "0.2"}
        with service(log, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **soon) as client:
            for _ in range(5):
                sent = len(collector.headers)
                assert client.post("/infer", json=BODY).status_code == 200
                if status == 400:  # which is not tried again
                    until(lambda sent=sent: len(collector.headers) > sent)  # type: ignore[misc]
            assert client.get("/health").json()["ready"]
    said = log.read_text()
    assert said.count("spans cannot be delivered") == 1
    for each in ("Transient error", "Failed to export", "Queue full", "Shutdown in progress"):
        assert said.count(each) <= 1, said
    assert "Failed to export" in said


def test_what_the_variables_may_say(monkeypatch: pytest.MonkeyPatch) -> None:
    for variables in ({"OTEL_SDK_DISABLED": "True"}, {"OTEL_TRACES_EXPORTER": "none"}):
        assert telemetry(variables) is None
    for variables, problem in (
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER: no exporter 'zipkin' is installed"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL: no exporter 'otlp_proto_grpc'"),
        ({"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "x"}, "TRACES_PROTOCOL must be one of http/protobuf, grpc, got 'x'"),
    ):
        with pytest.raises(TelemetryError, match=problem):
            telemetry(variables)
    handlers = logging.getLogger("opentelemetry").handlers[:]
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "-1")
    with pytest.raises(TelemetryError, match="variables ask for cannot be had: schedule_delay_millis must be"):
        telemetry({"OTEL_TRACES_EXPORTER": "otlp"})
    assert logging.getLogger("opentelemetry").handlers == handlers


def test_a_variable_that_is_wrong_stops_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    assert main(["serve", "--port", "0", "--traces"]) == 2
    assert "--traces: OTEL_TRACES_EXPORTER: no exporter 'zipkin' is installed" in capsys.readouterr().err


def test_it_says_when_spans_are_delivered_again(caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    answers = [SpanExportResult.FAILURE, None, SpanExportResult.FAILURE, SpanExportResult.SUCCESS]
    given: list[int] = []

    class Flapping(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            given.append(len(spans))
            answer = answers[min(len(given), len(answers)) - 1]
            if answer is None:
                raise OSError("it broke")
            return answer

        def shutdown(self) -> None:
            pass

    before = logging.getLogger("opentelemetry").handlers[:]
    sender = Telemetry([Flapping()], Resource({}))

    def tracing(driver: Driver) -> Any:
        return sender.tracing(driver)

    with serving(tracing=tracing) as running, caplog.at_level(logging.WARNING):
        for number in range(len(answers)):
            assert running.infer(**BODY).status_code == 200
            until(lambda number=number: len(given) > number)  # type: ignore[misc]
        sender.close()
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith("spans cannot be delivered")
    assert said[1] == "an exporter of spans failed: OSError('it broke')"
    assert said[2] == f"spans are delivered again; {sum(given[:3])} were lost"
    assert logging.getLogger("opentelemetry").handlers == before


def test_closing_waits_no_longer_than_it_is_told(caplog: pytest.LogCaptureFixture) -> None:
    goes_on = threading.Event()

    class Stuck(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            goes_on.wait(30)
            return SpanExportResult.SUCCESS

        def shutdown(self) -> None:
            pass

    sender = Telemetry([Stuck()], Resource({}))
    with serving(tracing=sender.tracing) as running:
        running.infer(**BODY)
    began = time.monotonic()
    sender.close(0.05)
    assert time.monotonic() - began < 20
    goes_on.set()
    assert "could not be delivered within 0.05 s" in caplog.text

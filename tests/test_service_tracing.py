"""Spans of `POST /infer`: what is in them, whose children they are, and what is never in them."""

import json
import logging
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_trace_id

from aps.backends import Backend, GeneratorBackend, Job
from aps.devices import Device
from aps.driver import Driver
from aps.service.access import Access
from aps.service.keys import hash_line, new_key, parse_hash
from aps.service.tracing import Tracing
from aps.tenants import Tenant
from tests.serving import Service, serving, until

PROMPT = "a secret that nobody may read in a span"
CALLER = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "vendor=1"}
TENANTS = (Tenant("alice"), Tenant("bob", rate=10.0, burst=100.0))


class Spans:
    """A service and the spans that it has made."""

    def __init__(self, service: Service, exporter: InMemorySpanExporter) -> None:
        self.service, self._exporter = service, exporter

    def take(self, most: int = 3) -> dict[str, ReadableSpan]:
        """The spans of one request, by name; no more come."""
        until(lambda: len(self._exporter.get_finished_spans()) >= most)
        spans: Sequence[ReadableSpan] = self._exporter.get_finished_spans()
        self._exporter.clear()
        assert len(spans) == most
        return {span.name: span for span in spans}

    @property
    def none(self) -> bool:
        return not self._exporter.get_finished_spans()


@contextmanager
def traced(**options: Any) -> Iterator[Spans]:
    exporter = InMemorySpanExporter()

    def tracing(driver: Driver) -> Tracing:
        return Tracing(driver, [SimpleSpanProcessor(exporter)])

    with serving(options.pop("tenants", TENANTS), tracing=tracing, **options) as service:
        yield Spans(service, exporter)


@pytest.fixture(scope="module")
def spans() -> Iterator[Spans]:
    with traced() as running:
        yield running


def about(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def ids(span: ReadableSpan) -> tuple[int, int, int]:
    """Of its trace, itself and its parent, 0: it has none."""
    assert span.context is not None
    return span.context.trace_id, span.context.span_id, span.parent.span_id if span.parent else 0


def test_a_request_its_queue_and_its_run(spans: Spans) -> None:
    before = time.time_ns()
    answer = spans.service.infer(tenant_id="alice", prompt=PROMPT, max_tokens=5, bid=7).json()
    parts = spans.take()
    server, queue, run = parts["POST /infer"], parts["queue"], parts["run"]
    assert (server.kind, queue.kind, run.kind) == (SpanKind.SERVER, SpanKind.INTERNAL, SpanKind.INTERNAL)
    assert ids(server)[2] == 0
    assert ids(queue)[0::2] == ids(run)[0::2] == ids(server)[:2]
    assert len({ids(part)[1] for part in parts.values()}) == 3
    assert about(server) == {
        "http.request.method": "POST",
        "http.route": "/infer",
        "http.response.status_code": 200,
        "url.path": "/infer",
        "url.scheme": "http",
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "aps",
        "gen_ai.request.max_tokens": 5,
        "gen_ai.request.stream": False,
        "gen_ai.response.id": answer["id"],
        "gen_ai.response.model": "reference",
        "gen_ai.response.finish_reasons": ("length",),
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 5,
        "aps.tenant": "alice",
        "aps.verdict": "admitted",
        "aps.bid": 7,
        "aps.prompt_tokens": 10,
        "aps.ended": "finished",
        "aps.charge": 15.0,
        "aps.time_scale": 100.0,
        "aps.queue_wait_s": pytest.approx(answer["queue_wait_s"], abs=1e-9),
        "aps.ttft_s": pytest.approx(answer["ttft_s"]),
        "aps.e2e_s": pytest.approx(answer["e2e_s"]),
        "aps.device": about(run)["aps.device"],
        "aps.batch_size": 1,
    }
    assert about(queue) == {"aps.tenant": "alice", "aps.bid": 7}
    assert about(run) == {"aps.device": spans.service.driver.scheduler.devices[0].name, "aps.retries": 0}
    joined, first = run.events
    assert (joined.name, first.name) == ("batch started", "first token")
    assert dict(joined.attributes or {}) == {"aps.batch_size": 1, "aps.released": "continuous"}
    assert {part.status.status_code for part in parts.values()} == {StatusCode.UNSET}
    # wall time: the service's seconds are a hundredth of one of those
    instants = [before, server.start_time, queue.start_time, queue.end_time, run.start_time, joined.timestamp]
    instants += [first.timestamp, run.end_time, server.end_time, time.time_ns()]
    assert instants == sorted(instants)  # type: ignore[type-var]
    assert queue.end_time == run.start_time == joined.timestamp
    assert run.end_time is not None and run.start_time is not None
    lasted = (answer["e2e_s"] - answer["queue_wait_s"]) / 100.0
    assert (run.end_time - run.start_time) / 1e9 == pytest.approx(lasted, abs=1e-6)


def test_the_callers_trace_goes_on(spans: Spans) -> None:
    body = {"tenant_id": "alice", "prompt_tokens": 3, "max_tokens": 1}
    spans.service.client.post("/infer", json=body, headers=CALLER)
    parts = spans.take()
    trace_id, own, parent = ids(parts["POST /infer"])
    assert (trace_id, parent) == (0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331)
    assert ids(parts["run"])[0::2] == (trace_id, own)
    for part in parts.values():
        assert part.context is not None
        assert part.context.trace_state.to_header() == "vendor=1"
    # one that is not to be sampled; and headers that are none
    unsampled = {"traceparent": CALLER["traceparent"][:-1] + "0"}
    assert spans.service.client.post("/infer", json=body, headers=unsampled).status_code == 200
    assert spans.none
    for wrong in ("", "00-0-0-01", "zz" * 30, "00-" + "0" * 32 + "-b7ad6b7169203331-01", "\xff" * 55):
        headers = {b"traceparent": wrong.encode("latin-1"), b"tracestate": b"=", b"baggage": b"=;,"}
        assert spans.service.client.post("/infer", json=body, headers=headers).status_code == 200
        assert ids(spans.take()["POST /infer"])[2] == 0


def test_refusals_are_no_errors_of_ours(spans: Spans) -> None:
    service = spans.service
    for fields, status, reason, verdict in (
        ({"tenant_id": "bob", "prompt_tokens": 200, "max_tokens": 1}, 400, "exceeds_burst", "rejected"),
        ({"tenant_id": "carol", "prompt_tokens": 1}, 404, "unknown_tenant", None),
        ({"tenant_id": "alice", "prompt_tokens": PROMPT}, 422, "invalid", None),
    ):
        assert service.infer(**fields).status_code == status
        (span,) = spans.take(1).values()
        said = about(span)
        assert (said["http.response.status_code"], said["aps.reason"], said.get("aps.verdict")) == (
            status,
            reason,
            verdict,
        )
        assert span.status.status_code is StatusCode.UNSET
        assert "error.type" not in said and "gen_ai.usage.output_tokens" not in said
    assert service.infer(tenant_id="bob", prompt_tokens=99, max_tokens=1).status_code == 200
    spans.take()
    assert service.infer(tenant_id="bob", prompt_tokens=99, max_tokens=1).status_code == 429
    (span,) = spans.take(1).values()
    assert (about(span)["aps.reason"], about(span)["aps.tenant"]) == ("over_rate", "bob")


def test_what_expires_is_an_error_and_never_ran() -> None:
    with traced(time_scale=1.0) as spans:
        slots = spans.service.driver.scheduler.devices[0].slots
        for _ in range(slots):
            spans.service.infer(tenant_id="alice", prompt_tokens=1, max_tokens=2000, wait=False)
        answer = spans.service.infer(tenant_id="alice", prompt_tokens=1, max_tokens=1, deadline_s=0.05)
        assert answer.status_code == 504
        parts = spans.take(2)
        server = parts["POST /infer"]
        assert set(parts) == {"POST /infer", "queue"}
        assert server.status.status_code is StatusCode.ERROR
        assert about(server)["error.type"] == about(server)["aps.reason"] == "deadline_expired"
        assert "aps.device" not in about(server)


def test_streams_and_answers_that_come_later(spans: Spans) -> None:
    service = spans.service
    assert service.infer(tenant_id="alice", prompt_tokens=3, max_tokens=4, stream=True).status_code == 200
    said = about(spans.take()["POST /infer"])
    assert (said["gen_ai.request.stream"], said["gen_ai.usage.output_tokens"]) == (True, 4)
    assert service.infer(tenant_id="alice", prompt_tokens=3, max_tokens=4, wait=False).status_code == 202
    said = about(spans.take()["POST /infer"])
    assert (said["http.response.status_code"], said["gen_ai.usage.output_tokens"]) == (202, 4)


def test_who_hangs_up_gets_no_status() -> None:
    with traced(time_scale=1.0) as spans:
        with pytest.raises(httpx.TimeoutException):
            body = {"tenant_id": "alice", "prompt_tokens": 1, "max_tokens": 4000}
            spans.service.client.post("/infer", json=body, timeout=0.2)
        said = about(spans.take()["POST /infer"])
        assert said["aps.reason"] == said["aps.ended"] == "cancelled"
        assert "http.response.status_code" not in said


def test_nothing_that_is_secret() -> None:
    key = new_key()
    access = Access({"alice": (parse_hash(hash_line(key)),)})
    with traced(access=access) as spans:
        client = spans.service.client
        headers = CALLER | {"authorization": f"Bearer {key}", "x-own": PROMPT, "user-agent": PROMPT}
        texts = []
        for fields, most in (({}, 3), ({"stream": True}, 3), ({"max_tokens": PROMPT}, 1), ({"tenant_id": PROMPT}, 1)):
            client.post("/infer?" + PROMPT, json={"prompt": PROMPT, "max_tokens": 2} | fields, headers=headers).read()
            texts += [span.to_json() for span in spans.take(most).values()]
        client.post("/infer", json={"prompt": PROMPT}, headers={"authorization": f"Bearer {new_key()}"})
        texts += [span.to_json() for span in spans.take(1).values()]
    for secret in (PROMPT, key, key[4:], "Bearer", hash_line(key)):
        assert secret not in json.dumps(texts)


class Engine(GeneratorBackend):
    """Passes the headers that it gets on: they are its output."""

    async def generate(self, device: int, job: Job) -> AsyncGenerator[str, None]:
        yield json.dumps(dict(job.trace or {}))
        if job.prompt == "fail":
            raise RuntimeError("lost")


@pytest.fixture
def engine() -> Backend:
    return Engine([Device(slots=4, token_budget=None)])


def test_a_backend_can_pass_the_trace_on(engine: Backend) -> None:
    body = {"tenant_id": "alice", "prompt": "x", "max_tokens": 9}
    with traced(backend=engine) as spans:
        passed = json.loads(spans.service.client.post("/infer", json=body, headers=CALLER).json()["text"])
        server = spans.take()["POST /infer"]
        trace_id, own, _ = ids(server)
        assert passed["traceparent"].startswith(f"00-{trace_id:032x}-{own:016x}-")
        assert int(passed["traceparent"][-2:], 16) & 1
        assert passed["tracestate"] == "vendor=1"
        assert about(server)["gen_ai.response.finish_reasons"] == ("stop",)
        unsampled = {"traceparent": CALLER["traceparent"][:-1] + "0"}
        passed = json.loads(spans.service.client.post("/infer", json=body, headers=unsampled).json()["text"])
        assert passed["traceparent"].startswith(f"00-{format_trace_id(trace_id)}-")
        assert not int(passed["traceparent"][-2:], 16) & 1


def test_without_tracing_a_backend_gets_nothing(engine: Backend) -> None:
    with serving(TENANTS, backend=engine) as service:
        answer = service.client.post("/infer", json={"tenant_id": "alice", "prompt": "x"}, headers=CALLER)
        assert answer.json()["text"] == "{}"


def test_what_the_backend_loses_is_an_error(engine: Backend, caplog: pytest.LogCaptureFixture) -> None:
    with traced(backend=engine) as spans:
        assert spans.service.infer(tenant_id="alice", prompt="fail", max_tokens=9).status_code == 502
        parts = spans.take()
    for name in ("POST /infer", "run"):
        assert parts[name].status.status_code is StatusCode.ERROR
    assert about(parts["POST /infer"])["error.type"] == "backend_failed"
    assert about(parts["run"])["aps.retries"] == 2


def test_a_sampler_that_fails_disturbs_nobody(
    spans: Spans, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("sampler")

    with traced() as own:
        tracing = own.service.server.config.app.infer._parties.tracing  # type: ignore[union-attr]
        monkeypatch.setattr(tracing._tracer, "start_span", fail)
        with caplog.at_level(logging.ERROR):
            for _ in range(3):
                assert own.service.infer(tenant_id="alice", prompt_tokens=3, max_tokens=2).status_code == 200
        assert own.none
    assert len([record for record in caplog.records if "could not be traced" in record.getMessage()]) == 1

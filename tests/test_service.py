"""The service over real HTTP on a loopback port: answers, every refusal, counters, life."""

import asyncio
import concurrent.futures
import json
import math
import re
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import pytest

from aps.policy import Limits
from aps.scheduler import Scheduler
from aps.service.errors import MEANING
from aps.service.wire import ErrorAnswer, InferAnswer, InferRequest
from aps.stress.counters import Counters
from aps.tenants import Tenant
from aps.verdicts import Verdict
from tests.serving import Service, serving, until


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving((Tenant("wide"), Tenant("low", max_bid=3), Tenant("small", rate=1e-3, burst=1000.0))) as running:
        yield running


def whole(said: Any, kind: type[msgspec.Struct]) -> None:
    """It is of this type, and has nothing else in it."""
    assert msgspec.to_builtins(msgspec.convert(said, kind)) == said


def error(reply: httpx.Response, status: int, reason: str) -> dict[str, Any]:
    """The error of a refusal that has this status and reason, in the one shape."""
    assert (reply.status_code, reply.json().get("error", {}).get("reason")) == (status, reason), reply.text
    whole(reply.json(), ErrorAnswer)
    content: dict[str, Any] = reply.json()["error"]
    return content


# Answers


def test_an_answer_has_everything(service: Service) -> None:
    reply = service.infer(tenant_id="wide", prompt="Why is the sky blue? \N{SUN}", max_tokens=16, bid=7)
    assert reply.status_code == 200
    answer = reply.json()
    whole(answer, InferAnswer)
    assert answer["prompt_tokens"] == -(-len("Why is the sky blue? \N{SUN}".encode()) // 4) == 6
    assert answer["counted_by"] == "bytes/4"
    assert answer["output_tokens"] == 16
    assert len(answer["text"]) > 16
    assert 0 <= answer["queue_wait_s"] < answer["ttft_s"] < answer["e2e_s"]
    assert answer["verdict"] == {"status": "admitted", "reason": "admitted", "bid": 7, "clamped": False}
    assert answer["charge"] == 22
    assert (answer["batch_size"], answer["device"]) == (1, 0)
    assert (answer["seconds"], answer["time_scale"]) == ("simulated", 100)


def test_times_are_simulated_seconds_of_the_reference_profile(service: Service) -> None:
    answer = service.infer(tenant_id="wide", prompt_tokens=1024, max_tokens=129).json()
    assert answer["counted_by"] == "caller"
    # 1,024 prompt tokens at 1,024/s, the step's own token at 128/s; then 128 more at 128/s
    assert answer["ttft_s"] - answer["queue_wait_s"] == pytest.approx(1 + 1 / 128, abs=1e-6)
    assert answer["e2e_s"] - answer["ttft_s"] == pytest.approx(1.0, abs=1e-6)


def test_max_tokens_and_bid_default_to_the_tenants(service: Service) -> None:
    answer = service.infer(tenant_id="wide", prompt_tokens=1).json()
    assert (answer["output_tokens"], answer["verdict"]["bid"]) == (256, 5)


def test_a_bid_above_the_tenants_is_lowered_and_said(service: Service) -> None:
    answer = service.infer(tenant_id="low", prompt_tokens=1, max_tokens=1, bid=9).json()
    assert answer["verdict"] == {"status": "admitted", "reason": "admitted", "bid": 3, "clamped": True}


# Refusals


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"tenant_id": None}, "tenant_id"),
        ({"tenant_id": ""}, "tenant_id"),
        ({"tenant_id": "x" * 257}, "tenant_id"),
        ({"tenant_id": 7}, "tenant_id"),
        ({"prompt_tokens": 0}, "prompt_tokens"),
        ({"prompt_tokens": -5}, "prompt_tokens"),
        ({"prompt_tokens": 1.0}, "prompt_tokens"),
        ({"prompt_tokens": "10"}, "prompt_tokens"),
        ({"prompt_tokens": True}, "prompt_tokens"),
        ({"prompt_tokens": 2**31}, "prompt_tokens"),
        ({"prompt_tokens": 10**400}, "prompt_tokens"),
        ({"prompt_tokens": float("nan")}, "prompt_tokens"),
        ({"prompt": "both"}, "prompt"),
        ({"prompt_tokens": None}, "prompt"),
        ({"prompt_tokens": None, "prompt": ""}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2**63}, "max_tokens"),
        ({"bid": 0}, "bid"),
        ({"bid": 11}, "bid"),
        ({"bid": 5.5}, "bid"),
        ({"deadline_s": 0}, "deadline_s"),
        ({"deadline_s": float("nan")}, "deadline_s"),
        ({"deadline_s": float("inf")}, "deadline_s"),
        ({"deadline_s": 1e300}, "deadline_s"),
        ({"temperature": 0.5}, "temperature"),
    ],
    ids=str,
)
def test_422_names_the_field(service: Service, changes: dict[str, Any], field: str) -> None:
    body = json.dumps({"tenant_id": "wide", "prompt_tokens": 10, "max_tokens": 1} | changes)
    refusal = error(service.client.post("/infer", content=body), 422, "invalid")
    assert refusal["field"] == field
    assert len(refusal["message"]) < 300


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"tenant_id": "\\ud800"}', b"[" * 100_000, b"1" * 10_000]
)
def test_a_body_that_is_no_request_is_422(service: Service, body: bytes) -> None:
    error(service.client.post("/infer", content=body), 422, "invalid")


def test_an_unknown_tenant_is_404(service: Service) -> None:
    refusal = error(service.infer(tenant_id="nob\u00f6dy\r\nx: y", prompt_tokens=1), 404, "unknown_tenant")
    assert refusal["field"] == "tenant_id"
    error(service.client.get("/tenants/nobody/status"), 404, "unknown_tenant")


def test_the_frameworks_errors_have_the_same_shape(service: Service) -> None:
    error(service.client.get("/nowhere"), 404, "not_found")


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/infer", "POST"),
        ("/requests/1", "DELETE, GET, HEAD"),
        ("/health", "GET, HEAD"),
        ("/health/live", "GET, HEAD"),
        ("/metrics", "GET, HEAD"),
        ("/tenants/nobody/status", "GET, HEAD"),
        ("/docs", "GET, HEAD"),
        ("/openapi.json", "GET, HEAD"),
    ],
)
def test_another_method_is_405_and_says_which_there_are(service: Service, path: str, allow: str) -> None:
    for method in ("HEAD", "OPTIONS", "TRACE", "PATCH"):
        if method not in allow:
            reply = service.client.request(method, path)
            assert (reply.status_code, reply.headers["allow"]) == (405, allow), method
    error(service.client.patch(path), 405, "method_not_allowed")


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready", "/metrics", "/docs", "/tenants/x/status"])
def test_head_is_get_without_the_body(service: Service, path: str) -> None:
    whole, head = service.client.get(path), service.client.head(path)
    assert (head.status_code, head.content) == (whole.status_code, b"")
    assert head.headers["content-type"] == whole.headers["content-type"]
    assert int(head.headers["content-length"]) > 0


def test_nobody_is_sent_to_where_the_host_header_says(service: Service) -> None:
    reply = service.client.post("/infer/", json={}, headers={"host": "evil.example"})
    assert (reply.status_code, "location" in reply.headers) == (404, False)


def test_what_can_never_be_admitted_is_400_with_what_would(service: Service) -> None:
    refusal = error(service.infer(tenant_id="small", prompt_tokens=900, max_tokens=101), 400, "exceeds_burst")
    assert (refusal["largest_max_tokens"], refusal["burst"], refusal["field"]) == (100, 1000, "max_tokens")
    assert "at most 100" in refusal["message"]
    hopeless = error(service.infer(tenant_id="small", prompt_tokens=1000, max_tokens=1), 400, "exceeds_burst")
    assert (hopeless["largest_max_tokens"], hopeless["field"]) == (0, "prompt_tokens")
    assert service.infer(tenant_id="small", prompt_tokens=900, max_tokens=100).status_code == 200


def test_larger_than_the_kv_cache_is_400(service: Service) -> None:
    refusal = error(service.infer(tenant_id="wide", prompt_tokens=61_018, max_tokens=7), 400, "exceeds_kv_cache")
    assert refusal["largest_max_tokens"] == 6
    assert "burst" not in refusal


def test_larger_than_the_tenants_largest_request_is_400() -> None:
    with serving((Tenant("x", rate=1e-3, burst=1000.0, max_request_tokens=500),)) as service:
        refusal = error(service.infer(tenant_id="x", prompt_tokens=400, max_tokens=101), 400, "exceeds_max_request")
        assert (refusal["largest_max_tokens"], refusal["field"]) == (100, "max_tokens")
        assert "x's largest request of 500 tokens: max_tokens may be at most 100" in refusal["message"]
        refusal = error(service.infer(tenant_id="x", prompt_tokens=400, max_tokens=61_000), 400, "exceeds_kv_cache")
        assert refusal["largest_max_tokens"] == 100
        assert service.infer(tenant_id="x", prompt_tokens=400, max_tokens=100).status_code == 200


def test_the_largest_max_tokens_passes_every_test() -> None:
    tight = Tenant("tight", rate=1e-3, burst=1000.0, kv_share=0.03)  # 114 blocks: 1,824 tokens
    with serving((tight,)) as service:
        # Fails the cache first, then the share, then the burst: the answer is the burst's.
        refusal = error(service.infer(tenant_id="tight", prompt_tokens=100, max_tokens=61_000), 400, "exceeds_kv_cache")
        assert refusal["largest_max_tokens"] == 900
        refusal = error(service.infer(tenant_id="tight", prompt_tokens=100, max_tokens=1_800), 400, "exceeds_kv_share")
        assert refusal["largest_max_tokens"] == 900
        error(service.infer(tenant_id="tight", prompt_tokens=100, max_tokens=901), 400, "exceeds_burst")
        assert service.infer(tenant_id="tight", prompt_tokens=100, max_tokens=900).status_code == 200


def test_what_no_queue_ever_takes_is_400_with_what_would() -> None:
    tenants = (Tenant("own", max_queued_tokens=150), Tenant("shut", max_queued=0), Tenant("free"))
    with serving(tenants, limits=Limits(max_queued_tokens=200)) as service:
        for tenant, max_tokens, reason, largest in (
            ("free", 101, "exceeds_queue", 100),
            ("own", 101, "exceeds_queue", 50),
            ("own", 51, "exceeds_tenant_queue", 50),
            ("shut", 1, "exceeds_tenant_queue", 0),
        ):
            reply = service.infer(tenant_id=tenant, prompt_tokens=100, max_tokens=max_tokens)
            refusal = error(reply, 400, reason)
            assert refusal["largest_max_tokens"] == largest
            assert "retry-after" not in reply.headers
            if largest:
                reply = service.infer(tenant_id=tenant, prompt_tokens=100, max_tokens=largest)
                assert reply.status_code == 200
    with serving((Tenant("x"),), limits=Limits(max_queued=0)) as service:
        error(service.infer(tenant_id="x", prompt_tokens=1, max_tokens=1), 400, "exceeds_queue")


def test_over_the_rate_is_429_and_the_retry_after_is_right() -> None:
    with serving((Tenant("x", rate=50.0, burst=500.0),), time_scale=2.0) as service:

        def now() -> float:
            seconds: float = service.client.get("/health").json()["now_s"]
            return seconds

        first = service.infer(tenant_id="x", prompt_tokens=499, max_tokens=1)
        # It emptied the bucket when it came. The other 250 are there 5 s later, 2.5 of this clock; it took 0.5 s.
        enough_at = first.json()["arrived_at"] + 250 / 50.0
        before = now()
        reply = service.infer(tenant_id="x", prompt_tokens=249, max_tokens=1)
        refusal = error(reply, 429, "over_rate")
        assert before <= enough_at - 2.0 * refusal["retry_after_s"] + 1e-6 <= now() + 2e-6
        assert int(reply.headers["retry-after"]) == max(1, math.ceil(refusal["retry_after_s"]))
        time.sleep(refusal["retry_after_s"])
        assert service.infer(tenant_id="x", prompt_tokens=249, max_tokens=1).status_code == 200


def test_retry_after_is_whole_wall_seconds_rounded_up() -> None:
    with serving((Tenant("x", rate=10.0, burst=1000.0),), time_scale=10.0) as service:
        assert service.infer(tenant_id="x", prompt_tokens=900, max_tokens=100).status_code == 200
        reply = service.infer(tenant_id="x", prompt_tokens=500, max_tokens=1)
        refusal = error(reply, 429, "over_rate")
        assert 3 < refusal["retry_after_s"] < 5.1  # 501 tokens at 10 a simulated second, a tenth of that here
        assert int(reply.headers["retry-after"]) == -(-refusal["retry_after_s"] // 1)


@pytest.mark.parametrize("rate", [1e-3, 1e-5])
def test_retry_after_is_a_day_at_most(rate: float) -> None:
    with serving((Tenant("x", rate=rate, burst=200.0),), time_scale=2.0) as service:
        assert service.infer(tenant_id="x", prompt_tokens=1, max_tokens=199).status_code == 200
        reply = service.infer(tenant_id="x", prompt_tokens=1, max_tokens=199)
        refusal = error(reply, 429, "over_rate")
        assert (refusal["retry_after_s"], reply.headers["retry-after"]) == (86_400, "86400")
        assert refusal["message"].endswith("try again in 86,400 s of your clock")


def test_an_endless_retry_after_is_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving((Tenant("x"),)) as service:
        never = Verdict("throttled", "over_rate", None, 5, False, math.inf, None)
        monkeypatch.setattr(Scheduler, "submit", lambda *_, **__: never)
        assert error(service.infer(tenant_id="x", prompt_tokens=1), 429, "over_rate")["retry_after_s"] == 86_400


def together(service: Service, count: int, **fields: Any) -> list[httpx.Response]:
    """So many requests at once, each on a thread of its own; the answers in the order in which they came."""
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(service.infer, **fields) for _ in range(count)]
        return [future.result() for future in concurrent.futures.as_completed(futures)]


def test_a_full_queue_of_the_tenant_is_429_and_a_full_service_503() -> None:
    tenants = (Tenant("tight", max_in_flight=1, max_queued=1), Tenant("free", max_in_flight=1))
    with serving(tenants, limits=Limits(max_queued=2), time_scale=10.0) as service:
        replies = together(service, 4, tenant_id="tight", prompt_tokens=3072, max_tokens=1)
        assert sorted(reply.status_code for reply in replies) == [200, 200, 429, 429]
        refusal = error(next(reply for reply in replies if reply.status_code == 429), 429, "tenant_queue_full")
        assert refusal["retry_after_s"] > 0
        replies = together(service, 5, tenant_id="free", prompt_tokens=3072, max_tokens=1)
        assert sorted(reply.status_code for reply in replies) == [200, 200, 200, 503, 503]
        overloaded = next(reply for reply in replies if reply.status_code == 503)
        error(overloaded, 503, "queue_full")
        assert int(overloaded.headers["retry-after"]) >= 1


def test_a_passed_deadline_is_504() -> None:
    with serving((Tenant("x", max_in_flight=1),), time_scale=10.0) as service:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            first = pool.submit(service.infer, tenant_id="x", prompt_tokens=8000, max_tokens=1)
            until(lambda: service.status("x")["in_flight"] == 1)
            refusal = error(service.infer(tenant_id="x", prompt_tokens=1, deadline_s=0.5), 504, "deadline_expired")
            assert refusal["field"] == "deadline_s"
            assert first.result().status_code == 200
        assert service.status("x")["requests"]["expired"] == 1


@pytest.mark.parametrize("declared", [True, False])
def test_a_large_body_is_413(declared: bool) -> None:
    with serving(max_body_bytes=1024) as service:
        body = json.dumps({"tenant_id": "tenant_a", "prompt": "x" * 1024}).encode()
        content = body if declared else (body[at : at + 100] for at in range(0, len(body), 100))
        refusal = error(service.client.post("/infer", content=content), 413, "body_too_large")
        assert "1024 bytes" in refusal["message"]
        assert service.infer(tenant_id="tenant_a", prompt="x" * 900, max_tokens=1).status_code == 200


# Life


@pytest.mark.parametrize("padding", [0, 100_000], ids=["small", "large"])  # reading is paused in a large one
def test_a_client_that_disconnects_cancels_its_request(padding: int) -> None:
    with serving((Tenant("x", max_in_flight=1),), time_scale=1.0) as service:
        host, port = service.url.removeprefix("http://").split(":")
        body = b'{"tenant_id": "x", "prompt_tokens": 30000' + b" " * padding + b"}"
        head = b"POST /infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
        sockets = [socket.create_connection((host, int(port))) for _ in range(2)]
        for client in sockets:
            client.sendall(head + body[:70_000])
            time.sleep(0.05)
            client.sendall(body[70_000:])
        until(lambda: (service.status("x")["in_flight"], service.status("x")["waiting"]) == (1, 1))
        for client in sockets:
            client.close()
        until(lambda: service.status("x")["requests"]["cancelled"] == 2)
        status = service.status("x")
        assert (status["in_flight"], status["waiting"]) == (0, 0)
        assert service.driver.outstanding == 0


def half_a_body(service: Service) -> socket.socket:
    """A connection that has sent the first 5 bytes of a body of 100."""
    host, port = service.url.removeprefix("http://").split(":")
    client = socket.create_connection((host, int(port)), timeout=10)
    client.sendall(b'POST /infer HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"ten')
    return client


def test_a_client_that_hangs_up_in_its_body_is_no_error_of_the_service(capfd: pytest.CaptureFixture[str]) -> None:
    with serving((Tenant("x"),)) as service:
        half_a_body(service).close()
        assert service.infer(tenant_id="x", prompt_tokens=1, max_tokens=1).status_code == 200
    assert "Exception" not in capfd.readouterr().err


def test_a_body_that_does_not_come_is_408_and_ends_the_connection() -> None:
    with serving((Tenant("x"),), body_s=0.2) as service, half_a_body(service) as client:
        said = b"".join(iter(lambda: client.recv(4096), b"")).decode()
        assert said.startswith("HTTP/1.1 408 ")
        assert "connection: close" in said.lower()
        assert '"reason":"body_too_slow"' in said
        assert service.infer(tenant_id="x", prompt_tokens=1, max_tokens=1).status_code == 200


def test_draining_refuses_new_requests_and_finishes_the_old() -> None:
    with serving((Tenant("x"),), time_scale=10.0) as service:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            first = pool.submit(service.infer, tenant_id="x", prompt_tokens=8192, max_tokens=1)
            until(lambda: service.status("x")["in_flight"] == 1)
            assert service.client.get("/health/ready").status_code == 200
            drained = asyncio.run_coroutine_threadsafe(service.driver.drain(10.0), service.loop)
            until(lambda: service.client.get("/health").json()["draining"])
            assert service.client.get("/health/ready").status_code == 503
            reply = service.infer(tenant_id="x", prompt_tokens=1)
            # Seconds of the client's clock, whatever the time scale.
            assert (error(reply, 503, "draining")["retry_after_s"], reply.headers["retry-after"]) == (1, "1")
            assert first.result().status_code == 200
            assert drained.result(10) == 0
        assert service.client.get("/health").json()["live"] is True


def test_what_a_drain_cuts_off_is_answered() -> None:
    with serving((Tenant("x"),), time_scale=1.0) as service:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            first = pool.submit(service.infer, tenant_id="x", prompt_tokens=30_000)
            until(lambda: service.status("x")["in_flight"] == 1)
            drained = asyncio.run_coroutine_threadsafe(service.driver.drain(0.05), service.loop)
            error(first.result(), 503, "draining")
            assert drained.result(10) == 1


def test_a_driver_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving((Tenant("x"),)) as service:

        def broken() -> None:
            raise RuntimeError("the GPU is on fire")

        monkeypatch.setattr(service.driver.backend, "take", broken)
        assert service.client.get("/health").status_code == 200
        for _ in range(2):  # one that it meets, one that comes later
            refusal = error(service.infer(tenant_id="x", prompt_tokens=1), 500, "driver_failed")
            assert "fire" not in refusal["message"]
        reply = service.client.get("/health")
        assert (reply.status_code, reply.json()["live"], reply.json()["ready"]) == (503, False, False)


def test_an_error_of_the_service_is_a_500_that_ends_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving((Tenant("x"),)) as service:

        def broken(_: str) -> None:
            raise RuntimeError("secret")

        monkeypatch.setattr(service.driver.backend, "count_tokens", broken)
        for _ in range(3):  # the client must not send the next request over a connection that is about to end
            reply = service.infer(tenant_id="x", prompt="a")
            assert "secret" not in error(reply, 500, "internal")["message"]
            assert reply.headers["connection"] == "close"
        assert service.infer(tenant_id="x", prompt_tokens=1, max_tokens=1).status_code == 200


# What it says of itself


def test_every_name_of_a_tenant_has_its_status_and_its_counters() -> None:
    names = ["a b", "\u00fc\N{SUN}", "100%", "%2F", "a?b#c&d=e", "..", "{x}", 'q"\\', "status", "x" * 256]
    with serving([Tenant(name) for name in names]) as service:
        for name in names:
            assert service.infer(tenant_id=name, prompt_tokens=1, max_tokens=1).status_code == 200
            status = service.status(quote(name, safe="").replace(".", "%2E"))
            assert (status["tenant_id"], status["requests"]["finished"]) == (name, 1)
        counters = Counters(service.client.get("/metrics").text)
        assert {counters.total("aps_admitted_total", tenant=name) for name in names} == {1}


LINE = re.compile(r'(# (HELP|TYPE) \w+ .+)|(\w+(\{(\w+="([^"\\\n]|\\.)*",?)+\})? (\+Inf|-?[0-9.e+-]+))')


def test_metrics_count_what_happened() -> None:
    odd = Tenant('odd "name"\\', request_rate=1e-3, request_burst=1, max_request_tokens=15)
    with serving((Tenant("x", rate=1.0, burst=1000.0), odd)) as service:
        for _ in range(2):
            assert service.infer(tenant_id="x", prompt_tokens=200, max_tokens=100).status_code == 200
        error(service.infer(tenant_id="x", prompt_tokens=900, max_tokens=90), 429, "over_rate")
        error(service.infer(tenant_id="x", prompt_tokens=1900, max_tokens=90), 400, "exceeds_burst")
        assert service.infer(tenant_id='odd "name"\\', prompt_tokens=10, max_tokens=5).status_code == 200
        error(service.infer(tenant_id=odd.name, prompt_tokens=10, max_tokens=6), 400, "exceeds_max_request")
        error(service.infer(tenant_id=odd.name, prompt_tokens=10, max_tokens=5), 429, "over_request_rate")
        reply = service.client.get("/metrics")
        assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert all(LINE.fullmatch(line) for line in reply.text.splitlines())
        counters = Counters(reply.text)
        assert counters.total("aps_prompt_tokens_total", tenant="x") == 400
        assert counters.total("aps_output_tokens_total", tenant="x") == 200
        assert counters.total("aps_output_tokens_total") == 205
        assert counters.total("aps_requests_total", tenant="x", outcome="finished") == 2
        assert counters.total("aps_requests_total", tenant='odd "name"\\', outcome="finished") == 1
        assert counters.total("aps_refused_total", tenant="x", reason="over_rate") == 1
        assert counters.total("aps_refused_total", tenant="x", reason="exceeds_burst") == 1
        assert counters.total("aps_refused_total", tenant=odd.name, reason="exceeds_max_request") == 1
        assert counters.total("aps_refused_total", tenant=odd.name, reason="over_request_rate") == 1
        assert 0 <= counters.total("aps_request_bucket_level", tenant=odd.name) < 1
        assert counters.total("aps_time_to_first_token_seconds_count", tenant="x") == 2
        busy = 2 * (200 / 1024 + 100 / 128) + 10 / 1024 + 5 / 128  # one at a time: never more than one slot
        assert counters.total("aps_device_busy_seconds_total") == pytest.approx(busy, rel=1e-6)
        assert counters.total("aps_device_slot_seconds_total") == pytest.approx(busy, rel=1e-6)
        assert counters.total("aps_waiting_requests") == counters.total("aps_running_requests") == 0


def test_metrics_types_are_declared_once(service: Service) -> None:
    text = service.client.get("/metrics").text
    declared = re.findall(r"# TYPE (\w+) (\w+)", text)
    assert len({name for name, _ in declared}) == len(declared)
    assert all(name.endswith("_total") == (kind == "counter") for name, kind in declared)


def test_the_openapi_document_has_every_answer(service: Service) -> None:
    document = service.client.get("/openapi.json").json()
    operation = document["paths"]["/infer"]["post"]
    assert {int(status) for status in operation["responses"]} == {200, 202, *MEANING}
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/InferRequest"}
    schema = document["components"]["schemas"]["InferRequest"]
    assert set(schema["properties"]) == {*InferRequest.__struct_fields__}
    assert schema["additionalProperties"] is False
    assert set(document["paths"]) == {
        "/infer",
        "/requests/{id}",
        "/metrics",
        "/health",
        "/health/live",
        "/health/ready",
        "/tenants/{tenant_id}/status",
    }
    assert service.client.get("/docs").status_code == 200

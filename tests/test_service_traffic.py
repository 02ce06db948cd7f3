"""What the HTTP layer refuses by itself is counted, once, by reason; so are connections, and what the process takes."""

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, ProcessCollector

from aps.service.access import Access
from aps.service.errors import OWN, STATUS
from aps.service.keys import digest_of
from aps.service.labels import OUTCOMES, REFUSALS
from aps.service.process import process
from aps.service.prometheus import Page
from aps.tenants import Tenant
from tests.raw_client import HEAD, WHOLE, all_of, connected, refused
from tests.scrapes import Scrape
from tests.serving import Service, serving, until

ADMIN, KEY = "a" * 43, "k" * 43
BEARER = {"authorization": f"Bearer {KEY}"}
TENANTS = (Tenant("x", rate=1.0, burst=1e3), Tenant("y"))


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving(TENANTS, max_body_bytes=1024) as running:
        yield running


@pytest.fixture(scope="module")
def strict() -> Iterator[Service]:
    with serving(TENANTS, max_header_bytes=2048, header_s=0.3, body_s=0.3) as running:
        yield running


@pytest.fixture(scope="module")
def keyed() -> Iterator[Service]:
    access = Access({"x": [digest_of(KEY.encode())]}, admin=digest_of(ADMIN.encode()))
    with serving(TENANTS, access=access) as running:
        yield running


def counted(service: Service) -> dict[str, int]:
    """The reasons that have been counted, as JSON has them."""
    headers = {"accept": "application/json", "authorization": f"Bearer {ADMIN}"}
    families = service.client.get("/metrics", headers=headers).json()
    samples = families["aps_http_refused_total"]["samples"]
    return {sample["labels"]["reason"]: sample["value"] for sample in samples}


def new(service: Service, before: dict[str, int]) -> dict[str, int]:
    return {reason: count - before[reason] for reason, count in counted(service).items() if count > before[reason]}


@pytest.mark.parametrize(
    ("method", "path", "options", "reason"),
    [
        ("POST", "/infer", {"content": b"{"}, "invalid"),
        ("POST", "/infer", {"json": {"tenant_id": "nobody", "prompt_tokens": 1}}, "unknown_tenant"),
        ("POST", "/infer", {"content": b" " * 2000}, "body_too_large"),
        ("POST", "/infer", {"content": iter([b" " * 2000])}, "body_too_large"),
        ("GET", "/infer", {}, "method_not_allowed"),
        ("GET", "/nowhere", {}, "not_found"),
        ("POST", "/nowhere", {"content": b" " * 2000}, "body_too_large"),
        ("GET", "/tenants/nobody/status", {}, "unknown_tenant"),
        ("GET", "/requests/r1", {}, "unknown_request"),
        ("GET", "/tenants/%ff/status", {}, "bad_request"),
    ],
)
def test_a_refusal_of_the_http_layer_is_counted_once(
    service: Service, method: str, path: str, options: dict[str, Any], reason: str
) -> None:
    before = counted(service)
    assert service.client.request(method, path, **options).json()["error"]["reason"] == reason
    assert new(service, before) == {reason: 1}


@pytest.mark.parametrize(
    ("method", "path", "headers", "fields", "reason"),
    [
        ("POST", "/infer", {}, {"prompt_tokens": 1}, "unauthorized"),
        ("POST", "/infer", BEARER, {"tenant_id": "y", "prompt_tokens": 1}, "forbidden"),
        ("GET", "/metrics", {}, None, "unauthorized"),
        ("GET", "/tenants/y/status", BEARER, None, "forbidden"),
    ],
)
def test_who_may_not_is_counted(
    keyed: Service, method: str, path: str, headers: dict[str, str], fields: dict[str, Any] | None, reason: str
) -> None:
    before = counted(keyed)
    assert keyed.client.request(method, path, headers=headers, json=fields).json()["error"]["reason"] == reason
    assert new(keyed, before) == {reason: 1}


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (b"\x00\r\n\r\n", 400, "bad_request"),
        (HEAD, 408, "head_too_slow"),
        (HEAD + b"content-length: 10\r\n\r\n{", 408, "body_too_slow"),
        (HEAD + b"x: " + b"y" * 3000, 431, "head_too_large"),
    ],
)
def test_what_ends_a_connection_is_counted(strict: Service, sent: bytes, status: int, reason: str) -> None:
    before = counted(strict)
    with connected(strict, sent) as client:
        refused(all_of(client), status, reason)
    assert new(strict, before) == {reason: 1}


def test_what_the_scheduler_says_is_counted_by_it_alone(service: Service) -> None:
    before = counted(service)
    assert service.infer(tenant_id="x", prompt_tokens=5000, max_tokens=1).status_code == 400
    asked = [{"tenant_id": "x", "prompt_tokens": 900, "max_tokens": 90, "stream": stream} for stream in (False, True)]
    assert 429 in [service.infer(**fields).status_code for fields in 2 * asked]
    found = Scrape(service.client.get("/metrics").text)
    assert found.one("aps_refused_total", tenant="x", reason="exceeds_burst") == 1
    assert found.one("aps_refused_total", tenant="x", reason="over_rate") >= 1
    assert new(service, before) == {}


def test_a_failure_of_the_service_is_counted_though_the_scheduler_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(TENANTS) as own:

        def broken(*_: object) -> bytes:
            raise ZeroDivisionError

        before = counted(own)
        monkeypatch.setattr(type(own.server.config.app.state.requests), "leave", broken)  # type: ignore[union-attr]
        assert own.infer(tenant_id="x", prompt_tokens=1, max_tokens=1).json()["error"]["reason"] == "internal"
        assert new(own, before) == {"internal": 1}


def test_every_reason_has_its_series_from_the_start_and_one_place() -> None:
    """Prometheus sees no increase of a series that begins at 1."""
    with serving(TENANTS) as own:
        assert counted(own) == dict.fromkeys(OWN, 0)
    assert not set(OWN) & {*REFUSALS, *OUTCOMES} - {"draining"}
    assert {*STATUS} - {*OWN} <= {*REFUSALS, "cancelled", "backend_failed"}


def test_connections_are_counted_and_those_beyond_the_most() -> None:
    with serving(TENANTS, max_connections=3) as few:

        def found() -> Scrape:
            return Scrape(few.client.get("/metrics").text)

        assert (found().one("aps_connections"), found().one("aps_max_connections")) == (1, 3)
        with connected(few, WHOLE) as first, connected(few) as second:
            assert first.recv(65536) and second
            until(lambda: found().one("aps_connections") == 3)
            with connected(few) as third:
                refused(all_of(third), 503, "too_many_connections")
        until(lambda: found().one("aps_connections") == 1)
        assert found().one("aps_http_refused_total", reason="too_many_connections") == 1


def test_the_process_is_what_others_say_it_is() -> None:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)

    def now() -> Scrape:
        page = Page()
        process(page)
        return Scrape(page.render())

    before_s, found, after_s = time.process_time(), now(), time.process_time()
    assert before_s <= found.one("process_cpu_seconds_total") <= after_s
    theirs = {name: registry.get_sample_value(name) for name, _ in found.series}
    assert found.one("process_resident_memory_bytes") == pytest.approx(theirs["process_resident_memory_bytes"], rel=0.2)
    for name in ("process_start_time_seconds", "process_max_fds"):
        assert found.one(name) == pytest.approx(theirs[name])
    with open(os.devnull):
        assert now().one("process_open_fds") == found.one("process_open_fds") + 1

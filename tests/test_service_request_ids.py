"""By what id a caller, the log and we speak of one request."""

import io
import json

import pytest

from aps.service.logs import Logs
from aps.tenants import Tenant
from tests.administered import ADMIN, GOLD, METRICS, administered
from tests.raw_client import BODY, HEAD, all_of, answer_of, connected
from tests.serving import serving


def asked(*lines: bytes, body: bytes = BODY) -> bytes:
    head = b"".join(line + b"\r\n" for line in (*lines, b"connection: close", b"content-length: %d" % len(body)))
    return HEAD + head + b"\r\n" + body


STREAM = BODY.replace(b"}", b', "stream": true}')
LATER = BODY.replace(b"}", b', "wait": false}')

UNKNOWN = BODY.replace(b'"x"', b'"y"')


@pytest.mark.parametrize("body", [BODY, LATER, b"{", UNKNOWN], ids=["whole", "later", "422", "404"])
def test_the_callers_id_comes_back(body: bytes) -> None:
    with serving((Tenant("x"),)) as service, connected(service, asked(b"X-Request-Id: a-1", body=body)) as client:
        assert answer_of(all_of(client))[1]["x-request-id"] == "a-1"


def test_with_a_stream_too() -> None:
    with serving((Tenant("x"),)) as service, connected(service, asked(b"x-request-id: a-1", body=STREAM)) as client:
        assert b"\r\nx-request-id: a-1\r\n" in all_of(client).partition(b"\r\n\r\n")[0]


async def test_it_comes_back_whatever_is_asked_and_administration_has_one_of_ours() -> None:
    async with administered() as service:
        for method, path, key, status in (
            ("GET", "/health", None, 200),
            ("GET", "/docs", None, 200),
            ("HEAD", "/metrics", METRICS, 200),
            ("GET", "/metrics", GOLD, 403),
            ("GET", "/tenants/gold/status", GOLD, 200),
            ("GET", "/tenants/gold/status", None, 401),
            ("GET", "/requests/1", GOLD, 404),
            ("PUT", "/infer", GOLD, 405),
            ("GET", "/%ff", None, 400),
            ("GET", "/nowhere", None, 404),
            ("GET", "/admin/tenants", ADMIN, 200),
            ("GET", "/admin/tenants", None, 401),
            ("GET", "/admin/tenants", GOLD, 403),
            ("GET", "/admin/nowhere", ADMIN, 404),
            ("POST", "/admin/policy", ADMIN, 405),
            ("PATCH", "/admin/policy", ADMIN, 413),
            ("GET", "/admin/audit?limit=0", ADMIN, 422),
        ):
            body = b" " * (1 << 21) if status == 413 else None
            reply = await service.call(method, path, key, content=body, headers={"x-request-id": "a-1"})
            assert (reply.status_code, reply.headers.get_list("x-request-id")) == (status, ["a-1"]), path
            ours = (await service.call(method, path, key, content=body)).headers.get_list("x-request-id")
            assert [len(id) for id in ours] == ([16] if path.startswith("/admin") else [])


async def test_a_failure_has_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async with administered() as service:
        monkeypatch.setattr("aps.service.admin.plain", lambda _: 1 / 0)
        reply = await service.call("GET", "/admin/config", headers={"x-request-id": "a-1"})
        assert (reply.status_code, reply.headers["x-request-id"]) == (500, "a-1")


@pytest.mark.parametrize("id", [b"", b"a b", b"x" * 65, b"\xe9", b"a;b"])
def test_what_is_no_id_does_not(id: bytes) -> None:
    with serving((Tenant("x"),)) as service, connected(service, asked(b"x-request-id: " + id)) as client:
        status, headers, _ = answer_of(all_of(client))
    assert (status, "x-request-id" in headers) == (200, False)


def test_a_refusal_has_an_id_and_the_log_has_it() -> None:
    text = io.StringIO()
    logs = Logs("info", "json", text)
    try:
        with serving((Tenant("x", rate=1, burst=8),), log=logs.requests) as service:
            given = {}
            for sent in (asked(), asked(), asked(b"x-request-id: mine"), asked(body=b"{")):
                with connected(service, sent) as client:
                    status, headers, _ = answer_of(all_of(client))
                given[headers.get("x-request-id")] = status
    finally:
        logs.stop()
    lines = [line for line in map(json.loads, text.getvalue().splitlines()) if line["event"] == "request"]
    assert {line.get("request_id"): line["status"] for line in lines} == given
    assert sorted(given.values()) == [200, 422, 429, 429]
    assert given[None] == 200
    assert given["mine"] == 429

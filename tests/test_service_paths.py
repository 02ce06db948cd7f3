"""Ids in paths and queries whose bytes are no text."""

from collections.abc import Iterator

import pytest

from aps.tenants import Tenant
from tests.administered import administered
from tests.raw_client import all_of, answer_of, connected
from tests.serving import Service, serving

NO_TEXT = ["%ff", "a%c3", "%ed%a0%80", "%c0%af", "%00", "a%00b"]
PATHS = [
    ("GET", "/tenants/{}/status"),
    ("GET", "/requests/{}"),
    ("DELETE", "/requests/{}"),
    ("GET", "/{}"),
    ("GET", "/metrics?{}"),
    ("PUT", "/admin/tenants/{}"),
    ("PATCH", "/admin/tenants/{}"),
    ("GET", "/admin/tenants/{}"),
    ("DELETE", "/admin/tenants/{}"),
    ("GET", "/admin/tenants/{}/keys"),
    ("POST", "/admin/tenants/{}/keys"),
    ("DELETE", "/admin/tenants/gold/keys/{}"),
    ("POST", "/admin/tenants/gold/keys/{}/rotate"),
    ("GET", "/admin/audit?tenant={}"),
    ("GET", "/admin/audit?{}=1"),
]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving((Tenant("x"), Tenant("ü"))) as running:
        yield running


async def test_bytes_that_are_no_text_are_400_on_every_route() -> None:
    async with administered() as service:
        before = service.state
        for method, path in PATHS:
            for id in NO_TEXT:
                reply = await service.call(method, path.format(id), content=b"{}" if method[0] == "P" else None)
                error = reply.json()["error"]
                assert (reply.status_code, error["reason"]) == (400, "bad_request"), (method, path, id)
                field = "query" if "?" in path else "path"
                assert error["field"] == field
                assert error["message"].startswith(f"the {field} must be percent-encoded UTF-8 without NUL, got '")
                assert id in error["message"]
        assert service.state == before


@pytest.mark.parametrize("target", [b"/tenants/%ff/status", b"/metrics?x=\xff", b"/metrics?x=\xc3\xbc"], ids=repr)
def test_over_a_connection_it_is_the_same(service: Service, target: bytes) -> None:
    with connected(service, b"GET " + target + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n") as client:
        status, _, body = answer_of(all_of(client))
    assert status == 400 and b'"reason":"bad_request"' in body


def test_a_name_beyond_ascii_is_found(service: Service) -> None:
    assert service.client.get("/tenants/%C3%BC/status").json()["tenant_id"] == "ü"

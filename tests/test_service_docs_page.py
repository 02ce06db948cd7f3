"""`GET /docs` without the internet: all that the page loads is the service's own."""

import re
from collections.abc import Iterator

import pytest

from aps.service.docs_page import FOLDER
from aps.tenants import Tenant
from tests.serving import Service, serving


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving((Tenant("x"),)) as running:
        yield running


def test_all_that_the_page_loads_is_here(service: Service) -> None:
    reply = service.client.get("/docs")
    assert (reply.status_code, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")
    loaded = re.findall(r'(?:src|href|url)(?:=|: )"([^"]+)"', reply.text)
    assert set(loaded) == {"data:,", "docs/swagger-ui.css", "docs/swagger-ui-bundle.js", "openapi.json"}
    assert "//" not in reply.text
    for name, kind in (("swagger-ui.css", "text/css"), ("swagger-ui-bundle.js", "/javascript")):
        file = service.client.get(f"/docs/{name}")
        assert file.status_code == 200 and kind in file.headers["content-type"]
        assert file.content == (FOLDER / name).read_bytes()
    assert not re.findall(rb"@import|url\((?!['\"]?data:)", (FOLDER / "swagger-ui.css").read_bytes())


@pytest.mark.parametrize("name", ["redoc.standalone.js", "..%2Fcore.py", "x"])
def test_nothing_else_of_that_folder_is(service: Service, name: str) -> None:
    reply = service.client.get(f"/docs/{name}")
    assert (reply.status_code, reply.json()["error"]["reason"]) == (404, "not_found")

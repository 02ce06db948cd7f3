"""schemathesis against the published document: no 500, and no answer that the document does not know."""

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from aps.service.keys import new_key
from aps.tenants import Tenant
from loadtests.serving import serving as in_a_process
from tests.serving import serving

EXAMPLES = 15 if os.environ.get("HYPOTHESIS_PROFILE", "default") != "nightly" else 2000
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
VERBS = {"get", "post", "put", "patch", "delete"}
TENANTS = ("x", "tight")
CONFIG = """
[devices]
time_scale = 10_000
[tenants.x]
[tenants.tight]
rate = 1
burst = 100
max_queued = 1
"""


@pytest.fixture(scope="module")
def document() -> Iterator[Any]:
    tenants = (Tenant("x"), Tenant("tight", rate=1.0, burst=100.0, max_queued=1))
    with serving(tenants, time_scale=10_000.0) as service:
        yield schemathesis.openapi.from_url(f"{service.url}/openapi.json")


class Administration(NamedTuple):
    """The document of a service with an admin key, a file and a store; that key, and ids of tenants' keys."""

    document: Any
    headers: dict[str, str]
    key_ids: list[str]


@pytest.fixture(scope="module")
def administration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Administration]:
    folder = tmp_path_factory.mktemp("administered")
    file, store, admin = folder / "aps.toml", folder / "aps.db", new_key()
    file.write_text(CONFIG)
    headers = {"authorization": f"Bearer {admin}"}
    with in_a_process("--config", str(file), "--store", str(store), env={"APS_ADMIN_KEY": admin}) as service:
        document = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
        with httpx.Client(base_url=service.url, headers=headers, trust_env=False) as client:
            made = [client.post(f"/admin/tenants/{name}/keys", json={}).json() for name in TENANTS for _ in range(3)]
        yield Administration(document, headers, [key["id"] for key in made])


OPERATIONS = [
    ("POST", "/infer"),
    ("GET", "/requests/{id}"),
    ("DELETE", "/requests/{id}"),
    ("GET", "/metrics"),
    ("GET", "/health"),
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/tenants/{tenant_id}/status"),
]
ADMINISTRATION = [
    ("GET", "/admin/config"),
    ("POST", "/admin/reload"),
    ("PATCH", "/admin/policy"),
    ("GET", "/admin/tenants"),
    ("GET", "/admin/tenants/{tenant_id}"),
    ("PUT", "/admin/tenants/{tenant_id}"),
    ("PATCH", "/admin/tenants/{tenant_id}"),
    ("GET", "/admin/tenants/{tenant_id}/keys"),
    ("POST", "/admin/tenants/{tenant_id}/keys"),
    ("DELETE", "/admin/tenants/{tenant_id}/keys/{key_id}"),
    ("POST", "/admin/tenants/{tenant_id}/keys/{key_id}/rotate"),
    ("GET", "/admin/audit"),
    ("GET", "/admin/usage"),
    ("DELETE", "/admin/tenants/{tenant_id}"),
]


def operations(document: Any) -> set[tuple[str, str]]:
    paths = document.raw_schema["paths"]
    return {(verb.upper(), path) for path in paths for verb in VERBS & paths[path].keys()}


def test_these_are_all(document: Any, administration: Administration) -> None:
    assert operations(document) == set(OPERATIONS)
    assert operations(administration.document) == {*OPERATIONS, *ADMINISTRATION}


def every_answer_is_in(
    document: Any, verb: str, path: str, headers: dict[str, str] | None = None, key_ids: Sequence[str] = ()
) -> None:
    """Random requests for an operation. Most names are nobody's: two of three become a tenant's, or a key's."""

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=document[path][verb].as_strategy(), data=st.data())
    def holds(case: Any, data: st.DataObject) -> None:
        for part, name, known in (
            (case.body, "tenant_id", TENANTS),
            (case.path_parameters, "tenant_id", TENANTS),
            (case.path_parameters, "key_id", key_ids),
        ):
            if isinstance(part, dict) and isinstance(part.get(name), str) and data.draw(st.integers(0, 2)):
                part[name] = data.draw(st.sampled_from(known))
        reply = case.call(headers=headers, timeout=30)
        assert reply.status_code not in (500, 502), reply.text
        case.validate_response(reply, checks=CHECKS)

    holds()


@pytest.mark.parametrize(("verb", "path"), OPERATIONS)
def test_every_answer_is_in_the_document(document: Any, verb: str, path: str) -> None:
    every_answer_is_in(document, verb, path)


@pytest.mark.parametrize(("verb", "path"), ADMINISTRATION)
def test_every_answer_of_administration_is(administration: Administration, verb: str, path: str) -> None:
    every_answer_is_in(administration.document, verb, path, administration.headers, administration.key_ids)

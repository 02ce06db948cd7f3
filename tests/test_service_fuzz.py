"""schemathesis against the published document: no 500, and no answer that the document does not know."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from aps.tenants import Tenant
from tests.serving import serving

EXAMPLES = 15 if os.environ.get("HYPOTHESIS_PROFILE", "default") != "nightly" else 2000
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def document() -> Iterator[Any]:
    tenants = (Tenant("x"), Tenant("tight", rate=1.0, burst=100.0, max_queued=1))
    with serving(tenants, time_scale=10_000.0) as service:
        yield schemathesis.openapi.from_url(f"{service.url}/openapi.json")


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


def test_these_are_all(document: Any) -> None:
    paths = document.raw_schema["paths"]
    known = {(verb.upper(), path) for path in paths for verb in paths[path] if verb in ("get", "post", "put", "delete")}
    assert set(OPERATIONS) == known


@pytest.mark.parametrize(("verb", "path"), OPERATIONS)
def test_every_answer_is_in_the_document(document: Any, verb: str, path: str) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=document[path][verb].as_strategy())
    def holds(case: Any) -> None:
        if isinstance(case.body, dict) and isinstance(case.body.get("tenant_id"), str):
            # Most names are nobody's: give two of three a tenant.
            case.body["tenant_id"] = ("x", "tight", case.body["tenant_id"])[len(case.body["tenant_id"]) % 3]
        reply = case.call(timeout=30)
        assert reply.status_code not in (500, 502), reply.text
        case.validate_response(reply, checks=CHECKS)

    holds()

"""What `POST /infer` accepts is what the published schema says, and no more and no less."""

import json
from collections.abc import Iterator
from math import inf, nan
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aps.service.access import Access
from aps.service.bodies import infer_request
from aps.service.errors import Refusal
from aps.service.keys import digest_of
from aps.service.wire import InferRequest
from aps.tenants import Tenant
from tests.serving import Service, serving

FIELDS = InferRequest.__struct_fields__
WHOLE = ("prompt_tokens", "max_tokens", "bid")

# Values at the edges of some field, and of every wrong type.
EDGES: list[Any] = [None, True, False, 0, 1, 2, 10, 11, -1, 2**31 - 1, 2**31, 2**63, 10**30, 0.5, 5e-324, 1e300, -0.5]
EDGES += [86_400, 86_400.5, "", "x", "\u00fc\N{SUN}", "x" * 256, "x" * 257, "\x00", "1", "true", [], [1], {}, {"a": 1}]

values = st.sampled_from(EDGES) | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
right = st.fixed_dictionaries(
    {"tenant_id": st.text(min_size=1, max_size=8)},
    optional={
        "max_tokens": st.none() | st.integers(1, 100),
        "bid": st.none() | st.integers(1, 10),
        "deadline_s": st.none() | st.floats(1e-9, 86_400) | st.integers(1, 86_400),
        "stream": st.none() | st.booleans(),
        "wait": st.none() | st.booleans(),
    },
)
prompts = st.fixed_dictionaries({"prompt": st.text(min_size=1)}) | st.fixed_dictionaries(
    {"prompt_tokens": st.integers(1, 100)}
)
wrong = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8), values, max_size=2)
bodies = st.builds(
    lambda *parts: {name: value for part in parts for name, value in part.items()}, right, prompts, wrong
)
pairs = st.dictionaries(st.sampled_from(FIELDS), values)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving((Tenant("x"),), time_scale=10_000.0) as running:
        yield running


@pytest.fixture(scope="module")
def published(service: Service) -> jsonschema_rs.Draft202012Validator:
    return published_by(service)


def published_by(service: Service) -> jsonschema_rs.Draft202012Validator:
    """The schema of the body, as the service publishes it."""
    document = service.client.get("/openapi.json").json()
    schema = document["paths"]["/infer"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return jsonschema_rs.Draft202012Validator(schema | {"components": document["components"]})


def fits(schema: jsonschema_rs.Draft202012Validator, body: Any) -> bool:
    """Whether the schema takes the body. JSON Schema calls 1.0 an integer; the fields' descriptions say we do not."""
    if isinstance(body, dict) and any(isinstance(body.get(name), float) for name in WHOLE):
        return False
    return bool(schema.is_valid(body))


def accepted(body: Any) -> bool:
    """Whether the path takes it; if not, the field that it names is in the body, or is missing."""
    try:
        asked = infer_request(json.dumps(body).encode())
    except Refusal as refusal:
        assert (refusal.status, refusal.error.reason) == (422, "invalid")
        assert refusal.error.field
        assert len(refusal.error.message) < 400
        return False
    return isinstance(asked.tenant_id, str)  # without keys it must be there


@given(body=bodies | pairs)
@example(body={"tenant_id": "x", "prompt": "a", "prompt_tokens": None})
@example(body={"tenant_id": "x", "prompt": None, "prompt_tokens": None})
@example(body={"tenant_id": "x", "prompt": "a", "stream": True, "wait": False})
@example(body={"tenant_id": "x", "prompt": "a", "stream": False, "wait": False})
def test_what_is_accepted_is_what_is_published(
    published: jsonschema_rs.Draft202012Validator, body: dict[str, Any]
) -> None:
    assert accepted(body) == fits(published, body)


@pytest.mark.parametrize("field", FIELDS)
def test_every_edge_of_every_field(published: jsonschema_rs.Draft202012Validator, field: str) -> None:
    for value in EDGES:
        for other in ({"prompt": "a"}, {"prompt_tokens": 1}, {}):
            body = {"tenant_id": "x"} | other | {field: value}
            assert accepted(body) == fits(published, body), body


@pytest.mark.parametrize("stream", [None, False])
def test_null_is_as_if_it_were_left_out(service: Service, stream: bool | None) -> None:
    whole = dict.fromkeys(FIELDS) | {"prompt_tokens": 3, "max_tokens": 2, "stream": stream}
    reply = service.infer(**whole | {"tenant_id": "x"})
    assert (reply.status_code, reply.json()["output_tokens"]) == (200, 2)
    assert service.infer(**whole).json()["error"]["field"] == "tenant_id"  # nobody else says whose it is
    answer = service.client.post("/infer", content=json.dumps(whole | {"tenant_id": "x", "stream": True, "wait": None}))
    assert answer.text.endswith("data: [DONE]\n\n")


def test_with_keys_the_tenant_may_be_null_and_the_document_says_so() -> None:
    key = "aps_" + "k" * 43
    with serving((Tenant("x"),), access=Access({"x": [digest_of(key.encode())]}), time_scale=10_000.0) as keyed:
        keyed.client.headers["authorization"] = f"Bearer {key}"
        schema = published_by(keyed)
        for tenant, right in ((None, True), ("x", True), (5, False)):
            body = {"prompt_tokens": 1, "max_tokens": 1, "tenant_id": tenant}
            assert fits(schema, body) == (keyed.infer(**body).status_code == 200) == right


def test_over_http_it_is_the_same(service: Service, published: jsonschema_rs.Draft202012Validator) -> None:
    for field in FIELDS:
        for value in EDGES:
            body = {"tenant_id": "x", "prompt_tokens": 1, "max_tokens": 1, field: value}
            status = service.infer(**body).status_code
            assert (status != 422) == fits(published, body), (body, status)
            assert status in (200, 202, 400, 404, 422, 504)


@pytest.mark.parametrize("value", [nan, inf, -inf])
@pytest.mark.parametrize("field", FIELDS)
def test_what_is_no_json_number_is_named(field: str, value: float) -> None:
    with pytest.raises(Refusal) as caught:
        infer_request(json.dumps({"tenant_id": "x", field: value}).encode())
    assert caught.value.error.field == field


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 500_000,
        b'{"a":' * 100_000,
        b'{"prompt": ' + b"[" * 500_000,
        b'{"tenant_id": "x", "prompt": "' + b"\\u0000" * 100_000,
        b'{"prompt": "\\ud83d"}',
        b'{"prompt": "\xed\xa0\x80"}',
        b'{"prompt_tokens": 1e999999}',
        b'{"prompt_tokens": ' + b"9" * 100_000 + b"}",
        b'{"' + b"x" * 100_000 + b'": 1}',
        b"\xef\xbb\xbf{}",
        b'{"prompt_tokens": 1} {"prompt_tokens": 1}',
        b"\x00",
    ],
    ids=lambda body: repr(body[:24]),
)
def test_bodies_made_to_hurt_are_422(service: Service, body: bytes) -> None:
    reply = service.client.post("/infer", content=body)
    assert (reply.status_code, reply.json()["error"]["reason"]) == (422, "invalid")
    assert len(reply.content) < 1000


def test_every_refusal_has_the_one_shape(service: Service) -> None:
    document = service.client.get("/openapi.json").json()
    ours = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}
    for path, operations in document["paths"].items():
        for method in operations.keys() & {"get", "post", "put", "patch", "delete"}:
            answers = operations[method]["responses"]
            assert {"400", "408", "413", "431", "500", "503"} <= answers.keys()
            refused = {status: answer["content"] for status, answer in answers.items() if status >= "400"}
            if path.startswith("/health"):
                del refused["503"]  # says how it is instead
            assert all(content == ours for content in refused.values()), (path, method)
    assert "HTTPValidationError" not in document["components"]["schemas"]

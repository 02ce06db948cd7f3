"""What a 422 says: the field, what is allowed and the value, in the same words on every route."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aps.service.bodies import infer_request
from aps.service.errors import Refusal
from aps.service.wording import allowed, shown
from tests.administered import GOLD, Administered, administered
from tests.test_service_tenancy import served


def said_by_infer(body: bytes) -> tuple[str, str | None]:
    with pytest.raises(Refusal) as caught:
        infer_request(body)
    return caught.value.error.message, caught.value.error.field


async def said(service: Administered, method: str, path: str, body: bytes | None = None) -> tuple[str, str]:
    error = (await service.call(method, path, content=body)).json()["error"]
    assert error["reason"] == "invalid"
    return error["message"], error["field"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"prompt_tokens": 1.0}, "prompt_tokens must be an int in 1..2147483647, got 1.0"),
        ({"prompt_tokens": "1"}, "prompt_tokens must be an int in 1..2147483647, got '1'"),
        ({"prompt_tokens": []}, "prompt_tokens must be an int in 1..2147483647, got an array of 0"),
        ({"bid": 11}, "bid must be an int in 1..10, got 11"),
        ({"bid": True}, "bid must be an int in 1..10, got true"),
        ({"bid": {"a": 1}}, "bid must be an int in 1..10, got an object"),
        ({"deadline_s": 0}, "deadline_s must be a number in (0, 86400], got 0"),
        ({"deadline_s": float("nan")}, "deadline_s must be a number in (0, 86400], got nan"),
        ({"tenant_id": ""}, "tenant_id must be a str of 1 to 256 characters, got ''"),
        ({"tenant_id": "x" * 999}, f"tenant_id must be a str of 1 to 256 characters, got '{'x' * 56}..."),
        ({"prompt": 5}, "prompt must be a str of 1 or more characters, got 5"),
        ({"wait": "no"}, "wait must be true or false, got 'no'"),
    ],
    ids=lambda given: str(given)[:40],
)
def test_of_infer(fields: dict[str, Any], says: str) -> None:
    assert said_by_infer(json.dumps(fields).encode()) == (says, next(iter(fields)))


@pytest.mark.parametrize(
    ("path", "fields", "says"),
    [
        ("tenants/new", {"weight": 0}, "weight must be a number in 1e-9..1e9, got 0"),
        ("tenants/new", {"rate": "5"}, "rate must be a number >= 1e-6 or null, got '5'"),
        ("tenants/new", {"burst": 0}, "burst must be a number > 0 or null, got 0"),
        ("tenants/new", {"kv_share": 1.5}, "kv_share must be a number in (0, 1], got 1.5"),
        ("tenants/new", {"over_rate": "never"}, "over_rate must be 'refuse' or 'queue', got 'never'"),
        ("tenants/new", {"max_bid": 11}, "max_bid must be an int in 1..10, got 11"),
        ("tenants/new", {"max_bid": None}, "max_bid must be an int in 1..10, got null"),
        ("tenants/new", {"max_queued": -1}, "max_queued must be an int in 0..2147483647 or null, got -1"),
        ("tenants/new", {"weight": float("inf")}, "weight must be a number in 1e-9..1e9, got inf"),
        ("tenants/new", {"keys": GOLD}, "keys must be an array of at most 1000 items or null"),
        ("tenants/new", {"keys": [5]}, "keys.0 must be a str that matches ^sha256:[0-9a-fA-F]{64}$, got 5"),
        ("tenants/new", {"keys": [GOLD]}, "keys.0 must be a str that matches ^sha256:[0-9a-fA-F]{64}$"),
        ("tenants/new", {"rate": 5}, "give both rate and burst, or neither"),
        (
            "tenants/new",
            {"max_request_tokens": 51, "rate": 5, "burst": 50},
            "max_request_tokens must be at most burst, 50 tokens (no larger request is ever admitted), got 51",
        ),
        ("policy", {"aging_horizon_s": 1e9}, "aging_horizon_s must be a number in 0..1e8 or null, got 1000000000.0"),
        ("policy", {"fairness_window": -1}, "fairness_window must be a number >= 0 or null, got -1"),
    ],
    ids=lambda given: str(given)[:40],
)
async def test_of_administration(path: str, fields: dict[str, Any], says: str) -> None:
    async with administered() as service:
        message, _ = await said(
            service, "PATCH" if path == "policy" else "PUT", f"/admin/{path}", json.dumps(fields).encode()
        )
        assert message == says


async def test_the_same_mistake_has_the_same_words() -> None:
    async with administered() as service:
        for body, starts, field in (
            (b'{"x": 1}', "unknown field 'x', there are ", "x"),
            (b'{"%b": 1}' % (b"y" * 999), f"unknown field '{'y' * 64}', there are ", "y" * 64),
            (b"", "the body is not JSON: ", "body"),
            (b"{", "the body is not JSON: ", "body"),
            (b"\xff", "the body is not JSON: ", "body"),
            (b"[1, 2]", "the body must be an object, got an array of 2", "body"),
            (b"5", "the body must be an object, got 5", "body"),
            (b"null", "the body must be an object, got null", "body"),
        ):
            routes = (("PUT", "/admin/tenants/new"), ("PATCH", "/admin/tenants/gold"), ("PATCH", "/admin/policy"))
            for message, named in [said_by_infer(body), *[await said(service, *route, body) for route in routes]]:
                assert message.startswith(starts) and named == field


async def test_who_asks_must_be_said() -> None:
    async with administered() as service:
        message, field = await said(service, "POST", "/infer", b'{"prompt_tokens": 1}')
        assert (message, field) == ("tenant_id must be a str of 1 to 256 characters, got nothing", "tenant_id")


async def test_a_name_that_no_tenant_can_have_is_not_said_whole() -> None:
    async with administered() as service:
        message, field = await said(service, "PUT", f"/admin/tenants/{'x' * 999}", b"{}")
        assert field == "tenant_id" and message.startswith("the tenant's name must be a str of 1 to 256 printable")
        assert message.endswith(", got 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...")


async def test_no_limit_is_null_here() -> None:
    async with administered() as service:
        message, field = await said(service, "PATCH", "/admin/tenants/gold", b'{"burst": null}')
        assert field == "burst" and message.endswith(", got null")


@asynccontextmanager
async def kept(tmp_path: Path) -> AsyncIterator[Administered]:
    async with served(tmp_path / "aps.db") as (service, _):
        yield service


async def test_of_a_query_and_of_keys(tmp_path: Path) -> None:
    async with kept(tmp_path) as service:
        for query, says in (
            ("limit=0", "limit must be an int in 1..1000, got '0'"),
            ("limit=", "limit must be an int in 1..1000, got ''"),
            ("before=x", "before must be an int in 0..9007199254740992, got 'x'"),
            ("nope=1", "unknown parameter 'nope', there are before, limit, tenant"),
        ):
            message, field = await said(service, "GET", f"/admin/audit?{query}")
            assert (message, field) == (says, query.partition("=")[0])
        assert (await said(service, "GET", "/admin/tenants?x=1"))[0] == "unknown parameter 'x', there are none here"
        for body, says in (
            (b'{"label": 5}', "label must be a str of at most 256 characters, got 5"),
            (b'{"expires_in_s": 0}', "expires_in_s must be a number in (0, 316224000] or null, got 0"),
        ):
            assert (await said(service, "POST", "/admin/tenants/gold/keys", body))[0] == says


async def test_every_schema_that_is_published_for_a_body_or_a_query_has_words(tmp_path: Path) -> None:
    async with kept(tmp_path) as service:
        document = (await service.call("GET", "/openapi.json")).json()
    schemas = [document["components"]["schemas"]["InferRequest"]]
    for item in document["paths"].values():
        for operation in item.values():
            if isinstance(operation, dict):
                body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
                schemas += [body] if "properties" in body else []
                schemas += [{"properties": {"": found["schema"]}} for found in operation.get("parameters", ())]
    fields = [schema for found in schemas for schema in found["properties"].values()]
    assert len(fields) > 40
    for schema in fields:
        assert allowed(schema).startswith(("a ", "an ", "'", "true"))


def test_a_value_is_shown_in_few_letters() -> None:
    assert shown(10**5000) == "a long number"
    assert len(shown("x" * 1000)) == len(shown(10**100)) == 60

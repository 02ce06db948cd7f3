"""Roles on the routes, and administration over HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from math import inf
from typing import Any

import httpx
import pytest

from aps.policy import Policy
from aps.service.config import Devices, Settings
from aps.tenants import Tenant
from tests.administered import (
    ADMIN,
    FREE,
    GOLD,
    METRICS,
    OTHER,
    Administered,
    administered,
    config,
    digest,
    hash_line,
)


def refusal(reply: httpx.Response, status: int, reason: str) -> dict[str, Any]:
    """The error of a refusal that has this status and reason, in the one shape."""
    assert (reply.status_code, reply.json()["error"]["reason"]) == (status, reason), reply.text
    assert reply.headers["content-type"] == "application/json"
    assert ("www-authenticate" in reply.headers) == (status == 401)
    error: dict[str, Any] = reply.json()["error"]
    return error


async def put(service: Administered, name: str, **fields: Any) -> httpx.Response:
    return await service.call("PUT", f"/admin/tenants/{name}", json=fields)


async def test_another_method_is_405_and_says_which_there_are() -> None:
    async with administered() as service:
        for path, allow in (
            ("/admin/tenants/gold", "DELETE, GET, HEAD, PATCH, PUT"),
            ("/admin/tenants", "GET, HEAD"),
            ("/admin/policy", "PATCH"),
        ):
            reply = await service.call("POST", path, json={})
            refusal(reply, 405, "method_not_allowed")
            assert reply.headers["allow"] == allow


# Roles

EVERYBODY: set[str | None] = {None, GOLD, METRICS, ADMIN}
ROUTES: dict[tuple[str, str], set[str | None]] = {
    ("GET", "/health"): EVERYBODY,
    ("GET", "/openapi.json"): EVERYBODY,
    ("GET", "/metrics"): {METRICS, ADMIN},
    ("GET", "/tenants/gold/status"): {GOLD, ADMIN},
    ("GET", "/tenants/free/status"): {ADMIN},
    ("GET", "/admin/config"): {ADMIN},
    ("GET", "/admin/tenants"): {ADMIN},
    ("GET", "/admin/tenants/gold"): {ADMIN},
    ("PUT", "/admin/tenants/gold"): {ADMIN},
    ("PATCH", "/admin/tenants/gold"): {ADMIN},
    ("GET", "/admin/tenants/gold/keys"): {ADMIN},
    ("POST", "/admin/tenants/gold/keys"): {ADMIN},
    ("DELETE", "/admin/tenants/gold/keys/{key_id}"): {ADMIN},
    ("POST", "/admin/tenants/gold/keys/{key_id}/rotate"): {ADMIN},
    ("GET", "/admin/audit"): {ADMIN},
    ("PATCH", "/admin/policy"): {ADMIN},
    ("POST", "/admin/reload"): {ADMIN},
    ("DELETE", "/admin/tenants/gold"): {ADMIN},
}


@pytest.mark.parametrize(
    "key", [None, "aps_" + "x" * 43, GOLD, METRICS, ADMIN], ids=["none", "unknown", "gold", "m", "a"]
)
async def test_every_route_asks_for_its_role(key: str | None) -> None:
    async with administered() as service:
        for (method, path), allowed in ROUTES.items():
            reply = await service.call(method, path, key, content=b"{}" if method in ("PUT", "PATCH") else None)
            if key in allowed or allowed is EVERYBODY:
                assert reply.status_code in (200, 409), (method, path, reply.text)  # 409: no file to reload
            elif key in EVERYBODY and key is not None:
                refusal(reply, 403, "forbidden")
            else:
                refusal(reply, 401, "unauthorized")


async def test_no_route_is_left_out_above() -> None:
    async with administered() as service:
        document = (await service.call("GET", "/openapi.json", None)).json()
        named = {
            (method, path.replace("gold", "{tenant_id}").replace("free", "{tenant_id}")) for method, path in ROUTES
        }
        found = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
        guarded = {pair for pair in found if pair[1] == "/metrics" or pair[1].startswith(("/admin", "/tenants"))}
        assert guarded and guarded <= named


async def test_a_reload_without_a_file_is_refused_as_the_document_says() -> None:
    async with administered() as service:
        refusal(await service.call("POST", "/admin/reload"), 409, "conflict")
        document = (await service.call("GET", "/openapi.json", None)).json()
        assert "409" in document["paths"]["/admin/reload"]["post"]["responses"]


async def test_the_key_decides_the_tenant() -> None:
    async with administered() as service:
        for fields in ({}, {"tenant_id": "gold"}):
            answer = (await service.infer(GOLD, **fields)).json()
            assert answer["tenant_id"] == "gold"
        error = refusal(await service.infer(GOLD, tenant_id="free"), 403, "forbidden")
        assert error["field"] == "tenant_id"
        refusal(await service.infer(GOLD, tenant_id="nobody"), 403, "forbidden")  # who there is stays untold
        refusal(await service.infer(METRICS, tenant_id="gold"), 403, "forbidden")
        refusal(await service.infer(None, tenant_id="gold"), 401, "unauthorized")
        assert (await service.infer(ADMIN, tenant_id="free")).json()["tenant_id"] == "free"
        assert service.driver.metrics.tenants["gold"].finished == 2
        assert service.driver.metrics.tenants["free"].finished == 1


async def test_nobody_sees_or_cancels_anothers_request() -> None:
    async with administered(config(devices=Devices(time_scale=1.0))) as service:
        id = (await service.infer(FREE, max_tokens=30_000, wait=False)).json()["id"]
        for method in ("GET", "DELETE"):
            assert (await service.call(method, f"/requests/{id}", None)).status_code == 401
            assert (await service.call(method, f"/requests/{id}", GOLD)).status_code == 404
            assert (await service.call(method, f"/requests/{id}", METRICS)).status_code == 403
        assert (await service.call("GET", f"/requests/{id}", FREE)).status_code == 200
        assert (await service.call("DELETE", f"/requests/{id}", ADMIN)).status_code == 200


async def test_without_an_admin_key_there_is_no_administration() -> None:
    for given in (config(admin_key=None), config(admin_key=None, metrics_key=None, keys={})):
        async with administered(given) as service:
            for method, path in ROUTES:
                if path.startswith("/admin"):
                    refusal(await service.call(method, path, ADMIN), 404, "not_found")
            document = (await service.call("GET", "/openapi.json", None)).json()
            assert not [path for path in document["paths"] if path.startswith("/admin")]


async def test_an_open_service_asks_nobody() -> None:
    async with administered(config(admin_key=None, metrics_key=None, keys={})) as service:
        assert (await service.infer(None, tenant_id="gold")).status_code == 200
        assert (await service.infer("whatever", tenant_id="free")).status_code == 200
        for path in ("/metrics", "/tenants/gold/status", "/health"):
            assert (await service.call("GET", path, None)).status_code == 200


# Looking


async def test_the_effective_configuration_has_no_secrets() -> None:
    async with administered() as service:
        reply = await service.call("GET", "/admin/config")
        found = reply.json()
        assert found["tenants"]["gold"] == {
            "weight": 3,
            "rate": 1000,
            "burst": 10_000,
            "over_rate": "refuse",
            "default_bid": 5,
            "max_bid": 10,
            "default_max_tokens": 256,
            "max_in_flight": None,
            "max_queued": None,
            "max_queued_tokens": None,
            "kv_share": 1,
            "request_rate": None,
            "request_burst": None,
            "max_request_tokens": None,
            "keys": 1,
        }
        assert (found["admin_key"], found["metrics_key"], found["open"]) == (True, True, False)
        assert found["policy"]["fairness_window"] == 2048
        for key in (ADMIN, METRICS, GOLD, FREE):
            assert key not in reply.text and digest(key).hex() not in reply.text
        assert (await service.call("GET", "/admin/tenants")).json() == found["tenants"]
        assert (await service.call("GET", "/admin/tenants/gold")).json() == found["tenants"]["gold"]
        refusal(await service.call("GET", "/admin/tenants/nobody"), 404, "unknown_tenant")


# Tenants


async def test_a_tenant_is_put_used_changed_and_deleted() -> None:
    async with administered() as service:
        reply = await put(service, "new", weight=2, rate=5, burst=50, keys=[hash_line(OTHER)])
        assert (reply.status_code, reply.json()["keys"], reply.json()["burst"]) == (201, 1, 50)
        assert service.driver.scheduler.tenants["new"] == Tenant("new", weight=2, rate=5, burst=50)
        assert (await service.infer(OTHER)).json()["tenant_id"] == "new"

        reply = await put(service, "new", weight=4)  # what is left out has its default; the keys stay
        assert (reply.status_code, reply.json()["rate"], reply.json()["keys"]) == (200, None, 1)
        assert service.driver.scheduler.tenants["new"] == Tenant("new", weight=4)
        assert (await service.infer(OTHER)).status_code == 200

        reply = await service.call("DELETE", "/admin/tenants/new")
        assert (reply.status_code, reply.json()["removed"], reply.json()["rekeyed"]) == (200, ["new"], ["new"])
        assert "new" not in service.driver.scheduler.tenants
        refusal(await service.infer(OTHER), 401, "unauthorized")
        refusal(await service.call("DELETE", "/admin/tenants/new"), 404, "unknown_tenant")


async def test_an_integer_may_be_written_with_a_point() -> None:
    async with administered() as service:
        assert (await put(service, "new", max_bid=4.0, max_in_flight=2.0, max_queued_tokens=2.0**62)).status_code == 201
        expected = Tenant("new", max_bid=4, max_in_flight=2, max_queued_tokens=2**62)
        assert service.driver.scheduler.tenants["new"] == expected
        assert type(service.driver.scheduler.tenants["new"].max_bid) is int


async def test_keys_are_replaced_and_taken_away() -> None:
    async with administered() as service:
        assert (await put(service, "free", keys=[hash_line(OTHER)])).json()["keys"] == 1
        refusal(await service.infer(FREE), 401, "unauthorized")
        assert (await service.infer(OTHER)).status_code == 200
        assert (await put(service, "free", keys=[])).json()["keys"] == 0
        refusal(await service.infer(OTHER), 401, "unauthorized")
        assert (await service.infer(ADMIN, tenant_id="free")).status_code == 200


@pytest.mark.parametrize("key", [GOLD, ADMIN, METRICS])
async def test_a_key_that_somebody_has_is_409_and_changes_nothing(key: str) -> None:
    async with administered() as service:
        before = service.state
        refusal(await put(service, "new", keys=[hash_line(key)]), 409, "conflict")
        assert service.state == before
        assert (await service.infer(GOLD)).json()["tenant_id"] == "gold"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"weight": 0}, "weight"),
        ({"weight": "1"}, "weight"),
        ({"rate": 5}, "burst"),
        ({"rate": 5, "burst": None}, "burst"),
        ({"burst": 5}, "burst"),
        ({"request_rate": 5}, "request_burst"),
        ({"request_burst": 5}, "request_burst"),
        ({"request_rate": 5, "request_burst": 0.5}, "request_burst"),
        ({"request_rate": 0, "request_burst": 5}, "request_rate"),
        ({"max_request_tokens": 1}, "max_request_tokens"),
        ({"rate": 5, "burst": 50, "max_request_tokens": 51}, "max_request_tokens"),
        ({"max_request_tokens": 51, "default_max_tokens": 51}, "default_max_tokens"),
        ({"over_rate": "never"}, "over_rate"),
        ({"max_bid": 11}, "max_bid"),
        ({"default_bid": 9, "max_bid": 8}, "default_bid"),
        ({"max_bid": 5.5}, "max_bid"),
        ({"max_in_flight": 0}, "max_in_flight"),
        ({"kv_share": 1.5}, "kv_share"),
        ({"name": "x"}, "name"),
        ({"keys": "sha256:00"}, "keys"),
        ({"keys": [GOLD]}, "keys.0"),
        ({"keys": ["sha256:" + "g" * 64]}, "keys.0"),
        ([1], "body"),
    ],
    ids=str,
)
async def test_a_wrong_tenant_is_422_names_the_field_and_changes_nothing(fields: Any, field: str) -> None:
    async with administered() as service:
        before = service.state
        error = refusal(await service.call("PUT", "/admin/tenants/new", json=fields), 422, "invalid")
        assert error["field"] == field
        assert error["message"] in error["problems"]
        assert GOLD not in str(error)
        assert service.state == before


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"weight": NaN}', b"[" * 10_000], ids=str)
async def test_what_is_no_json_is_422(body: bytes) -> None:
    async with administered() as service:
        refusal(await service.call("PUT", "/admin/tenants/new", content=body), 422, "invalid")
        refusal(await service.call("PATCH", "/admin/policy", content=body), 422, "invalid")


async def test_a_body_that_does_not_come_is_408() -> None:
    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    async with administered(config(settings=Settings(body_s=0.05))) as service:
        for method, path in (("PUT", "/admin/tenants/new"), ("PATCH", "/admin/policy")):
            refusal(await service.call(method, path, content=never()), 408, "body_too_slow")
            refusal(await service.call(method, path, METRICS, content=never()), 403, "forbidden")  # without waiting


async def test_every_problem_of_a_tenant_is_said_and_odd_names_are_refused() -> None:
    async with administered() as service:
        error = refusal(await put(service, "new", weight=0, max_bid=11, foo=1), 422, "invalid")
        assert [problem.split(", ")[0] for problem in error["problems"]] == [
            "weight must be a number in 1e-9..1e9",
            "max_bid must be an int in 1..10",
            "unknown field 'foo'",
        ]
        for name in ("x" * 257, "a%7fb", "a%0ab"):
            error = refusal(await put(service, name), 422, "invalid")
            assert error["field"] == "tenant_id"
        assert (await put(service, "a%20b")).status_code == 201
        assert "a b" in service.driver.scheduler.tenants


async def test_a_removed_tenant_is_served_what_was_accepted() -> None:
    async with administered(config(devices=Devices(time_scale=10.0))) as service:
        waiting = asyncio.ensure_future(service.infer(FREE, max_tokens=500))
        while not service.driver.outstanding:
            await asyncio.sleep(0.001)
        assert (await service.call("DELETE", "/admin/tenants/free")).status_code == 200
        assert (await waiting).json()["output_tokens"] == 500


async def test_limits_that_make_a_waiting_request_impossible_end_it() -> None:
    given = config(tenants=(Tenant("gold", rate=1e-3, burst=2000.0, over_rate="queue"), Tenant("free")))
    async with administered(given) as service:
        first = await service.infer(GOLD, prompt_tokens=1000, max_tokens=1000)
        assert first.status_code == 200
        waiting = asyncio.ensure_future(service.infer(GOLD, prompt_tokens=1000, max_tokens=500))
        while not service.driver.scheduler.waiting:
            await asyncio.sleep(0.001)
        assert (await put(service, "gold", rate=1e-3, burst=1000.0, over_rate="queue")).status_code == 200
        said = refusal(await waiting, 400, "exceeds_burst")
        assert (said["largest_max_tokens"], said["burst"]) == (0, 1000)
        assert "changed while it waited: its prompt + max tokens exceed gold's burst of 1000 tokens" in said["message"]


# Policy


async def test_the_knobs_turn_and_null_is_infinite() -> None:
    async with administered() as service:
        reply = await service.call("PATCH", "/admin/policy", json={"aging_horizon_s": 5, "fairness_window": None})
        assert reply.json()["values"] == {
            "policy.aging_horizon_s": [30, 5],
            "policy.fairness_window": [2048, "inf"],
        }
        assert service.driver.scheduler.policy == Policy(aging_horizon_s=5.0, fairness_window=inf)
        reply = await service.call("PATCH", "/admin/policy", json={"fairness_window": 7})
        assert reply.json()["values"] == {"policy.fairness_window": ["inf", 7]}
        reply = await service.call("PATCH", "/admin/policy", json={})
        assert reply.json()["values"] == {}
        assert service.driver.scheduler.policy == Policy(aging_horizon_s=5.0, fairness_window=7.0)
        assert (await service.call("GET", "/admin/config")).json()["policy"]["fairness_window"] == 7


@pytest.mark.parametrize(
    "body", [{"fairness_window": -1}, {"aging_horizon_s": 1e9}, {"aging_horizon_s": "5"}, {"max_passes": 3}], ids=str
)
async def test_wrong_knobs_are_422_and_change_nothing(body: dict[str, Any]) -> None:
    async with administered() as service:
        before = service.state
        error = refusal(
            await service.call("PATCH", "/admin/policy", json={"fairness_window": 1} | body), 422, "invalid"
        )
        assert error["field"] == [*body][-1]
        assert service.state == before


# The document


async def test_the_document_describes_administration() -> None:
    async with administered() as service:
        document = (await service.call("GET", "/openapi.json", None)).json()
        for path, item in document["paths"].items():
            if path.startswith("/admin"):
                for operation in item.values():
                    assert {"401", "403"} <= operation["responses"].keys()
        schema = document["paths"]["/admin/tenants/{tenant_id}"]["put"]["requestBody"]["content"]["application/json"][
            "schema"
        ]
        assert schema["additionalProperties"] is False
        assert schema["properties"]["max_bid"]["type"] == "integer"
        for pair in schema["allOf"]:  # rate and burst
            assert [set(rule) for rule in pair["oneOf"]] == [{"required", "properties"}, {"properties"}]
        assert json.dumps(schema).count("$ref") == 0
        assert "ErrorAnswer" in document["components"]["schemas"]

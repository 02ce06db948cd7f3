"""Changes of tenants and keys in a running service that keeps them: written, made, and taken from others."""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from aps.service.config import Settings
from aps.service.kept import Kept, opened
from aps.store.changing import Changing
from aps.store.database import MAYBE, Database, StoreError
from aps.store.store import Store
from aps.tenants import Tenant
from tests.administered import ADMIN, FREE, GOLD, METRICS, OTHER, Administered, administered, config, digest, hash_line
from tests.committing import breaks_in_commits

if TYPE_CHECKING:
    from tests.postgres import Server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "aps.db"


@asynccontextmanager
async def served(url: Path | str, *, poll_s: float = 60.0, **changes: Any) -> AsyncIterator[tuple[Administered, Kept]]:
    """A service on a store; without polling unless a test asks for it."""
    given = config(settings=Settings(store=str(url), store_poll_s=poll_s), **changes)
    kept = opened(given)
    try:
        async with administered(kept=kept, load=lambda: given) as service:
            yield service, kept
    finally:
        kept.store.database.close()


def reason(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["reason"]


async def test_a_commit_that_is_lost_is_not_said_to_have_changed_nothing(postgres: "Server") -> None:
    async with served(postgres.url("unsure")) as (service, kept):
        breaks_in_commits(kept.store.database)
        reply = await service.call("PATCH", "/admin/tenants/gold", json={"weight": 2})
        assert reason(reply) == (503, "store_unavailable")
        assert "lost during the commit: terminating connection" in reply.json()["error"]["message"]
        assert reply.json()["error"]["message"].endswith(MAYBE)


async def test_a_change_is_written_before_it_is_answered(database_url: str) -> None:
    async with served(database_url) as (service, kept):
        reply = await service.call("PUT", "/admin/tenants/new", json={"weight": 2, "keys": [hash_line(OTHER)]})
        assert (reply.status_code, reply.json()["keys"]) == (201, 1)
        assert kept.store.read().tenants["new"] == Tenant("new", weight=2) == service.driver.scheduler.tenants["new"]
        assert (await service.infer(OTHER)).json()["tenant_id"] == "new"

        reply = await service.call("PATCH", "/admin/tenants/new", json={"rate": 5, "burst": 50})
        assert (reply.status_code, reply.json()["weight"], reply.json()["rate"]) == (200, 2, 5)
        assert kept.store.read().tenants["new"] == Tenant("new", weight=2, rate=5, burst=50)
        reply = await service.call("PATCH", "/admin/tenants/new", json={"burst": 60, "max_in_flight": 3})
        assert kept.store.read().tenants["new"].burst == service.driver.scheduler.tenants["new"].burst == 60

        reply = await service.call("DELETE", "/admin/tenants/new")
        assert (reply.json()["removed"], reply.json()["rekeyed"]) == (["new"], ["new"])
        assert "new" not in kept.store.read().tenants and "new" not in service.driver.scheduler.tenants
        assert reason(await service.infer(OTHER)) == (401, "unauthorized")
        for method, body in (("DELETE", None), ("PATCH", {"weight": 1})):
            assert reason(await service.call(method, "/admin/tenants/new", json=body)) == (404, "unknown_tenant")

        entries = (await service.call("GET", "/admin/audit?tenant=new")).json()
        assert [entry["action"] for entry in entries] == [
            "tenant.remove",
            "tenant.set",
            "tenant.set",
            "key.add",
            "tenant.add",
        ]
        assert entries[1]["details"] == {
            "old": {"burst": 50, "max_in_flight": None},
            "new": {"burst": 60, "max_in_flight": 3},
        }
        assert all(entry["actor"].startswith("admin key, request ") for entry in entries)
    async with served(database_url) as (service, _):  # and it is still so after a restart
        assert {tenant.name for tenant in service.running.config.tenants} == {"gold", "free"}


async def test_a_wrong_change_is_refused_and_nothing_stays(path: Path) -> None:
    async with served(path) as (service, kept):
        before, entries = kept.store.read(), kept.store.audit()
        state = service.state
        for method, name, body, status, field in (
            ("PATCH", "gold", {"burst": None}, 422, "burst"),
            ("PATCH", "gold", {"weight": 0}, 422, "weight"),
            ("PATCH", "gold", {"weight": None}, 422, "weight"),
            ("PATCH", "gold", {"foo": 1}, 422, "foo"),
            ("PUT", "a%0ab", {}, 422, "tenant_id"),
            ("PUT", "new", {"keys": [hash_line(GOLD)]}, 409, None),
            ("PUT", "new", {"keys": [hash_line(ADMIN)]}, 409, None),
            ("PATCH", "gold", {"keys": [hash_line(METRICS)]}, 409, None),
        ):
            reply = await service.call(method, f"/admin/tenants/{name}", json=body)
            assert (reply.status_code, reply.json()["error"].get("field")) == (status, field), reply.text
            assert "Tenant." not in reply.text
        reply = await service.call("PUT", "/admin/tenants/gold", json={}, headers={"if-none-match": "*"})
        assert reason(reply) == (409, "conflict")
        assert (kept.store.read(), kept.store.audit()) == (before, entries)
        assert service.state == state


async def test_keys_are_issued_listed_rotated_and_revoked(path: Path) -> None:
    async with served(path) as (service, _):
        keys = "/admin/tenants/free/keys"
        reply = await service.call("POST", keys, json={"label": "batch"})
        issued = reply.json()
        assert (reply.status_code, reply.headers["cache-control"]) == (201, "no-store")
        assert (issued["state"], issued["label"], issued["expires_at"]) == ("valid", "batch", None)
        assert (await service.infer(issued["key"])).json()["tenant_id"] == "free"

        reply = await service.call("POST", f"{keys}/{issued['id']}/rotate", json={"overlap_s": 60})
        assert reply.status_code == 201
        new, old = reply.json()["new"], reply.json()["old"]
        assert (old["id"], old["state"], new["label"]) == (issued["id"], "expiring", "batch")
        for key in (new["key"], issued["key"]):  # both, for a minute
            assert (await service.infer(key)).status_code == 200
        assert service.access._expiries.keys() == {digest(issued["key"])}

        reply = await service.call("DELETE", f"{keys}/{new['id']}")
        assert reply.json()["state"] == "revoked"
        assert reason(await service.infer(new["key"])) == (401, "unauthorized")
        found = (await service.call("GET", keys)).json()
        assert [key["state"] for key in found] == ["valid", "expiring", "revoked"]
        for key in (new["key"], issued["key"], FREE):
            assert key not in str(found) and digest(key).hex() not in str(found)
        assert (await service.call("GET", "/admin/tenants/free")).json()["keys"] == 2

        assert reason(await service.call("POST", f"{keys}/{new['id']}/rotate", json={})) == (409, "conflict")
        assert reason(await service.call("DELETE", f"{keys}/nothing")) == (404, "unknown_key")
        assert reason(await service.call("POST", "/admin/tenants/nobody/keys", json={})) == (404, "unknown_tenant")
        assert reason(await service.call("GET", "/admin/tenants/nobody/keys")) == (404, "unknown_tenant")
        for body in ({"label": "a\nb"}, {"expires_in_s": 0}, {"label": "x" * 257}, {"x": 1}, {"expires_in_s": 1e-9}):
            reply = await service.call("POST", keys, json=body)
            assert reason(reply) == (422, "invalid")
            assert reply.json()["error"]["field"] in (*body, "expires_at")
        entries = str((await service.call("GET", "/admin/audit")).json())
        assert issued["key"] not in entries and digest(issued["key"]).hex() not in entries


async def test_a_key_needs_no_body(path: Path) -> None:
    async with served(path) as (service, _):
        keys = "/admin/tenants/free/keys"
        issued = await service.call("POST", keys)
        assert (issued.status_code, issued.json()["label"], issued.json()["expires_at"]) == (201, "", None)
        rotated = await service.call("POST", f"{keys}/{issued.json()['id']}/rotate")
        assert (rotated.status_code, rotated.json()["old"]["state"]) == (201, "expiring")
        for method, path_ in (("PUT", "/admin/tenants/free"), ("PATCH", "/admin/tenants/free")):  # nobody meant that
            assert reason(await service.call(method, path_)) == (422, "invalid")


async def test_an_expired_key_stops_without_a_restart(path: Path) -> None:
    async with served(path) as (service, _):
        body = {"expires_in_s": 0.2}
        key = (await service.call("POST", "/admin/tenants/free/keys", json=body)).json()["key"]
        while (reply := await service.infer(key)).status_code == 200:
            await asyncio.sleep(0.01)
        assert reason(reply) == (401, "unauthorized")
        assert (await service.call("GET", "/admin/tenants/free")).json()["keys"] == 1


async def test_the_audit_is_paged_and_names_the_request(path: Path) -> None:
    async with served(path) as (service, kept):
        for weight in range(1, 6):
            headers = {"x-request-id": f"change-{weight}"}
            await service.call("PATCH", "/admin/tenants/free", json={"weight": weight / 2}, headers=headers)
        first = (await service.call("GET", "/admin/audit?limit=2")).json()
        assert all(entry["at"].endswith("Z") for entry in first)
        assert [entry["actor"] for entry in first] == ["admin key, request change-5", "admin key, request change-4"]
        rest = (await service.call("GET", f"/admin/audit?before={first[-1]['id']}")).json()
        assert rest[0]["actor"] == "admin key, request change-3"
        assert len(first) + len(rest) == len(kept.store.audit())
        for asked in ("limit=0", f"before={10**30}"):
            assert reason(await service.call("GET", f"/admin/audit?{asked}")) == (422, "invalid")


async def test_a_change_is_found_by_the_id_of_its_request(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with served(path) as (service, kept):
        with caplog.at_level(logging.INFO):
            reply = await service.call("PATCH", "/admin/tenants/free", json={"weight": 2})
        id = reply.headers["x-request-id"]
        assert kept.store.audit()[0].actor == f"admin key, request {id}"
        assert f"tenant.set free by admin key, request {id}" in caplog.text
        refused = await service.call("DELETE", "/admin/tenants/nobody", headers={"x-request-id": "mine"})
        assert (refused.status_code, refused.headers["x-request-id"]) == (404, "mine")


async def test_the_knobs_leave_an_entry_and_are_not_kept(path: Path) -> None:
    async with served(path, poll_s=0.01) as (service, kept):
        before, names = service.running.config.policy, set(service.driver.scheduler.tenants)
        for _ in range(2):  # the second changes nothing
            reply = await service.call("PATCH", "/admin/policy", json={"fairness_window": None})
            assert reply.status_code == 200
        entries = [entry for entry in kept.store.audit() if entry.action == "policy.set"]
        details = {"old": {"fairness_window": before.fairness_window}, "new": {"fairness_window": None}}
        assert [(entry.subject, entry.details) for entry in entries] == [("", details)]
        reply = await service.call("PATCH", "/admin/policy", json={"aging_horizon_s": 1e9})
        assert reason(reply) == (422, "invalid")
        await elsewhere(path, lambda change: change.set("gold", {"weight": 9.0}))  # and others follow all the same
        await until(lambda: service.driver.scheduler.tenants["gold"].weight == 9)
        assert set(service.driver.scheduler.tenants) == names
        assert service.driver.scheduler.policy.fairness_window == float("inf")
    async with served(path) as (service, _):
        assert service.driver.scheduler.policy == before


async def test_the_log_names_the_knobs_that_were_turned(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with administered() as in_memory, served(path) as (in_store, _):
        for service in (in_memory, in_store):
            caplog.clear()
            for knobs in ({"fairness_window": None, "aging_horizon_s": 7}, {}):
                assert (await service.call("PATCH", "/admin/policy", json=knobs)).status_code == 200
            lines = [message for message in caplog.messages if message.startswith("policy.set")]
            assert len(lines) == 1
            assert lines[0].startswith("policy.set aging_horizon_s, fairness_window by admin key, request ")


async def test_without_a_store_there_are_no_keys_to_issue_and_no_audit() -> None:
    async with administered() as service:
        for method, path in (
            ("GET", "/admin/tenants/gold/keys"),
            ("POST", "/admin/tenants/gold/keys"),
            ("GET", "/admin/audit"),
        ):
            assert reason(await service.call(method, path)) == (409, "conflict")
        reply = await service.call("PATCH", "/admin/tenants/gold", json={"weight": 9})
        assert (reply.json()["weight"], reply.json()["rate"]) == (9, 1000)
        reply = await service.call("PUT", "/admin/tenants/gold", json={}, headers={"if-none-match": "*"})
        assert reason(reply) == (409, "conflict")


async def test_a_store_that_cannot_be_written_is_503_and_nothing_changes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aps.store.database.WAIT_S", 0.05)
    async with served(path) as (service, kept):
        before, state = kept.store.read(), service.state
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        for method, route, body in (
            ("PUT", "/admin/tenants/new", {}),
            ("PATCH", "/admin/tenants/gold", {"weight": 7}),
            ("DELETE", "/admin/tenants/gold", None),
            ("POST", "/admin/tenants/gold/keys", {}),
        ):
            reply = await service.call(method, route, json=body)
            assert reason(reply) == (503, "store_unavailable")
            assert reply.headers["retry-after"] == "1"
            assert "locked" in reply.json()["error"]["message"]
        assert (await service.infer(GOLD)).status_code == 200  # it goes on
        other.execute("ROLLBACK")
        other.close()
        assert (kept.store.read(), service.state) == (before, state)
        assert (await service.call("PUT", "/admin/tenants/new", json={})).status_code == 201


# Changes of others


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.005)


async def elsewhere(url: Path | str, change: Callable[[Changing], object]) -> None:
    """A change over another connection, as another process makes it."""

    def work() -> None:
        store = Store(Database(str(url)))
        try:
            with store.changing("elsewhere") as changing:
                change(changing)
        finally:
            store.database.close()

    await asyncio.to_thread(work)


async def test_a_change_made_elsewhere_takes_hold(database_url: str) -> None:
    async with served(database_url, poll_s=0.01) as (service, _):
        tenants = service.driver.scheduler.tenants
        await elsewhere(database_url, lambda change: change.set("gold", {"weight": 9.0}))
        await until(lambda: service.driver.scheduler.tenants["gold"].weight == 9)
        await elsewhere(database_url, lambda change: change.put(Tenant("new")) and change.issue("new", digest(OTHER)))
        await until(lambda: "new" in service.driver.scheduler.tenants)
        assert (await service.infer(OTHER)).json()["tenant_id"] == "new"
        await elsewhere(database_url, lambda change: change.revoke("new", change.keys("new")[0].id))
        await until(lambda: not service.running.config.keys["new"])
        assert (await service.infer(OTHER)).status_code == 401
        await elsewhere(database_url, lambda change: change.remove("gold"))
        await until(lambda: "gold" not in service.driver.scheduler.tenants)
        assert (await service.infer(GOLD)).status_code == 401
        assert (await service.infer(FREE)).status_code == 200
        assert set(tenants) - {"gold"} <= set(service.driver.scheduler.tenants)


async def test_a_key_that_came_and_went_elsewhere_closes_an_open_service(path: Path) -> None:
    async with served(path, poll_s=0.01, keys={}, admin_key=None, metrics_key=None) as (service, _):
        assert (await service.infer(None, tenant_id="gold")).status_code == 200
        await elsewhere(path, lambda change: change.revoke("gold", change.issue("gold", digest(GOLD)).id))
        await until(lambda: not service.access.open)
        assert reason(await service.infer(None, tenant_id="gold")) == (401, "unauthorized")


async def test_what_others_changed_comes_with_the_next_own_change(path: Path) -> None:
    async with served(path) as (service, kept):
        await elsewhere(path, lambda change: change.add(Tenant("theirs")))
        assert "theirs" not in service.driver.scheduler.tenants
        await service.call("PATCH", "/admin/tenants/gold", json={"weight": 4})
        assert "theirs" in service.driver.scheduler.tenants
        names = [f"t{n}" for n in range(20)]
        replies = await asyncio.gather(*(service.call("PUT", f"/admin/tenants/{name}", json={}) for name in names))
        assert {reply.status_code for reply in replies} == {201}
        assert set(names) <= set(service.driver.scheduler.tenants)
        assert set(service.driver.scheduler.tenants) == set(kept.store.read().tenants)


async def test_a_tenant_that_the_service_cannot_have_keeps_no_other_back(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody gives a tenant the admin's key: the service does not take that, and says so."""
    async with served(path, poll_s=0.01) as (service, _):

        def both(change: Changing) -> None:
            change.add_keys({"free": [digest(ADMIN)]})
            change.set("gold", {"weight": 8.0})

        with caplog.at_level(logging.ERROR):
            await elsewhere(path, both)
            await until(lambda: service.driver.scheduler.tenants["gold"].weight == 8)
            await until(lambda: "tenant free stays as it was" in caplog.text)
        assert (await service.call("GET", "/admin/tenants")).status_code == 200  # still the admin's
        assert (await service.infer(FREE)).status_code == 200

        # What is taken away is taken all the same, and may go to others.
        await elsewhere(path, lambda change: change.revoke("free", digest(FREE).hex()[:12]))
        await until(lambda: not service.running.config.keys["free"])
        assert (await service.infer(FREE)).status_code == 401

        def moved(change: Changing) -> None:
            change.remove("gold")
            change.add(Tenant("a heir"))
            change.add_keys({"a heir": [digest(GOLD)]})
            change.set("free", {"weight": 2.0})

        await elsewhere(path, moved)
        await until(lambda: service.running.config.keys.get("a heir") == (digest(GOLD),))
        assert (await service.infer(GOLD)).json()["tenant_id"] == "a heir"


async def test_a_store_that_fails_and_comes_back(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = [False]
    since = Store.since

    def fails(store: Store, base: int) -> Any:
        if failing[0]:
            raise StoreError("gone")
        return since(store, base)

    monkeypatch.setattr(Store, "since", fails)
    async with served(path, poll_s=0.01) as (service, _):
        with caplog.at_level(logging.WARNING):
            failing[0] = True
            await until(lambda: "goes on with what it knows: gone" in caplog.text)
            reply = await service.call("PATCH", "/admin/tenants/gold", json={"weight": 6})
            assert reply.status_code == 200  # it is written
            assert (await service.infer(GOLD)).status_code == 200
            failing[0] = False
            await until(lambda: "can be read again" in caplog.text)
            await until(lambda: service.driver.scheduler.tenants["gold"].weight == 6)
        assert caplog.text.count("gone") == 1


async def test_a_reload_leaves_the_tenants_and_says_how_they_differ(path: Path) -> None:
    given = config(
        settings=Settings(store=str(path), gpu_hour_dollars=2.0),
        tenants=(Tenant("gold", weight=5), Tenant("new")),
        names_tenants=True,
    )
    kept = opened(config(settings=Settings(store=str(path), store_poll_s=60.0)))
    async with administered(kept=kept, load=lambda: given) as service:
        changes = await service.running.reload()
        assert changes.values == {"price.gpu_hour_dollars": (1.39, 2.0)}
        assert (changes.added, changes.changed, changes.removed, changes.rekeyed) == ((), (), (), ())
        assert changes.differing == (
            "tenant gold, weight: 3 in the store, 5 in the file",
            "tenant gold, rate: 1,000 in the store, no limit in the file",
            "tenant gold, burst: 10,000 in the store, no limit in the file",
            "tenant new: not in the store",
            "tenant free: not in the file",
            "the store wins; aps tenants apply FILE makes it what the file says",
        )
        answer = (await service.call("POST", "/admin/reload")).json()
        assert answer["differing"] == list(changes.differing)
        assert changes.lines()[-1] == changes.differing[-1]
        assert (await service.infer(FREE)).status_code == 200
    kept.store.database.close()

"""What a running service keeps, over real HTTP, across restarts, and read by the command line."""

import asyncio
import csv
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from aps import Policy, Tenant
from aps.cli import main
from aps.driver import Driver
from aps.service.access import Access
from aps.service.keeper import Keeper
from aps.service.keys import digest_of
from aps.store.database import Database
from aps.store.store import Store
from aps.store.usage import read, total
from tests.keeping import driver_of, keeping, ledger, true
from tests.scrapes import Scrape
from tests.serving import serving, until

ADMIN = "aps_" + "a" * 43
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Database]:
    made = Database(str(tmp_path / "aps.db"))
    made.upgrade()
    yield made
    made.close()


# Exact


def stream_charge(client: httpx.Client, **asked: Any) -> float:
    """Of a whole stream."""
    with client.stream("POST", "/infer", json=asked | {"stream": True}) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: {")]
    charge: float = json.loads(lines[-1])["charge"]
    return charge


def test_the_ledger_is_what_the_answers_and_the_metrics_say(database: Database) -> None:
    """With a bid premium that is no round number, refusals, streams, cancels."""
    tenants = (
        Tenant("whole"),
        Tenant("stream", weight=3.0),
        Tenant("poor", rate=1.0, burst=400.0),
        Tenant("gone"),
        Tenant("idle"),
    )
    access = Access({}, admin=digest_of(ADMIN.encode()))
    charges: dict[str, int] = {}
    policy = Policy(bid_premium=0.0371)
    with serving(tenants, keep=keeping(database), policy=policy, access=access, time_scale=50.0) as service:
        client = service.client
        client.headers["authorization"] = f"Bearer {ADMIN}"

        def charged(tenant: str, charge: float) -> None:
            charges[tenant] = charges.get(tenant, 0) + round(charge * 1e6)

        refused = 0
        for number in range(12):
            asked = {"prompt_tokens": 7 + 13 * number, "max_tokens": 1 + number % 5, "bid": 1 + number % 10}
            answer = service.infer(tenant_id="whole", **asked)
            charged("whole", answer.json()["charge"])
            charged("stream", stream_charge(client, tenant_id="stream", **asked))
            answer = service.infer(tenant_id="poor", **asked)
            if answer.status_code == 200:
                charged("poor", answer.json()["charge"])
            else:
                refused += 1
        for _ in range(3):
            long = {"tenant_id": "gone", "prompt_tokens": 50, "max_tokens": 60_000, "wait": False}
            path = f"/requests/{client.post('/infer', json=long).json()['id']}"
            until(lambda path=path: client.get(path).json()["explain"]["generated"] > 0)  # type: ignore[misc]
            error = client.delete(path).json()["error"]
            assert error["charge"] > 0
            charged("gone", error["charge"])
        found = Scrape(client.get("/metrics").text)
        at = datetime.now(UTC).isoformat()
        until(lambda: client.get("/health").json()["store"]["saved_at"] > at)
        said = client.get("/admin/usage").json()
        by_hour = client.get("/admin/usage", params={"by": "hour", "tenant": "whole"}).json()
        metrics = service.driver.metrics.tenants
    rows = ledger(database)
    assert said["rows"] == [row.plain() for row in rows.values()]
    assert said["total"] == total(rows.values()).plain()
    assert by_hour["total"]["finished"] == 12 and all(row["period"] for row in by_hour["rows"])
    assert rows.keys() == {"whole", "stream", "poor", "gone"}
    for name, row in rows.items():
        assert name is not None
        tally = metrics[name]
        counts = ("admitted", "finished", "cancelled", "prompt_tokens", "output_tokens", "charged_micro")
        assert [getattr(row, key) for key in counts] == [getattr(tally, key) for key in counts]
        assert row.refused == dict(tally.refused)
        assert found.one("aps_charged_tokens_total", tenant=name) == row.charged_micro / 1e6
        assert found.one("aps_output_tokens_total", tenant=name) == row.output_tokens
        assert row.gpu_ns > 0
    assert {name: rows[name].charged_micro for name in charges} == charges
    assert refused == sum(rows["poor"].refused.values()) > 0
    assert rows["gone"].cancelled == 3
    busy_s = sum(found.of("aps_device_busy_seconds_total").values())
    assert total(rows.values()).gpu_ns / 1e9 == pytest.approx(busy_s, rel=0.05)


def test_what_is_wrong_with_a_question(file: Database) -> None:
    access = Access({"a": [digest_of(b"k" * 47)]}, admin=digest_of(ADMIN.encode()))
    with serving((Tenant("a"),), keep=keeping(file), access=access) as service:
        client = service.client
        assert client.get("/admin/usage").status_code == 401
        assert client.get("/admin/usage", headers={"authorization": f"Bearer {'k' * 47}"}).status_code == 403
        client.headers["authorization"] = f"Bearer {ADMIN}"
        for asked, field in (
            ({"from": "yesterday"}, "from"),
            ({"to": "2026-03-01T12:30"}, "to"),
            ({"from": "2026-03-02", "to": "2026-03-02"}, "to"),
            ({"by": "week"}, "by"),
            ({"until": "2026-03-02"}, "until"),
        ):
            answer = client.get("/admin/usage", params=asked)
            assert answer.status_code == 422 and answer.json()["error"]["field"] == field, answer.text
        assert client.get("/admin/usage", params={"from": "2026-03-01T12:00+01:00"}).json()["rows"] == []
        unknown = client.get("/admin/usage", params={"tenant": "nobody"})
        assert (unknown.status_code, unknown.json()["error"]["reason"]) == (404, "unknown_tenant")
        with Store(file).changing("test") as change:
            change.add(Tenant("quiet"))
        assert client.get("/admin/usage", params={"tenant": "quiet"}).json()["rows"] == []


def test_why_a_store_fails_is_for_operators(file: Database) -> None:
    """GET /health needs no key, and the reason may name machines, users and files."""
    tenants_key, made = "k" * 47, []
    access = Access({"a": [digest_of(tenants_key.encode())]}, admin=digest_of(ADMIN.encode()))

    def keep(driver: Driver) -> Keeper:
        made.append(keeping(file, interval_s=60.0)(driver))
        return made[0]

    with serving((Tenant("a"),), keep=keep, access=access) as service:
        made[0].writer.saving.end("no route to db.internal")
        for path in ("/health", "/health/live", "/health/ready"):
            for key, said in ((None, None), (tenants_key, None), ("x", None), (ADMIN, "no route to db.internal")):
                headers = {} if key is None else {"authorization": f"Bearer {key}"}
                answer = service.client.get(path, headers=headers)
                store = answer.json()["store"]
                assert (answer.status_code, store["status"], store["error"]) == (200, "failing", said)


# Restart


@pytest.mark.parametrize("away_s", [0.0, 7.0, -1e6])
def test_a_restart_hands_out_no_free_burst(database: Database, away_s: float) -> None:
    """The bucket refills for the time that passed, in the service's seconds; a clock that went back is none."""
    now = [NOON]
    tenant = Tenant("a", rate=2.0, burst=50_000.0)

    def wall() -> float:
        return now[0]

    async def spend() -> float:
        driver = driver_of(tenant)
        async with keeping(database, wall=wall, interval_s=60.0)(driver), driver:
            await driver.infer("a", prompt_tokens=40_000, max_tokens=1)
        return driver.scheduler.level("a")

    async def look() -> float:
        driver = driver_of(tenant)
        keeping(database, wall=wall)(driver)
        return driver.scheduler.level("a")

    left = asyncio.run(spend())
    assert left < 12_000
    now[0] += away_s
    assert asyncio.run(look()) == pytest.approx(left + 2.0 * 1000 * max(0.0, away_s), abs=1e-6)


# An hour's end


async def test_an_hour_is_cut_where_it_ends(file: Database) -> None:
    began = time.monotonic()

    def wall() -> float:
        return NOON - 0.4 + time.monotonic() - began

    driver = driver_of(Tenant("a"))
    async with keeping(file, wall=wall, interval_s=60.0)(driver) as keeper, driver:
        before = 0
        while wall() < NOON - 0.1:
            await driver.infer("a", prompt_tokens=10, max_tokens=1)
            before += 1
        await true(lambda: keeper.writer.status.saves > 0)
        assert wall() > NOON
        for _ in range(5):
            await driver.infer("a", prompt_tokens=10, max_tokens=1)
    with file.reading() as connection:
        rows = read(connection, by="hour")
    assert [(row.period, row.finished) for row in rows] == [("2026-03-01T11:00", before), ("2026-03-01T12:00", 5)]
    with file.reading() as connection:
        assert [row.finished for row in read(connection, since=datetime.fromtimestamp(NOON, UTC))] == [5]


# The command line


def test_the_command_line(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    access = Access({}, admin=digest_of(ADMIN.encode()))
    tenants = (Tenant("a"), Tenant("poor", rate=1.0, burst=11.0))
    address = database.url.render_as_string(hide_password=False)
    unknown = "there is no tenant 'nobody', and the ledger has nothing of one that was"
    with serving(tenants, keep=keeping(database), access=access, policy=Policy(bid_premium=0.125)) as service:
        service.client.headers["authorization"] = f"Bearer {ADMIN}"
        for name in ("a", "a", "poor", "poor"):
            service.infer(tenant_id=name, prompt_tokens=10, max_tokens=1, bid=1)
        at = datetime.now(UTC).isoformat()
        until(lambda: service.client.get("/health").json()["store"]["saved_at"] > at)
        os.environ["APS_ADMIN_KEY"] = ADMIN
        try:
            assert main(["usage", "--url", service.url, "--json"]) == 0
            said = json.loads(capsys.readouterr().out)
            assert main(["usage", "--url", service.url, "--tenant", "nobody"]) == 2
            assert capsys.readouterr() == ("", f"aps usage: {unknown}\n")
        finally:
            del os.environ["APS_ADMIN_KEY"]
    assert main(["usage", "--store", address, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"rows": said["rows"], "total": said["total"]}
    assert said["total"]["charged_micro"] == 33_000_000 and said["total"]["refused"] == {"over_rate": 1}
    assert main(["usage", "--store", address, "--csv", "--by", "day", "--tenant", "a"]) == 0
    names, row = csv.reader(capsys.readouterr().out.splitlines())
    found = dict(zip(names, row, strict=True))
    assert (found["tenant"], found["finished"], found["charged_tokens"], found["refused"]) == ("a", "2", "22", "0")
    assert main(["usage", "--store", address]) == 0
    table = capsys.readouterr().out
    assert "poor" in table and "refused: over_rate 1" in table and "cancelled" not in table
    assert main(["usage", "--store", address, "--from", "2026-03-01T00:30"]) == 2
    assert "--from must be a full hour" in capsys.readouterr().err
    assert main(["usage", "--store", address, "--from", "2026-03-02", "--to", "2026-03-01"]) == 2
    assert "--to must be after 2026-03-02T00:00, where it begins" in capsys.readouterr().err
    assert main(["usage", "--store", address, "--tenant", "a", "--to", "2026-01-01"]) == 0
    assert capsys.readouterr().out == "Nothing was counted for these tenants in this time.\n"
    assert main(["usage", "--store", address, "--tenant", "nobody"]) == 2
    assert capsys.readouterr() == ("", f"aps usage: {unknown}\n")
    assert main(["usage", "--store", address, "--url", "http://127.0.0.1:1"]) == 2
    assert "--url is of a running service" in capsys.readouterr().err


def test_the_command_line_without_a_ledger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["usage", "--store", str(tmp_path / "no.db")]) == 2
    assert "there is no such database" in capsys.readouterr().err and not (tmp_path / "no.db").exists()
    assert main(["usage"]) == 2
    assert "there is no store" in capsys.readouterr().err

"""The whole of `GET /metrics`: strict text, honest sums under a cap on labels, the same as JSON, and as documented.

`python -m tests.test_metrics_page` prints the table of docs/metrics.md.
"""

import asyncio
import re
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest

from aps import Policy, Tenant
from aps.backends.guard import FAULTS
from aps.driver import Driver
from aps.record import Recorder
from aps.service.condition import Condition
from aps.service.config import Settings
from aps.service.keeper import Keeper
from aps.service.labels import OTHER
from aps.service.metrics import Exporter
from aps.service.pages import wants_json
from aps.service.pending import Pending
from aps.service.prometheus import Page
from aps.service.traffic import Traffic
from aps.store.database import Database
from tests.driving import opened
from tests.scrapes import Scrape, assert_nothing_fell
from tests.serving import serving
from tests.virtual_loop import VirtualLoop, run

DEFAULTS = Settings()


def scrape(exporter: Exporter, most: int = 100) -> Scrape:
    return Scrape(exporter.page(Settings(max_labels=most)).render())


def full_page() -> Page:
    """A page with every family that there is."""
    with TemporaryDirectory() as folder:
        recorder = Recorder(Path(folder) / "record.jsonl")
        database = Database(str(Path(folder) / "aps.db"))
        try:
            return run(lambda loop: crowded_page(loop, recorder, database))
        finally:
            recorder.close()
            database.close()


async def crowded_page(loop: VirtualLoop, recorder: Recorder, database: Database) -> Page:
    policy = Policy(preemption="recompute", fairness_window=1e6)
    tenants = (
        Tenant("a", rate=100.0, burst=60_000.0, max_bid=3),
        Tenant("b", weight=3.0, request_rate=1e3, request_burst=1e3),
    )
    async with opened(loop, *tenants, policy=policy, profile="a100-llama2-7b") as driver:
        asked = [("a", 3), ("b", 9)] * 120
        tickets = [driver.submit(name, prompt_tokens=500, max_tokens=100, bid=bid) for name, bid in asked]
        keeper = Keeper(database, driver)
        keeper.reading = Condition("%s", "%.0f", 1.0)
        exporter = Exporter(driver, recorder, keeper, Pending(None, ()), Traffic(100))
        await asyncio.sleep(11)
        page = exporter.page(DEFAULTS)
        for ticket in tickets:
            await ticket.result()
        return page


@pytest.fixture(scope="module")
def page() -> Page:
    return full_page()


def test_the_text_is_strict_and_the_json_is_the_same(page: Page) -> None:
    text, data = Scrape(page.render()), page.data()
    assert data.keys() == text.types.keys()
    for name, family in data.items():
        assert family["type"] == text.types[name]
        for sample in family["samples"]:
            if family["type"] == "histogram":
                assert text.one(f"{name}_sum", **sample["labels"]) == sample["sum"]
                assert text.one(f"{name}_count", **sample["labels"]) == sample["count"]
                for edge, count in sample["buckets"].items():
                    assert text.one(f"{name}_bucket", **sample["labels"], le=edge) == count
            else:
                assert text.one(name, **sample["labels"]) == sample["value"]


def test_what_the_page_says_of_contention_and_money(page: Page) -> None:
    found = Scrape(page.render())
    assert 0 < found.one("aps_service_gap_max") <= found.one("aps_service_gap_bound")
    assert 0.5 <= found.one("aps_weighted_jain_index") <= 1 and 0.5 <= found.one("aps_jain_index") <= 1
    received, promised = (found.total(f"aps_window_{kind}_tokens") for kind in ("received", "promised"))
    assert received == pytest.approx(promised)
    assert 0 < found.one("aps_mfu_ratio") < 1
    assert found.one("aps_busy_ratio") == pytest.approx(1.0, abs=0.01)
    assert set(found.of("aps_invariant_violations").values()) == {0}
    assert found.one("aps_price_info", source=DEFAULTS.price_source) == 1
    spent = found.one("aps_time_seconds") / 3600 * DEFAULTS.gpu_hour_dollars
    tokens = found.total("aps_prompt_tokens_total") + found.total("aps_output_tokens_total")
    assert found.one("aps_dollars_per_million_tokens") == pytest.approx(spent / tokens * 1e6)


ROW = re.compile(r"\| `((?:aps|process)_\w+)` \| (\w+) \| ([^|]*) \| (.+) \|")


def table(page: Page) -> list[str]:
    found = Scrape(page.render())
    rows = []
    for family in page.families:
        labels = ", ".join(f"`{label}`" for label in sorted(found.labels(family.name) - {"le"}))
        rows.append(f"| `{family.name}` | {family.kind} | {labels} | {family.text} |")
    return rows


def test_the_document_has_every_metric_and_no_other(page: Page, root: Path) -> None:
    documented = [line for line in (root / "docs/metrics.md").read_text().splitlines() if ROW.fullmatch(line)]
    assert sorted(documented) == sorted(table(page)), "python -m tests.test_metrics_page prints the table"


# The cap on labels


def assert_whole(driver: Driver, found: Scrape) -> None:
    """What has labels adds up to all that there is."""
    tallies = driver.metrics.tenants.values()
    for name, of in (
        ("aps_admitted_total", "admitted"),
        ("aps_prompt_tokens_total", "prompt_tokens"),
        ("aps_output_tokens_total", "output_tokens"),
    ):
        whole = sum(getattr(tally, of) for tally in tallies)
        assert found.total(name) == found.total(name.replace("aps_", "aps_bid_")) == whole
    for name, of, unit in (
        ("aps_charged_tokens_total", "charged_micro", 1e6),
        ("aps_gpu_seconds_total", "gpu_ns", 1e9),
    ):
        whole = sum(getattr(tally, of) for tally in tallies)
        for family in (name, name.replace("aps_", "aps_bid_")):
            assert sum(round(value * unit) for value in found.of(family).values()) == whole
    assert found.total("aps_refused_total") == sum(tally.refused.total() for tally in tallies)
    for name, times in (("aps_queue_wait_seconds", "queue_wait"), ("aps_request_seconds", "e2e")):
        assert found.total(f"{name}_count") == sum(getattr(tally, times).count for tally in tallies)
        assert found.total(f"{name}_sum") == pytest.approx(sum(getattr(tally, times).total for tally in tallies))
    snapshot = driver.snapshot()
    assert found.total("aps_waiting_requests") == found.total("aps_bid_waiting_requests") == snapshot.waiting
    assert found.total("aps_waiting_tokens") == snapshot.waiting_tokens
    weights = sum(row.weight for row in snapshot.tenants.values())
    assert found.total("aps_tenant_weight") == pytest.approx(weights)
    shared = driver.metrics.while_all_wait(driver.now)
    assert found.total("aps_shared_tokens_total") == sum(shared.tokens.values())
    assert found.one("aps_tenants") == len(snapshot.tenants)


@pytest.mark.parametrize("seed", range(8))
def test_sums_hold_and_nothing_falls_while_labels_come_and_go(seed: int) -> None:
    async def main(loop: VirtualLoop) -> None:
        random = Random(seed)
        names = [f"t{i}" for i in range(12)] + [OTHER]
        backend_names = [Tenant(name, rate=500.0, burst=4000.0) for name in names]
        async with opened(loop, *backend_names, policy=Policy(bid_premium=0.1)) as driver:
            exporter = Exporter(driver)
            cap, before = 3, scrape(exporter, 3)
            for turn in range(25):
                favourite = names[turn // 3 % len(names)]
                for _ in range(random.randrange(12)):
                    name = favourite if random.random() < 0.7 else random.choice(names)
                    driver.submit(
                        name,
                        prompt_tokens=random.randrange(1, 300),
                        max_tokens=random.randrange(1, 60),
                        bid=random.randrange(1, 11),
                    )
                await asyncio.sleep(random.random() * 3)
                if random.random() < 0.2:
                    cap = random.choice([1, 3, 5, 20])
                after = scrape(exporter, cap)
                assert_whole(driver, after)
                labelled = {dict(labels)["tenant"] for labels in after.of("aps_admitted_total")} - {OTHER}
                assert len(labelled) == after.one("aps_labelled_tenants") <= cap
                assert len(labelled) + after.one("aps_folded_tenants") == len(names)
                assert_nothing_fell(kept(before, after), after)
                before = after
            await driver.drain(0)

    run(main)


def kept(before: Scrape, after: Scrape) -> Scrape:
    """Without the series of tenants that had lost their label in between: they begin again at 0."""
    here = {dict(labels)["tenant"] for labels in after.of("aps_admitted_total")}
    stay = {key: value for key, value in before.series.items() if dict(key[1]).get("tenant") in {None, *here}}
    before.series = stay
    return before


def test_the_busiest_have_the_labels_and_keep_them() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop, *(Tenant(f"t{i}") for i in range(10))) as driver:
            exporter = Exporter(driver)

            async def ask(name: str, times: int) -> set[str]:
                for _ in range(times):
                    await driver.infer(name, prompt_tokens=1, max_tokens=1)
                found = scrape(exporter, 2)
                assert_whole(driver, found)
                return {dict(labels)["tenant"] for labels in found.of("aps_admitted_total")} - {OTHER}

            await ask("t7", 20)
            assert await ask("t3", 10) == {"t7", "t3"}
            assert await ask("t5", 11) == {"t7", "t3"}  # a little more is not enough
            assert await ask("t5", 9) == {"t7", "t5"}
            found = scrape(exporter, 2)
            assert found.one("aps_admitted_total", tenant="t5") == 0  # the 20 are with the others
            assert found.one("aps_admitted_total", tenant=OTHER) == 30
            await ask("t5", 4)
            found = scrape(exporter, 2)
            assert found.one("aps_admitted_total", tenant="t5") == 4
            assert found.one("aps_admitted_total", tenant=OTHER) == 30

    run(main)


def test_a_thousand_tenants_cost_a_hundred_labels() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop, *(Tenant(f"tenant_{i}") for i in range(1000))) as driver:
            for i in range(1000):
                driver.submit(f"tenant_{i}", prompt_tokens=10, max_tokens=2)
            await driver.drain()
            text = Exporter(driver).page(Settings(max_labels=100)).render()
            found = Scrape(text)
            assert_whole(driver, found)
            assert (found.one("aps_labelled_tenants"), found.one("aps_folded_tenants")) == (100, 900)
            assert len(text) < 2**20

    run(main)


def test_a_removed_tenant_s_counters_stay() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop) as driver:
            exporter = Exporter(driver)
            await driver.infer("a", prompt_tokens=10, max_tokens=5)
            before = scrape(exporter)
            driver.remove_tenant("a")
            after = scrape(exporter)
            assert_nothing_fell(before, after)
            assert after.one("aps_admitted_total", tenant="a") == 1
            assert ("aps_waiting_requests", frozenset({("tenant", "a")})) not in after.series
            assert after.one("aps_tenants") == 1

    run(main)


def test_every_fault_of_a_backend_has_its_series_from_the_start(root: Path) -> None:
    """Prometheus sees no increase of a series that begins at 1."""

    async def main(loop: VirtualLoop) -> None:
        async with opened(loop) as driver:
            found = scrape(Exporter(driver))
            assert [found.one("aps_backend_faults_total", kind=kind) for kind in FAULTS] == [0] * len(FAULTS)

    run(main)
    source = (root / "python/aps/backends/guard.py").read_text()
    assert set(re.findall(r'self\.faults\["(\w+)"\]', source)) == set(FAULTS)


# Over HTTP


@pytest.mark.parametrize(
    ("accept", "json"),
    [
        ("", False),
        ("*/*", False),
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        ("application/json, text/plain", False),
        ("application/json, text/plain;q=0.5", True),
        ("application/json;q=0.1, text/*;q=0.5", False),
        ("application/*", True),
        ("application/json, */*", False),
        ("application/json;q=0", False),
        ("application/json;q=x", False),
        ("image/png", False),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1", False),
        (",;,=;q", False),
    ],
)
def test_json_when_accept_prefers_it(accept: str, json: bool) -> None:
    assert wants_json(accept) is json


def test_both_forms_over_http() -> None:
    with serving((Tenant("x"),)) as service:
        assert service.infer(tenant_id="x", prompt_tokens=10, max_tokens=5).status_code == 200
        text = service.client.get("/metrics")
        assert text.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert Scrape(text.text).one("aps_admitted_total", tenant="x") == 1
        data = service.client.get("/metrics", headers={"accept": "application/json"})
        assert (data.headers["content-type"], data.headers["vary"]) == ("application/json", "accept")
        samples = data.json()["aps_admitted_total"]["samples"]
        assert samples == [{"labels": {"tenant": "x"}, "value": 1}]


if __name__ == "__main__":
    print(*table(full_page()), sep="\n")

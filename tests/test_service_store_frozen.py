"""A PostgreSQL that answers nothing any more: told, outlived, and no obstacle at the end."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from aps.cli.serve import _keeper
from aps.driver import Driver
from aps.service.access import Access
from aps.service.aside import Unanswered, aside
from aps.service.config import Settings
from aps.service.kept import opened
from aps.service.keys import new_key
from tests.administered import config
from tests.scrapes import Scrape
from tests.serving import until

if TYPE_CHECKING:
    from tests.postgres import Server

ADMIN = new_key()


@pytest.fixture
def process(postgres: "Server", tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A service on it; its log is in tmp_path."""
    command = [sys.executable, "-m", "aps", "serve", "--port", "0", "--drain-s", "1", "--store", postgres.url("frozen")]
    environ = os.environ | {"APS_ADMIN_KEY": ADMIN, "APS_STORE_INTERVAL_S": "0.5"}
    with (tmp_path / "log").open("w") as log:
        made = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environ, cwd=tmp_path)
    try:
        yield made
    finally:
        made.kill()
        made.wait()
        assert made.stdout is not None
        made.stdout.close()


def test_a_frozen_store_is_told_and_does_not_keep_the_service_from_ending(
    postgres: "Server", process: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert process.stdout is not None
    url = process.stdout.readline().split()[2]
    headers = {"authorization": f"Bearer {ADMIN}"}
    asked = {"tenant_id": "tenant_b", "prompt_tokens": 10, "max_tokens": 2}
    with (
        httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as client,
        ThreadPoolExecutor() as threads,
    ):

        def patch() -> httpx.Response:
            return client.patch("/admin/tenants/tenant_a", json={"weight": 2})

        assert client.post("/infer", json=asked).status_code == 200
        with postgres.frozen():
            first = threads.submit(patch)
            until(lambda: client.get("/health").json()["store"]["status"] == "failing", 20)
            until(lambda: client.get("/health").json()["store"]["reading"] == "failing", 20)
            found = Scrape(client.get("/metrics").text)
            assert found.one("aps_store_up") == found.one("aps_store_readable") == 0
            assert client.post("/infer", json=asked).status_code == 200
            answer = first.result()
            error = answer.json()["error"]
            assert (answer.status_code, error["reason"]) == (503, "store_unavailable")
            assert "may have been made" in error["message"]
            second = threads.submit(patch)
            time.sleep(0.5)
            process.terminate()
            began = time.monotonic()
            assert process.wait(40) == 1  # usage is lost
            assert time.monotonic() - began < 1 + 20
            assert second.result().status_code == 503
    log = (tmp_path / "log").read_text()
    assert log.count("are lost") == 1 and log.count("lost: tenant 'tenant_b'") == 1
    assert "Traceback" not in log and "the store fails: no answer" in log


async def test_a_call_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aps.service.aside.ANSWER_S", 0.05)
    with pytest.raises(Unanswered, match=r"within 0\.05 s"):
        await aside(lambda: time.sleep(0.3))
    assert await aside(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await aside(lambda: 1 // 0)
    await asyncio.sleep(0.4)  # what comes too late disturbs nobody


async def test_saves_go_on_while_administration_has_all_its_connections(
    postgres: "Server", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aps.store.database.WAIT_S", 0.1)
    settings = Settings(store=postgres.url("crowded"), store_interval_s=0.05)
    kept = opened(config(settings=settings))
    driver = Driver(kept.config.scheduler(backend := kept.config.devices.backend()), backend)
    keeper = _keeper(kept.config, driver, Access.of(kept.config))
    with ExitStack() as held:
        for _ in range(6):
            held.enter_context(kept.store.database.reading()).exec_driver_sql("SELECT 1")
        async with keeper, driver, asyncio.timeout(30):
            while keeper.writer.status.saves < 3:
                await asyncio.sleep(0.01)
    assert (keeper.writer.status.errors, keeper.lost) == (0, False)
    keeper.database.close()
    kept.store.database.close()

"""Answers that are to be fetched (`wait: false`) from a service that is told to stop: none is lost without a word."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from aps.backends import SimulatedBackend
from aps.driver import Driver
from aps.scheduler import Scheduler
from aps.service.access import OPEN
from aps.service.app import create_app
from aps.service.draining import MOST_LINES, Drain
from aps.tenants import Tenant
from tests.serving import until

SMALL = {"tenant_id": "tenant_c", "prompt_tokens": 5, "max_tokens": 3}
LONG = {"tenant_id": "tenant_c", "prompt_tokens": 9000, "max_tokens": 1}  # 8.8 s of work


class Process:
    """`aps serve`, and whoever asks it for answers that are to be fetched."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        assert process.stdout is not None
        self.stdout = process.stdout
        self.client = httpx.Client(base_url=self.stdout.readline().split()[2], timeout=30.0, trust_env=False)

    def accepted(self, body: dict[str, Any]) -> str:
        """The id."""
        reply = self.client.post("/infer", json=body | {"wait": False})
        assert reply.status_code == 202, reply.text
        id: str = reply.json()["id"]
        return id

    def stop(self) -> None:
        """SIGTERM; return when it has been taken."""
        self.process.send_signal(signal.SIGTERM)
        self.until("draining")

    def until(self, part: str) -> None:
        """The next line that has this part in it."""
        while part not in self.stdout.readline():
            assert self.process.poll() is None

    def end(self) -> tuple[str, list[str]]:
        """Its last line on stdout, and those of its log."""
        said, log = self.process.communicate(timeout=30)
        assert self.process.returncode == 0
        return said.splitlines()[-1], log.splitlines()


@contextmanager
def process(*arguments: str) -> Iterator[Process]:
    command = [sys.executable, "-m", "aps", "serve", "--port", "0", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=os.environ) as running:
        try:
            service = Process(running)
            with service.client:
                yield service
        finally:
            running.kill()


@pytest.mark.parametrize("body", [SMALL, LONG], ids=["ended before", "ends while it drains"])
def test_an_answer_that_was_promised_can_be_fetched_before_the_process_ends(body: dict[str, Any]) -> None:
    with process("--drain-s", "300", "--time-scale", "5") as service:
        id = service.accepted(body)
        if body is SMALL:
            until(lambda: service.client.get("/tenants/tenant_c/status").json()["in_flight"] == 0)
        service.stop()
        service.until("finished; 1 unread")
        refused = service.client.post("/infer", json=SMALL)
        assert (refused.status_code, refused.json()["error"]["reason"]) == (503, "draining")
        assert service.client.get("/health").json()["draining"]
        answer = service.client.get(f"/requests/{id}").json()
        assert (answer["state"], answer["answer"]["prompt_tokens"]) == ("finished", body["prompt_tokens"])
        assert service.end() == ("drained", [])  # long before the 300 s


def test_what_nobody_fetches_and_what_does_not_end_is_in_the_log() -> None:
    with process("--drain-s", "1") as service:
        unread, read = service.accepted(SMALL), service.accepted(SMALL)
        until(lambda: service.client.get(f"/requests/{read}").json()["state"] == "finished")
        until(lambda: service.client.get("/tenants/tenant_c/status").json()["in_flight"] == 0)
        cancelled = service.accepted(LONG)
        service.stop()
        last, log = service.end()
    assert last == "drained; 1 cancelled, 1 unread"
    assert [re.sub(r"^\S+ WARNING \S+ ", "", line) for line in log] == [
        f"request {cancelled} of tenant_c, cancelled: it had not finished when the service stopped",
        f"request {unread} of tenant_c, finished: nobody had fetched its answer when the service stopped",
    ]


def test_a_second_signal_waits_for_nobody() -> None:
    with process("--drain-s", "300") as service:
        id = service.accepted(SMALL)
        service.stop()
        service.until("finished; 1 unread")
        service.process.send_signal(signal.SIGTERM)
        last, log = service.end()  # long before the 300 s
    assert last == "drained; 1 unread"
    assert len(log) == 1 and f"request {id} of tenant_c, finished: " in log[0]


async def test_the_log_of_what_is_lost_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    backend = SimulatedBackend("reference", time_scale=1.0)
    driver = Driver(Scheduler((Tenant("x"),), devices=backend.devices), backend)
    app, said = create_app(driver), list[str]()
    drain = Drain(driver, app.state.bodies, app.state.requests, said.append)
    async with driver:
        ask(app.state.requests, driver, range(MOST_LINES + 7))
        await drain.within(0.01)
    assert said[-1] == f"drained; {MOST_LINES + 7} cancelled"
    lines = [record.getMessage() for record in caplog.records if record.name == "aps.service.draining"]
    assert len(lines) == MOST_LINES + 1
    assert lines[-1].startswith("and 7 requests more: ")


async def test_what_had_ended_when_the_driver_failed_can_still_be_fetched() -> None:
    backend = SimulatedBackend("reference", time_scale=100.0)
    driver = Driver(Scheduler((Tenant("x"),), devices=backend.devices), backend)
    app, said = create_app(driver), list[str]()
    drain = Drain(driver, app.state.bodies, app.state.requests, said.append)
    async with driver:
        ask(app.state.requests, driver, range(1))
        await driver.drain()
        driver.draining = False
        ask(app.state.requests, driver, range(1))
        draining = asyncio.create_task(drain.within(300.0))

        def take() -> None:
            raise OSError("the cable")

        backend.take = take  # type: ignore[assignment,method-assign]
        while not draining.done() and "finished; 1 unread" not in "".join(said):
            await asyncio.sleep(0.01)
        ((id, _, _),) = app.state.requests.unread()
        assert app.state.requests.state(id, OPEN).state == "finished"
        await draining
    assert driver.failed is not None
    assert said[-1] == "drained"


def ask(requests: Any, driver: Driver, numbers: Iterable[int]) -> None:
    for _ in numbers:
        ticket = driver.submit("x", prompt_tokens=1000, max_tokens=1000)
        requests.begin(ticket, "caller", None)
        ticket.add_done_callback(lambda ticket: requests.leave(ticket, told=False))

"""Changing a running service from its file: all or nothing, at one instant, over SIGHUP and over HTTP."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from math import inf
from pathlib import Path
from queue import Queue

import httpx
import pytest

from aps.policy import Policy
from aps.service.config import Config, Devices, Settings
from aps.service.config_reader import ConfigError, read_config
from aps.service.keys import hash_line
from aps.tenants import Tenant
from tests.administered import ADMIN, FREE, GOLD, OTHER, administered, config, digest


def nothing() -> Config:
    raise ConfigError(["aps.toml: server.port must be an int", "aps.toml: unknown key 'x'"])


# What a change does


async def test_tenants_keys_knobs_and_price_change_at_once() -> None:
    wanted = config(
        tenants=(Tenant("gold", weight=5), Tenant("new", rate=5, burst=50)),
        keys={"gold": (digest(GOLD), digest(OTHER))},
        policy=Policy(aging_horizon_s=inf, fairness_window=0.0),
        settings=Settings(gpu_hour_dollars=2.0),
    )
    async with administered(load=lambda: wanted) as service:
        changes = await service.running.reload()
        assert (changes.added, changes.changed, changes.removed) == (("new",), ("gold",), ("free",))
        assert set(changes.rekeyed) == {"gold", "free"}
        assert changes.values == {
            "policy.aging_horizon_s": (30.0, "inf"),
            "policy.fairness_window": (2048.0, 0.0),
            "price.gpu_hour_dollars": (1.39, 2.0),
        }
        assert not changes.left
        assert dict(service.driver.scheduler.tenants) == {tenant.name: tenant for tenant in wanted.tenants}
        assert service.driver.scheduler.policy == wanted.policy
        assert "\naps_gpu_hour_dollars 2\n" in (await service.call("GET", "/metrics")).text
        assert (await service.infer(OTHER)).json()["tenant_id"] == "gold"
        assert (await service.infer(FREE)).status_code == 401
        assert (await service.running.reload()).lines() == ["nothing has changed"]


async def test_what_cannot_change_is_named_and_left() -> None:
    wanted = config(
        devices=Devices(gpus=2, time_scale=1000.0),
        policy=Policy(batching="micro", aging_horizon_s=5.0),
        settings=Settings(port=81, log_level="info"),
    )
    async with administered(load=lambda: wanted) as service:
        changes = await service.running.reload()
        assert changes.left == {
            "server.port": (8000, 81),
            "devices.gpus": (1, 2),
            "policy.batching": ("continuous", "micro"),
            "logging.level": ("warning", "info"),
        }
        assert changes.values == {"policy.aging_horizon_s": (30.0, 5.0)}
        assert service.driver.scheduler.policy == Policy(aging_horizon_s=5.0)
        assert service.running.config.devices.gpus == 1
        assert service.running.config.settings.port == 8000
        assert (await service.running.reload()).left == changes.left  # and again, until the restart


async def test_a_profile_that_says_something_else_now_is_named(tmp_path: Path) -> None:
    profile = tmp_path / "mine.toml"

    def load() -> Config:
        return config(devices=Devices(profile=str(profile), time_scale=1000.0))

    profile.write_text('base = "reference"\nslots = 3\n')
    async with administered(load(), load=load) as service:
        profile.write_text('base = "reference"\nslots = 4\n')
        assert list((await service.running.reload()).left) == ["devices.profile"]
        assert service.driver.scheduler.devices[0].slots == 3


async def test_a_wrong_file_changes_nothing_and_says_everything() -> None:
    async with administered(load=nothing) as service:
        before = service.state
        reply = await service.call("POST", "/admin/reload")
        assert reply.status_code == 422
        assert reply.json()["error"]["problems"] == [
            "aps.toml: server.port must be an int",
            "aps.toml: unknown key 'x'",
        ]
        said: list[str] = []
        hangup = service.running.hangup(pytest.fail, said.append)
        assert hangup is not None
        hangup()
        while len(said) < 2:
            await asyncio.sleep(0.001)
        assert said[0] == "reload: refused, nothing has changed: aps.toml: server.port must be an int"
        assert service.state == before


async def test_a_change_that_cannot_be_whole_changes_nothing() -> None:
    keys = {"gold": (digest(GOLD),), "free": (digest(GOLD),)}
    twice = config(tenants=(Tenant("free", weight=2), Tenant("new")), keys=keys)
    async with administered(load=lambda: twice) as service:
        before = service.state
        with pytest.raises(ConfigError, match="tenant gold and tenant free share one"):
            await service.running.reload()
        assert service.state == before
        assert (await service.infer(GOLD)).json()["tenant_id"] == "gold"


async def test_a_reload_never_opens_a_service() -> None:
    closed = config(admin_key=None, metrics_key=None)
    async with administered(closed, load=lambda: replace(closed, keys={})) as service:
        with pytest.raises(ConfigError, match="start it again to open it"):
            await service.running.reload()
        assert not service.access.open


async def test_a_reload_may_close_an_open_service() -> None:
    opened = config(admin_key=None, metrics_key=None, keys={})
    async with administered(opened, load=lambda: replace(opened, keys={"gold": (digest(GOLD),)})) as service:
        assert (await service.infer(None, tenant_id="gold")).status_code == 200
        assert (await service.running.reload()).rekeyed == ("gold",)
        assert (await service.infer(None, tenant_id="gold")).status_code == 401
        assert (await service.infer(GOLD)).status_code == 200


async def test_a_key_revoked_while_a_body_comes_pays_no_more() -> None:
    wanted = config(keys={"gold": (digest(OTHER),)})
    async with administered(load=lambda: wanted) as service:

        async def body() -> AsyncIterator[bytes]:
            yield b'{"prompt_tokens": 5, '
            await service.running.reload()
            yield b'"max_tokens": 2}'

        reply = await service.call("POST", "/infer", key=GOLD, content=body())
        assert (reply.status_code, reply.json()["error"]["reason"]) == (401, "unauthorized")
        assert service.driver.outstanding == 0


async def test_without_a_file_there_is_nothing_to_reload() -> None:
    async with administered() as service:
        reply = await service.call("POST", "/admin/reload")
        assert (reply.status_code, reply.json()["error"]["reason"]) == (409, "conflict")
        assert service.running.hangup(print, print) is None


async def test_the_file_is_the_truth_after_a_reload() -> None:
    async with administered(load=config) as service:
        await service.call("PUT", "/admin/tenants/byhand", json={})
        await service.call("PATCH", "/admin/policy", json={"fairness_window": 1})
        answer = (await service.call("POST", "/admin/reload")).json()
        assert answer["removed"] == ["byhand"]
        assert answer["values"] == {"policy.fairness_window": [1, 2048]}


async def test_reloads_under_load_lose_nothing() -> None:
    turn = iter(range(1000))

    def other() -> Config:
        n = next(turn)
        return config(
            tenants=(Tenant("gold", weight=1 + n % 3), Tenant("free", max_in_flight=1 + n % 2)),
            policy=Policy(aging_horizon_s=float(n % 4), fairness_window=float(100 * (n % 3))),
        )

    async with administered(load=other) as service:
        asked = [asyncio.ensure_future(service.infer(key, max_tokens=50)) for key in (GOLD, FREE) * 50]
        while any(not request.done() for request in asked):
            await service.running.reload()
            await asyncio.sleep(0.002)
        assert {request.result().status_code for request in asked} == {200}
        assert service.driver.outstanding == 0


@pytest.mark.parametrize(("how", "first"), [("one by one", "low"), ("together", "high"), ("reload", "high")])
async def test_changes_made_together_are_one(how: str, first: str) -> None:
    """Two tenants wait for their buckets. Freed one by one, the first freed starts; together, the higher bid."""
    shaped = tuple(Tenant(name, rate=1e-6, burst=100.0, over_rate="queue") for name in ("low", "high"))
    freed = tuple(Tenant(tenant.name) for tenant in shaped)
    given = config(tenants=shaped, devices=Devices(slots=1), policy=Policy.strict())
    async with administered(given, load=lambda: replace(given, tenants=freed)) as service:
        driver = service.driver
        for name, bid in (("low", 1), ("high", 9)):
            await driver.infer(name, prompt_tokens=99, max_tokens=1)
            driver.submit(name, prompt_tokens=50, max_tokens=10, bid=bid)
        if how == "reload":
            assert (await service.running.reload()).changed == ("low", "high")
        with driver.together() if how == "together" else nullcontext():
            for tenant in freed if how != "reload" else ():
                driver.set_tenant(tenant)
        assert [name for name, row in driver.snapshot().tenants.items() if row.in_flight] == [first]


# A real process


class Process:
    """`aps serve` with what it says, line by line."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self._lines: Queue[str] = Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.url = re.findall(r"http://\S+", self.until("APS serves"))[0]

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))

    def until(self, part: str) -> str:
        """The next line that has this part in it."""
        while part not in (line := self._lines.get(timeout=30)):
            pass
        return line


# Its first act is to hang up on itself, before it imports what serves.
EARLY = """
import os, signal, sys
from aps import cli
load = cli.import_module
def loaded(name):
    os.kill(os.getpid(), signal.SIGHUP)
    return load(name)
cli.import_module = loaded
sys.exit(cli.main(sys.argv[1:]))
"""

# When it has served, and closes what it had open, somebody hangs up.
LATE = """
import os, signal, sys
from aps import cli
from aps.record import Recorder
close = Recorder.close
def closing(self):
    os.kill(os.getpid(), signal.SIGHUP)
    close(self)
    print("closed", flush=True)
Recorder.close = closing
sys.exit(cli.main(sys.argv[1:]))
"""


@contextmanager
def process(*arguments: str, run: tuple[str, ...] = ("-m", "aps"), **environ: str) -> Iterator[Process]:
    """run: what of Python."""
    command = [sys.executable, *run, "serve", "--port", "0", "--time-scale", "100", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environ}) as running:
        try:
            yield Process(running)
        finally:
            running.kill()
            running.wait()


@contextmanager
def nohup() -> Iterator[None]:
    """What is started within ignores SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def ignores_hangups(process: "subprocess.Popen[str]") -> bool:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return bool(int(re.findall(r"SigIgn:\s*([0-9a-f]+)", status)[0], 16) >> (signal.SIGHUP - 1) & 1)


def test_sighup_takes_the_file_again(tmp_path: Path) -> None:
    file = tmp_path / "aps.toml"
    text = f'[tenants.gold]\nkeys = ["{hash_line(GOLD)}"]\n'
    file.write_text(text + "[tenants.old]\n")
    with process("--config", str(file), APS_ADMIN_KEY=ADMIN) as service:
        assert "SIGHUP reads it again" in service.until("configuration: ")
        service.until("1 tenant key of 1 tenant, no metrics key, an admin key")
        with httpx.Client(base_url=service.url, headers={"authorization": f"Bearer {ADMIN}"}, trust_env=False) as admin:
            file.write_text(text + "[tenants.new]\nweight = 2\n[policy]\nfairness_window = 7\n[devices]\ngpus = 2\n")
            service.process.send_signal(signal.SIGHUP)
            assert service.until("reload: added") == "reload: added 1 tenant: new"
            assert service.until("reload: removed") == "reload: removed 1 tenant: old"
            assert service.until("reload: policy") == "reload: policy.fairness_window: 2048 is now 7"
            assert service.until("reload: devices") == "reload: devices.gpus: stays 1; 2 needs a restart"
            assert list(admin.get("/admin/tenants").json()) == ["gold", "new"]

            file.write_text("[tenants.gold]\nweight = -1\n[tenants.new]\nwheight = 1\n")
            service.process.send_signal(signal.SIGHUP)
            assert "tenants.gold.weight must be" in service.until("reload: refused, nothing has changed: ")
            assert "did you mean 'weight'" in service.until("reload: refused, nothing has changed: ")
            assert admin.get("/admin/tenants").json()["gold"]["weight"] == 1

            file.write_text(text)
            assert admin.post("/admin/reload").json()["removed"] == ["new"]
            assert admin.get("/admin/config").json()["tenants"]["gold"]["keys"] == 1
        with httpx.Client(base_url=service.url, trust_env=False) as other:
            gold = {"authorization": f"Bearer {GOLD}"}
            answer = other.post("/infer", json={"prompt_tokens": 5, "max_tokens": 2}, headers=gold)
            assert answer.json()["tenant_id"] == "gold"
            assert other.get("/admin/config", headers=gold).status_code == 403
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(timeout=30) == 0


def test_without_a_file_sighup_drains() -> None:
    with process() as service:
        service.until("OPEN: no keys")
        with httpx.Client(base_url=service.url, trust_env=False) as client:
            assert client.get("/health").status_code == 200
        service.process.send_signal(signal.SIGHUP)
        service.until("drained")
        assert service.process.wait(timeout=30) == 0


def test_a_hangup_while_it_starts_reloads(tmp_path: Path) -> None:
    file = tmp_path / "aps.toml"
    file.write_text("[tenants.gold]\n")
    with process("--config", str(file), run=("-c", EARLY)) as service:
        service.until("reload: nothing has changed")
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(timeout=30) == 0


def test_a_hangup_while_it_starts_drains_without_a_file() -> None:
    with process(run=("-c", EARLY)) as service:
        service.until("draining 0 requests")
        service.until("drained")
        assert service.process.wait(timeout=30) == 0


def test_under_nohup_a_hangup_reloads_and_ends_nothing(tmp_path: Path) -> None:
    file = tmp_path / "aps.toml"
    file.write_text("[tenants.gold]\n")
    with nohup(), process("--config", str(file), run=("-c", EARLY)) as service:
        service.process.send_signal(signal.SIGHUP)
        service.until("reload: nothing has changed")
        assert not ignores_hangups(service.process)
    with nohup(), process() as service:
        service.until("OPEN: no keys")
        assert ignores_hangups(service.process)


def test_a_configuration_that_is_read_again_reads_the_same(tmp_path: Path) -> None:
    file = tmp_path / "aps.toml"
    file.write_text(f'[tenants.gold]\nkeys = ["{hash_line(GOLD)}"]\n')
    assert read_config(file) == read_config(file)


@pytest.mark.parametrize("reloads", [True, False])
def test_one_that_comes_when_it_has_served_is_too_late(reloads: bool, tmp_path: Path) -> None:
    file = tmp_path / "aps.toml"
    file.write_text("")
    options = ("--config", str(file)) if reloads else ()
    with process("--record", str(tmp_path / "record.jsonl"), *options, run=("-c", LATE)) as service:
        assert httpx.get(f"{service.url}/health", trust_env=False).status_code == 200  # it has its handlers
        service.process.send_signal(signal.SIGTERM)
        service.until("closed")
        assert service.process.wait(30) == 0

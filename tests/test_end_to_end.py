"""The whole path: the stress test against a real service, the demo, and a service that is told to stop."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from aps.cli import main
from aps.service.keys import new_key
from aps.stress.run import Plan, stress
from aps.tenants import Tenant
from loadtests.serving import serving as own_service
from tests.serving import serving


class Calls:
    """Counts the progress it is told."""

    def __init__(self) -> None:
        self.phases: dict[str, list[int]] = {}

    def begin(self, name: str, calls: int) -> None:
        self.current = self.phases[name] = [calls, 0]

    def advance(self) -> None:
        self.current[1] += 1


def test_the_promised_burst_and_a_trace_over_http() -> None:
    progress = Calls()
    with serving(time_scale=20.0) as service:
        report = asyncio.run(stress(service.url, Plan(trace_s=15.0, patience_s=20.0), progress))
    assert progress.phases == {"burst": [100, 100], "limits": [120, 120], "trace": [12, 12]}
    burst, trace = report["phases"]
    assert report["passed"]
    assert (burst["sent"], burst["completed"], burst["failures"]) == (100, 100, {})
    # W1 in virtual time over seeds 0-199: occupancy 0.976-0.989, $0.522-0.538, Jain 0.662-0.682, 125-134 tokens/s.
    # Here requests arrive within a few wall milliseconds, a simulated second at this scale: wider bounds.
    assert burst["arrivals_spread_s"] < 10.0
    assert burst["busy"] == pytest.approx(1.0, abs=0.05)
    assert burst["occupancy"] > 0.9
    assert 0.49 < burst["dollars_per_million_tokens"] < 0.58
    assert 0.6 < burst["jain"] < 0.75
    # What was computed includes the requests that started before both tenants waited: up to 16, a quarter of the
    # tokens, divided as they happened to arrive: with 85:15 in the rest it is about 0.62 if all 16 are vip's and 0.80
    # if 8 are. First come, first served gives 1.0; that the bid alone does not decide shows in what started (not 0.5).
    assert 0.6 < burst["jain_computed"] < 0.82
    assert burst["shared_s"] == pytest.approx(burst["all_wait_s"], rel=0.05)
    vip, free = (burst["tenants"][name] for name in ("stress_vip", "stress_free"))
    assert vip["queue_wait_s"]["p50"] < free["queue_wait_s"]["p50"]
    assert vip["share"] == pytest.approx(0.85, abs=0.05)
    assert vip["promised_share"] == pytest.approx(0.85)
    assert burst["prompt_tokens"] + burst["output_tokens"] == pytest.approx(burst["tokens_per_s"] * burst["makespan_s"])
    assert not report["skipped"] and not report["brought"]
    limits = report["limits"]
    assert limits["as_told"]
    for name, burst_tokens in (("tenant_a", 5000), ("tenant_b", 3000)):
        tenant = limits["tenants"][name]
        assert (tenant["small"]["level_before"], tenant["held"]) == (burst_tokens, 50)
        assert tenant["small"]["admitted"] == 50
        assert tenant["small"]["retry_after"] is None
        large = tenant["large"]
        assert large["admitted"] + large["throttled"] == large["sent"] == 10 and large["throttled"] > 0
        assert burst_tokens - 2500 <= large["level_before"] <= burst_tokens
        assert large["admitted"] >= large["level_before"] // 700
        assert large["retry_after"] == [1, 1] and 0 < large["retry_after_s"][0] <= large["retry_after_s"][1] <= 1
    assert trace["sent"] == 12
    for tenant in trace["tenants"].values():
        assert tenant["attempts"] == tenant["completed"] + sum(tenant["refused"].values())


def test_a_burst_that_is_refused_does_not_pass(capsys: pytest.CaptureFixture[str]) -> None:
    tenants = (Tenant("stress_vip", weight=0.85), Tenant("stress_free", weight=0.15, rate=1.0, burst=2000.0))
    with serving(tenants, time_scale=100.0) as service:
        assert main(["stress", "--url", service.url, "--per-tenant", "5", "--trace-s", "0", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["passed"]
    free = report["phases"][0]["tenants"]["stress_free"]
    assert free["completed"] + free["refused"]["over_rate"] == 5
    assert 1 <= free["completed"] < 5
    assert report["phases"][0]["tenants"]["stress_vip"]["completed"] == 5


def test_a_service_without_the_stress_tenants_is_told_apart(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("APS_ADMIN_KEY", raising=False)
    with serving((Tenant("stress_vip"),)) as service:
        assert main(["stress", "--url", service.url, "--per-tenant", "2", "--trace-s", "1"]) == 2
        assert service.status("stress_vip")["requests"]["admitted"] == 0
    said = capsys.readouterr().err
    assert "has no stress_free: `aps serve` has them by default" in said and "APS_ADMIN_KEY" in said
    with serving((Tenant("stress_vip"), Tenant("stress_free"))) as service:
        assert main(["stress", "--url", service.url, "--per-tenant", "2", "--trace-s", "1"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "limits: not sent, the service has no tenant_a, tenant_b; with APS_ADMIN_KEY" in out
    assert "trace: not sent, the service has no tenant_a, tenant_b, tenant_c" in out


def test_the_tenants_are_brought_with_the_admin_key_and_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, key = tmp_path / "aps.toml", new_key()
    config.write_text("[devices]\ntime_scale = 100.0\n[tenants.tenant_a]\nrate = 20\nburst = 1000\n")
    arguments = ["stress", "--per-tenant", "5", "--trace-s", "1", "--json"]
    with own_service("--config", str(config), env={"APS_ADMIN_KEY": key}) as service:
        arguments += ["--url", service.url]
        monkeypatch.delenv("APS_ADMIN_KEY", raising=False)
        assert main(arguments) == 2
        assert "has keys: give its admin key in APS_ADMIN_KEY" in capsys.readouterr().err
        monkeypatch.setenv("APS_ADMIN_KEY", new_key())
        assert main(arguments) == 2
        assert "has keys: the key in APS_ADMIN_KEY is not its admin key" in capsys.readouterr().err
        monkeypatch.setenv("APS_ADMIN_KEY", key)
        assert main(arguments) == 0
        left = json.loads(service.get("/admin/tenants", {"Authorization": f"Bearer {key}"}))
    report = json.loads(capsys.readouterr().out)
    assert report["brought"] == ["tenant_b", "tenant_c", "stress_vip", "stress_free"]
    assert list(left) == ["tenant_a"] and left["tenant_a"]["burst"] == 1000  # what was there is as it was
    assert report["phases"][0]["tenants"]["stress_vip"]["promised_share"] == pytest.approx(0.85)
    assert report["limits"]["tenants"]["tenant_a"]["held"] == 20 and report["limits"]["as_told"]
    assert report["limits"]["tenants"]["tenant_a"]["small"]["throttled"] > 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stress_test_that_is_told_to_end_leaves_no_tenants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    config, key = tmp_path / "aps.toml", new_key()
    config.write_text("[tenants.own]\n")  # in real time the burst takes half a minute
    with own_service("--config", str(config), env={"APS_ADMIN_KEY": key}) as service:

        def tenants() -> list[str]:
            return list(json.loads(service.get("/admin/tenants", {"Authorization": f"Bearer {key}"})))

        monkeypatch.setenv("APS_ADMIN_KEY", key)
        with process("stress", "--url", service.url) as running:
            until(lambda: len(tenants()) == 6)
            running.send_signal(number)
            assert running.wait(20) == 128 + number
        assert tenants() == ["own"]


def test_what_is_no_service_is_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        assert main(["stress", "--url", f"http://127.0.0.1:{other.server_port}"]) == 2
        other.shutdown()
        thread.join()
    assert "does not answer as a service of aps" in capsys.readouterr().err


def test_stress_prints_tables(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(time_scale=100.0) as service:
        assert main(["stress", "--url", service.url, "--per-tenant", "3", "--trace-s", "3", "--patience-s", "1"]) == 0
    text = capsys.readouterr().out
    for said in ("stress_vip", "tenant_c", "queue wait p50/p95/p99", "Jain", "dollars per million", "6 of 6", "PASSED"):
        assert said in text
    assert max(map(len, text.splitlines())) <= 80


@contextmanager
def process(*arguments: str, stderr: int | None = None) -> Iterator["subprocess.Popen[str]"]:
    """`aps` in a process of its own, which does not outlive the test."""
    command = [sys.executable, "-m", "aps", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=os.environ) as running:
        try:
            yield running
        finally:
            running.kill()


def test_the_demo(tmp_path: Path) -> None:
    arguments = ("--time-scale", "50", "--per-tenant", "10", "--trace-s", "3", "--patience-s", "1", "--json")
    with process("demo", *arguments, "--out", str(tmp_path / "demo")) as demo:
        text, _ = demo.communicate(timeout=100)
    assert demo.returncode == 0
    found = json.loads(text)
    assert found["http"]["passed"]
    assert len(found["virtual"]) == 5 and all(row["met"] for row in found["virtual"])
    assert len(found["comparison"]["verdict"]) == 6
    assert Path(found["plot"]).read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "demo" / "report.html").exists()


def test_a_service_whose_output_nobody_reads_stops_too() -> None:
    with process("serve", "--port", "0") as serve:
        assert serve.stdout is not None
        found = re.search(r"http://\S+", serve.stdout.readline())
        assert found is not None
        while "OPEN" not in serve.stdout.readline():
            pass
        serve.stdout.close()
        assert httpx.get(f"{found[0]}/health").status_code == 200
        serve.send_signal(signal.SIGTERM)
        assert serve.wait(10) == 0


@contextmanager
def asked(service: "subprocess.Popen[str]", prompt_tokens: int) -> Iterator[tuple[str, list[httpx.Response]]]:
    """Its address, and where the answer to a request that runs there will be; it is there after the block."""
    assert service.stdout is not None
    found = re.search(r"http://\S+", service.stdout.readline())
    assert found is not None
    url = found[0]
    replies: list[httpx.Response] = []
    body = {"tenant_id": "tenant_c", "prompt_tokens": prompt_tokens, "max_tokens": 1}
    caller = threading.Thread(target=lambda: replies.append(httpx.post(f"{url}/infer", json=body, timeout=60)))
    caller.start()
    until(lambda: httpx.get(f"{url}/tenants/tenant_c/status").json()["in_flight"])
    yield url, replies
    caller.join()


def until(true: Callable[[], object], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)


@pytest.mark.parametrize(("prompt_tokens", "drain_s", "status"), [(4000, 30, 200), (9000, 1, 503)])
def test_sigterm_drains_and_loses_no_request_silently(prompt_tokens: int, drain_s: float, status: int) -> None:
    # 3.9 and 8.8 s of work: the one ends within the time to drain, the other does not, with seconds to spare.
    with process("serve", "--port", "0", "--drain-s", str(drain_s)) as serve:
        with asked(serve, prompt_tokens) as (_, replies):
            serve.send_signal(signal.SIGTERM)
            text, _ = serve.communicate(timeout=30)
        assert replies[0].status_code == status
        assert "drained" in text
        assert ("1 cancelled" in text) == (status == 503)
    assert serve.returncode == 0


def test_a_draining_service_refuses_and_a_second_signal_ends_it_at_once_with_an_answer_to_everybody() -> None:
    # 300 s to drain and 88 s of work at a tenth of real time: only the second signal can end this.
    with process("serve", "--port", "0", "--drain-s", "300", "--time-scale", "0.1", stderr=subprocess.PIPE) as serve:
        with asked(serve, 9000) as (url, replies):
            address = urlsplit(url)
            half = socket.create_connection((address.hostname, address.port), timeout=10)
            half.sendall(b'POST /infer HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"ten')
            assert httpx.get(f"{url}/health").json()["ready"]
            serve.send_signal(signal.SIGTERM)
            until(lambda: httpx.get(f"{url}/health").json()["draining"])
            refused = httpx.post(f"{url}/infer", json={"tenant_id": "tenant_a", "prompt_tokens": 1})
            assert (refused.status_code, refused.json()["error"]["reason"]) == (503, "draining")
            said = half.recv(4096).decode()
            assert said.startswith("HTTP/1.1 503 ")
            assert '"reason":"draining"' in said
            serve.send_signal(signal.SIGTERM)
            text, errors = serve.communicate(timeout=30)
            half.close()  # a body that never ends has delayed nothing, or uvicorn would have said so
        assert (replies[0].status_code, replies[0].json()["error"]["reason"]) == (503, "draining")
        assert replies[0].headers["retry-after"] == "1"
        assert text.splitlines()[-1] == "drained; 1 cancelled"
        assert re.fullmatch(r"\S+ WARNING aps\.service\.draining: request \w+ of tenant_c, cancelled: .*\n", errors)
    assert serve.returncode == 0

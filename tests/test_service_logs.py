"""The service's log: a line a request at its end, nothing of what was asked or who asked with which key."""

import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from aps.service.keys import hash_line, new_key
from aps.service.logs import MOST_WAITING, Logs
from tests.serving import until

PROMPT = "a secret that nobody may read in a log"


class Log:
    """What a service wrote to stderr."""

    def __init__(self, text: str) -> None:
        self.text = text

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]

    def requests(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == "request"]


def run(folder: Path, *options: str) -> tuple[Log, dict[str, str]]:
    """A service with keys, asked in every way; its log, and the ids of answers by what was asked."""
    admin, key = new_key(), new_key()
    config = folder / "aps.toml"
    config.write_text(f"""
[devices]
time_scale = 50.0
[tenants.a]
rate = 20
burst = 2000
keys = ["{hash_line(key)}"]
[tenants.b]
""")
    log = folder / "log"
    command = [sys.executable, "-m", "aps", "serve", "--port", "0", "--config", str(config), *options]
    ids: dict[str, str] = {}
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, "APS_ADMIN_KEY": admin}
        )
        assert process.stdout is not None
        try:
            url = process.stdout.readline().split()[2]
            headers = {"authorization": f"Bearer {key}"}
            with httpx.Client(base_url=url, headers=headers, trust_env=False) as client:
                answer = client.post("/infer", json={"prompt": PROMPT, "max_tokens": 5})
                ids["finished"] = answer.json()["id"]
                with client.stream(
                    "POST", "/infer", json={"prompt": PROMPT, "max_tokens": 5, "stream": True}
                ) as stream:
                    stream.read()
                answer = client.post("/infer", json={"prompt": PROMPT, "max_tokens": 5, "wait": False})
                ids["later"] = answer.json()["id"]
                until(lambda: client.get(f"/requests/{ids['later']}").json()["state"] == "finished")
                assert client.post("/infer", json={"prompt": PROMPT, "max_tokens": 9000}).status_code == 400
                assert client.post("/infer", json={"prompt": PROMPT, "max_tokens": PROMPT}).status_code == 422
                assert client.post("/infer", content=PROMPT).status_code == 422
                sizes = {"prompt_tokens": 1900, "max_tokens": 1}
                assert [client.post("/infer", json=sizes).status_code for _ in range(2)] == [200, 429]
                wrong = {"authorization": f"Bearer {new_key()[:-3]}xyz"}
                assert client.post("/infer", json={"prompt": PROMPT}, headers=wrong).status_code == 401
            with pytest.raises(httpx.TimeoutException), httpx.Client(base_url=url, trust_env=False) as client:
                body = {"tenant_id": "b", "prompt": PROMPT, "max_tokens": 4000}
                client.post("/infer", json=body, headers={"authorization": f"Bearer {admin}"}, timeout=0.1)
            process.send_signal(signal.SIGHUP)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=20)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
    text = log.read_text()
    for secret in (PROMPT, "secret", key, admin, key[4:], "xyz", hash_line(key)):
        assert secret not in text
    return Log(text), ids


def test_a_line_a_request_in_json(tmp_path: Path) -> None:
    log, ids = run(tmp_path, "--log-level", "info", "--log-format", "json")
    requests = log.requests()
    by_id = {request["id"]: request for request in requests}
    finished = by_id[ids["finished"]]
    assert {**finished, "time": "", "wall_s": 0, "ttft_s": 0, "e2e_s": 0, "queue_wait_s": 0} == {
        "time": "", "level": "info", "event": "request", "id": ids["finished"], "status": 200, "tenant": "a",
        "verdict": "admitted", "bid": 5, "prompt_tokens": 10, "max_tokens": 5, "ended": "finished",
        "output_tokens": 5, "charge": 15.0, "queue_wait_s": 0, "ttft_s": 0, "e2e_s": 0, "wall_s": 0,
    }  # fmt: skip
    assert finished["time"].endswith("Z")
    assert 0 < finished["ttft_s"] < finished["e2e_s"]
    assert by_id[ids["later"]]["status"] == 202
    assert [request["output_tokens"] for request in requests if request.get("stream")] == [5]
    refused = {(request["status"], request["reason"]) for request in requests if request["status"] >= 400}
    assert refused >= {(400, "exceeds_burst"), (422, "invalid"), (429, "over_rate"), (401, "unauthorized")}
    assert len(requests) == 10
    gone = [request for request in requests if request.get("ended") == "cancelled"]
    assert [request["status"] for request in gone] == [499]
    said = " ".join(event["message"] for event in log.events if event["event"] == "log")
    assert "APS serves http://" in said
    assert "nothing has changed" in said
    assert "drained" in said


def test_a_line_a_request_in_text(tmp_path: Path) -> None:
    log, ids = run(tmp_path, "--log-level", "info")
    (line,) = [line for line in log.text.splitlines() if ids["finished"] in line]
    assert f" INFO request id={ids['finished']} status=200 tenant=a verdict=admitted bid=5 prompt_tokens=10" in line


def test_whoever_does_not_read_holds_nobody_up() -> None:
    goes_on = threading.Event()

    class Stuck(io.StringIO):
        def write(self, text: str) -> int:
            assert goes_on.wait(30)
            return super().write(text)

    stream = Stuck()
    before = list(logging.getLogger().handlers)
    logs = Logs("info", "json", stream)
    for number in range(MOST_WAITING + 1000):
        logs.put(0.0, {"level": "info", "event": "test", "number": number})
    goes_on.set()
    until(lambda: logs._queue.empty())
    logs.put(0.0, {"level": "info", "event": "last"})
    logs.stop()
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert sum(event.get("dropped", 0) for event in events) + len(events) == MOST_WAITING + 1001
    assert MOST_WAITING < len(events) < MOST_WAITING + 10
    assert logging.getLogger().handlers == before


def test_a_stream_that_breaks_ends_nothing() -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    logs = Logs("warning", "text", Broken())
    assert logs.requests is None
    logging.getLogger("aps.test").error("one\nline")
    logs.stop()
    assert not logs._thread.is_alive()


def test_a_line_is_a_line() -> None:
    stream = io.StringIO()
    logs = Logs("warning", "text", stream)
    logging.getLogger("aps.test").info("not wanted")
    logging.getLogger("aps.test").error("one\r\n2026-01-01 INFO forged %s", "x")
    logs.put(0.0, {"level": "info", "event": "request", "tenant": 'a "b"\n', "id": None})
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("aps.test").exception("it failed")
    logs.stop()
    first, second, third, *trace = stream.getvalue().splitlines()
    assert first.endswith(r" ERROR aps.test: one\r\n2026-01-01 INFO forged x")
    assert second == '1970-01-01T00:00:00.000Z INFO request tenant="a \\"b\\"\\n"'
    assert third.endswith("ERROR aps.test: it failed")
    assert trace[-1] == "ValueError: why"

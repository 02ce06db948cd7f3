"""A live service with a record, over real HTTP: cancels, vanished clients and refusals replay to the same order."""

import asyncio
import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from aps.cli import main
from aps.record import replay

CONFIG = """
[devices]
gpus = 2
time_scale = 40.0
slots = 4

[policy]
preemption = "recompute"
fairness_window = 500.0

[limits]
max_queued = 60

[tenants.vip]
weight = 4
max_bid = 10
[tenants.free]
rate = 100
burst = 2000
[tenants.queued]
rate = 900
burst = 5000
over_rate = "queue"
"""
PROMPT = "the words of the one who asks"


@contextmanager
def service(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that serves; the caller ends it."""
    config = folder / "aps.toml"
    config.write_text(CONFIG)
    command = [sys.executable, "-m", "aps", "serve", "--port", "0", "--config", str(config), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first.startswith("APS serves http://"), first + process.stdout.read()
        yield process, first.split()[2]
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


async def crowd(url: str, requests: int, seed: int) -> dict[str, int]:
    """Requests of every kind at once; how they ended."""
    rng = random.Random(seed)
    ends: dict[str, int] = {}

    async def leave(client: httpx.AsyncClient, body: dict[str, object]) -> str:
        """Hang up in the middle of the stream, if it is admitted."""
        async with client.stream("POST", "/infer", json=body, timeout=30.0) as reply:
            return "vanished" if reply.status_code == 200 else str(reply.status_code)

    async def one(client: httpx.AsyncClient, number: int) -> None:
        await asyncio.sleep(rng.random() * 1.0)
        fate = rng.random()
        body: dict[str, object] = {
            "tenant_id": rng.choice(("vip", "free", "free", "queued")),
            "max_tokens": rng.randint(1, 200),
            "bid": rng.randint(1, 10),
        }
        body |= {"prompt": PROMPT * rng.randint(1, 20)} if fate < 0.5 else {"prompt_tokens": rng.randint(1, 900)}
        if fate > 0.8:
            body["deadline_s"] = rng.choice((0.01, 2.0, 30.0))
        if 0.6 < fate < 0.7:
            body["stream"] = True
        try:
            if 0.1 < fate < 0.2:
                end = await leave(client, body | {"tenant_id": "vip", "stream": True, "max_tokens": 3000})
            else:
                reply = await client.post("/infer", json=body, timeout=0.05 if fate <= 0.1 else 30.0)
                end = str(reply.status_code)
        except httpx.TimeoutException:
            end = "vanished"
        ends[end] = ends.get(end, 0) + 1

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, trust_env=False, limits=limits) as client:
        await asyncio.gather(*(one(client, number) for number in range(requests)))
    return ends


def cancel_one(url: str) -> None:
    """One that would run for long."""
    body = {"tenant_id": "vip", "prompt_tokens": 5, "max_tokens": 50_000, "wait": False}
    with httpx.Client(base_url=url, trust_env=False, timeout=30.0) as client:
        where = client.post("/infer", json=body).headers["location"]
        assert client.delete(where).json()["state"] == "cancelled"


def test_a_live_run_replays_to_the_same_dispatch_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "night.jsonl.gz"
    with service(tmp_path, "--record", str(path)) as (process, url):
        cancel_one(url)
        ends = asyncio.run(crowd(url, 160, seed=1))
        process.send_signal(signal.SIGHUP)
        httpx.post(f"{url}/infer", json={"tenant_id": "vip", "prompt_tokens": 5, "max_tokens": 5}, trust_env=False)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 0, out
    assert ends["200"] > 30
    assert ends["429"] > 0
    assert ends["vanished"] > 0
    result = replay(path)
    assert result.same, result.difference
    assert not result.notes
    assert result.requests >= 100
    assert main(["replay", str(path)]) == 0
    assert "the same dispatch order, byte for byte" in capsys.readouterr().out


def test_a_killed_service_leaves_a_record_in_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "night.jsonl"
    with service(tmp_path, "--record", str(path), "--record-max-mb", "1", "--record-files", "20") as (process, url):
        cancel_one(url)
        asyncio.run(crowd(url, 120, seed=2))
        process.kill()
        process.wait()
    result = replay(path)
    assert result.same, result.difference
    assert result.requests >= 80  # but for the last second
    assert any("not closed" in note for note in result.notes)
    parts = sorted(tmp_path.glob("night.jsonl*"), key=lambda part: part.stat().st_mtime)
    texts = [part.read_text() for part in parts]
    assert PROMPT not in "".join(texts)
    ops = {json.loads(line)["op"] for text in texts for line in text.splitlines()[1:-1]}
    assert ops >= {"submit", "batch", "progress", "step", "end", "cancel"}
    parts[0].write_text(texts[0].replace('"verdict":"admitted"', '"verdict":"rejected"', 1))
    assert main(["replay", str(path)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[-3].startswith("0 calls, 1 requests, 0 dispatches: the same so far; then ")
    recorded, replayed = said[-2].removeprefix("  recorded: "), said[-1].removeprefix("  replayed: ")
    assert recorded == replayed.replace("admitted", "rejected")


def test_a_record_in_no_directory_is_named_with_what_asked_for_it(tmp_path: Path) -> None:
    config, path = tmp_path / "aps.toml", tmp_path / "nowhere" / "night.jsonl"
    config.write_text(f'[record]\nfile = "{path}"\n')
    for options, origin in ((["--record", str(path)], "--record"), (["--config", str(config)], str(config))):
        command = [sys.executable, "-m", "aps", "serve", "--port", "0", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        said = f"{origin}: record.file {path} cannot be written: there is no directory {path.parent}"
        assert (done.returncode, done.stderr) == (2, f"aps serve: {said}\n")


def test_a_file_that_is_no_record_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("mine")
    command = [sys.executable, "-m", "aps", "serve", "--port", "0", "--record", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert "is there and is no record" in done.stderr
    assert path.read_text() == "mine"
    assert main(["replay", str(path)]) == 2

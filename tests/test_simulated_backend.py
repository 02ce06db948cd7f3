"""Simulated GPUs behind the Backend protocol."""

from math import inf, nan
from types import SimpleNamespace
from typing import Any

import pytest

from aps import Device
from aps.backends import FINISHED, FIRST_STEP, FIRST_TOKEN, Backend, SimulatedBackend
from aps.backends.simulated import WORDS
from aps.profiles import REFERENCE, profile_named


def job(handle: int, **given: Any) -> Any:
    usual = {"prompt": None, "prompt_tokens": 100, "max_tokens": 3, "bid": 5, "account": 0, "id": handle}
    return SimpleNamespace(
        **usual
        | {"handle": handle, "generated": 0, "prefill": None, "simulated_output_tokens": None, "own": None}
        | given
    )


def test_the_reference_profile() -> None:
    backend: Backend = SimulatedBackend()
    assert backend.devices == (Device(slots=16, kv_blocks=61_035 // 16, token_budget=None, name="gpu0"),)
    assert (backend.profile, backend.simulated, backend.time_scale) == ("reference", True, 1.0)
    assert REFERENCE.dollars_per_hour == 1.39 and "2026" in REFERENCE.price_source
    assert profile_named("reference") is REFERENCE


def test_sizes_may_be_given() -> None:
    backend = SimulatedBackend(REFERENCE, gpus=2, slots=4, kv_tokens=1000, token_budget=64, block_tokens=32)
    assert backend.devices == tuple(Device(slots=4, kv_blocks=31, token_budget=64, name=f"gpu{i}") for i in (0, 1))
    assert [engine.token_budget for engine in backend.engines] == [64, 64]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gpus": 0}, "gpus must be an int, at least 1, got 0"),
        ({"gpus": 1.5}, "gpus must be"),
        ({"time_scale": 0.0}, "time_scale must be a number from 0.0001 to 10000, got 0.0"),
        ({"time_scale": 10_001}, "time_scale must be"),
        ({"time_scale": inf}, "time_scale must be"),
        ({"time_scale": nan}, "time_scale must be"),
        ({"profile": "h100"}, "profile must be one of reference, a100-.*, got 'h100'"),
        ({"slots": 0}, "slots"),
        ({"kv_tokens": 0}, "kv_tokens"),
        ({"kv_tokens": 15}, "kv_blocks"),
        ({"block_tokens": 0}, "block_tokens must be an int in 1.."),
    ],
)
def test_what_is_out_of_range_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimulatedBackend(**given)


@pytest.mark.parametrize("given", [{"time_scale": "x"}, {"kv_tokens": "x"}, {"block_tokens": 2.0}])
def test_what_is_no_number_is_named(given: dict[str, Any]) -> None:
    [(field, value)] = given.items()
    with pytest.raises(TypeError, match=f"{field} must be an? .*, got {value!r}"):
        SimulatedBackend(**given)


async def test_one_clock() -> None:
    wall = 1000.0
    backend = SimulatedBackend(time_scale=10.0, clock=lambda: wall)
    wall = 1007.0
    await backend.open(5.0, lambda: None)
    assert backend.now() == 5.0
    wall = 1008.5
    assert backend.now() == 20.0
    backend.slip(12.0)
    assert backend.now() == 12.0
    wall = 1009.0
    assert backend.now() == 17.0


async def test_news_come_in_the_order_of_time_then_device() -> None:
    backend = SimulatedBackend(gpus=3)
    await backend.open(0.0, lambda: None)
    assert backend.next_event_at() == inf
    for device, prompt in ((2, 128), (1, 128), (0, 256)):
        assert backend.ready(device)
        backend.start(device, [job(10 + device, prompt_tokens=prompt, account=device)], 0.0)
        assert not backend.ready(device)
    assert backend.next_event_at() == 128 / 1024 + 1 / 128
    devices = []
    while backend.next_event_at() < inf:
        news = backend.take()
        devices.append(news.device)
        assert backend.ready(news.device)
        assert news.handles.tolist() == [10 + news.device]
        done = news.generated.tolist() == [3]
        assert news.ended == done
        first = news.generated.tolist() == [1]
        assert news.flags.tolist() == [(FIRST_STEP | FIRST_TOKEN) * first + FINISHED * done]
        assert news.at > news.began_at
        backend.start(news.device, (), news.at)
    assert devices == [1, 2, 1, 2, 1, 2, 0, 0, 0]
    assert backend.served(4).tolist() == [[256, 128, 128, 0], [3, 3, 3, 0]]
    usage = backend.usage(0)
    assert usage is not None
    assert (usage.steps, usage.running, usage.held_blocks, usage.prefill_tokens, usage.output_tokens) == (
        3,
        0,
        0,
        256,
        3,
    )
    assert usage.busy_s == usage.slot_s == pytest.approx(0.25 + 3 / 128)
    assert backend.health(0).ok


async def test_an_aborted_job_is_not_heard_of_again() -> None:
    backend = SimulatedBackend()
    await backend.open(0.0, lambda: None)
    backend.start(0, [job(1), job(2)], 0.0)
    backend.abort(0, job(1))
    assert backend.take().handles.tolist() == [2]
    await backend.close()
    assert backend.next_event_at() == inf


async def test_jobs_generate_what_they_ask_to_be_simulated() -> None:
    backend = SimulatedBackend()
    await backend.open(0.0, lambda: None)
    jobs = [
        job(1, simulated_output_tokens=2),
        job(2, simulated_output_tokens=9),
        job(3, simulated_output_tokens=1, generated=1),
    ]
    ended: dict[int, int] = {}
    backend.start(0, jobs, 0.0)
    while backend.next_event_at() < inf:
        news = backend.take()
        ended |= dict(zip(news.handles.tolist(), news.generated.tolist(), strict=True))
        backend.start(0, (), news.at)
    # Never more than max_tokens; one that was preempted later than it should have ended still gets its next token.
    assert ended == {1: 2, 2: 3, 3: 2}


def test_text_is_decided_by_the_prompt() -> None:
    backend, again = SimulatedBackend(), SimulatedBackend(gpus=2)
    one, two = job(1, prompt="What is a scheduler?"), job(2, prompt="And a lane?\ud800")
    text = "".join(backend.tokens(one, 0, 1000))
    assert text == "".join(again.tokens(job(9, prompt=one.prompt), 0, 1000))
    assert text != "".join(backend.tokens(two, 0, 1000))
    pieces = [token for at in range(0, 1000, 7) for token in backend.tokens(one, at, min(at + 7, 1000))]
    assert pieces == list(backend.tokens(one, 0, 1000)) and len(pieces) == 1000
    assert set(pieces) == set(WORDS)
    assert backend.tokens(job(1), 0, 5) == backend.tokens(job(2), 0, 5) != backend.tokens(job(3, prompt_tokens=7), 0, 5)
    assert backend.count_tokens("anything") is None

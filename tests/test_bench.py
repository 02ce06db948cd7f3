"""The benchmark's own arithmetic, its checks, and a quick run of everything."""

import fnmatch
import heapq
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from aps.policy import Policy
from loadtests.micro import run, sim_rows, timing
from loadtests.micro.bucket_peers import PythonBucket, calls
from loadtests.micro.load import HORIZON_NS, Stream
from loadtests.micro.queue_rows import AgingHold, HeapqHold, WrongOrder, check
from loadtests.micro.rows import BY_NAME, PROMISES, Promise, Row
from loadtests.micro.sim_peers import StepLoop, in_simpy

ROOT = Path(__file__).resolve().parents[1]
NAMES = """
    queue.bulk.1k queue.call.1k queue.bulk.1k.100t queue.call.1k.100t queue.bulk.1m queue.call.1m queue.growth.10m
    queue.reheapify bucket.call.library bucket.call.python bucket.bulk request.call request.bulk request.face
    request.10k_tenants request.vllm request.litellm record.request sim.light sim.overload sim.backlog sim.simpy
    sim.memory driver.call http.64 http.512 store.64 store.512 sse.64 sse.512 memory.request
""".split()
PEERS_MAY_BE_MISSING = {"bucket.call.library", "request.vllm", "request.litellm", "sim.simpy"}
PEERS_MAY_BE_MISSING |= {name for name in NAMES if name.startswith(("driver.", "http.", "store.", "sse."))}  # wrk


def test_every_promised_row_has_an_experiment() -> None:
    assert [promise.name for promise in PROMISES] == NAMES
    assert sorted(itertools.chain(*run.EXPERIMENTS.values())) == sorted(NAMES)


def test_the_median_of_the_rounds_counts_and_cases_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    ticks = iter(itertools.accumulate([0, 900, 0, 90, 0, 10, 0, 20, 0, 40, 0, 30, 0, 50, 0, 700]))
    monkeypatch.setattr("time.thread_time_ns", lambda: next(ticks))

    def case(name: str) -> timing.Case:
        def prepare() -> timing.Timed:
            seen.append(name)
            return lambda: 10

        return prepare

    costs = timing.measure({"a": case("a"), "b": case("b")}, rounds=3, warm_up=1)
    assert seen == ["a", "b", "b", "a", "a", "b", "b", "a"]
    # after the warm-up: b 10, a 20; a 40, b 30; b 50, a 700 ns for 10 operations
    assert costs == {"a": 4.0, "b": 3.0}


def test_garbage_collection_is_off_only_while_timing() -> None:
    import gc

    states: list[bool] = []

    def timed() -> int:
        states.append(gc.isenabled())
        return 1

    timing.once(timed)
    assert states == [False]
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("promise", "value", "peer", "ratio", "met"),
    [
        (Promise("x", "ns", "p", ">=", 8), 50.0, 400.0, 8.0, True),
        (Promise("x", "ns", "p", ">=", 8), 50.0, 399.0, 7.98, False),
        (Promise("x", "ns", "p", "<=", 0.25), 100.0, 400.0, 0.25, True),
        (Promise("x", "ns", "p", "<=", 0.25), 101.0, 400.0, 0.2525, False),
        (Promise("x", "bytes", "", "<=", 96, of_value=True), 96.0, None, None, True),
        (Promise("x", "bytes", "", "<=", 96, of_value=True), 96.5, None, None, False),
        (Promise("x", "ns", "p", "figure"), 5.0, 1.0, 0.2, True),
    ],
)
def test_a_row_is_judged_by_its_target(
    promise: Promise, value: float, peer: float | None, ratio: float | None, met: bool
) -> None:
    row = promise.judge(value, peer, "how")
    assert (row["ratio"], row["met"]) == (pytest.approx(ratio) if ratio else None, met)
    assert row["reason"] == "how" if met else "misses" in row["reason"]


def test_an_experiment_that_fails_or_dies_leaves_its_rows_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_child(experiment: str, quick: bool) -> tuple[dict[str, Row], str]:
        return {
            "queue.bulk.1k": BY_NAME["queue.bulk.1k"].judge(1.0, 9.0)
        }, "" if quick else "its process ended with status -11"

    monkeypatch.setattr(run, "in_child", in_child)
    rows = {row["name"]: row for row in run.run_all(["queue.bulk.1k", "queue.call.1k", "bucket.bulk"], quick=False)}
    assert rows["queue.bulk.1k"]["met"] and rows["queue.bulk.1k"]["ratio"] == 9.0
    for name in ("queue.call.1k", "bucket.bulk"):
        assert (rows[name]["value"], rows[name]["met"], rows[name]["reason"]) == (
            None,
            False,
            "its process ended with status -11",
        )


def test_the_stream_is_in_a_steady_state_that_sorting_can_check() -> None:
    stream = Stream(2_000, 7)
    first, then = stream.initial, stream.take(6_000)
    assert len(first.bids) == 2_000 and (np.diff(first.at_ns) >= 0).all() and (np.diff(then.at_ns) > 0).all()
    assert np.array_equal(np.rint(then.at * 1e9), then.at_ns)
    keys = np.concatenate([first.keys, then.keys])
    heap = list(zip(first.keys.tolist(), first.numbers.tolist(), strict=True))
    heapq.heapify(heap)
    popped = []
    for key, number in zip(then.keys.tolist(), then.numbers.tolist(), strict=True):
        popped.append(heapq.heappop(heap)[1])
        heapq.heappush(heap, (key, number))
    assert popped == np.argsort(keys, kind="stable")[:6_000].tolist()
    turned_over = set(np.concatenate([first.bids, then.bids])[popped[-500:]].tolist())
    assert turned_over == set(range(1, 11)), "all bids take part in the order"


def test_both_sides_of_the_queue_rows_see_the_same_requests() -> None:
    ours, peer = AgingHold(1_000, 4, 500, bulk=True), HeapqHold(1_000, 4, 500)
    assert ours()() == peer()() == 500
    keys = np.concatenate([requests.keys for requests in ours.pushed])
    assert sorted(number for _, number in peer.heap) == sorted(np.argsort(keys, kind="stable")[500:].tolist())


@pytest.mark.parametrize("bulk", [True, False])
def test_a_wrong_pop_is_noticed(bulk: bool) -> None:
    right = AgingHold(1_000, 4, 500, bulk)
    right()()
    check(right, most=1_000)
    wrong = AgingHold(1_000, 4, 500, bulk)
    wrong.queue.set_aging_horizon(HORIZON_NS / 2e9)  # it now ages twice as fast as it should
    wrong()()
    wrong.queue.set_aging_horizon(HORIZON_NS / 1e9)
    with pytest.raises(WrongOrder):
        check(wrong, most=1_000)


@pytest.mark.parametrize("asked", [sim_rows.code_trace(300), sim_rows.poisson(150, sim_rows.OVERLOAD)])
def test_the_simulation_peers_simulate_the_same(asked: sim_rows.Asked) -> None:
    replay = asked.replay(Policy.bids())
    assert replay.run()
    replay.finish()
    expected = replay.read()
    loop, process = asked.requests(), asked.requests()
    gpu = sim_rows.model(), sim_rows.PROFILE.slots, sim_rows.PROFILE.token_budget or 0
    steps = StepLoop(loop, *gpu).run(10**9)
    pytest.importorskip("simpy")
    assert in_simpy(process, *gpu).steps == steps == replay.steps
    for requests in (loop, process):
        for name in ("first_token", "finished"):
            found = [getattr(request, f"{name}_at") for request in requests]
            np.testing.assert_allclose(found, expected[f"{name}_ns"] / 1e9, rtol=0, atol=1e-6)


def test_the_pure_python_bucket_is_a_token_bucket() -> None:
    bucket = PythonBucket(rate=10.0, burst=20.0)
    assert [
        bucket.take(15.0, 1.0),
        bucket.take(6.0, 1.0),
        bucket.take(6.0, 1.1),
        bucket.take(21.0, 100.0),
        bucket.take(20.0, 100.0),
    ] == [
        True,
        False,
        True,
        False,
        True,
    ]


def test_a_library_that_refuses_is_not_timed_as_one_that_allows() -> None:
    _, all_allowed = calls(lambda key: key != "b")(["a", "b"])
    assert not all_allowed()


@pytest.fixture(scope="module")
def quick_rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Row]]:
    out = tmp_path_factory.mktemp("bench") / "bench.json"
    command = [sys.executable, str(ROOT / "loadtests" / "micro" / "run.py"), "--quick", "--json", str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    yield json.loads(out.read_text())


def test_a_quick_run_writes_every_row(quick_rows: list[Row]) -> None:
    assert [row["name"] for row in quick_rows] == NAMES
    for row in quick_rows:
        assert set(row) == {"name", "value", "unit", "peer", "ratio", "target", "met", "reason"}
        assert isinstance(row["met"], bool) and row["reason"]


@pytest.mark.parametrize("name", NAMES)
def test_a_quick_run_measures(name: str, quick_rows: list[Row]) -> None:
    row = next(row for row in quick_rows if row["name"] == name)
    if name in PEERS_MAY_BE_MISSING and row["value"] is None:
        assert fnmatch.fnmatch(row["reason"], "*Error: *install*") or "No module named" in row["reason"]
        return
    assert row["value"] is not None, row["reason"]
    assert row["value"] > 0 or name == "record.request"  # a difference, which may drown in few rounds
    assert row["reason"] == "quick run, not judged" and not row["met"]

"""Policies side by side: pairs, intervals, workers, and the two batching modes."""

import _thread
import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aps import Tenant
from aps.lab import compare as comparing
from aps.lab.batching import LOADS, at_rate, batching
from aps.lab.catalog import open_workload
from aps.lab.compare import Comparison, compare
from aps.lab.definitions import DEFINITIONS
from aps.lab.figures import Slo, figures
from aps.lab.policies import POLICIES, NamedPolicy, parse, parse_list
from aps.lab.run import Setup, simulate
from aps.lab.workload import Workload
from aps.profiles import REFERENCE, profile_named

SETUP = Setup(REFERENCE)


def burst(seed: int, per_tenant: int = 20) -> Workload:
    return open_workload("burst", seed, {"per_tenant": str(per_tenant)})


@pytest.fixture(scope="module")
def found() -> Comparison:
    return compare([burst(seed) for seed in range(4)], list(POLICIES.values()), SETUP, Slo(ttft_s=20.0))


def test_the_data_is_json_and_complete(found: Comparison) -> None:
    data = json.loads(json.dumps(found.data, allow_nan=False))
    assert [policy["name"] for policy in data["policies"]] == list(data["runs"]) == list(data["figures"])
    assert data["policies"][0] == {
        "name": "fifo",
        "knobs": "H = 0 s, D = inf",
        "says": "H = 0 s, D = inf: arrival order",
    }
    assert list(data["differences"]) == ["strict", "bids", "vtc", "weighted-vtc", "aps"]
    assert (data["seeds"], data["baseline"], data["slo"]["ttft_s"]) == ([0, 1, 2, 3], "fifo", 20.0)
    assert data["setup"]["profile"] == "reference"
    assert list(found.runs) == list(POLICIES)


def test_each_policy_plays_the_same_requests(found: Comparison) -> None:
    for seed in range(4):
        whole = [trees[seed]["whole"] for trees in found.data["runs"].values()]
        assert len({(w["sent"], w["finished"], w["prompt_tokens"], w["output_tokens"]) for w in whole}) == 1
    outputs = [found.data["runs"]["fifo"][seed]["whole"]["output_tokens"] for seed in range(4)]
    assert len(set(outputs)) > 1


def test_figures_are_means_of_the_runs(found: Comparison) -> None:
    waits = [tree["tenants"]["stress_vip"]["queue_wait_s"]["p99"] for tree in found.data["runs"]["aps"]]
    shown = found.data["figures"]["aps"]["tenants"]["stress_vip"]["queue_wait_s"]["p99"]
    assert shown["mean"] == pytest.approx(np.mean(waits))
    assert (shown["low"], shown["high"], shown["n"]) == (min(waits), max(waits), 4)
    base = [tree["tenants"]["stress_vip"]["queue_wait_s"]["p99"] for tree in found.data["runs"]["fifo"]]
    (told,) = (d for d in found.data["differences"]["aps"] if d["figure"] == "tenants.stress_vip.queue_wait_s.p99")
    assert told["difference"]["mean"] == pytest.approx(np.mean(np.subtract(waits, base)))
    assert told["relative"]["ci95"][1] < 0


def test_the_verdict_tells_the_vip_gain(found: Comparison) -> None:
    aps = next(sentence for sentence in found.data["verdict"] if sentence.startswith("aps "))
    assert aps.startswith("aps beats fifo on stress_vip p99 queue wait by ")


def test_throughput_lost_is_against_fifo(found: Comparison) -> None:
    lost = found.data["throughput_lost"]
    assert (lost["fifo"]["low"], lost["fifo"]["high"]) == (0.0, 0.0)
    assert abs(lost["strict"]["mean"]) < 0.02  # a burst conserves work
    assert compare([burst(0)], parse_list("strict,aps"), SETUP).data["throughput_lost"] is None


def test_vtc_runs_without_weights_and_is_judged_by_them(found: Comparison) -> None:
    vtc, weighted = (found.data["figures"][name] for name in ("vtc", "weighted-vtc"))
    assert vtc["fairness"]["jain_all_wait"]["mean"] > 0.99
    assert vtc["fairness"]["weighted_jain_all_wait"]["mean"] < 0.75
    assert weighted["fairness"]["weighted_jain_all_wait"]["mean"] > 0.95
    assert vtc["tenants"]["stress_vip"]["weight"]["mean"] == 0.85
    assert {tenant.weight for tenant in found.runs["vtc"].workload.tenants} == {1.0}


def test_windows_have_one_length(found: Comparison) -> None:
    lengths = {tree["fairness"]["windows"]["window_s"] for trees in found.data["runs"].values() for tree in trees}
    assert max(lengths) / min(lengths) < 1.3  # rounded to whole bins of each run


def test_gaps_stay_within_their_bounds(found: Comparison) -> None:
    for name in ("vtc", "weighted-vtc", "aps"):
        for tree in found.data["runs"][name]:
            assert 0 < tree["fairness"]["widest_gap"] <= tree["fairness"]["gap_bound"]
    assert all(tree["fairness"]["gap_bound"] is None for tree in found.data["runs"]["fifo"])


def test_what_is_the_same_is_equal_in_every_figure() -> None:
    policies = [POLICIES["fifo"], replace(POLICIES["fifo"], name="twin")]
    data = compare([burst(seed) for seed in range(2)], policies, SETUP).data
    assert all(d["difference"]["low"] == d["difference"]["high"] == 0.0 for d in data["differences"]["twin"])
    assert data["verdict"][1] == "twin is equal to fifo in each of the 6 figures looked at."


def test_the_result_does_not_depend_on_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "WORTH_THREADS", 0)
    workloads = [burst(seed, 8) for seed in range(3)]
    data = [compare(workloads, parse_list("fifo,aps,vtc"), SETUP, jobs=jobs).data for jobs in (1, 2, 5)]
    assert data[0] == data[1] == data[2]


def test_runs_are_kept_only_if_wanted() -> None:
    assert not compare([burst(0, 2)], parse_list("fifo,aps"), SETUP, keep_runs=False).runs


def test_what_a_comparison_adds_is_defined(found: Comparison) -> None:
    number = found.data["figures"]["aps"]["whole"]["makespan_s"]
    names = {*number, *found.data["differences"]["aps"][0], "throughput_lost", "capacity_per_s", "offered_per_s"}
    assert names - {"figure", "keys"} <= set(DEFINITIONS)


def test_the_baseline_can_be_named() -> None:
    data = compare([burst(0)], parse_list("fifo,aps"), SETUP, baseline="aps").data
    assert list(data["differences"]) == ["fifo"]
    assert data["verdict"][1].startswith("fifo (one run) is behind aps on stress_vip p99 queue wait ")


def test_one_tenant_with_one_bid_is_said_to_show_nothing() -> None:
    one = burst(0, 8)
    alone = replace(
        one, tenants=(Tenant("a"),), tenant=np.zeros(len(one), dtype=np.int32), bid=np.ones(len(one), dtype=np.int32)
    )
    notes = compare([alone], parse_list("fifo,aps"), SETUP).data["workload"]["notes"]
    assert notes[-1].startswith("one tenant and one bid")


@pytest.mark.parametrize(
    ("workloads", "policies", "changes", "said"),
    [
        (0, "fifo", {}, "workloads must not be empty"),
        (1, "fifo", {"baseline": "aps"}, r"baseline must be one of the policies \['fifo'\], got 'aps'"),
    ],
)
def test_nothing_to_compare_is_an_error(workloads: int, policies: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        compare([burst(0)] * workloads, parse_list(policies), SETUP, **changes)


def test_policies_have_different_names() -> None:
    with pytest.raises(ValueError, match="policies must be one or more with different names"):
        compare([burst(0)], [POLICIES["fifo"], POLICIES["fifo"]], SETUP)


def test_workloads_have_the_same_tenants() -> None:
    other = burst(1).with_tenants([Tenant("x"), Tenant("y")])
    with pytest.raises(ValueError, match="the same tenants"):
        compare([burst(0), other], parse_list("fifo"), SETUP)


def test_progress_ends_at_one() -> None:
    told: list[float] = []
    compare([burst(seed) for seed in range(2)], parse_list("fifo,aps"), SETUP, on_progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0


@pytest.mark.parametrize("jobs", [1, 3])
def test_an_interrupt_ends_it(jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "WORTH_THREADS", 0)

    def interrupt(part: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare([burst(0), burst(1)], parse_list("fifo,aps"), SETUP, jobs=jobs, on_progress=interrupt)


def test_figures_add_up_to_what_the_engines_did() -> None:
    """With preemption by recompute: what tenants got, and what was lost, is what was computed."""
    policy = parse("aps:preemption=recompute,fairness_window=32768").policy
    run = simulate(open_workload("vip", 0, {"duration_s": "20"}), policy, Setup(profile_named("a100-llama2-7b")))
    found = figures(run)
    whole, tenants = found["whole"], found["tenants"].values()
    assert whole["recomputed_tokens"] > 0
    assert whole["output_tokens"] == run.output_tokens
    assert 0 < whole["mfu"] < whole["occupancy"] <= whole["busy"] <= 1.0
    for name in ("sent", "finished", "prompt_tokens", "output_tokens", "preemptions", "recomputed_tokens"):
        assert sum(tenant[name] for tenant in tenants) == whole[name]
    assert sum(tenant["dollars"] for tenant in tenants) == pytest.approx(whole["dollars"])
    assert sum(group["sent"] for group in found["by_load"]) == whole["sent"]
    assert whole["digest"] == simulate(run.workload, policy, run.setup).digest()


# Batching modes


@pytest.fixture(scope="module")
def modes() -> dict[str, Any]:
    parameters = {"duration_s": "60", "capacity_per_s": "1"}
    return batching([open_workload("noisy", seed, parameters) for seed in range(2)], POLICIES["aps"], SETUP).data


def test_batching_modes_meet_three_loads_of_the_measured_capacity(modes: dict[str, Any]) -> None:
    json.dumps(modes, allow_nan=False)
    capacity = modes["capacity_per_s"]["mean"]
    assert [(load["level"], load["fraction"]) for load in modes["loads"]] == list(LOADS)
    for load in modes["loads"]:
        assert load["offered_per_s"] == pytest.approx(load["fraction"] * capacity)
        assert [policy["name"] for policy in load["comparison"]["policies"]] == ["micro", "continuous"]
    finished = [
        load["comparison"]["figures"]["continuous"]["whole"]["requests_per_s"]["mean"] for load in modes["loads"]
    ]
    assert finished[0] < finished[1] < finished[2] <= 1.05 * capacity


def test_release_reasons_are_counted(modes: dict[str, Any]) -> None:
    for load in modes["loads"]:
        released = {mode: load["comparison"]["figures"][mode]["whole"]["released"] for mode in modes["modes"]}
        assert set(released["micro"]) <= {"window", "fill"}
        assert set(released["continuous"]) == {"continuous"}
    assert "fill" in modes["loads"][-1]["comparison"]["figures"]["micro"]["whole"]["released"]
    sizes = [load["comparison"]["figures"]["micro"]["whole"]["batch_size"]["mean"]["mean"] for load in modes["loads"]]
    assert sizes == sorted(sizes)


def test_the_verdict_speaks_of_each_load(modes: dict[str, Any]) -> None:
    starts = [sentence.partition(" load")[0] for sentence in modes["verdict"][1:]]
    assert starts == ["At low", "At medium", "At saturating"]
    assert any("continuous gains throughput" in said or "gains throughput" in said for said in modes["verdict"])


def rates(workload: Workload) -> float:
    return len(workload) / float(workload.at_s[-1])


def test_a_workload_is_brought_to_a_rate() -> None:
    workload = open_workload("noisy", 0, {"duration_s": "60"})
    faster = at_rate(workload, 100.0, 0)
    assert rates(faster) == pytest.approx(100.0)
    np.testing.assert_allclose(faster.at_s / faster.at_s[-1], workload.at_s / workload.at_s[-1])
    assert at_rate(workload, 5.0, 0).notes == faster.notes != workload.notes  # one note holds for every load


def test_a_burst_gets_poisson_arrivals_and_says_so() -> None:
    given = at_rate(burst(0, 500), 10.0, 3)
    assert rates(given) == pytest.approx(10.0, rel=0.15)
    assert given.notes[-1].startswith("its requests come in their order by a Poisson process")
    assert at_rate(burst(0, 500), 10.0, 3).digest() == given.digest() != at_rate(burst(0, 500), 10.0, 4).digest()


@pytest.mark.parametrize(("wrong", "said"), [(["fast"], "got 'fast'"), ([], "got 'none'")])
def test_modes_are_known(wrong: Sequence[Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"batching must be of micro, continuous, {said}"):
        batching([burst(0, 2)], POLICIES["aps"], SETUP, modes=wrong)


def test_a_policy_that_preempts_has_no_micro_mode() -> None:
    named: NamedPolicy = parse("aps:preemption=recompute")
    with pytest.raises(ValueError, match=r"Policy\.preemption"):
        batching([burst(0, 2)], named, SETUP)


def test_after_an_interrupt_no_thread_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that still ran as Python ended would abort it."""
    monkeypatch.setattr(comparing, "WORTH_THREADS", 0)
    before = threading.active_count()
    workers: set[int] = set()
    pressed = iter([True])

    def press(_: float) -> None:
        workers.add(threading.get_ident())
        if len(workers) == 2 and next(pressed, False):
            _thread.interrupt_main()

    workloads = [open_workload("burst", seed, {"per_tenant": "3000", "buckets": "no"}) for seed in range(4)]
    with pytest.raises(KeyboardInterrupt):
        compare(workloads, [POLICIES["fifo"], POLICIES["aps"]], SETUP, jobs=2, on_progress=press)
    assert threading.active_count() == before

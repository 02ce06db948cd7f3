"""The verdict states what the paired intervals support, and nothing else."""

from collections.abc import Sequence
from typing import Any

import pytest

from aps.lab.seeds import differences
from aps.lab.verdict import verdict


def tree(wait_s: dict[str, float], tokens_per_s: float = 100.0, starvation_s: float = 1.0) -> dict[str, Any]:
    """The figures that a verdict looks at; TTFT 1 s everywhere."""
    return {
        "tenants": {
            name: {"queue_wait_s": {"p99": s}, "ttft_s": {"p99": 1.0}, "slo_share": 0.5} for name, s in wait_s.items()
        },
        "whole": {"tokens_per_s": tokens_per_s, "starvation_s": starvation_s},
    }


def said(base: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]], slo: float | None = None) -> list[str]:
    names = list(base[0]["tenants"])
    return verdict(
        {
            "workload": {"tenants": [{"name": name, "weight": 1.0} for name in names]},
            "slo": {"ttft_s": slo, "tpot_s": None, "e2e_s": None},
            "seeds": list(range(len(base))),
            "baseline": "fifo",
            "differences": {"aps": differences(other, base)},
        }
    )


def test_better_worse_and_cost_are_told_with_their_intervals() -> None:
    base = [tree({"vip": 10.0, "free": 5.0}, 100.0), tree({"vip": 10.2, "free": 5.1}, 102.0)]
    other = [tree({"vip": 6.0, "free": 10.5}, 95.0), tree({"vip": 6.2, "free": 10.8}, 97.0)]
    how, about = said(base, other)
    assert "over 2 seeds" in how and "6 differences" in how
    assert about == (
        "aps beats fifo on vip p99 queue wait by 40 % (34 to 44 %); "
        "is behind fifo on free p99 queue wait (2.11 times as much, 2.00 to 2.22); "
        "costs throughput by 5.0 % (4.3 to 5.6 %); "
        "equal: vip p99 TTFT, free p99 TTFT, longest starvation."
    )


def test_what_the_interval_does_not_tell_apart_is_said_to_be_so() -> None:
    base = [tree({"vip": 10.0}), tree({"vip": 10.0}), tree({"vip": 10.0})]
    other = [tree({"vip": 6.0}), tree({"vip": 14.0}), tree({"vip": 9.0})]
    assert (
        said(base, other)[1]
        == "aps equal: vip p99 TTFT, longest starvation, throughput; not told apart: vip p99 queue wait."
    )


def test_differences_within_half_a_per_cent_are_no_win() -> None:
    base = [tree({"vip": 10.0}, 100.0 + at) for at in range(4)]
    other = [tree({"vip": 10.0}, (100.0 + at) * 1.002) for at in range(4)]
    assert "equal to within 0.5 %: throughput" in said(base, other)[1]


def test_one_run_is_marked_as_one_run() -> None:
    how, about = said([tree({"vip": 10.0})], [tree({"vip": 6.0}, 104.0)])
    assert how.startswith("One run of each policy: no intervals")
    assert about.startswith("aps (one run) beats fifo on vip p99 queue wait by 40 %; gains throughput by 4.0 %")


def test_without_a_ratio_the_difference_is_told_in_its_unit() -> None:
    base, other = [tree({"vip": 0.0}), tree({"vip": 0.0})], [tree({"vip": 0.5}), tree({"vip": 0.52})]
    assert "is behind fifo on vip p99 queue wait by 0.510 s (0.383 to 0.637 s)" in said(base, other)[1]


def test_an_slo_is_judged_only_when_there_is_one() -> None:
    base, other = [tree({"vip": 1.0}), tree({"vip": 1.0})], [tree({"vip": 0.5}), tree({"vip": 0.5})]
    assert "SLO" not in said(base, other)[1]
    assert "equal: vip p99 TTFT, vip requests within the SLO, longest" in said(base, other, slo=1.0)[1]


def test_what_is_equal_everywhere_is_said_in_one_sentence() -> None:
    runs = [tree({"vip": 1.0}), tree({"vip": 2.0})]
    assert said(runs, runs)[1] == "aps is equal to fifo in each of the 4 figures looked at."


def test_ttft_is_told_where_it_differs_from_the_queue_wait() -> None:
    base, other = [tree({"vip": 1.0})], [tree({"vip": 0.5})]
    other[0]["tenants"]["vip"]["ttft_s"]["p99"] = 0.5
    assert "TTFT" not in said(base, other)[1]
    other[0]["tenants"]["vip"]["ttft_s"]["p99"] = 2.0
    assert "beats fifo on vip p99 queue wait by 50 %; is behind fifo on vip p99 TTFT by 100.0 %" in said(base, other)[1]


def test_many_tenants_are_counted() -> None:
    base = [tree({f"t{at}": 10.0 for at in range(9)}) for _ in range(2)]
    other = [
        tree({f"t{at}": (9.0 if at < 5 else 12.0 if at < 7 else 10.0) + 0.01 * seed for at in range(9)})
        for seed in range(2)
    ]
    about = said(base, other)[1]
    assert "p99 queue wait: better for 5 of 9 tenants, worse for 2, equal or not told apart for 2" in about
    assert "t0" not in about


def test_one_policy_has_nothing_to_be_held_against() -> None:
    data = {"workload": {"tenants": []}, "slo": {}, "seeds": [0], "baseline": "fifo", "differences": {}}
    assert verdict(data) == ["One policy: nothing to hold it against."]


@pytest.mark.parametrize(("ratio", "words"), [(0.993, "by 99.3 %"), (0.5, "by 50 %"), (0.05, "by 5.0 %")])
def test_per_cent_have_the_digits_that_they_need(ratio: float, words: str) -> None:
    assert words in said([tree({"vip": 1.0})], [tree({"vip": 1.0 - ratio})])[1]

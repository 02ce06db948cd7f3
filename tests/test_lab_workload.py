"""Workloads: what is refused and how it is named, cutting, stretching, merging, and what they hold."""

from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aps import Tenant
from aps.lab.workload import Workload, merge

TENANTS = (Tenant("a"), Tenant("b", weight=2.0))


def workload(**changes: Any) -> Workload:
    """Four requests of two tenants, at 0, 1, 1 and 4 s."""
    columns: dict[str, Any] = {
        "name": "four",
        "tenants": TENANTS,
        "tenant": [0, 1, 1, 0],
        "at_s": [0.0, 1.0, 1.0, 4.0],
        "prompt_tokens": [10, 20, 30, 40],
        "output_tokens": [1, 2, 3, 4],
        "max_tokens": [1, 2, 3, 3],
        "bid": [1, 10, 5, 5],
    }
    return Workload(**{**columns, **changes})


def chain(name: str, rows: int, think_s: float = 0.0, first_s: float = 0.0, until_s: float = inf) -> Workload:
    """A closed loop of one client: each request follows the one before it."""
    ones = np.ones(rows, dtype=np.int32)
    return Workload(
        name=name,
        tenants=(Tenant(name),),
        tenant=ones - 1,
        at_s=np.concatenate([[first_s], np.full(rows - 1, think_s)]),
        prompt_tokens=np.arange(1, rows + 1, dtype=np.int32),
        output_tokens=ones,
        max_tokens=ones,
        bid=ones,
        after=np.arange(rows) - 1,
        until_s=until_s,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tenant": [0, 1, 2, 0]}, r"tenant\[2\] must be an integer from 0 to 1, got 2"),
        ({"tenant": [0, 1, 1]}, r"tenant must have one value for each of the 3 requests|at_s must have one value"),
        ({"at_s": [0.0, 1.0, 1.0]}, r"at_s must have one value for each of the 4 requests, got shape \(3,\)"),
        ({"at_s": [0.0, np.nan, 1.0, 4.0]}, r"at_s\[1\] must be from 0 to 300000000, got nan"),
        ({"at_s": [-1.0, 1.0, 1.0, 4.0]}, r"at_s\[0\] must be from 0"),
        ({"at_s": [0.0, 1.0, 0.5, 4.0]}, r"at_s must not fall .* got at_s\[2\] = 0.5 after 1.0"),
        ({"prompt_tokens": [10, 0, 30, 40]}, r"prompt_tokens\[1\] must be an integer from 1 to 2147483647, got 0"),
        ({"prompt_tokens": [10, 20.5, 30, 40]}, r"prompt_tokens\[1\] must be an integer .* got 20.5"),
        ({"output_tokens": [1, 2, 3, 2**33]}, r"output_tokens\[3\] must be an integer .* got 8589934592"),
        ({"max_tokens": ["1", "2", "3", "4"]}, r"max_tokens must be numbers, got <U1"),
        ({"bid": [1, 11, 5, 5]}, r"bid\[1\] must be an integer from 1 to 10, got 11"),
        ({"after": [-1, -2, -1, -1]}, r"after\[1\] must be an integer from -1 to 3, got -2"),
        ({"after": [-1, 1, -1, -1]}, r"after\[1\] must be an earlier request \(below 1\) or -1, got 1"),
        ({"after": [-1, -1, 3, -1]}, r"after\[2\] must be an earlier request"),
        ({"deadline_s": [1.0, 2.0, -0.5, 1.0]}, r"deadline_s\[2\] must be at least 0, got -0.5"),
        ({"until_s": 0.0}, r"until_s must be above 0"),
        ({"until_s": np.nan}, r"until_s must be above 0"),
        ({"tenants": ()}, r"tenants must not be empty"),
        ({"tenants": (Tenant("a"), Tenant("a"))}, r"tenants must have different names, got 'a' more than once"),
    ],
)
def test_a_bad_column_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        workload(**changes)


def test_a_fall_is_named_by_its_row_among_closed_loops_too() -> None:
    with pytest.raises(ValueError, match=r"at_s\[3\] = 0.5 after 1.0"):
        workload(after=[-1, -1, 1, -1], at_s=[0.0, 1.0, 0.0, 0.5])


def test_columns_have_their_types_and_are_read_only() -> None:
    made = workload(after=[-1, 0, 1, -1], deadline_s=[1, 2, inf, 4])
    assert [column.dtype.name for column in (made.tenant, made.at_s, made.bid)] == ["int32", "float64", "int32"]
    assert made.after is not None and made.after.dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        made.at_s[0] = 1.0
    assert len(made) == 4
    assert made.opens is not None and made.opens.tolist() == [True, False, False, True]


def test_scaling_stretches_time_and_nothing_else() -> None:
    made = workload(after=[-1, -1, 1, -1], deadline_s=[5.0] * 4, until_s=8.0)
    fast = made.scaled(2.0)
    assert fast.at_s.tolist() == [0.0, 0.5, 0.5, 2.0]
    assert fast.until_s == 4.0
    assert fast.deadline_s is not None and fast.deadline_s.tolist() == [5.0] * 4
    assert fast.prompt_tokens is not None and fast.prompt_tokens.tolist() == [10, 20, 30, 40]
    assert "2 times the rate of four" in fast.notes[-1]
    assert fast.scaled(0.5).digest() == made.digest() != fast.digest()
    for rate in (0.0, -1.0, inf, np.nan):
        with pytest.raises(ValueError, match="rate must be a finite number above 0"):
            made.scaled(rate)


def test_the_first_rows_keep_their_predecessors() -> None:
    made = workload(after=[-1, 0, 1, -1])
    two = made.take(2)
    assert two.after is not None and two.after.tolist() == [-1, 0]
    assert two.prompt_tokens.tolist() == [10, 20]
    assert two.notes == ("the first 2 of 4 requests of four",)
    assert made.take(4) is made.take(9) is made
    assert len(made.take(0)) == 0
    with pytest.raises(ValueError, match="n must be at least 0"):
        made.take(-1)


def test_a_horizon_cuts_what_cannot_arrive_before_it() -> None:
    made = workload()
    assert made.until(4.0).prompt_tokens.tolist() == [10, 20, 30]
    assert made.until(4.0).until_s == 4.0
    assert made.until(4.5).digest() == replace(made, until_s=4.5).digest()
    assert made.until(inf) is made
    looping = chain("x", 5, think_s=1.0, first_s=0.5)
    assert len(looping.until(3.0)) == 3  # at 0.5, 1.5 and 2.5 at the earliest
    assert looping.until(3.0).until(9.0).until_s == 3.0
    assert looping.until(1e300).until_s == 1e300


def test_other_tenants_take_the_same_places() -> None:
    changed = workload().with_tenants((Tenant("a", weight=5.0), Tenant("c")))
    assert [tenant.name for tenant in changed.tenants] == ["a", "c"]
    assert changed.tenant.tolist() == [0, 1, 1, 0]
    with pytest.raises(ValueError, match="tenants must be 2, as many as four has, got 1"):
        workload().with_tenants((Tenant("a"),))


def test_merging_unites_tenants_by_name_and_orders_rows() -> None:
    other = replace(
        workload(deadline_s=[9.0] * 4), name="other", tenants=(Tenant("b", weight=2.0), Tenant("c")), notes=("a note",)
    )
    both = merge([workload(), other], notes=["first"])
    assert both.name == "four + other"
    assert [tenant.name for tenant in both.tenants] == ["a", "b", "c"]
    assert both.at_s.tolist() == [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 4.0, 4.0]
    assert both.prompt_tokens.tolist() == [10, 10, 20, 30, 20, 30, 40, 40]  # ties: the first workload's first
    assert [both.tenants[slot].name for slot in both.tenant] == ["a", "b", "b", "b", "c", "c", "a", "b"]
    assert both.deadline_s is not None and both.deadline_s.tolist() == [inf, 9.0, inf, inf, 9.0, 9.0, inf, 9.0]
    assert both.after is None
    assert both.notes == ("first", "a note")
    assert merge([workload()]).digest() == workload().digest()


def test_merging_refuses_what_contradicts() -> None:
    with pytest.raises(ValueError, match="tenant 'b' must be the same in each workload"):
        merge([workload(), replace(workload(), tenants=(Tenant("a"), Tenant("b", weight=3.0)))])
    with pytest.raises(ValueError, match="workloads must be one or more"):
        merge([])


def test_the_earliest_horizon_counts() -> None:
    both = merge([workload(), chain("x", 9, think_s=1.0, until_s=3.0)])
    assert both.until_s == 3.0
    assert both.prompt_tokens.tolist() == [10, 1, 20, 30, *range(2, 10)]  # 40 would come at 4 s


@given(st.data())
def test_closed_loops_survive_merging(data: st.DataObject) -> None:
    """Every request keeps its predecessor, told by tenant and prompt, and comes behind it."""
    parts = []
    for name in "abc"[: data.draw(st.integers(1, 3))]:
        rows = data.draw(st.integers(1, 12))
        after = [data.draw(st.integers(-1, row - 1)) for row in range(rows)]
        pauses = st.sampled_from([0.0, 0.1, 0.3, 0.7, 1e-9, 2.0])
        at_s = [data.draw(pauses) for _ in range(rows)]
        opens = iter(sorted(at for at, leader in zip(at_s, after, strict=True) if leader < 0))
        at_s = [next(opens) if leader < 0 else at for at, leader in zip(at_s, after, strict=True)]
        made = chain(name, rows)
        parts.append(replace(made, after=np.array(after), at_s=np.array(at_s)))
    both = merge(parts)
    assert both.after is not None

    def pairs(of: Workload) -> set[tuple[str, int, int, float]]:
        assert of.after is not None
        return {
            (
                of.tenants[of.tenant[row]].name,
                int(of.prompt_tokens[row]),
                int(of.prompt_tokens[leader]) if leader >= 0 else 0,
                float(of.at_s[row]),
            )
            for row, leader in enumerate(of.after.tolist())
        }

    assert pairs(both) == set().union(*(pairs(part) for part in parts))
    leaders = both.after[both.after >= 0]
    assert (both.tenant[leaders] == both.tenant[both.after >= 0]).all()


def test_stats_say_what_it_holds() -> None:
    stats = workload().stats()
    assert (stats["requests"], stats["following"], stats["duration_s"], stats["until_s"]) == (4, 0, 4.0, None)
    assert stats["rate_per_s"] == 1.0
    assert stats["gap_cv"] == pytest.approx(np.std([1, 0, 3]) / (4 / 3))
    spread = {"total": 100, "mean": 25.0, "p50": 25.0, "p90": 37.0, "p99": 39.7, "max": 40}
    assert stats["prompt_tokens"] == pytest.approx(spread)
    assert stats["output_tokens"]["total"] == 1 + 2 + 3 + 3  # max_tokens stops the last
    assert stats["tenants"]["b"]["requests"] == 2
    assert stats["tenants"]["b"]["gap_cv"] is None  # both at one instant


def test_stats_of_loops_and_of_nothing() -> None:
    stats = chain("x", 5, until_s=10.0).stats()
    assert (stats["requests"], stats["following"], stats["rate_per_s"], stats["duration_s"]) == (5, 4, 0.1, 10.0)
    empty = workload().take(0).stats()
    assert empty["requests"] == 0
    assert empty["prompt_tokens"] is empty["rate_per_s"] is empty["gap_cv"] is None


def test_the_digest_tells_every_column() -> None:
    made = workload()
    different = [
        workload(tenant=[0, 1, 1, 1]),
        workload(at_s=[0.0, 1.0, 1.0, 4.5]),
        workload(prompt_tokens=[10, 20, 30, 41]),
        workload(output_tokens=[1, 2, 3, 5]),
        workload(max_tokens=[1, 2, 3, 4]),
        workload(bid=[2, 10, 5, 5]),
        workload(after=[-1, -1, -1, -1]),
        workload(deadline_s=[1.0] * 4),
        workload(until_s=9.0),
        made.with_tenants((Tenant("a"), Tenant("b"))),
    ]
    assert len({each.digest() for each in [made, *different]}) == len(different) + 1
    assert workload(name="other", description="words").digest() == made.digest()

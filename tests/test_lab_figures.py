"""The figures of a run, on runs made by hand and against plain loops."""

import json
from collections.abc import Iterator
from dataclasses import replace
from math import inf, isnan
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aps import Tenant
from aps.lab.definitions import DEFINITIONS
from aps.lab.figures import TIMES, Slo, figures, spread, times
from aps.lab.run import Run
from aps.verdicts import REASONS
from tests.lab_runs import NAN, Row, refused, run_of, series, waiting

TWO = (Tenant("a", weight=3.0), Tenant("b"))
ROWS = [
    Row(0, 0.0, 1.0, 2.0, 6.0, prompt=100, output=5),
    Row(0, 0.0, 2.0, 4.0, 4.0, prompt=50, output=1),
    Row(1, 1.0, 6.0, 8.0, 10.0, prompt=10, output=3),
    refused(1, 3.0),
    Row(1, 5.0, 8.0, NAN, NAN, prompt=7, output=0, reason=-2),
    waiting(0, 6.0),
]


def test_times_of_each_request() -> None:
    found = times(run_of(ROWS, TWO, ended_at=12.0))
    expected = {
        "queue_wait_s": [1, 2, 5, NAN, 3, 6],
        "ttft_s": [2, 4, 7, NAN, 7, 6],
        "tpot_s": [1, NAN, 1, NAN, NAN, NAN],
        "e2e_s": [6, 4, 9, NAN, 7, 6],
    }
    assert list(found) == list(TIMES) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def test_counts_tokens_and_goodput_of_the_whole() -> None:
    whole = figures(run_of(ROWS, TWO, ended_at=12.0), Slo(ttft_s=4.0, e2e_s=8.0))["whole"]
    assert (whole["sent"], whole["finished"], whole["refused"]) == (6, 3, {"queue_tokens_full": 1})
    assert (whole["still_waiting"], whole["still_running"]) == (1, 1)
    assert whole["makespan_s"] == 12.0
    assert (whole["prompt_tokens"], whole["output_tokens"]) == (160, 9)
    assert whole["tokens_per_s"] == pytest.approx(169 / 12)
    assert whole["slo_share"] == pytest.approx(2 / 6)  # the third's first token came too late
    assert whole["goodput_per_s"] == pytest.approx(2 / 12)
    assert whole["goodput_tokens_per_s"] == pytest.approx(156 / 12)
    assert whole["queue_wait_s"]["p50"] == 3.0
    assert whole["starvation_s"] == 6.0  # of a, after its second request


def test_each_bound_of_the_slo_counts() -> None:
    run = run_of(ROWS, TWO, ended_at=12.0)
    met = {
        bound: figures(run, Slo(**{bound: value}))["whole"]["slo_share"] * 6
        for bound, value in (("ttft_s", 2.0), ("tpot_s", 0.9), ("e2e_s", 5.9))
    }
    assert met == pytest.approx({"ttft_s": 1, "tpot_s": 1, "e2e_s": 1})
    assert figures(run)["whole"]["slo_share"] * 6 == pytest.approx(3)


@pytest.mark.parametrize("name", ["ttft_s", "tpot_s", "e2e_s"])
@pytest.mark.parametrize("value", [0.0, -1.0, NAN])
def test_a_bound_of_the_slo_is_above_zero(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"Slo.{name} must be seconds above 0, or inf, got {value}"):
        Slo(**{name: value})


def test_a_tenant_pays_for_the_time_its_requests_are_in_flight() -> None:
    found = figures(run_of(ROWS, TWO, ended_at=12.0))
    whole, a, b = found["whole"], found["tenants"]["a"], found["tenants"]["b"]
    assert whole["dollars"] == pytest.approx(12 / 3600 * 1.39)
    assert a["dollars"] + b["dollars"] == pytest.approx(whole["dollars"])
    assert a["dollars"] / b["dollars"] == pytest.approx((5 + 2) / (4 + 4))
    assert a["dollars_per_million_tokens"] == pytest.approx(a["dollars"] * 1e6 / 156)
    assert (a["weight"], a["sent"], b["sent"]) == (3.0, 3, 3)


def test_devices_are_parts_of_the_makespan() -> None:
    run = run_of(
        [Row(0, 2.0, 2.0, 4.0, 12.0)],
        busy_s=np.array([5.0]),
        slot_s=np.array([40.0]),
        block_s=np.array([0.0]),
        idle_slot_s=np.array([16.0]),
    )
    found = figures(run)
    assert found["devices"] == [{"busy": 0.5, "occupancy": 0.25, "kv_use": 0.0, "idle_slot_share": 0.1}]
    assert {name: found["whole"][name] for name in found["devices"][0]} == found["devices"][0]


def test_load_is_what_is_there_before_an_arrival() -> None:
    """16 slots: of 20 at once the first 8 find the system below half full, the next 7 below 90 %."""
    rows = [Row(0, 0.0, 0.0, 1.0, 10.0 if at else 5.0) for at in range(20)]
    later = [Row(0, 5.0, 6.0, 7.0, 11.0), Row(0, 10.0, 10.0, 10.5, 11.0)]
    levels = figures(run_of(rows + later))["by_load"]
    assert [(level["level"], level["sent"]) for level in levels] == [("low", 9), ("medium", 7), ("high", 6)]
    assert levels[2]["queue_wait_s"]["max"] == 1.0


def test_quarters_split_the_requests_by_arrival() -> None:
    rows = [Row(0, float(at), at + 0.5 * at, at * 2.0, at * 3.0) for at in range(10)]
    quarters = figures(run_of(rows))["by_quarter"]
    assert [(q["quarter"], q["from_s"], q["to_s"], q["sent"]) for q in quarters] == [
        (1, 0.0, 2.0, 3),
        (2, 3.0, 5.0, 3),
        (3, 6.0, 7.0, 2),
        (4, 8.0, 9.0, 2),
    ]
    assert quarters[3]["queue_wait_s"]["mean"] == 4.25


def test_fairness_is_weighted_by_the_weights_given() -> None:
    run = run_of(
        ROWS,
        TWO,
        all_wait_s=5.0,
        all_wait_tokens=np.array([[200, 90], [100, 10]]),
        widest_gap=500.0,
        gap_bound=2000.0,
        series=series([0, 1, 2], [[30, 10], [40, 10]], [[1, 1], [1, 0.5]], tenants=2),
    )
    found = figures(run, window_s=1.0)["fairness"]
    assert found["weighted_jain_all_wait"] == pytest.approx(1.0)
    assert found["jain_all_wait"] == pytest.approx(0.8)
    assert found["all_wait_tokens"] == {"a": 300, "b": 100}
    assert (found["widest_gap"], found["gap_bound"], found["gap_part"]) == (500.0, 2000.0, 0.25)
    assert found["windows"]["number"] == 1
    assert found["windows"]["weighted_jain"]["mean"] == pytest.approx(1.0)
    equal = figures(run, weights=[1.0, 1.0])["fairness"]
    assert equal["weighted_jain_all_wait"] == equal["jain_all_wait"] == pytest.approx(0.8)


def test_who_gets_nothing_while_waiting_counts_in_the_index_and_who_never_asked_does_not() -> None:
    three = (*TWO, Tenant("c"))
    run = run_of(ROWS, three, ended_at=12.0, all_wait_tokens=np.array([[200, 0, 0], [100, 0, 0]]))
    assert figures(run)["fairness"]["jain_all_wait"] == pytest.approx(0.5)


def test_an_unbounded_gap_has_no_bound_and_no_part() -> None:
    found = figures(run_of(ROWS, TWO, ended_at=12.0, widest_gap=3.0, gap_bound=inf))["fairness"]
    assert (found["gap_bound"], found["gap_part"]) == (None, None)


def test_batch_sizes_are_percentiles_of_their_histogram() -> None:
    batches = np.array([0, 3, 0, 2, 1])
    found = figures(run_of(ROWS, TWO, ended_at=12.0, batch_sizes=batches))["whole"]["batch_size"]
    assert found == pytest.approx(spread(np.repeat(np.arange(5.0), batches)))


@pytest.mark.parametrize("rows", [[], [refused(0, 1.0)], [waiting(0, 1.0)]], ids=["none", "refused", "waiting"])
def test_a_run_without_a_finished_request_has_figures(rows: list[Row]) -> None:
    found = figures(run_of(rows, ended_at=1.0))
    assert found["whole"]["tpot_s"] is None
    assert found["whole"]["tokens_per_s"] in (None, 0.0)
    json.dumps(found, allow_nan=False)


# Against plain loops


@st.composite
def any_rows(draw: st.DrawFn) -> list[Row]:
    """Requests of two tenants with whole seconds, that end in every way."""
    instant = st.integers(0, 20).map(float)
    rows = []
    for _ in range(draw(st.integers(1, 30))):
        tenant, prompt, output = draw(st.integers(0, 1)), draw(st.integers(1, 9)), draw(st.integers(1, 4))
        arrived, started, first, ended = sorted(draw(st.tuples(instant, instant, instant, instant)))
        kind = draw(st.sampled_from(("finished", "refused", "waiting", "running", "expired")))
        if kind == "refused":
            rows.append(refused(tenant, arrived, draw(st.integers(1, REASONS.index("over_rate")))))
        elif kind == "waiting":
            rows.append(waiting(tenant, arrived))
        elif kind == "running":
            rows.append(Row(tenant, arrived, started, NAN, NAN, prompt, 0, -2))
        elif kind == "expired":
            rows.append(Row(tenant, arrived, NAN, NAN, ended, prompt, 0, 10))
        else:
            rows.append(Row(tenant, arrived, started, first, ended, prompt, output))
    return rows


def percentile(values: list[float], q: int) -> float:
    """Linear between ranks."""
    ordered = sorted(values)
    rank = q / 100 * (len(ordered) - 1)
    below = int(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (rank - below) * (ordered[above] - ordered[below])


def slow_group(rows: list[Row], slo: Slo, ended_at: float, makespan_s: float) -> dict[str, Any]:
    values: dict[str, list[float]] = {name: [] for name in TIMES}
    met = tokens = 0
    for row in rows:
        here = row.reason == -2
        for name, until in (("queue_wait_s", row.started), ("ttft_s", row.first), ("e2e_s", row.ended)):
            if name == "e2e_s" and row.reason > 0:
                continue
            if not isnan(until) or here:
                values[name].append((ended_at if isnan(until) else until) - row.submitted)
        if row.reason != 0:
            continue
        tpot = (row.ended - row.first) / (row.output - 1) if row.output > 1 else 0.0
        if row.output > 1:
            values["tpot_s"].append(tpot)
        if row.first - row.submitted <= slo.ttft_s and tpot <= slo.tpot_s and row.ended - row.submitted <= slo.e2e_s:
            met += 1
            tokens += row.prompt + row.output
    return {
        **{
            name: {**{f"p{q}": percentile(found, q) for q in (50, 95, 99)}, "mean": fmean(found), "max": max(found)}
            if found
            else None
            for name, found in values.items()
        },
        "sent": len(rows),
        "finished": sum(row.reason == 0 for row in rows),
        "still_waiting": sum(row.reason == -2 and isnan(row.started) for row in rows),
        "still_running": sum(row.reason == -2 and not isnan(row.started) for row in rows),
        "slo_share": met / len(rows) if rows else None,
        "goodput_per_s": met / makespan_s if makespan_s else None,
        "goodput_tokens_per_s": tokens / makespan_s if makespan_s else None,
    }


def slow_load(rows: list[Row], at: int, ended_at: float) -> float:
    """Over 16 slots: who came before `at` (in order of arrival), was let in and has not ended."""

    def ends(row: Row) -> float:
        return ended_at if row.reason == -2 else row.submitted if isnan(row.ended) else row.ended

    earlier = [(row.submitted, i) for i, row in enumerate(rows) if (row.submitted, i) < (rows[at].submitted, at)]
    return sum(ends(rows[i]) > rows[at].submitted for _, i in earlier) / 16


@given(any_rows(), st.sampled_from((1.0, 4.0, inf)), st.sampled_from((0.5, 2.0, inf)))
def test_figures_are_what_loops_find(rows: list[Row], ttft_s: float, tpot_s: float) -> None:
    slo, ended_at = Slo(ttft_s=ttft_s, tpot_s=tpot_s, e2e_s=15.0), 21.0
    found = figures(run_of(rows, TWO, ended_at=ended_at), slo)
    makespan_s = found["whole"]["makespan_s"]
    last = (
        ended_at if any(row.reason == -2 for row in rows) else max((r.ended for r in rows if r.ended >= 0), default=0)
    )
    assert makespan_s == max(0.0, last - min(row.submitted for row in rows))
    groups = [(found["whole"], rows)]
    groups += [(found["tenants"][name], [row for row in rows if row.tenant == t]) for t, name in enumerate("ab")]
    loads = [slow_load(rows, at, ended_at) for at in range(len(rows))]
    for level, low, high in ((0, 0.0, 0.5), (1, 0.5, 0.9), (2, 0.9, inf)):
        groups.append((found["by_load"][level], [r for r, x in zip(rows, loads, strict=True) if low <= x < high]))
    for group, those in groups:
        for name, value in slow_group(those, slo, ended_at, makespan_s).items():
            assert group[name] == (pytest.approx(value) if value is not None else None), name
    assert sum(group["sent"] for group in found["by_quarter"]) == len(rows)
    json.dumps(found, allow_nan=False)


# Definitions


def keys(tree: Any, names: frozenset[str]) -> Iterator[str]:
    """Every key, but those that are names of tenants, and reasons."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key not in names:
                yield key
            yield from keys({} if key in ("refused", "released") else value, names)
    elif isinstance(tree, list):
        for value in tree:
            yield from keys(value, names)


def full_run() -> Run:
    run = run_of(ROWS, TWO, ended_at=12.0, batch_sizes=np.array([0, 1]), released={"continuous": 1})
    waits = series([0, 1, 2], [[1, 1], [1, 1]], np.ones((2, 2)), tenants=2)
    return replace(run, series=waits, all_wait_tokens=np.ones((2, 2), dtype=np.int64))


def test_every_figure_has_a_definition_and_stands_on_the_page(root: Path) -> None:
    found = set(keys(figures(full_run()), frozenset("ab")))
    assert not found - set(DEFINITIONS)
    page = " ".join((root / "docs/laboratory.md").read_text().split())
    missing = [name for name, words in DEFINITIONS.items() if f"`{name}` | {words} |" not in page.replace("\\|", "|")]
    assert not missing

"""What options make of a trace, and that nothing is left out without a note."""

import re
from dataclasses import fields, replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aps import Policy
from aps.lab.run import Setup, simulate
from aps.lab.traces import FORMATS, TraceOptions, described, read
from aps.profiles import REFERENCE
from aps.verdicts import REASONS
from tests import traces
from tests.traces import written


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """1,000 requests, ten a second at the same instant, prompts 1..1000, outputs 0..9."""
    lines = [f"{row // 10},GPT-{row % 3},{row + 1},{row % 10},0,API log" for row in range(1000)]
    return written(tmp_path, "\n".join([traces.BURST_6.splitlines()[0], *lines]))


def test_every_option_is_described_and_can_be_written() -> None:
    names = [option.name for option in fields(TraceOptions) if option.name != "seed"]
    assert list(described()) == names
    texts = {
        "start_s": "2.5",
        "duration_s": "inf",
        "limit": "7",
        "rate_scale": "2",
        "tick_s": "3",
        "sort": "yes",
        "tenants": "zipf:3:1.5",
        "bid": "7",
        "bids": "tenant-1=10, a=b=2",
        "weights": "tenant-2=0.5",
        "max_tokens": "100",
        "max_tokens_factor": "1.5",
        "context_tokens": "4096",
        "over_context": "skip",
        "zero_tokens": "one",
    }
    assert [*texts, "arrivals_per_s"] == sorted(names, key=[*texts, "arrivals_per_s"].index)
    options = TraceOptions(seed=5).set(texts)
    assert options == TraceOptions(
        seed=5,
        start_s=2.5,
        duration_s=inf,
        limit=7,
        rate_scale=2.0,
        tick_s=3.0,
        sort=True,
        tenants="zipf:3:1.5",
        bid=7,
        bids={"tenant-1": 10, "a=b": 2},
        weights={"tenant-2": 0.5},
        max_tokens=100,
        max_tokens_factor=1.5,
        context_tokens=4096,
        over_context="skip",
        zero_tokens="one",
    )
    assert TraceOptions().set({"arrivals_per_s": "0.5"}).arrivals_per_s == 0.5


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ({"limits": "7"}, "a trace has no option 'limits'; it has: start_s, "),
        ({"seed": "7"}, "a trace has no option 'seed'"),
        ({"limit": "many"}, "limit must be a whole number, got 'many'"),
        ({"limit": "0"}, "limit must be an int in 1.."),
        ({"sort": "maybe"}, "sort must be yes or no, got 'maybe'"),
        ({"start_s": "-1"}, "start_s must be a number of seconds, at least 0, got -1.0"),
        ({"start_s": "inf"}, "start_s must be"),
        ({"duration_s": "nan"}, "duration_s must be"),
        ({"rate_scale": "0"}, "rate_scale must be a number in 1e-9..1e9"),
        ({"rate_scale": "1", "arrivals_per_s": "1"}, "exclude each other"),
        ({"tick_s": "1e9"}, "tick_s must be"),
        ({"tenants": "zipf"}, "tenants must be own, single, round-robin:N, zipf:N"),
        ({"tenants": "zipf:0"}, "tenants must be"),
        ({"tenants": "zipf:3:nan"}, "tenants must be"),
        ({"tenants": "round-robin:3:1"}, "tenants must be"),
        ({"tenants": "single:1"}, "tenants must be"),
        ({"tenants": "column:"}, "tenants must be"),
        ({"bid": "11"}, "bid must be an int in 1..10"),
        ({"bids": "5"}, "bids must be tenant=bid,tenant=bid, got '5'"),
        ({"bids": "a=1.5"}, "bids\\['a'\\] must be a whole number in 1..10, got 1.5"),
        ({"bids": "a"}, "bids must be tenant=bid,tenant=bid, got 'a'"),
        ({"weights": "a=0"}, "weights\\['a'\\] must be a number in 1e-9..1e9"),
        ({"max_tokens_factor": "0.5"}, "max_tokens_factor must be"),
        ({"context_tokens": "1"}, "context_tokens must be"),
        ({"over_context": "drop"}, "over_context must be 'reject' or 'truncate' or 'skip', got 'drop'"),
        ({"zero_tokens": "two"}, "zero_tokens must be"),
    ],
    ids=str,
)
def test_a_wrong_option_is_named(rows: Path, text: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read(rows, TraceOptions().set(text))


def test_a_part_is_the_same_requests_as_in_the_whole(rows: Path) -> None:
    common: dict[str, Any] = {"tick_s": 1.0, "tenants": "zipf:5", "seed": 9, "zero_tokens": "one"}
    whole = read(rows, TraceOptions(**common))
    part = read(rows, TraceOptions(**common, start_s=20, duration_s=30))
    kept = np.flatnonzero((whole.at_s >= 20) & (whole.at_s < 50))
    assert len(part) == len(kept) == 300
    np.testing.assert_allclose(part.at_s, whole.at_s[kept] - 20)
    for column in ("tenant", "prompt_tokens", "output_tokens"):
        np.testing.assert_array_equal(getattr(part, column), getattr(whole, column)[kept])
    assert "700 of 1,000 rows left out: outside the part from 20 s to 50 s" in part.notes
    first = read(rows, TraceOptions(**common, limit=10))
    np.testing.assert_array_equal(first.at_s, whole.at_s[:10])
    assert "990 of 1,000 rows left out: the limit is 10 requests" in first.notes


def test_nothing_left_is_an_error_that_says_why(rows: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no request is left; .*1,000 of 1,000 rows left out: outside the part from 5000"
    ):
        read(rows, TraceOptions(start_s=5000))


def test_rows_without_tokens(tmp_path: Path, rows: Path) -> None:
    skipped = read(rows)
    assert len(skipped) == 900
    assert "100 of 1,000 rows left out: no output tokens" in skipped.notes
    counted = read(rows, TraceOptions(zero_tokens="one"))
    assert len(counted) == 1000
    assert counted.output_tokens[:3].tolist() == [1, 1, 2]
    assert "100 of 1,000 rows have no output tokens; counted as 1" in counted.notes
    no_prompt = written(tmp_path, '{"timestamp": 0, "input_length": 0, "output_length": 3}\n' + traces.MOONCAKE, "m")
    assert "1 of 4 rows left out: no prompt tokens" in read(no_prompt).notes


def test_rate(rows: Path) -> None:
    plain = read(rows)
    fast = read(rows, TraceOptions(rate_scale=4))
    np.testing.assert_allclose(fast.at_s, plain.at_s / 4)
    assert "times divided by 4" in fast.notes
    wanted = read(rows, TraceOptions(arrivals_per_s=2))
    assert len(wanted) / wanted.at_s[-1] == pytest.approx(2)
    with pytest.raises(ValueError, match="arrivals_per_s needs arrivals at different times"):
        read(rows, TraceOptions(arrivals_per_s=2, limit=5))
    with pytest.raises(
        ValueError, match=r"line 1001: the last request is 9.9e\+10 s after the start; expected at most"
    ):
        read(rows, TraceOptions(rate_scale=1e-9))


def test_ticks_are_found_and_spread(rows: Path) -> None:
    plain = read(rows)
    assert "90% of the gaps are 0 and the usual step is 1 s: times look rounded; tick_s=1 spreads" in str(plain.notes)
    spread = read(rows, TraceOptions(tick_s=1, seed=1))
    assert not any("look rounded" in note for note in spread.notes)
    assert "arrivals spread evenly over 1 s after the recorded instant (drawn)" in spread.notes
    assert np.all(np.diff(spread.at_s) >= 0)
    inside = spread.at_s % 1.0
    assert abs(inside.mean() - 0.5) < 0.05 and inside.max() > 0.95
    np.testing.assert_array_equal(np.floor(spread.at_s), plain.at_s)
    assert sorted(spread.prompt_tokens.tolist()) == plain.prompt_tokens.tolist()
    assert spread.digest() == read(rows, TraceOptions(tick_s=1, seed=1)).digest()
    assert spread.digest() != read(rows, TraceOptions(tick_s=1, seed=2)).digest()


def test_out_of_order_rows_are_sorted_on_demand(tmp_path: Path) -> None:
    header, *rest = traces.AZURE.splitlines()
    path = written(tmp_path, "\n".join([header, rest[1], rest[0], rest[2]]))
    with pytest.raises(ValueError, match=r"trace, line 3: times must not fall, this one is 0.02004 s before"):
        read(path)
    ordered = read(path, TraceOptions(sort=True))
    assert ordered.digest() == read(written(tmp_path, traces.AZURE)).digest()
    assert ordered.notes[0] == "1 of 3 rows were earlier than the row above them; sorted by time"


def test_tenants(rows: Path) -> None:
    single = read(rows)
    assert [tenant.name for tenant in single.tenants] == ["all"]
    turns = read(rows, TraceOptions(tenants="round-robin:4", zero_tokens="one"))
    assert turns.tenant[:6].tolist() == [0, 1, 2, 3, 0, 1]
    drawn = read(rows, TraceOptions(tenants="zipf:4:1", zero_tokens="one"))
    counts = np.bincount(drawn.tenant) / 1000
    np.testing.assert_allclose(counts, np.array([12, 6, 4, 3]) / 25, atol=0.06)
    even = read(rows, TraceOptions(tenants="zipf:4:0", zero_tokens="one"))
    np.testing.assert_allclose(np.bincount(even.tenant) / 1000, 0.25, atol=0.06)
    models = read(rows, TraceOptions(tenants="column:Model", zero_tokens="one"))
    assert [tenant.name for tenant in models.tenants] == ["GPT-0", "GPT-1", "GPT-2"]
    assert models.tenant[:4].tolist() == [0, 1, 2, 0]
    for workload in (single, turns, drawn, even, models):
        assert any(note.startswith("synthetic tenants: ") for note in workload.notes)


def test_tenants_by_a_column(tmp_path: Path) -> None:
    sessions = read(written(tmp_path, traces.BURST_8), TraceOptions(tenants="column:Session ID"))
    assert [tenant.name for tenant in sessions.tenants] == ["a-1", "(none)"]
    assert sessions.tenant.tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="has no column 'Session ID'; it has: Timestamp, Model, "):
        read(written(tmp_path, traces.BURST_6), TraceOptions(tenants="column:Session ID"))
    with pytest.raises(ValueError, match=r"line 3: Model is to name a tenant: Tenant\.name must be"):
        read(written(tmp_path, traces.BURST_6.replace("45,Chat", "45,a/b")), TraceOptions(tenants="column:Model"))
    turns = read(written(tmp_path, traces.BAILIAN), TraceOptions(tenants="column:chat_id"))
    assert [tenant.name for tenant in turns.tenants] == ["159", "160"]
    with pytest.raises(ValueError, match="has no key 'user'; it has: chat_id, timestamp"):
        read(written(tmp_path, traces.BAILIAN), TraceOptions(tenants="column:user"))


def test_bids_and_weights(rows: Path) -> None:
    options = TraceOptions(tenants="round-robin:2", bid=3, bids={"tenant-2": 9}, weights={"tenant-1": 4.0})
    workload = read(rows, options)
    np.testing.assert_array_equal(workload.bid, np.where(workload.tenant == 1, 9, 3))
    assert [tenant.weight for tenant in workload.tenants] == [4.0, 1.0]
    assert set(read(rows).bid.tolist()) == {5}
    with pytest.raises(ValueError, match="bids: no tenant 'tenant-3'; there are tenant-1, tenant-2"):
        read(rows, TraceOptions(tenants="round-robin:2", bids={"tenant-3": 1}))
    with pytest.raises(ValueError, match="weights: no tenant 'x'; there are all"):
        read(rows, TraceOptions(weights={"x": 1}))


def test_max_tokens(rows: Path) -> None:
    plain = read(rows)
    np.testing.assert_array_equal(plain.max_tokens, plain.output_tokens)
    larger = read(rows, TraceOptions(max_tokens_factor=1.5))
    assert larger.max_tokens[:4].tolist() == [2, 3, 5, 6]
    fixed = read(rows, TraceOptions(max_tokens=6))
    assert set(fixed.max_tokens.tolist()) == {6}
    assert "300 outputs are longer than their max_tokens and end there" in fixed.notes
    with pytest.raises(ValueError, match="max_tokens_factor=100000 makes"):
        read(
            written(rows.parent, traces.AZURE.replace(",27", ",2000000000"), "big"), TraceOptions(max_tokens_factor=1e5)
        )


def test_requests_longer_than_the_context(rows: Path) -> None:
    plain = read(rows)
    over = plain.prompt_tokens + plain.max_tokens > 900
    count = int(over.sum())
    assert count > 90
    rejected = read(rows, TraceOptions(context_tokens=900))
    assert replace(rejected, context_tokens=None).digest() == plain.digest()
    assert f"{count} of 900 requests are longer than the context of 900 tokens; they stay" in str(rejected.notes)
    skipped = read(rows, TraceOptions(context_tokens=900, over_context="skip"))
    np.testing.assert_array_equal(skipped.prompt_tokens, plain.prompt_tokens[~over])
    assert f"{count} of 900 rows left out: prompt + max_tokens above the context of 900" in str(skipped.notes)
    cut = read(rows, TraceOptions(context_tokens=900, over_context="truncate"))
    np.testing.assert_array_equal(cut.max_tokens, plain.max_tokens)
    np.testing.assert_array_equal(cut.prompt_tokens[~over], plain.prompt_tokens[~over])
    assert set((cut.prompt_tokens + cut.max_tokens)[over].tolist()) == {900}
    assert f"{count} of 900 requests are longer than the context of 900 tokens; prompts cut" in str(cut.notes)
    tiny = read(rows, TraceOptions(context_tokens=5, over_context="truncate"))
    assert tiny.max_tokens.max() == 4 and tiny.prompt_tokens.min() == 1
    assert (tiny.prompt_tokens + tiny.max_tokens).max() == 5
    assert not any("context" in note for note in read(rows, TraceOptions(context_tokens=100_000)).notes)


def test_the_document_has_every_option_and_format(root: Path) -> None:
    text = (root / "docs/traces.md").read_text()
    table = text.partition("## Options")[2].partition("Whatever a trace")[0]
    missing = [name for name in described() if not re.search(rf"^\| .*`{name}`.* \| .* \| .* \|$", table, re.MULTILINE)]
    assert not missing
    for known in FORMATS.split("; "):
        name = known.partition(" (")[0]
        assert f"| {name}" in text
        assert all(
            f"`{column}`" in text for column in known.partition(" (")[2].rstrip(")").split(",") if " or " not in column
        )


def test_requests_beyond_the_context_are_refused_in_the_simulation(rows: Path) -> None:
    workload = read(rows, TraceOptions(context_tokens=900, over_context="reject"))
    over = workload.prompt_tokens.astype(int) + workload.max_tokens > 900
    run = simulate(workload, Policy(), Setup(REFERENCE))
    assert over.any() and np.array_equal(run.reason == REASONS.index("exceeds_context"), over)

"""The public traces say what is known of them: counts, percentiles, rates, burstiness, skew."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from aps.lab.catalog import open_workload
from aps.lab.traces import TraceOptions, read
from aps.lab.workload import Workload

Find = Callable[[str], Path]


@pytest.fixture
def find(root: Path) -> Find:
    def found(name: str) -> Path:
        path = root.parent / "shared/traces" / name
        if not path.exists():
            pytest.skip(f"{name} is not in shared/traces beside the checkout")
        return path

    return found


def ranks(values: NDArray[np.int32]) -> list[int]:
    return [round(value) for value in np.percentile(values, (50, 90, 99, 100))]


def gap_cv(workload: Workload) -> float:
    gaps = np.diff(workload.at_s)
    return float(gaps.std() / gaps.mean())


def test_azure_code() -> None:
    trace = open_workload("azure-code")
    assert (len(trace), round(trace.at_s[-1])) == (8819, 3436)
    assert len(trace) / trace.at_s[-1] == pytest.approx(2.57, abs=0.005)
    assert ranks(trace.prompt_tokens) == [1469, 5188, 7436, 7437]
    assert ranks(trace.output_tokens) == [13, 55, 251, 1899]
    assert round(trace.prompt_tokens.mean()) == 2048
    assert trace.output_tokens.mean() == pytest.approx(27.9, abs=0.05)
    assert gap_cv(trace) == pytest.approx(13.2, abs=0.05)
    assert trace.notes == ("synthetic tenants: all requests are one tenant's; the trace names none",)


def test_the_shipped_trace_is_the_public_one(find: Find) -> None:
    assert read(find("azure_llm_code_2023.csv.gz")).digest() == open_workload("azure-code").digest()


def test_mooncake_conversation(find: Find) -> None:
    path = find("mooncake_conversation.jsonl.gz")
    raw = read(path)
    assert (len(raw), round(raw.at_s[-1])) == (12031, 3537)
    assert len(raw) / raw.at_s[-1] == pytest.approx(3.40, abs=0.005)
    assert ranks(raw.prompt_tokens) == [6909, 27367, 85400, 126195]
    assert ranks(raw.output_tokens) == [350, 597, 1119, 2000]
    assert len(np.unique(raw.at_s)) == 1180
    assert any("90% of the gaps are 0 and the usual step is 3 s" in note for note in raw.notes)
    spread = read(path, TraceOptions(tick_s=3.0))
    assert gap_cv(spread) == pytest.approx(1.01, abs=0.02)
    cut = read(path, TraceOptions(context_tokens=32_768, over_context="skip"))
    assert len(cut) == 12031 - 846
    assert any("846 of 12,031 rows left out: prompt + max_tokens above" in note for note in cut.notes)


def test_mooncake_synthetic(find: Find) -> None:
    trace = read(find("mooncake_synthetic.jsonl.gz"))
    assert (len(trace), round(trace.at_s[-1])) == (3993, 1022)
    assert ranks(trace.prompt_tokens) == [11587, 38611, 66456, 191378]
    assert ranks(trace.output_tokens) == [69, 389, 768, 893]
    assert gap_cv(trace) == pytest.approx(1.01, abs=0.005)
    assert not any("look rounded" in note for note in trace.notes)


def test_summarization_lengths(find: Find) -> None:
    path = find("arxiv_summarization_lengths.csv.gz")
    assert len(read(path, TraceOptions(arrivals_per_s=2.0))) == 28257


def test_servegen_reasoning(find: Find) -> None:
    trace = read(find("servegen_deepseek-r1.tar.gz"), TraceOptions(arrivals_per_s=0.5))
    assert len(trace.tenants) == 73
    assert abs(len(trace) - 0.5 * 86400) <= 73
    prompt, output = ranks(trace.prompt_tokens), ranks(trace.output_tokens)
    np.testing.assert_allclose(prompt[:3], [208, 2092, 23423], rtol=0.04)
    np.testing.assert_allclose(output[:3], [792, 3432, 12607], rtol=0.04)
    shares = np.sort(np.bincount(trace.tenant))[::-1] / len(trace)
    assert shares[0] == pytest.approx(0.29, abs=0.005)
    assert shares[:5].sum() == pytest.approx(0.52, abs=0.005)
    assert 1 / (len(shares) * (shares**2).sum()) == pytest.approx(0.13, abs=0.005)


def test_servegen_language_lacks_lengths_of_five_clients(find: Find) -> None:
    trace = read(find("servegen_m-small.tar.gz"), TraceOptions(arrivals_per_s=0.01))
    lacking = "client-1, client-5, client-8, client-11, client-38"
    note = f"left out: clients with arrivals and no lengths, 5 with 56.8% of the arrivals: {lacking}"
    assert note in trace.notes
    assert len(trace.tenants) == 37
    assert "clients so rare that no request is drawn: 1" in trace.notes
    evening = TraceOptions(arrivals_per_s=1.0, start_s=72_000.0, duration_s=3600.0)
    hour = read(find("servegen_m-small.tar.gz"), evening)
    assert abs(len(hour) - 3600) <= 38
    assert hour.at_s[-1] < 3600

"""ServeGen's clients: rates, burstiness and lengths are the clients' own, and what has no lengths is named."""

import io
import json
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from aps.lab.traces import TraceError, TraceOptions, read
from tests.traces import written

LENGTHS = {"0": {"input_tokens": "{10: 0.25, 20: 0.75}", "output_tokens": "{5: 1.0}"}}


def windows(*rates: float, family: str = "Gamma", shape: float = 1.0) -> str:
    rows = [f"{600 * at},{rate},1,{family if rate else ''},{shape},0.1" for at, rate in enumerate(rates)]
    return "\r\n".join(rows) + "\r\n"


def archive(folder: Path, files: Mapping[str, str], packed: bool = True) -> Path:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in files.items():
            raw = content.encode()
            member = tarfile.TarInfo(f"data/model/{name}")
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))
    return written(folder, stream.getvalue(), "clients.tar", packed=packed)


def client(number: int, trace: str, lengths: object = LENGTHS) -> dict[str, str]:
    return {f"chunk-{number}-trace.csv": trace, f"chunk-{number}-dataset.json": json.dumps(lengths)}


def test_one_client_is_one_tenant_with_its_own_rate_and_lengths(tmp_path: Path) -> None:
    later = {"0": LENGTHS["0"], "600": {"input_tokens": "{30: 1.0}", "output_tokens": "{0: 0.5, 7: 0.5}"}}
    files = {**client(2, windows(30, 0, 10)), **client(10, windows(10, 10, 10), later), "README.md": "passed over"}
    workload = read(archive(tmp_path, files), TraceOptions(rate_scale=0.1, zero_tokens="one"))
    assert [tenant.name for tenant in workload.tenants] == ["client-2", "client-10"]
    assert "synthetic tenants" not in str(workload.notes)
    of = [workload.at_s[workload.tenant == tenant] // 600 for tenant in (0, 1)]
    assert np.bincount(of[0].astype(int)).tolist() == [1800, 0, 600]
    assert np.bincount(of[1].astype(int)).tolist() == [600, 600, 600]
    early = workload.at_s < 600
    assert np.mean(workload.prompt_tokens[early] == 20) == pytest.approx(0.75, abs=0.04)
    assert set(workload.output_tokens[early].tolist()) == {5}
    late = ~early & (workload.tenant == 1)
    assert set(workload.prompt_tokens[late].tolist()) == {30}
    assert np.mean(workload.output_tokens[late] == 7) == pytest.approx(0.5, abs=0.06)
    assert any("have no output tokens; counted as 1" in note for note in workload.notes)


def test_the_mean_rate_is_the_one_wanted_in_the_hours_chosen(tmp_path: Path) -> None:
    files = {**client(1, windows(*range(12))), **client(2, windows(*[0] * 11, 40))}
    options = TraceOptions(arrivals_per_s=1.5, start_s=900, duration_s=3600)
    workload = read(archive(tmp_path, files), options)
    assert abs(len(workload) - 1.5 * 3600) <= 1
    assert workload.at_s[0] < 60 and 3500 < workload.at_s[-1] < 3600
    assert [tenant.name for tenant in workload.tenants] == ["client-1"]
    assert workload.notes[0] == "clients that are silent in this part: 1 of 2"
    assert "at 0.375 of the recorded rates, 1.5 requests/s" in str(workload.notes)
    # the part begins inside the window of rate 1 and ends inside the one of rate 7
    np.testing.assert_allclose(np.histogram(workload.at_s, [0, 300, 900])[0], np.array([1, 4]) * 300 * 0.375, atol=1.1)
    assert workload.digest() == read(archive(tmp_path, files), options).digest()


def test_burstiness_is_the_clients_own(tmp_path: Path) -> None:
    def cv(trace: str) -> float:
        gaps = np.diff(read(archive(tmp_path, client(1, trace)), TraceOptions(rate_scale=1, seed=2)).at_s)
        return float(gaps.std() / gaps.mean())

    rates = [20.0] * 4
    assert cv(windows(*rates, shape=1.0)) == pytest.approx(1.0, rel=0.05)  # exponential
    assert cv(windows(*rates, shape=0.25)) == pytest.approx(2.0, rel=0.1)  # gamma: 1 / sqrt(shape)
    assert cv(windows(*rates, family="Weibull", shape=0.5)) == pytest.approx(5**0.5, rel=0.1)
    assert cv(windows(*rates, family="Weibull", shape=5.0)) < 0.3
    heavy = read(
        archive(tmp_path, client(1, windows(*rates, family="Weibull", shape=0.002))), TraceOptions(rate_scale=1)
    )
    assert len(heavy) == 20 * 4 * 600  # even where the gaps underflow


def test_clients_without_lengths_are_counted_and_named(tmp_path: Path) -> None:
    silent_then = {**LENGTHS, "600": {"input_tokens": "{}", "output_tokens": "{}"}}
    files = {
        "chunk-7-trace.csv": windows(6, 6),
        **client(3, windows(1, 1), silent_then),
        **client(4, windows(2, 0)),
    }
    workload = read(archive(tmp_path, files), TraceOptions(rate_scale=1))
    assert [tenant.name for tenant in workload.tenants] == ["client-3", "client-4"]
    assert len(workload) == 1800
    assert workload.notes[1:3] == (
        "left out: clients with arrivals and no lengths, 1 with 75.0% of the arrivals: client-7",
        "left out: windows with arrivals and no lengths, of clients: 1 with 6.2% of the arrivals: client-3",
    )


def test_an_archive_and_a_folder_give_the_same(tmp_path: Path) -> None:
    files = client(1, windows(3, 4), {"0": {"input_tokens": {"9": 1.0}, "output_tokens": "{5: 1.0}"}})
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    options = TraceOptions(rate_scale=0.5)
    packed, plain, loose = (
        read(path, options).digest()
        for path in (archive(tmp_path, files), archive(tmp_path, files, packed=False), folder)
    )
    assert packed == plain == loose


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"README.md": "nothing"}, "has no client; expected files chunk-N-trace.csv"),
        ({"chunk-1-dataset.json": "{}"}, "has no client"),
        (client(1, ""), "chunk-1-trace.csv: is empty; expected windows of arrivals"),
        (client(1, "0,1,1,Gamma,1\n"), r"chunk-1-trace.csv, line 1: expected 6 columns \(start, rate.*, got 5"),
        (client(1, "0,1,1,Gamma,1,1\n0,1,1,Gamma,1,1\n"), "chunk-1-trace.csv, line 2: window starts must rise"),
        (client(1, "0,nan,1,Gamma,1,1\n"), "line 1: rate must be a number in 0..1e"),
        (client(1, "0,1e300,1,Gamma,1,1\n"), "line 1: rate must be a number in 0..1e"),
        (client(1, "0,1,1,Gamma,-1,1\n"), "line 1: shape must be a number"),
        (client(1, "0,1,1,Pareto,1,1\n"), "line 1: family must be Gamma or Weibull .*, got 'Pareto'"),
        (client(1, windows(0, 0)), "no client asks for anything from 0 s to 1200 s"),
        (client(1, windows(1e8)), "would make 6e.10 requests; expected at most 50,000,000"),
        (client(1, windows(1e-9)), "no request is drawn"),
        (client(1, windows(1), []), "chunk-1-dataset.json: expected an object by window start"),
        (client(1, windows(1), {"soon": {}}), "expected an object by window start .*, got 'soon'"),
        (client(1, windows(1), {"0": {"input_tokens": "{}"}}), "window 0 has no output_tokens"),
        (
            client(1, windows(1), {"0": {"input_tokens": "5", "output_tokens": "{}"}}),
            "input_tokens of 0 must be {tokens",
        ),
        (client(1, windows(1), {"0": {"input_tokens": 5, "output_tokens": "{}"}}), "must be {tokens.*, got int"),
        (
            client(1, windows(1), {"0": {"input_tokens": "{1: 0.5}", "output_tokens": "{}"}}),
            "add up to 1, got a sum of 0.5",
        ),
        (
            client(1, windows(1), {"0": {"input_tokens": "{-1: 1}", "output_tokens": "{}"}}),
            "lengths of 0 to 2147483647",
        ),
        (client(1, windows(1), {"0": {"input_tokens": "{1: x}", "output_tokens": "{}"}}), "whole numbers and numbers"),
        ({"chunk-1-trace.csv": windows(1), "chunk-1-dataset.json": "{"}, "chunk-1-dataset.json: expected JSON"),
        ({**client(1, windows(1)), "more/chunk-2-trace.csv": windows(1)}, "holds several models"),
    ],
)
def test_wrong_parameters_are_refused(tmp_path: Path, files: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read(archive(tmp_path, files), TraceOptions(rate_scale=1))


def test_a_scale_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rates of a whole cluster; arrivals_per_s \(or rate_scale\) must be given"):
        read(archive(tmp_path, client(1, windows(1))))


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    raw = archive(tmp_path, client(1, windows(1, 2, 3)), packed=False).read_bytes()
    with pytest.raises(ValueError, match=r"clients.tar: the tar archive is truncated or damaged"):
        read(written(tmp_path, raw[:1000], "clients.tar"), TraceOptions(rate_scale=1))


def test_a_damaged_packed_archive_is_named_and_has_no_lines(tmp_path: Path) -> None:
    """Wherever it is damaged, also where a reader stumbles over the text before gzip finds out."""
    packed = archive(tmp_path, client(1, windows(*np.linspace(1, 3, 99)))).read_bytes()
    path = tmp_path / "clients.tar.gz"
    says = rf"{re.escape(str(path))}: the gzip archive is truncated or damaged \([^)]+\); expected the whole file"
    for at in range(12, len(packed), len(packed) // 40):
        for damaged in (packed[:at], packed[:at] + bytes([packed[at] ^ 0x55]) + packed[at + 1 :]):
            path.write_bytes(damaged)
            with pytest.raises(TraceError) as caught:
                read(path, TraceOptions(rate_scale=1))
            assert re.fullmatch(says, str(caught.value)), str(caught.value)


def test_a_folder_without_clients_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no client; expected files chunk-N-trace\.csv"):
        read(tmp_path, TraceOptions(rate_scale=1))

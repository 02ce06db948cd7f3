"""Every format is told by its content and read to the same workload however the file is packed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aps.lab.traces import TraceOptions, read
from aps.lab.workload import Workload
from tests import traces
from tests.traces import written


def columns(workload: Workload) -> list[tuple[float, int, int]]:
    return [
        (round(at_s, 9), prompt, output)
        for at_s, prompt, output in zip(
            workload.at_s.tolist(), workload.prompt_tokens.tolist(), workload.output_tokens.tolist(), strict=True
        )
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (traces.AZURE, [(0.0, 4808, 10), (0.02004, 3180, 8), (1.02004, 110, 27)]),
        (traces.BURST_6, [(0.0, 472, 18), (40.0, 1087, 230), (113.0, 1360, 249)]),
        (traces.BURST_8, [(0.0, 906, 446), (51.0, 36, 29), (82.5, 1779, 123)]),
        (traces.TIMED_LENGTHS, [(0.0, 374, 44), (4.25, 396, 109)]),
        (traces.MOONCAKE, [(0.0, 6758, 500), (0.0, 7322, 490), (3.0, 7236, 794)]),
        (traces.BAILIAN, [(0.0, 521, 132), (1.386, 20, 13)]),
        (traces.RECORD, [(0.0, 512, 130), (0.0, 4, 5), (0.5, 8, 7)]),
    ],
    ids=traces.EVERY,
)
def test_rows_and_times(tmp_path: Path, content: str, expected: list[tuple[float, int, int]]) -> None:
    workload = read(written(tmp_path, content))
    assert columns(workload) == expected
    assert workload.name == "trace"
    assert np.all(workload.bid == 5) or "record" in workload.description


@pytest.mark.parametrize("content", traces.EVERY.values(), ids=traces.EVERY)
@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: "\ufeff" + text,
        lambda text: text + "\n\n  \n",
        lambda text: "\n" + text.replace("\n", "\n\n"),
        lambda text: text.rstrip("\n"),
    ],
    ids=["CRLF", "CR", "byte-order mark", "blank lines at the end", "blank lines between", "no last line end"],
)
def test_how_text_is_stored_does_not_matter(tmp_path: Path, content: str, change: Callable[[str], str]) -> None:
    plain = read(written(tmp_path, content))
    changed = read(written(tmp_path, change(content)))
    packed = read(written(tmp_path, change(content), packed=True))
    assert plain.digest() == changed.digest() == packed.digest()
    assert plain.notes == changed.notes == packed.notes


@pytest.mark.parametrize(
    "content",
    [
        traces.AZURE.replace("\n2023", "\n 2023").replace("4808", " 4808 "),
        traces.AZURE.replace("4808", "4808.0"),
        traces.AZURE.replace("9799600,", "9799600+00:00,"),
        traces.AZURE.replace("4808", '"4808"'),
        "\n".join(",".join(reversed(line.split(","))) for line in traces.AZURE.splitlines()),
        "\n".join(line + ",x" for line in traces.AZURE.splitlines()),
    ],
    ids=["spaces", "whole floats", "UTC", "quotes", "columns in another order", "a column more"],
)
def test_harmless_differences_in_csv(tmp_path: Path, content: str) -> None:
    assert read(written(tmp_path, content)).digest() == read(written(tmp_path, traces.AZURE)).digest()


def test_images_of_the_multimodal_trace_are_not_counted(tmp_path: Path) -> None:
    content = "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n2024-10-15 00:00:00.0000000,2,900,120\n"
    workload = read(written(tmp_path, content))
    assert columns(workload) == [(0.0, 900, 120)]
    assert "images are not counted" in workload.notes[0]


def test_prefixes_are_not_modelled_and_that_is_said(tmp_path: Path) -> None:
    assert "hash_ids are not used" in read(written(tmp_path, traces.MOONCAKE)).notes[0]
    assert "hash_ids" not in str(
        read(written(tmp_path, '{"timestamp": 1, "input_length": 2, "output_length": 3}')).notes
    )


def test_a_chunk_of_lines_is_no_border(tmp_path: Path) -> None:
    """More lines than are read at a time, and a wrong one far down."""
    header, *rows = traces.BURST_6.splitlines()
    lines = [header, *(rows[0] for _ in range(5000)), rows[3]]
    workload = read(written(tmp_path, "\n".join(lines)), TraceOptions(tenants="column:Model"))
    assert len(workload) == 5001
    assert [tenant.name for tenant in workload.tenants] == ["ChatGPT", "GPT-4"]
    assert workload.tenant[-1] == 1
    with pytest.raises(ValueError, match=r"line 5002: Request tokens must be .*, got 'many'"):
        read(written(tmp_path, "\n".join([*lines[:-1], rows[3].replace("1360", "many")])))


def test_lengths_alone_come_at_the_rate_given(tmp_path: Path) -> None:
    header, *rows = traces.LENGTHS.splitlines()
    path = written(tmp_path, "\n".join([header, *rows * 2000]))
    with pytest.raises(ValueError, match=r"line 1: has lengths but no times; arrivals_per_s must be given"):
        read(path)
    workload = read(path, TraceOptions(arrivals_per_s=2.5, seed=3))
    assert workload.prompt_tokens[:3].tolist() == [3772, 2015, 3772]
    gaps = np.diff(workload.at_s)
    assert gaps.mean() == pytest.approx(0.4, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(1, rel=0.05)
    assert "a Poisson process, 2.5 requests/s" in workload.notes[0]
    assert workload.digest() == read(path, TraceOptions(arrivals_per_s=2.5, seed=3)).digest()
    assert workload.digest() != read(path, TraceOptions(arrivals_per_s=2.5, seed=4)).digest()

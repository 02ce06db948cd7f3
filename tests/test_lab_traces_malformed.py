"""Whatever the bytes are: a workload, or an error that says file, line and what was expected."""

import gzip
import io
import os
import tarfile
import tempfile
import zlib
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aps.lab.traces import TraceError, TraceOptions, read
from tests import traces
from tests.traces import written

AZURE, BURST, MOON = traces.AZURE, traces.BURST_6, traces.MOONCAKE
INSTANT = "TIMESTAMP must be YYYY-MM-DD hh:mm:ss"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "trace: is empty; expected a trace"),
        ("\n \n", "trace: is empty; expected a trace"),
        (AZURE.splitlines()[0], "trace: has no rows; expected Azure csv with at least one"),
        (BURST.splitlines()[0] + "\n\n", "trace: has no rows; expected BurstGPT csv"),
        (
            AZURE.replace(",GeneratedTokens", ""),
            "trace, line 1: Azure csv needs the columns .*; missing: GeneratedTokens",
        ),
        (BURST.replace("Model", "model"), "trace, line 1: BurstGPT csv needs the columns .*; missing: Model"),
        ("a,b,c\n1,2,3\n", "trace: is of no known format; expected Azure csv .*BurstGPT csv .*lengths csv .*Mooncake"),
        (
            "TIMESTAMP,TIMESTAMP,ContextTokens,GeneratedTokens\n",
            r"line 1: columns must have different names.*TIMESTAMP",
        ),
        (
            AZURE.replace("3180", "many"),
            "trace, line 3: ContextTokens must be a whole number from 0 to 2147483647, got 'm",
        ),
        (AZURE.replace("3180", "3.5"), "trace, line 3: ContextTokens must be a whole number .*, got '3.5'"),
        (AZURE.replace("3180", "-1"), "trace, line 3: ContextTokens must be a whole number .*, got '-1'"),
        (AZURE.replace("3180", ""), "trace, line 3: ContextTokens must be a whole number .*, got ''"),
        (AZURE.replace("3180", "nan"), "trace, line 3: ContextTokens must be .*, got 'nan'"),
        (AZURE.replace("3180", "1e300"), "trace, line 3: ContextTokens must be .*, got '1e300'"),
        (AZURE.replace("3180", "2147483648"), "trace, line 3: ContextTokens must be .*, got '2147483648'"),
        (AZURE.replace("3180", "9" * 5000), "trace, line 3: ContextTokens must be .*, got '9{40}...'"),
        (AZURE.replace("3180", "3_180"), "trace, line 3: ContextTokens must be .*, got '3_180'"),
        (AZURE.replace("3180", "\u0663"), "trace, line 3: ContextTokens must be .*, got '\u0663'"),
        (AZURE.replace("18:17:04,", "18:17:64,"), f"trace, line 3: {INSTANT}.*, got '2023-11-16 18:17:64'"),
        (AZURE.replace("2023-11-16 18:17:04,", "now,"), f"trace, line 3: {INSTANT}.*, got 'now'"),
        (AZURE.replace("2023-11-16 18:17:04,", "9999-11-16 18:17:04,"), f"trace, line 3: {INSTANT}"),
        (AZURE.replace("18:17:04,", "18:17:04+02:00,"), f"trace, line 3: {INSTANT}.*in UTC or without a time zone"),
        (
            AZURE.replace(":04,", ":02,"),
            "trace, line 3: times must not fall, this one is 1.97996 s before the row above it",
        ),
        (AZURE.replace(",3180,8", ",3180"), "trace, line 3: expected 3 columns .*, got 2"),
        (AZURE.replace(",3180,8", ",3180,8,9"), "trace, line 3: expected 3 columns .*, got 4"),
        (AZURE.replace("3180", '"3180'), "trace, line 3: expected csv, unexpected end of data"),
        (AZURE + BURST, "trace, line 5: expected 3 columns .*, got 6"),
        (AZURE + AZURE, f"trace, line 5: {INSTANT}.*, got 'TIMESTAMP'"),
        (AZURE + MOON, "trace, line 5: expected 3 columns"),
        (
            BURST.replace("118", "-118"),
            "trace, line 5: Timestamp must be a number of seconds from 0 to 1e12, got '-118'",
        ),
        (BURST.replace("118", "inf"), "trace, line 5: Timestamp must be .*, got 'inf'"),
        (BURST.replace("118", "1e300"), "trace, line 5: Timestamp must be .*, got '1e300'"),
        (BURST.replace("118", "4e8"), r"trace, line 5: the last request is 4e\+08 s after the start; expected at most"),
        (BURST.replace("118", "7"), "trace, line 5: times must not fall"),
        (MOON.replace("7322", '"7322"'), 'trace, line 2: input_length must be a whole number .*, got "7322"'),
        (MOON.replace("7322", "true"), "trace, line 2: input_length must be .*, got true"),
        (MOON.replace("7322", "NaN"), "trace, line 2: expected a JSON object, NaN is no number"),
        (MOON.replace("7322", "1e300"), "trace, line 2: input_length must be .*, got 1e"),
        (MOON.replace("3000", "-3000"), "trace, line 3: timestamp must be a number from 0 to 1e12, got -3000"),
        (MOON.replace("3000", "1" * 400), "trace, line 3: timestamp must be a number from 0 to 1e12, got 1111"),
        (MOON.replace('"output_length": 490, ', ""), "trace, line 2: output_length must be .*, and it is missing"),
        (MOON + AZURE, "trace, line 4: expected a JSON object"),
        (MOON + "[1]", r"trace, line 4: expected a JSON object, got \[1\]"),
        (MOON + "[" * 100_000, "trace, line 4: expected a JSON object"),
        ('{"a": 1}\n', "trace: is JSON of no known format; expected Mooncake JSON lines or a record"),
        ('{"input_length": 1', "trace, line 1: expected a JSON object"),
    ],
)
def test_malformed_text(tmp_path: Path, content: str, says: str) -> None:
    with pytest.raises(TraceError, match=says):
        read(written(tmp_path, content))
    with pytest.raises(TraceError, match=says):
        read(written(tmp_path, content.replace("\n", "\r\n"), packed=True))


def test_the_error_names_the_path(tmp_path: Path) -> None:
    path = written(tmp_path, AZURE.replace("3180", "many"))
    with pytest.raises(TraceError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}, line 3: ContextTokens must be")
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (bytes(range(256)) * 16, "is of no known format"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is of no known format"),
        (b"x" * 100_000, "is of no known format"),
        ("\ufeff".encode("utf-16-le") + AZURE.encode("utf-16-le"), "is UTF-16 text; expected UTF-8"),
        (AZURE.replace("3180", "31é80").encode("latin-1"), "line 3: expected UTF-8 text"),
        (AZURE.replace("\n2023", "\n\0002023").encode(), "line 2: TIMESTAMP must be"),
        (gzip.compress(AZURE.encode(), mtime=0)[:-20], "the gzip archive is truncated or damaged"),
        (gzip.compress(AZURE.encode(), mtime=0)[:5], "the gzip archive is truncated or damaged"),
        (gzip.compress(AZURE.encode(), mtime=0)[:-4] + b"\1\2\3\4", "the gzip archive is truncated or damaged"),
        (gzip.compress(AZURE.encode(), mtime=0) + b"rubbish", "the gzip archive is truncated or damaged"),
        (b"\x1f\x8b", "trace: the gzip archive is truncated or damaged"),
        (gzip.compress(b"", mtime=0), "is empty; expected a trace"),
    ],
)
def test_malformed_bytes(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(TraceError, match=says):
        read(written(tmp_path, content))


def test_a_long_trace_cut_short_says_up_to_where_it_was_read(tmp_path: Path) -> None:
    rows = (f"2023-11-16 18:{row // 60 % 60:02}:{row % 60:02},{row * 7919 % 7437},{row % 97}" for row in range(3600))
    packed = gzip.compress("\n".join([AZURE.splitlines()[0], *rows]).encode())
    packed = packed[: len(packed) * 3 // 4]
    unpacked = zlib.decompressobj(wbits=31).decompress(packed)
    line = unpacked.count(b"\n") + 1  # the one that is torn
    with pytest.raises(
        TraceError, match=f", line {line}: the gzip archive is truncated or damaged .*; expected the whole"
    ):
        read(written(tmp_path, packed))


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="nowhere: no such file"):
        read(tmp_path / "nowhere")
    with pytest.raises(TraceError, match=r"has no client; expected files chunk-N-trace\.csv"):
        read(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TraceError, match="pipe: is not a file; expected a trace"):
        read(tmp_path / "pipe")
    with pytest.raises(TraceError, match="no such file"):
        read("bad\0name")
    with pytest.raises(TraceError, match="no such file"):
        read("long" * 5000)


def archived() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in (
            ("chunk-1-trace.csv", b"0,1.5,1,Gamma,1,1\n600,0,0,,0,0\n1200,2,3,Weibull,0.5,1\n"),
            ("chunk-1-dataset.json", b'{"0": {"input_tokens": "{5: 0.5, 6: 0.5}", "output_tokens": "{7: 1.0}"}}'),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


WHOLE = [*(content.encode() for content in traces.EVERY.values()), traces.LENGTHS.encode(), archived()]
PIECES = [
    b"",
    b"\n",
    b"\r",
    b",",
    b'"',
    b"{",
    b"}",
    b"-",
    b"nan",
    b"1e400",
    b"0",
    b"9" * 30,
    b"\xff",
    b"\0",
    b"\xef\xbb\xbf",
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A trace with some places overwritten, cut out or cut short; perhaps packed; perhaps damaged after that."""

    def damage(content: bytes) -> bytes:
        for _ in range(draw(st.integers(0, 3))):
            at = draw(st.integers(0, len(content)))
            end = min(len(content), at + draw(st.integers(0, 12)))
            piece = draw(st.sampled_from(PIECES) | st.binary(max_size=6))
            content = content[:at] + piece + content[end:]
        return content[: draw(st.integers(0, len(content)))] if draw(st.integers(0, 9)) == 0 else content

    content = damage(draw(st.sampled_from(WHOLE)))
    return damage(gzip.compress(content, mtime=0)) if draw(st.integers(0, 3)) == 0 else content


@given(
    content=damaged() | st.binary(max_size=200),
    options=st.sampled_from(
        [
            TraceOptions(),
            TraceOptions(arrivals_per_s=2.0, sort=True, tick_s=1.0, tenants="zipf:3", zero_tokens="one"),
            TraceOptions(rate_scale=0.5, tenants="column:Model", context_tokens=100, over_context="truncate"),
        ]
    ),
)
@example(content=archived(), options=TraceOptions(rate_scale=1.0))
def test_any_bytes_are_read_or_refused(content: bytes, options: TraceOptions) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), content)
        try:
            workload = read(path, options)
        except TraceError as error:
            assert str(error).startswith(str(path))
        except ValueError as error:  # options that do not go with this trace
            assert "arrivals_per_s needs arrivals" in str(error) or "has tenants of its own" in str(error)
        else:
            assert len(workload) and workload.notes is not None

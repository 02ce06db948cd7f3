"""Measured steps from CSV: what is read, and what is refused with file, line and what was expected."""

from pathlib import Path

import pytest

from aps.lab.measured_steps import MeasuredStep, read_steps

HEAD = "batch,context,prefill_tokens,seconds\n"


def read(tmp_path: Path, content: bytes) -> list[MeasuredStep]:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    return list(read_steps(path).steps)


@pytest.mark.parametrize(
    "content",
    [
        b"batch,context,prefill_tokens,seconds\n8,512,0,0.0125\n0,0,300,2e-2\n",
        b"\xef\xbb\xbfbatch,context,prefill_tokens,seconds\n8,512,0,0.0125\n0,0,300,2e-2",
        b"batch,context,prefill_tokens,seconds\r\n8,512,0,0.0125\r\n0,0,300,2e-2\r\n",
        b" batch , context,prefill_tokens, seconds\n8, 512, 0, 0.0125\n0,0,300,2e-2\n",
        b'"batch","context","prefill_tokens","seconds"\n"8","512","0","0.0125"\n0,0,300,2e-2\n',
    ],
    ids=["plain", "byte-order mark", "CRLF", "spaces", "quotes"],
)
def test_it_reads(tmp_path: Path, content: bytes) -> None:
    assert read(tmp_path, content) == [MeasuredStep(2, 8, 512, 0, 0, 0.0125), MeasuredStep(3, 0, 0, 300, 0, 0.02)]


def test_columns_in_any_order_with_cached_and_others(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("seconds,gpu,cached,prefill_tokens,context,batch\n\n0.5,A100,100,20,0,0\n,,,,,\n1,A100,0,0,7,3\n")
    found = read_steps(path)
    assert found.steps == (MeasuredStep(3, 0, 0, 20, 100, 0.5), MeasuredStep(5, 3, 7, 0, 0, 1.0))
    assert found.ignored_columns == ("gpu",)
    assert found.file == str(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", ": expected a line with the columns batch, context, prefill_tokens, seconds, found an empty file"),
        ("\n\n", ": expected a line with the columns"),
        (HEAD, ": expected measured rows below the line of columns, found none"),
        (
            "1,2,0,0.1\n",
            "line 1: expected the columns batch, context, prefill_tokens, seconds and, if there, cached; missing",
        ),
        ("batch,context,seconds\n", "missing: prefill_tokens; found: batch, context, seconds"),
        ("batch,batch,context,prefill_tokens,seconds\n", "line 1: expected the column batch once, found it twice"),
        (HEAD + "1,2,0\n", "line 2: expected 4 values, found 3"),
        (HEAD + "1,2,0,0.1,9\n", "line 2: expected 4 values, found 5"),
        (HEAD + "1,2,0,0.1\nx,2,0,0.1\n", "line 3: expected an integer from 0 to 2147483647 in batch, found 'x'"),
        (HEAD + "1.5,2,0,0.1\n", "in batch, found '1.5'"),
        (HEAD + "-1,2,0,0.1\n", "in batch, found '-1'"),
        (HEAD + "1,nan,0,0.1\n", "in context, found 'nan'"),
        (HEAD + "1,2,99999999999,0.1\n", "in prefill_tokens, found '99999999999'"),
        (HEAD + f"1,2,{'9' * 5000},0.1\n", "in prefill_tokens, found '9999"),
        (HEAD + "1,²,0,0.1\n", "in context, found '²'"),
        (HEAD + "1,,0,0.1\n", "in context, found ''"),
        (HEAD + "1,2,0,nan\n", "line 2: expected seconds above 0, at most 1e+06, found 'nan'"),
        (HEAD + "1,2,0,inf\n", "found 'inf'"),
        (HEAD + "1,2,0,0\n", "found '0'"),
        (HEAD + "1,2,0,-0.1\n", "found '-0.1'"),
        (HEAD + "1,2,0,12 ms\n", "found '12 ms'"),
        (HEAD + "0,0,0,0.1\n", "line 2: expected batch or prefill_tokens above 0"),
        (HEAD + "0,512,64,0.1\n", "line 2: expected context 0 where batch is 0, found 512"),
        ("batch,context,prefill_tokens,cached,seconds\n1,2,0,5,0.1\n", "expected cached 0 where prefill_tokens is 0"),
        (HEAD + '1,"2,0,0.1\n', "expected CSV"),
        (HEAD + "1,2,0,\x00\n", "found '\\x00'"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(ValueError) as refused:
        read(tmp_path, content.encode())
    assert str(refused.value).startswith(str(tmp_path / "rows.csv"))
    assert said in str(refused.value)


def test_no_utf8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rows\.csv: expected a CSV file in UTF-8, byte 37 is none"):
        read(tmp_path, HEAD.encode() + b"\xff\xfe")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_steps(tmp_path / "none.csv")

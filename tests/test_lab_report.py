"""Reports: whole or not at all, one page that needs nothing else, tables that can be read again."""

import base64
import csv
import io
import json
import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aps.lab.report import Plot, Report, Section, Table, check_destination, dumps, plain, table, write
from aps.lab.report.csvs import heading, rounded
from aps.lab.report.plots.png import SIGNATURE
from aps.lab.report.plots.style import DPI, WIDTH_IN
from aps.lab.report.writer import whole_directory, whole_file

INF, NAN = math.inf, math.nan
PIXEL = b"\x89PNG not really"
COLUMNS = ("tenant", "tokens_per_s", "queue_wait_p99_s")
RATES = Table("rates", "Rates", COLUMNS, (("a", 12.5, 1 / 3), ("b, c", 7.0, None)))


def report(**changes: Any) -> Report:
    sections = (Section("First", "Text.", (Plot("one", "Which one?", PIXEL),), (RATES,)), Section("Second"))
    return Report(
        **{"kind": "test", "title": "A title", "summary": ("It is so.",), "sections": sections, "command": "aps test"}
        | changes
    )


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# -- the directory --


def test_a_report_is_a_page_its_plots_its_tables_and_a_manifest(tmp_path: Path) -> None:
    write(report(data={"answer": 42, "none": NAN, "most": INF}), tmp_path / "out")
    assert names(tmp_path) == {"out"}
    assert names(tmp_path / "out") == {"report.html", "one.png", "rates.csv", "report.json"}
    manifest = json.loads((tmp_path / "out/report.json").read_text())
    assert manifest["data"] == {"answer": 42, "none": None, "most": "inf"}
    assert set(manifest["files"]) == names(tmp_path / "out")
    assert (tmp_path / "out/one.png").read_bytes() == PIXEL


def test_the_same_report_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(report(), tmp_path / name)
    for file in names(tmp_path / "a"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_an_interrupted_report_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), whole_directory(tmp_path / "out") as folder:
        (folder / "report.html").write_text("half")
        raise KeyboardInterrupt
    assert not names(tmp_path)


def test_an_interrupted_report_leaves_the_old_one(tmp_path: Path) -> None:
    write(report(), tmp_path / "out")
    before = (tmp_path / "out/report.html").read_bytes()
    with pytest.raises(RuntimeError), whole_directory(tmp_path / "out"):
        raise RuntimeError
    assert names(tmp_path) == {"out"}
    assert (tmp_path / "out/report.html").read_bytes() == before


def test_an_old_report_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write(report(), tmp_path / "out")
    write(report(sections=(), title="Another"), tmp_path / "out")
    assert names(tmp_path) == {"out"}
    assert names(tmp_path / "out") == {"report.html", "report.json"}
    assert "Another" in (tmp_path / "out/report.html").read_text()


def test_an_empty_directory_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(report(), tmp_path / "out")
    assert names(tmp_path) == {"out"}


@pytest.mark.parametrize("kept", ["notes.txt", "report.html"])
def test_what_is_not_a_report_is_not_touched(tmp_path: Path, kept: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / kept).write_text("mine")
    with pytest.raises(ValueError, match=rf"out must be new, empty or an earlier report, it holds {kept}"):
        write(report(), tmp_path / "out")
    assert names(tmp_path / "out") == {kept}


def test_a_file_of_the_users_in_an_old_report_is_not_touched(tmp_path: Path) -> None:
    write(report(), tmp_path / "out")
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"it holds notes\.txt"):
        check_destination(tmp_path / "out")


def test_a_file_is_no_destination(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ValueError, match="it is a file"):
        check_destination(tmp_path / "out")


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere must exist"):
        check_destination(tmp_path / "nowhere" / "out")


def test_a_link_stays_one(tmp_path: Path) -> None:
    write(report(), tmp_path / "out")
    (tmp_path / "link").symlink_to("out")
    write(report(title="Another"), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert "Another" in (tmp_path / "out/report.html").read_text()


def test_two_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"one rates\.csv, got two"):
        write(report(sections=(Section("One", tables=(RATES, RATES)),)), tmp_path / "out")
    assert not names(tmp_path)


def test_an_interrupted_file_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "trace.json").write_text("old")
    with pytest.raises(RuntimeError), whole_file(tmp_path / "trace.json") as out:
        out.write(b"half")
        raise RuntimeError
    assert names(tmp_path) == {"trace.json"}
    assert (tmp_path / "trace.json").read_text() == "old"


# -- the page --


def page(tmp_path: Path, written: Report) -> str:
    write(written, tmp_path / "out")
    return (tmp_path / "out/report.html").read_text()


def test_the_page_holds_everything(tmp_path: Path) -> None:
    text = page(tmp_path, report(definitions={"wait": "until it starts"}, notes=("2 rows left out",)))
    images = re.findall(r'src="data:image/png;base64,([^"]*)"', text)
    assert [base64.b64decode(image) for image in images] == [PIXEL]
    for part in ("A title", "It is so.", "aps test", "First", "Second", "Text.", "tokens/s", "12.5", "2 rows left out"):
        assert part in text
    assert "<dt>wait</dt><dd>until it starts</dd>" in text


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    text = page(tmp_path, report())
    assert not re.findall(r"https?:|//|<script|<link|@import|url\(|<iframe", re.sub(r"base64,[^\"]*", "", text))


def test_what_comes_from_outside_is_escaped(tmp_path: Path) -> None:
    evil = '<script>alert("1")</script>'
    rows = Table("t", evil, ("tenant",), ((evil,),))
    sections = (Section(evil, evil, (Plot("one", evil, PIXEL, evil),), (rows,)),)
    text = page(tmp_path, report(title=evil, summary=(evil,), command=evil, notes=(evil,), sections=sections))
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 11


# -- tables --


def read(rows: Table) -> Iterator[dict[str, str]]:
    return csv.DictReader(io.StringIO(rows.csv()))


def test_a_table_reads_back_exactly() -> None:
    values = [1 / 3, 1e-300, 12345678.9, INF]
    found = [row["wait_s"] for row in read(Table("t", "", ("wait_s",), tuple((value,) for value in values)))]
    assert [float(value) for value in found] == values


def test_no_value_is_an_empty_cell_and_text_is_quoted() -> None:
    rows = Table("t", "", ("a", "b", "c"), ((None, 'x,"y"\n', True), (NAN, "", 3)))
    assert list(read(rows)) == [{"a": "", "b": 'x,"y"\n', "c": "true"}, {"a": "", "b": "", "c": "3"}]


def test_a_table_of_mappings() -> None:
    assert table("t", "", [{"a": 1}, {"b": 2}]).rows == ((1, None), (None, 2))
    assert table("t", "", [{"a": 1, "b": 2}], ["b"]).rows == ((2,),)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("T!", "", (), ()), "name"),
        (("t", "", ("a", "a"), ()), "differ"),
        (("t", "", ("a",), ((1, 2),)), "row 0 must have 1 cells, got 2"),
    ],
)
def test_a_wrong_table_is_refused(arguments: tuple[Any, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Table(*arguments)


@pytest.mark.parametrize(
    ("column", "says"),
    [
        ("queue_wait_p99_s", "queue wait p99, s"),
        ("output_tokens_per_s", "output tokens/s"),
        ("dollars_per_million_tokens", "dollars/million tokens"),
        ("occupancy", "occupancy"),
        ("s", "s"),
    ],
)
def test_a_columns_name_to_read(column: str, says: str) -> None:
    assert heading(column) == says


@pytest.mark.parametrize(
    ("cell", "says"),
    [(None, "-"), (NAN, "-"), (True, "yes"), (12345, "12,345"), (1 / 7, "0.1429"), (12345.6, "12,346"), (INF, "inf")],
)
def test_a_cell_to_read(cell: Any, says: str) -> None:
    assert rounded(cell) == says


# -- for programs --


def test_plain_data_is_what_json_knows() -> None:
    assert plain({1: np.float64(NAN), "a": np.arange(2), "b": (INF, -INF), "c": Path("x"), "d": {3, 1}}) == {
        "1": None,
        "a": [0, 1],
        "b": ["inf", "-inf"],
        "c": "x",
        "d": [1, 3],
    }
    assert json.loads(dumps(RATES))["rows"][0] == ["a", 12.5, 1 / 3]
    with pytest.raises(TypeError, match="no JSON for object"):
        plain(object())


# -- the images of the documents --


def test_the_images_of_the_documents_are_small_and_drawn_by_a_command(root: Path) -> None:
    images = sorted((root / "docs/images").glob("*.png"))
    drawn = re.findall(r"^take \S+ \S+ (\S+)$", (root / "docs/images/draw").read_text(), re.MULTILINE)
    assert sorted(drawn) == [image.stem for image in images]
    pages = [(page.parent, page.read_text()) for page in (root / "README.md", *(root / "docs").glob("*.md"))]
    shown = {(folder / path).resolve() for folder, text in pages for path in re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)}
    assert shown == {image.resolve() for image in images}
    for image in images:
        content = image.read_bytes()
        assert content[:8] == SIGNATURE and len(content) < 100_000
        assert struct.unpack(">I", content[16:20])[0] == WIDTH_IN * DPI

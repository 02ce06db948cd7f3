"""The request table: handles, reuse, growth, memory, and agreement with its twin under random use."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from aps_core.request_table import RECORD, RequestTable
from tests.twins.request_table import Handle
from tests.twins.request_table import RequestTable as Twin

INT64 = st.integers(-(2**63), 2**63 - 1)


class Tables(RuleBasedStateMachine):
    """Two tables, so that each is offered the other's handles too. Rows are used three times."""

    handles = Bundle("handles")

    def __init__(self) -> None:
        super().__init__()
        self.tables = [RequestTable(generation_limit=3), RequestTable(generation_limit=3)]
        self.twins = [Twin(tag, generation_limit=3) for tag in range(2)]

    @rule(target=handles, which=st.integers(0, 1), tenant=st.integers(0, 9), number=st.integers(0, 2**62))
    def allocate(self, which: int, tenant: int, number: int) -> tuple[int, Handle]:
        handle, expected = self.tables[which].allocate(tenant, number), self.twins[which].allocate(tenant, number)
        assert 0 < handle < 2**63
        assert self.tables[which].row_of(handle) == self.twins[which].row_of(expected)
        return handle, expected

    @rule(which=st.integers(0, 1), handle=handles)
    def free(self, which: int, handle: tuple[int, Handle]) -> None:
        try:
            self.twins[which].free(handle[1])
        except KeyError:
            with pytest.raises(KeyError):
                self.tables[which].free(handle[0])
        else:
            self.tables[which].free(handle[0])

    @rule(which=st.integers(0, 1), handle=handles)
    def find(self, which: int, handle: tuple[int, Handle]) -> None:
        try:
            row = self.twins[which].row_of(handle[1])
        except KeyError:
            with pytest.raises(KeyError):
                self.tables[which].row_of(handle[0])
        else:
            assert self.tables[which].row_of(handle[0]) == row

    @rule(which=st.integers(0, 1), rows=st.integers(0, 5000))
    def reserve(self, which: int, rows: int) -> None:
        self.tables[which].reserve(rows)
        assert self.tables[which].capacity >= rows

    @rule(which=st.integers(0, 1))
    def fill(self, which: int) -> None:
        """Past the capacity, so that the table has to move."""
        table = self.tables[which]
        while table.count <= 1024 and len(table.column("state")) < 4000:
            table.allocate(7, 7)
            self.twins[which].allocate(7, 7)

    @invariant()
    def agree(self) -> None:
        for table, twin in zip(self.tables, self.twins, strict=True):
            assert table.count == twin.count
            used = [row for row, state in enumerate(twin.rows) if state.used]
            assert list(table.column("generation")) == [row.generation for row in twin.rows]
            assert np.flatnonzero(table.column("in_use")).tolist() == used
            assert table.column("tenant")[used].tolist() == [twin.rows[row].tenant for row in used]
            assert table.column("number")[used].tolist() == [twin.rows[row].number for row in used]


TestTables = Tables.TestCase


def test_growth_runs_no_python_code() -> None:
    """There a signal handler could raise (Ctrl-C), and rows would be where they no longer are."""
    table = RequestTable()
    called: list[str] = []
    sys.setprofile(lambda frame, event, argument: called.append(frame.f_code.co_name) if event == "call" else None)
    try:
        for _ in range(5_000):
            table.allocate()
    finally:
        sys.setprofile(None)
    assert not called


def test_a_record_is_one_cache_line_of_named_fields() -> None:
    assert RECORD.itemsize == 64
    names = RECORD.names
    assert names is not None and {"next", "prev", "child", "tenant", "number", "generation", "state"} <= set(names)
    assert RequestTable().bytes_per_row == 80


@given(handle=INT64)
def test_garbage_is_no_handle(handle: int) -> None:
    table = RequestTable()
    kept = [table.allocate() for _ in range(3)]
    if handle not in kept:
        with pytest.raises(KeyError, match=str(handle)):
            table.row_of(handle)
        with pytest.raises(KeyError):
            table.free(handle)
    assert table.count == 3


def test_a_handle_is_used_once() -> None:
    table = RequestTable()
    first = table.allocate()
    row = table.row_of(first)
    table.free(first)
    with pytest.raises(KeyError):
        table.free(first)
    second = table.allocate()
    assert table.row_of(second) == row and second != first
    with pytest.raises(KeyError):
        table.row_of(first)
    assert table.count == 1


def test_handles_of_a_free_row_are_refused_before_they_are_given_out() -> None:
    table, twin = RequestTable(), RequestTable()
    first = table.allocate()
    table.free(first)
    with pytest.raises(KeyError):
        table.row_of(first + (1 << 28))  # the next generation of that row
    with pytest.raises(KeyError):
        twin.row_of(first)
    assert table.allocate() == first + (1 << 28)


def test_another_table_s_handles_are_refused_whatever_the_tag() -> None:
    tables = [RequestTable() for _ in range(1022)]
    handles = [table.allocate() for table in tables]
    assert len(set(handles)) == len(handles)
    assert all(0 < handle < 2**63 for handle in handles)


def test_a_row_out_of_generations_is_retired() -> None:
    table = RequestTable(generation_limit=2)
    rows = []
    for _ in range(6):
        handle = table.allocate()
        rows.append(table.row_of(handle))
        table.free(handle)
    assert rows == [0, 0, 1, 1, 2, 2]
    assert table.column("state").tolist() == [4, 4, 4]
    assert table.count == 0


def test_the_generation_limit_is_checked() -> None:
    for limit in (0, -1, 2**25 + 1):
        with pytest.raises(ValueError, match=rf"generation_limit must be in 1\.\.33554432, not {limit}"):
            RequestTable(generation_limit=limit)
    assert RequestTable().generation_limit == 2**25


def test_rows_are_reused_last_in_first_out_and_come_back_clean() -> None:
    table = RequestTable()
    handles = [table.allocate(tenant=5, number=9) for _ in range(4)]
    for handle in (handles[1], handles[3]):
        table.free(handle)
    assert [table.row_of(table.allocate()) for _ in range(3)] == [3, 1, 4]
    assert table.column("tenant")[[1, 3, 4]].tolist() == [0, 0, 0]
    for link in ("next", "prev", "child"):
        assert set(table.column(link).tolist()) == {-1}


def test_growth_keeps_everything() -> None:
    table = RequestTable()
    handles = [table.allocate(tenant=i % 7, number=i) for i in range(10_000)]
    assert [table.row_of(handle) for handle in handles] == list(range(10_000))
    assert table.column("number").tolist() == list(range(10_000))
    assert 10_000 <= table.capacity <= 10_000 * 9 // 8 + 1


def test_a_column_is_a_copy() -> None:
    table = RequestTable()
    table.allocate(tenant=3)
    column = table.column("tenant")
    column[0] = 8
    assert table.column("tenant").tolist() == [3]
    with pytest.raises(KeyError, match="no field 'colour'"):
        table.column("colour")


def test_bad_capacities_change_nothing() -> None:
    with pytest.raises(ValueError, match="capacity must be >= 0, not -1"):
        RequestTable(-1)
    table = RequestTable(2000)
    for capacity, error in ((-1, ValueError), (2**28, OverflowError), (2**31, OverflowError), (2**63, OverflowError)):
        with pytest.raises(error):
            table.reserve(capacity)
    assert table.capacity == 2000 and table.nbytes == 2000 * 80
    table.reserve(100)
    assert table.capacity == 2000


def test_numbers_that_do_not_fit_are_refused_whole() -> None:
    table = RequestTable()
    for arguments in ((2**31, 0), (-(2**31) - 1, 0), (0, 2**63)):
        with pytest.raises(OverflowError):
            table.allocate(*arguments)
    for call in (table.allocate, table.free, table.row_of, table.reserve, RequestTable):
        with pytest.raises(TypeError):
            call(1.0)  # type: ignore[arg-type]
    assert table.count == 0


MEASURE = """
import gc
from aps_core.request_table import RequestTable

def peak_kib():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

table = RequestTable()
gc.collect()
before, rows = peak_kib(), 0
while rows < 2_000_000 or rows < table.capacity:
    table.allocate()
    rows += 1
print((peak_kib() - before) * 1024 / rows, table.nbytes / rows)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_resident_memory_per_row_also_while_growing() -> None:
    if "libasan" in Path("/proc/self/maps").read_text():
        pytest.skip("the sanitizer's realloc copies")
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, timeout=120, check=True)
    peak, allocated = map(float, done.stdout.split())
    assert allocated == 80.0
    assert 70.0 < peak <= 96.0

"""The files of a record: full ones move on, torn ends are said, a bad disk stops the record and nothing else."""

import gzip
import json
import logging
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from aps import Scheduler, Tenant
from aps.record import Recorder, RecordError, replay
from aps.record.files import Files
from tests.recording import traffic

TENANTS = (Tenant("a"), Tenant("b"))
# Last on the path, so that an installed APS is tested as installed.
ROOT = Path(__file__).resolve().parent.parent


def record(path: Path, requests: int, **options: float) -> None:
    with Recorder(path, **options) as recorder:  # type: ignore[arg-type]
        traffic(recorder.watch(Scheduler(TENANTS)), requests)


@pytest.mark.parametrize("name", ["r.jsonl", "r.jsonl.gz"])
def test_a_chain_replays_from_any_of_its_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with Recorder(path, max_mb=0.01 if name.endswith("l") else 0.002, files=100) as recorder:
        scheduler = recorder.watch(Scheduler(TENANTS))
        for round in range(20):
            traffic(scheduler, 30, at_s=float(round))
            recorder.flush()
        assert recorder.failed is None
    parts = sorted(tmp_path.iterdir())
    assert len(parts) == recorder.parts > 2
    assert all(part.stat().st_size < 40_000 for part in parts)
    for part in parts:
        result = replay(part)
        assert result.same, result.difference
        assert (result.requests, result.notes) == (600, ())


def test_what_else_the_header_says_does_not_break_the_chain(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    for _ in range(2):
        with Recorder(path, max_mb=0.01, files=100, about={"run": "mine", "part": "x", "model": "big"}) as recorder:
            traffic(recorder.watch(Scheduler(TENANTS)), 200)
    assert recorder.parts > 1 and replay(path).requests == 200
    header = json.loads(path.read_text().partition("\n")[0])
    assert (header["part"], header["model"]) == (recorder.parts, "big") and header["run"] != "mine"


def test_only_so_many_files_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    record(path, 500, max_mb=0.01, files=3)
    assert sorted(part.name for part in tmp_path.iterdir()) == ["r.jsonl", "r.jsonl.1", "r.jsonl.2"]
    with pytest.raises(RecordError, match="begins with part"):
        replay(path)


@pytest.mark.parametrize("part", ["x", 0, 1.5, True, None])
def test_a_part_that_is_no_number_is_said(tmp_path: Path, part: object) -> None:
    path = tmp_path / "r.jsonl"
    record(path, 5, max_mb=1, files=1)
    header, _, rest = path.read_text().partition("\n")
    path.write_text(json.dumps(json.loads(header) | {"part": part}) + "\n" + rest)
    with pytest.raises(RecordError, match=r"r\.jsonl, line 1: part must be an int, at least 1, got"):
        replay(path)


def test_a_missing_part_is_said(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    record(path, 500, max_mb=0.01, files=100)
    parts = sorted(tmp_path.glob("r.jsonl.*"))
    lost = tmp_path / "r.jsonl.2"
    lost.write_text('{"aps_record":2,"run":"another"}\n')
    assert lost in parts
    with pytest.raises(RecordError, match="is missing"):
        replay(path)


def test_an_earlier_record_moves_on_and_stays_whole(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    record(path, 10)
    record(path, 20)
    assert replay(path).requests == 20
    assert replay(tmp_path / "r.jsonl.1").requests == 10


@pytest.mark.parametrize("name", ["r.jsonl", "r.jsonl.gz"])
def test_a_torn_end_is_left_out_and_said(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    record(path, 50)
    whole = replay(path)
    data = path.read_bytes()
    path.write_bytes(data[:-40])
    torn = replay(path)
    assert torn.same
    assert 0 < torn.calls < whole.calls
    assert len(torn.notes) == 2
    assert str(path) in torn.notes[0]
    assert "not closed" in torn.notes[1]


def test_a_process_that_is_killed_leaves_what_it_had_flushed(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl.gz"
    program = f"""
import os, signal, sys
from aps import Scheduler, Tenant
from aps.record import Recorder
sys.path.append({str(ROOT)!r})
from tests.recording import traffic
recorder = Recorder({str(path)!r})
scheduler = recorder.watch(Scheduler([Tenant("a")]))
traffic(scheduler, 40)
recorder.flush()
traffic(scheduler, 40, at_s=9.0)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=60)
    assert done.returncode == -9
    result = replay(path)
    assert result.same
    assert 40 <= result.requests <= 80
    assert "killed" in result.notes[-1]


def test_another_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(ValueError, match=r"notes\.txt is there and is no record"):
        Recorder(path)
    packed = tmp_path / "notes.gz"
    packed.write_bytes(gzip.compress(b"mine"))
    with pytest.raises(ValueError, match="no record"):
        Recorder(packed)
    with pytest.raises(FileNotFoundError):
        Recorder(tmp_path / "nowhere" / "r.jsonl")
    with pytest.raises(IsADirectoryError):
        Recorder(tmp_path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(("field", "value"), [("max_mb", 0), ("files", 0), ("waiting_mb", float("nan"))])
def test_bad_numbers(field: str, value: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=field):
        Recorder(tmp_path / "r.jsonl", **{field: value})  # type: ignore[arg-type]


def test_a_full_disk_stops_the_record_and_nothing_else(tmp_path: Path) -> None:
    """The limit on a file's size stands for the disk's end; it takes a process of its own."""
    path = tmp_path / "r.jsonl"
    program = f"""
import logging, resource, signal, sys
from aps import Scheduler, Tenant
from aps.record import Recorder
sys.path.append({str(ROOT)!r})
from tests.recording import traffic
logging.basicConfig(format="%(levelname)s %(name)s %(message)s")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
recorder = Recorder({str(path)!r})
scheduler = recorder.watch(Scheduler([Tenant("a")]))
traffic(scheduler, 30)
recorder.flush()
assert recorder.failed is None
traffic(scheduler, 1000, at_s=9.0)
recorder.flush()
assert recorder.failed, recorder.failed
traffic(scheduler, 1000, at_s=99.0)
recorder.close()
print(scheduler.snapshot(now=999.0).tenants["a"].finished)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "2030"), done.stderr
    assert "ERROR aps.record recording has stopped: " in done.stderr
    assert "goes on without a record" in done.stderr
    assert done.stderr.count("stopped") == 1
    result = replay(path)
    assert result.same
    assert result.requests >= 30


def test_a_slow_disk_stops_the_record_before_memory_fills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stuck, goes_on = threading.Event(), threading.Event()
    write = Files.write

    def slow(files: Files, text: bytes) -> None:
        stuck.set()
        assert goes_on.wait(30)
        write(files, text)

    monkeypatch.setattr(Files, "write", slow)
    recorder = Recorder(tmp_path / "r.jsonl", waiting_mb=0.1)
    scheduler = recorder.watch(Scheduler(TENANTS))
    traffic(scheduler, 10)
    assert stuck.wait(10)
    traffic(scheduler, 1000, at_s=1.0)
    written = recorder.lines
    traffic(scheduler, 1000, at_s=20.0)
    assert recorder.lines == written  # it had stopped
    with caplog.at_level(logging.ERROR):
        goes_on.set()
        recorder.close()
    assert recorder.failed is not None
    assert "too slow" in recorder.failed
    assert "too slow" in caplog.text
    result = replay(tmp_path / "r.jsonl")
    assert result.same
    assert result.calls == written


def test_lines_reach_the_file_without_a_call(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with Recorder(path) as recorder:
        traffic(recorder.watch(Scheduler(TENANTS)), 5)
        until = time.monotonic() + 10
        while path.read_bytes().count(b"\n") < recorder.lines and time.monotonic() < until:
            time.sleep(0.05)
        assert path.read_bytes().count(b"\n") == recorder.lines + 1  # and the header

"""docs/operations.md: its commands are run, in their order, in an empty directory."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Commands, and behind "# " what must be in their output.
EXAMPLE = re.compile(r"((?:^(?!# ).*\n)+)((?:^# .+\n)*)", re.MULTILINE)
PORT = "8000"  # of the page


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


SQLITE = """import sqlite3, sys
sqlite3.connect(sys.argv[1]).execute(sys.argv[2])
"""


def commands_in(folder: Path) -> str:
    """A folder with `aps`, and what is needed of `sqlite3`, for PATH."""
    (folder / "run_sql.py").write_text(SQLITE)
    for name, command in (("aps", "-m aps"), ("sqlite3", f"'{folder}/run_sql.py'")):
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {command} "$@"\n')
        (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("bash")), reason="curl or bash is not installed")
def test_the_commands_do_what_is_shown(root: Path, tmp_path: Path) -> None:
    page = (root / "docs/operations.md").read_text()
    examples = [example for block in BLOCK.findall(page) for example in EXAMPLE.findall(block)]
    assert sum(len(expected.splitlines()) for _, expected in examples) >= 15
    (tmp_path / "bin").mkdir()
    (tmp_path / "run").mkdir()
    script = "set -eu -m\n" + "".join(f"{command}echo '@@ {at} @@'\n" for at, (command, _) in enumerate(examples))
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("APS_", "OTEL_"))}
    process = subprocess.Popen(
        ["bash", "-c", script.replace(PORT, free_port())],
        cwd=tmp_path / "run",
        env=environ | {"PATH": commands_in(tmp_path / "bin"), "no_proxy": "*"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=120)
    finally:
        end(process.pid)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    for at, (command, expected) in enumerate(examples):
        output, marker, said = said.partition(f"@@ {at} @@\n")
        assert marker, (command, output)
        for line in expected.splitlines():
            assert line.removeprefix("# ") in output, (command, line, output)
    assert process.returncode == 0


def end(session: int) -> None:
    """Kill what is left of a session: its shell puts each job into a process group of its own."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                os.kill(int(entry.name), signal.SIGKILL)
        except (OSError, IndexError):
            continue


def test_the_files_that_it_installs_are_there(root: Path) -> None:
    page = (root / "docs/operations.md").read_text()
    named = re.findall(r"\bdocs/deploy/[\w.]+", page)
    assert len(named) >= 3
    for name in named:
        assert (root / name).is_file(), name

"""The hot paths stay C: Cython has nothing to warn of, and no line of a nogil function touches a Python object."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import pytest

LINE = re.compile(r'<pre class="cython line score-(\d+)"[^>]*>(?:&#xA0;|\+)?<span class="">(\d+)</span>: (.*?)</pre>')
NOGIL = re.compile(r"^\s*(?:cdef|cpdef)\b.*?(\w+)\s*\(")
# A disabled assertion is no code at all in a release build, but counts as Python in the annotation.
ASSERT = re.compile(r"^\s*assert\b")


@dataclass(frozen=True)
class Line:
    module: str
    function: str
    number: int
    score: int
    code: str


@pytest.fixture(scope="module")
def translation(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of Cython's annotated pages, made with the settings of setup.py, and all that Cython said."""
    copy = tmp_path_factory.mktemp("translation")
    shutil.copy(root / "setup.py", copy)
    (copy / "aps_core").mkdir()
    for source in root.glob("aps_core/*.p[yx][xd]"):
        shutil.copy(source, copy / "aps_core")
    environment = {**os.environ, "APS_ANNOTATE": "1", "APS_DEBUG": "0"}
    command = [sys.executable, "setup.py", "-q", "--name"]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return copy / "build/cython/aps_core", done.stdout + done.stderr


def indent(code: str) -> int:
    return len(code) - len(code.lstrip())


def nogil_lines(page: Path) -> Iterator[Line]:
    """The lines of the bodies of a module's nogil functions, with the score that Cython gives to each."""
    function, depth, signature = "", -1, ""
    for score, number, html in LINE.findall(page.read_text()):
        code = unescape(re.sub("<[^>]+>", "", html))
        if not code.strip():
            continue
        if signature or NOGIL.match(code):  # a signature may go over several lines
            signature += code
            if not signature.rstrip().endswith(":"):
                continue
            name = NOGIL.match(signature)
            hot = "nogil" in signature.rpartition(")")[2] and name is not None
            function, depth, signature = (name[1] if hot and name else ""), indent(signature), ""
            continue
        if indent(code) <= depth:
            function = ""
        if function and not ASSERT.match(code):
            yield Line(page.stem, function, int(number), int(score), code)


def test_cython_has_no_warnings_and_no_performance_hints(translation: tuple[Path, str]) -> None:
    said = [line for line in translation[1].splitlines() if "warning:" in line or "performance hint" in line]
    assert not said, "\n".join(said)


def test_nogil_functions_compile_to_plain_c(translation: tuple[Path, str]) -> None:
    lines = [line for page in sorted(translation[0].glob("*.html")) for line in nogil_lines(page)]
    python = [f"{line.module}.pyx:{line.number} ({line.score}) {line.code.strip()}" for line in lines if line.score]
    assert not python, "\n".join(python)


def test_the_virtual_time_loop_is_one_of_them(translation: tuple[Path, str]) -> None:
    loop = {line.function for line in nogil_lines(translation[0] / "replay.html")}
    assert {"play", "advance", "arrive", "submit", "take", "fill", "start", "begin", "end", "collect"} <= loop

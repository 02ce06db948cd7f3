"""The documents say what is true: their snippets run, and the commands, files and versions they name exist."""

import importlib.metadata
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest

from aps.cli import parser
from aps.lab.catalog import SHIPPED, open_workload
from aps.lab.scenarios import SCENARIOS

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#\s]+)")


def blocks(language: str) -> Iterator[tuple[Path, int, str]]:
    """(document, line of the first line, text) of every block in a language."""
    for document in DOCUMENTS:
        text = document.read_text()
        for found in BLOCK.finditer(text):
            if found[1] == language:
                yield document, text[: found.start(2)].count("\n") + 1, found[2]


def commands(document: Path) -> Iterator[str]:
    """Every code span, and every line of a shell or unnamed block."""
    text = document.read_text()
    for found in BLOCK.finditer(text):
        if found[1] in ("", "sh", "bash", "console"):
            yield from (line.removeprefix("$ ").strip() for line in found[2].splitlines())
    yield from SPAN.findall(BLOCK.sub("", text))


def where(value: object) -> str:
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else str(value) if isinstance(value, int) else ""


@pytest.mark.parametrize(("document", "line", "code"), list(blocks("python")), ids=where)
def test_python_snippets_run(document: Path, line: int, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    # the padding makes a traceback name the document's own line
    exec(compile("\n" * (line - 1) + code, str(document), "exec"), {"__name__": "__main__"})


def test_the_readme_shows_the_shares_example_and_what_it_prints() -> None:
    example = (ROOT / "examples/shares.py").read_text()
    body = example.split('"""', 2)[2].strip()  # the README says in prose what the docstring says
    done = subprocess.run([sys.executable, "examples/shares.py"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    shown = [code.strip() for _, code in BLOCK.findall((ROOT / "README.md").read_text())]
    assert shown[shown.index(body) + 1] == done.stdout.strip(), done.stderr


def test_make_verbs_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {(d.name, verb) for d in DOCUMENTS for c in commands(d) for verb in re.findall(r"^make ([a-z]+)", c)}
    assert {verb for _, verb in named} >= {"demo", "test"}
    assert not {pair for pair in named if pair[1] not in targets}


def test_aps_commands_exist() -> None:
    answer = subprocess.run([sys.executable, "-m", "aps", "--help"], capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    named = {(d.name, verb) for d in DOCUMENTS for c in commands(d) for verb in re.findall(r"^aps ([a-z]+)", c)}
    assert {verb for _, verb in named} >= {"serve", "stress"}
    assert not {pair for pair in named if not re.search(rf"\b{pair[1]}\b", answer.stdout)}


def test_aps_commands_take_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    """Those that are not run elsewhere: no verb, option or value is one that the command line does not know."""
    lines = [line for _, _, text in blocks("sh") for line in text.splitlines() if line.startswith("aps ")]
    assert len(lines) >= 30
    for line in lines:
        words = list(takewhile(lambda word: word not in (">", "|", "&"), shlex.split(line, comments=True)))
        try:
            options = parser().parse_args(words[1:])
        except SystemExit:
            pytest.fail(f"{line}\n{capsys.readouterr().err}")
        if options.verb in ("simulate", "compare", "sweep") and options.workload in (*SCENARIOS, *SHIPPED):
            small = {"duration_s": "1"} if options.workload != "burst" else {}
            open_workload(options.workload, 0, dict(pair.split("=", 1) for pair in options.set) | small)


@pytest.mark.parametrize("document", DOCUMENTS, ids=where)
def test_links_lead_somewhere(document: Path) -> None:
    missing = [link for link in LINK.findall(document.read_text()) if not (document.parent / link).exists()]
    assert not missing


NUMBER = re.compile(r"-?[\d,]*\.?\d+")


def numbers(cell: str) -> list[float]:
    return [float(found.replace(",", "")) for found in NUMBER.findall(cell)]


def table(document: str, heading: str) -> list[list[str]]:
    """The rows of the first table behind some words, without its head."""
    text = (ROOT / document).read_text().partition(heading)[2]
    lines = re.search(r"(^\|.*\n)+", text, re.MULTILINE)
    assert lines, heading
    return [[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in lines[0].splitlines()[2:]]


def test_the_readme_has_the_figures_of_the_pages() -> None:
    """Those that the pages' own tests hold: the README rounds them."""
    shown = table("README.md", "all five promised figures are judged")
    measured = table("docs/promised-figures.md", "aps stress --virtual --out promised")
    assert len(shown) == len(measured) == 5
    for (_, best, ends, _), (_, _, mean, spread, workload) in zip(shown, measured, strict=True):
        unit = 1000 if workload == "W2" else 1  # ms
        assert numbers(best)[0] == pytest.approx(unit * numbers(mean)[0], abs=1e-9)
        assert numbers(ends) == pytest.approx([unit * end for end in numbers(spread)], abs=1e-9)
    vip = table("docs/promised-figures.md", "## VIP over a saturated free tier")
    shown = table("README.md", "`aps study vip`")
    for column, rows in ((1, vip[: len(vip) // 2]), (3, vip[len(vip) // 2 :])):
        for row, (_, _, p99, seeds, _, _, beyond, *_) in zip(shown, rows, strict=True):
            assert numbers(row[column]) == pytest.approx([*numbers(p99), *numbers(seeds)], rel=0.01)
            assert not row[column + 1] or numbers(row[column + 1]) == pytest.approx(numbers(beyond), abs=0.051)


def test_the_changelog_tops_with_this_version() -> None:
    versions = re.findall(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == importlib.metadata.version("aps-scheduler")

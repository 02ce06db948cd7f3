"""The commands of docs/tenants.md, one after the other on one database."""

import json
import re
import shlex
from pathlib import Path

import pytest

from aps.cli import main
from aps.service.errors import STATUS
from aps.service.keys import hash_line, new_key
from aps.store.database import Database
from loadtests import tenancy

BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
SOME_KEY = "3f9ac0d21b77"


def test_the_commands_of_the_page_do_what_they_say(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (root / "docs/tenants.md").read_text()
    lines = [line for block in BLOCK.findall(page) for line in block.splitlines() if line.startswith("aps tenants")]
    assert len(lines) >= 12
    monkeypatch.chdir(tmp_path)
    Path("aps.toml").write_text(f'[tenants.silver]\nkeys = ["{hash_line(new_key())}"]\n')
    database = Database("aps.db")
    database.upgrade()
    database.close()
    assert main(shlex.split("tenants add bronze --store aps.db")) == 0  # the page applies a file to a database
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        if "--url" in words:
            continue
        if "keys" in words and "issue" in words:  # the page has removed it above
            main(shlex.split("tenants add gold --store aps.db"))
        capsys.readouterr()
        if SOME_KEY in words:
            assert main(shlex.split("tenants keys list gold --store aps.db --json")) == 0
            words[words.index(SOME_KEY)] = json.loads(capsys.readouterr().out)[0]["id"]
        code = main(words)
        said = capsys.readouterr()
        assert code == (1 if "--dry-run" in words else 0), (line, said.err)
        assert said.out, line


def test_the_page_has_every_reason_of_its_routes(root: Path) -> None:
    page = (root / "docs/tenants.md").read_text()
    assert "`store_unavailable`" in page and STATUS["store_unavailable"] == 503


def test_the_load_test_in_small(capsys: pytest.CaptureFixture[str]) -> None:
    """Its figures are for a quiet machine; here it must run."""
    assert tenancy.main(["--tenants", "150", "--starts", "1", "--changes", "3"]) in (0, 1)
    said = capsys.readouterr().out
    assert "150 tenants with a key each" in said and said.count("median") == 7
    assert "values of the label tenant 101 (at most 101)" in said


def test_a_scrape_that_grows_with_the_tenants_is_too_large() -> None:
    def page(tenants: int, bytes_each: int) -> str:
        return "".join(f'a{{tenant="{n}",of="b"}} 1 #{"x" * bytes_each}\n' for n in range(tenants))

    assert tenancy.within(page(tenancy.VALUES, 1000))
    assert not tenancy.within(page(tenancy.VALUES + 1, 1000))
    assert not tenancy.within(page(tenancy.VALUES, 11_000))

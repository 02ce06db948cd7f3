"""kill -9 under load, a few times: the whole of `make crash` in small."""

from io import StringIO

from rich.console import Console

from loadtests.crash import Outcome, crash, shown


def test_what_is_in_the_store_after_kill_9(database_url: str) -> None:
    outcome = crash(database_url, 3 if "://" not in database_url else 1, 1, Console(file=StringIO()))
    assert outcome.problems == []
    assert outcome.answered > 0 and len(outcome.lost_s) == outcome.kills


def test_what_is_wrong_is_said() -> None:
    console = Console(file=StringIO(), width=200)
    assert shown(Outcome(1, 10, 2, [0.1], []), console) == 0
    assert shown(Outcome(1, 10, 2, [0.1], ["kill 1: it"]), console) == 1
    assert shown(Outcome(1, 10, 2, [99.0], []), console) == 1
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "WRONG  kill 1: it" in text and "99.00 s away" in text

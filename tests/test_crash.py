"""kill -9 under load, a few times: the whole of `make crash` in small; and that it says what is wrong."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from io import StringIO
from random import Random

import pytest
from rich.console import Console

from aps.store.book import Book
from aps.store.keys import Key
from aps.tenants import Tenant
from loadtests.changes import Administrator, Change, Row, drawn
from loadtests.crash import Outcome, crash, others, shown
from tests.serving import serving


def test_what_is_in_the_store_after_kill_9(database_url: str) -> None:
    outcome = crash(database_url, 3 if "://" not in database_url else 1, 1, Console(file=StringIO()))
    assert outcome.problems == []
    assert outcome.answered > 0 and len(outcome.lost_s) == outcome.kills
    assert outcome.changed > 0


def test_what_is_wrong_is_said() -> None:
    console = Console(file=StringIO(), width=200)
    assert shown(Outcome(1, 10, 2, [0.1], []), console) == 0
    assert shown(Outcome(1, 10, 2, [0.1], ["kill 1: it"]), console) == 1
    assert shown(Outcome(1, 10, 2, [99.0], []), console) == 1
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "WRONG  kill 1: it" in text and "99.00 s away" in text


RED = Row(Tenant("red", weight=2), {"first": "valid"})


def book(row: Row, name: str = "red") -> Book:
    """A store with this tenant."""
    at = datetime.now(UTC)
    revoked = {id: at if state == "revoked" else None for id, state in row.keys.items()}
    keys = tuple(Key(id, name, id.encode(), "", at, revoked_at=revoked[id]) for id in row.keys)
    return Book(1, True, {} if row.settings is None else {name: row.settings}, {name: keys} if keys else {})


def administrator(row: Row, cut_off: Change | None = None) -> Administrator:
    one = Administrator(("red",), "the key", Random(1))
    one.rows["red"] = row
    one.cut_off = None if cut_off is None else ("red", cut_off)
    return one


def with_keys(keys: Mapping[str, str], weight: float = 2) -> Row:
    return Row(Tenant("red", weight=weight), keys)


@pytest.mark.parametrize(
    "found",
    [
        Row(),
        with_keys({"first": "valid"}, weight=3),
        with_keys({}),
        with_keys({"first": "revoked"}),
        with_keys({"first": "valid", "second": "valid"}),
    ],
)
def test_a_store_that_is_not_as_was_answered_is_told(found: Row) -> None:
    assert list(administrator(RED).kept(book(RED))) == []
    [problem] = administrator(RED).kept(book(found))
    assert problem.startswith("red is Row(")


def test_a_change_that_was_cut_off_is_there_or_not() -> None:
    issue = Change("issue", "POST", "/admin/tenants/red/keys", {}, with_keys({"first": "valid", "new 0": "valid"}))
    for found, right in (
        (RED, True),
        (with_keys({"first": "valid", "second": "valid"}), True),
        (with_keys({"first": "valid", "second": "revoked"}), False),
        (with_keys({"first": "valid", "second": "valid", "third": "valid"}), False),
    ):
        one = administrator(RED, issue)
        assert (list(one.kept(book(found))) == []) == right
        assert one.rows["red"] == found and list(one.kept(book(found))) == []  # from now on it is so
        assert len(list(one.kept(book(RED)))) == (found != RED)


def test_every_kind_of_change_is_made() -> None:
    random, row = Random(1), with_keys({"first": "valid"})
    kinds = {drawn("red", row, random).what for _ in range(100)} | {drawn("red", Row(), random).what}
    assert kinds == {"put", "patch", "delete", "issue", "revoke", "rotate"}


def test_a_service_that_has_something_else_is_told() -> None:
    with serving((Tenant("red", weight=2),)) as service:  # without keys: it lets everybody in
        one = administrator(with_keys({}))
        assert asyncio.run(one.held(service.address[1])) == []
        for row in (Row(), with_keys({}, weight=3)):
            [problem] = asyncio.run(administrator(row).held(service.address[1]))
            assert problem.startswith("red is served as Tenant(")
        one = administrator(with_keys({"first": "revoked"}))
        one.secrets["first"] = "red", "some key"
        assert asyncio.run(one.held(service.address[1])) == ["key first of red is revoked, and 200 is its answer"]


def test_tenants_that_nobody_changed_stay() -> None:
    before, after = book(RED), book(with_keys({"first": "revoked"}))
    assert list(others(before, before, set())) == list(others(before, after, {"red"})) == []
    assert len(list(others(before, after, set()))) == len(list(others(before, book(Row()), set()))) == 1

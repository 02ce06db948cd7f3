"""How the store differs from a file, and making it so."""

from collections.abc import Iterator

import pytest

from aps.store import plan
from aps.store.changing import Conflict
from aps.store.database import Database
from aps.store.store import Store
from aps.tenants import Tenant

DIGESTS = tuple(bytes([n]) * 32 for n in range(10))


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    database = Database(database_url)
    database.upgrade()
    store = Store(database)
    with store.changing("test") as change:
        change.add(Tenant("gold", weight=3), Tenant("old"), Tenant("same", rate=5, burst=50))
        change.add_keys({"gold": DIGESTS[:3], "old": [DIGESTS[3]], "same": [DIGESTS[4]]})
        change.revoke("gold", DIGESTS[2].hex()[:12])
    yield store
    database.close()


GIVEN = (Tenant("same", rate=5, burst=50), Tenant("gold", weight=5, max_in_flight=2), Tenant("new"))
KEYS = {"gold": [DIGESTS[0], DIGESTS[2], DIGESTS[5]], "new": [DIGESTS[3]], "same": [DIGESTS[4]]}


def test_each_difference_is_said(store: Store) -> None:
    found = plan.compared(store.read(), GIVEN, KEYS)
    assert [one.line for one in found] == [
        "tenant gold, weight: 3 in the store, 5 in the file",
        "tenant gold, max_in_flight: no limit in the store, 2 in the file",
        "tenant gold, keys: 020202020202 of the file is revoked in the store",
        "tenant gold, keys: 050505050505 of the file is missing in the store",
        "tenant new: not in the store",
        "tenant old: not in the file",
    ]
    assert [one.mendable for one in found] == [True, True, False, True, True, True]
    assert found[0].plain == {"tenant": "gold", "field": "weight", "store": 3, "file": 5}
    assert found[-1].plain == {"tenant": "old", "field": None, "store": True, "file": False}


def test_it_is_made_so_in_one_change(store: Store) -> None:
    number = store.number()
    with store.changing("test") as change:
        plan.apply(change, GIVEN, KEYS)
    book = store.read()
    assert book.number == number + 1
    assert book.tenants == {tenant.name: tenant for tenant in GIVEN}
    assert [one.line for one in plan.compared(book, GIVEN, KEYS)] == [
        "tenant gold, keys: 020202020202 of the file is revoked in the store"
    ]
    assert {key.digest for key in book.keys["gold"]} == {*DIGESTS[:3], DIGESTS[5]}  # issued ones stay
    assert [key.digest for key in book.keys["new"]] == [DIGESTS[3]]  # from a tenant that went
    with store.changing("test") as change:
        plan.apply(change, GIVEN, KEYS)
    assert store.number() == number + 1


def test_tenants_may_stay(store: Store) -> None:
    with store.changing("test") as change:
        plan.apply(change, [Tenant("new")], {}, remove=False)
    assert set(store.read().tenants) == {"gold", "old", "same", "new"}


def test_all_of_it_or_nothing(store: Store) -> None:
    before = store.read()
    with (
        pytest.raises(Conflict, match="040404040404 of tenant 'new' is tenant 'same'"),
        store.changing("test") as change,
    ):
        plan.apply(change, GIVEN, {**KEYS, "same": [], "new": [DIGESTS[4]]})
    assert store.read() == before

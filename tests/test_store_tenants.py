"""Tenants and keys in the database: read, changed, audited, by one and by several at once."""

import logging
import threading
from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from math import inf
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, event, select, text, update

from aps.store import schema
from aps.store.changing import Conflict
from aps.store.database import Database, StoreError
from aps.store.keys import note_uses
from aps.store.store import Store
from aps.store.tenants import FIELDS, differences, plain
from aps.tenants import Tenant

AT = datetime(2026, 11, 28, 12, tzinfo=UTC)
DIGESTS = tuple(bytes([n]) * 32 for n in range(10))
GOLD = Tenant("gold", weight=3, rate=2000, burst=20_000, max_queued_tokens=2**62, over_rate="queue")
FREE = Tenant("free", default_bid=2, max_bid=3, max_in_flight=8, max_queued=0, kv_share=0.5)
NAMES = ("a b", "Ünï-çødé 名前", "'; DROP TABLE tenants; --", '%_\\"', "x" * 256, "_other", " ", "NULL")


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    database = Database(database_url)
    database.upgrade()
    yield Store(database)
    database.close()


def add(store: Store, *tenants: Tenant) -> None:
    with store.changing("test", AT) as change:
        change.add(*tenants)


def test_every_field_of_a_tenant_has_its_column() -> None:
    columns = {column.name for column in schema.tenants.c} - {"created_at", "changed_at"}
    assert {field.name for field in fields(Tenant)} <= columns


def test_a_new_store_has_nothing(store: Store) -> None:
    book = store.read()
    assert (book.number, book.keyed, book.tenants, book.keys) == (0, False, {}, {})
    assert store.since(0) is None
    assert store.audit() == ()


def test_tenants_come_back_as_they_were(store: Store) -> None:
    tenants = [GOLD, FREE, *map(Tenant, NAMES)]
    add(store, *tenants)
    book = store.read()
    assert book.tenants == {tenant.name: tenant for tenant in tenants}
    assert list(book.tenants) == sorted(book.tenants)
    assert type(book.tenants["free"].max_queued) is int
    with store.database.reading() as connection:
        row = connection.execute(select(schema.tenants).where(schema.tenants.c.name == "free")).one()
    assert (row.rate, row.burst, row.max_queued_tokens) == (None, None, None)
    assert row.created_at == row.changed_at == AT


RATES = st.floats(1e-6, 1e300)


def tenant(name: str, requests: dict[str, Any], **fields: Any) -> Tenant:
    """One whose defaults fit its largest request, its queue and its highest bid."""
    bounds = [bound for bound in (fields["max_request_tokens"], fields["max_queued_tokens"]) if bound]
    fields["default_max_tokens"] = max(1, min([fields["default_max_tokens"], *(bound - 1 for bound in bounds)]))
    fields["default_bid"] = min(fields["default_bid"], fields["max_bid"])
    return Tenant(name, **fields, **requests)


TENANTS = st.builds(
    tenant,
    st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=20).filter(
        lambda name: name.isprintable() and "/" not in name
    ),
    st.just({}) | st.fixed_dictionaries({"request_rate": RATES, "request_burst": st.floats(1, 1e300)}),
    weight=st.floats(1e-9, 1e9) | st.integers(1, 10**9),
    rate=st.just(inf),
    over_rate=st.sampled_from(["refuse", "queue"]),
    default_bid=st.integers(1, 10),
    max_bid=st.integers(1, 10),
    default_max_tokens=st.integers(1, 2**31 - 1),
    max_in_flight=st.none() | st.integers(1, 2**31 - 1),
    max_queued=st.none() | st.integers(0, 2**31 - 1),
    max_queued_tokens=st.none() | st.just(0) | st.integers(2, 2**62),
    max_request_tokens=st.none() | st.integers(2, 2**62),
    kv_share=st.floats(1e-300, 1),
)


@given(st.lists(TENANTS, max_size=5), RATES, st.floats(5e-324, 1e300))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_tenants_come_back_as_they_were(store: Store, tenants: list[Tenant], rate: float, burst: float) -> None:
    wanted = {tenant.name: tenant for tenant in [*tenants, Tenant("shaped", rate=rate, burst=burst)]}
    with store.changing("test") as change:
        for name in store.read().tenants:
            change.remove(name)
        change.add(*wanted.values())
    assert store.read().tenants == wanted


def test_a_row_that_is_no_tenant_is_named(store: Store) -> None:
    add(store, GOLD)
    with store.database.writing() as connection:
        connection.execute(update(schema.tenants).values(weight=-1.0))
    with pytest.raises(StoreError, match=r"tenant 'gold' in the store: Tenant.weight must be .*, got -1.0"):
        store.read()


def test_a_row_with_a_default_bid_that_was_let_pass_is_read_as_it_counted(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """What an earlier APS wrote does not keep a service from its start, and a change writes what was read."""
    add(store, GOLD)
    with store.database.writing() as connection:
        connection.execute(update(schema.tenants).values(default_bid=9, max_bid=3))
    assert store.read().tenants["gold"] == replace(GOLD, default_bid=3, max_bid=3)
    said = "tenant 'gold' in the store: Tenant.default_bid must be at most Tenant.max_bid, 3, got 9; 3 counts"
    assert caplog.record_tuples == [("aps.store", logging.WARNING, said)]
    with store.changing("test") as change:
        wanted = change.set("gold", {"max_bid": 10})
    assert wanted == store.read().tenants["gold"] == replace(GOLD, default_bid=3)


def test_a_row_that_is_no_key_is_named(store: Store) -> None:
    add(store, GOLD)
    with store.changing("test") as change:
        key = change.issue("gold", DIGESTS[0])
    with store.database.writing() as connection:
        connection.execute(update(schema.keys).values(digest="no digest"))
    with pytest.raises(StoreError, match=f"key '{key.id}' in the store: non-hexadecimal number"):
        store.read()


# Changes


def test_a_change_counts_and_leaves_an_entry(store: Store) -> None:
    add(store, GOLD, FREE)
    with store.changing("cli ann@box", AT + timedelta(hours=1)) as change:
        assert change.set("gold", {"weight": 5.0, "rate": inf, "burst": inf}) == Tenant(
            "gold", weight=5, max_queued_tokens=2**62, over_rate="queue"
        )
    with store.changing("admin key 17") as change:
        change.remove("free")
    assert store.read().number == 3
    assert list(store.read().tenants) == ["gold"]
    newest, middle, *first = store.audit()
    assert (newest.action, newest.subject, newest.actor, newest.revision) == (
        "tenant.remove",
        "free",
        "admin key 17",
        3,
    )
    assert newest.details == {"old": plain(FREE), "keys": []}
    assert (middle.action, middle.subject, middle.actor) == ("tenant.set", "gold", "cli ann@box")
    assert middle.at == AT + timedelta(hours=1)
    assert middle.details == {
        "old": {"weight": 3, "rate": 2000, "burst": 20_000},
        "new": {"weight": 5, "rate": None, "burst": None},
    }
    assert {(entry.action, entry.subject, entry.revision) for entry in first} == {
        ("tenant.add", "gold", 1),
        ("tenant.add", "free", 1),
    }
    assert [entry.subject for entry in store.audit(tenant="gold")] == ["gold", "gold"]
    assert [entry.id for entry in store.audit(limit=1, before=newest.id)] == [middle.id]


def test_what_changes_nothing_counts_for_nothing(store: Store) -> None:
    add(store, GOLD)
    with store.changing("test") as change:
        change.set("gold", {"weight": 3})
        assert change.put(GOLD) is False
    assert store.read().number == 1
    assert len(store.audit()) == 1


def test_wrong_changes_are_refused_and_nothing_stays(store: Store) -> None:
    add(store, GOLD)
    before = store.read(), store.audit()
    with pytest.raises(Conflict, match="there is a tenant 'gold' already"), store.changing("test") as change:
        change.add(FREE, GOLD)
    for wrong, said in (
        ({"weight": 0}, "Tenant.weight must be a number in 1e-9..1e9, got 0"),
        ({"rate": inf}, "Tenant.burst must be a number of tokens > 0, finite exactly when Tenant.rate is"),
        ({"max_bid": 11}, "Tenant.max_bid must be an int in 1..10, got 11"),
    ):
        with pytest.raises(ValueError) as error, store.changing("test") as change:
            change.add(FREE)
            change.set("gold", wrong)
        assert said in str(error.value)
    for name in ("nobody", ""):
        with pytest.raises(KeyError), store.changing("test") as change:
            change.remove(name)
    assert (store.read(), store.audit()) == before


def test_a_removed_tenant_keeps_its_usage(store: Store) -> None:
    add(store, GOLD)
    with store.database.writing() as connection:
        connection.execute(schema.usage.insert().values(tenant="gold", hour=AT, output_tokens=5))
    with store.changing("test") as change:
        change.add_keys({"gold": [DIGESTS[0]]})
        change.remove("gold")
    with store.database.reading() as connection:
        assert connection.execute(select(schema.usage.c.output_tokens)).scalars().all() == [5]
        assert connection.execute(select(schema.keys)).all() == []
    add(store, GOLD)  # and back
    with store.changing("test") as change:
        change.add_keys({"gold": [DIGESTS[0]]})
    assert len(store.read().keys["gold"]) == 1


# Keys


def test_keys_are_issued_revoked_and_listed(store: Store) -> None:
    add(store, GOLD, FREE)
    with store.changing("test", AT) as change:
        first = change.issue("gold", DIGESTS[0], "of the batch jobs")
        second = change.issue("gold", DIGESTS[1], expires_at=AT + timedelta(days=1))
    book = store.read()
    assert book.keyed
    assert set(book.keys["gold"]) == {first, second}
    assert (first.id, first.label, first.state(AT), second.state(AT)) == (
        "0" * 12,
        "of the batch jobs",
        "valid",
        "expiring",
    )
    assert second.state(AT + timedelta(days=1)) == "expired"
    with store.changing("test", AT + timedelta(hours=1)) as change:
        assert change.revoke("gold", first.id).revoked_at == AT + timedelta(hours=1)
    with store.changing("test") as change:  # once more changes nothing
        change.revoke("gold", first.id)
    assert [key.state(AT) for key in store.read().keys["gold"] if key.id == first.id] == ["revoked"]
    assert store.read().number == 3
    assert [entry.action for entry in store.audit()][:3] == ["key.revoke", "key.issue", "key.issue"]
    for id, name in ((first.id, "free"), ("nothing", "gold")):
        with pytest.raises(KeyError), store.changing("test") as change:
            change.revoke(name, id)


def test_a_key_is_rotated_with_an_overlap(store: Store) -> None:
    add(store, GOLD)
    with store.changing("test", AT) as change:
        first = change.issue("gold", DIGESTS[0], "web")
    with store.changing("test", AT + timedelta(hours=1)) as change:
        old, new = change.rotate("gold", first.id, DIGESTS[1], 3600)
        assert (old.expires_at, new.label, new.expires_at) == (AT + timedelta(hours=2), "web", None)
    with store.changing("test", AT + timedelta(hours=1)) as change:
        again, _ = change.rotate("gold", first.id, DIGESTS[2], 86_400)
        assert again.expires_at == old.expires_at  # no longer than it had
        gone, _ = change.rotate("gold", new.id, DIGESTS[3], 0)
        assert gone.state(change.at) == "revoked"
    for at, id, said in ((timedelta(hours=2), first.id, "expired"), (timedelta(hours=1), new.id, "revoked")):
        with pytest.raises(Conflict, match=said), store.changing("test", AT + at) as change:
            change.rotate("gold", id, DIGESTS[4], 60)


def test_keys_that_were_made_elsewhere(store: Store) -> None:
    add(store, GOLD, FREE)
    with store.changing("test") as change:
        change.set_keys("gold", DIGESTS[:2])
        change.set_keys("free", DIGESTS[2:3])
    with store.changing("test") as change:
        change.set_keys("gold", DIGESTS[1:2])
    states = {key.digest: key.revoked_at is None for key in store.read().keys["gold"]}
    assert states == {DIGESTS[0]: False, DIGESTS[1]: True}
    for name, digest, said in (("free", DIGESTS[1], "is tenant 'gold'"), ("gold", DIGESTS[0], "is revoked")):
        with pytest.raises(Conflict, match=said), store.changing("test") as change:
            change.add_keys({name: [digest]})


def test_no_digest_is_in_the_audit(store: Store) -> None:
    add(store, GOLD)
    with store.changing("test") as change:
        change.add_keys({"gold": [DIGESTS[0]]})
        key = change.issue("gold", DIGESTS[1])
        change.rotate("gold", key.id, DIGESTS[2], 60)
    assert not [entry for entry in store.audit() for digest in DIGESTS if digest.hex() in str(entry)]
    assert {entry.action for entry in store.audit()} == {"tenant.add", "key.add", "key.issue", "key.expire"}


def test_the_last_use_is_written_down_and_no_change(store: Store) -> None:
    add(store, GOLD)
    with store.changing("test") as change:
        change.add_keys({"gold": DIGESTS[:2]})
    number = store.number()
    for at in (AT, AT - timedelta(seconds=1)):
        with store.database.writing() as connection:
            note_uses(connection, {DIGESTS[0]: at, DIGESTS[9]: at})
            note_uses(connection, {})
    assert {key.digest: key.last_used_at for key in store.read().keys["gold"]} == {DIGESTS[0]: AT, DIGESTS[1]: None}
    assert store.number() == number


@pytest.mark.parametrize("label", ["x" * 257, "a\nb", 3])
def test_a_label_is_printable(store: Store, label: str) -> None:
    add(store, GOLD)
    with pytest.raises((ValueError, TypeError), match="label must be"), store.changing("test") as change:
        change.issue("gold", DIGESTS[0], label)
    with pytest.raises(ValueError, match="expires_at must be an instant to come"), store.changing("test", AT) as change:
        change.issue("gold", DIGESTS[0], expires_at=AT)


# What has changed


def test_only_what_has_changed_is_read_again(store: Store) -> None:
    add(store, GOLD, FREE, Tenant("new"))
    base = store.number()
    with store.changing("test") as change:
        change.set("gold", {"weight": 9})
    with store.changing("test") as change:
        change.remove("free")
        change.issue("new", DIGESTS[0])
    news = store.since(base)
    assert news is not None and not news.whole and news.base == base
    assert news.names == {"gold", "free", "new"}
    assert news.book.number == store.number() == base + 2
    assert list(news.book.tenants) in (["gold", "new"], ["new", "gold"])
    assert news.book.tenants["gold"].weight == 9
    assert [key.digest for key in news.book.keys["new"]] == [DIGESTS[0]]
    assert news.book.keyed
    assert store.since(store.number()) is None


def test_everything_is_read_when_the_entries_do_not_say(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    add(store, GOLD)
    add(store, FREE)
    news = store.since(7)  # a database that was brought back
    assert news is not None and news.whole and set(news.book.tenants) == {"gold", "free"}
    with store.database.writing() as connection:
        connection.execute(delete(schema.audit).where(schema.audit.c.revision == 1))
    news = store.since(0)
    assert news is not None and news.whole and set(news.book.tenants) == {"gold", "free"}
    monkeypatch.setattr("aps.store.store.MANY", 0)
    news = store.since(1)
    assert news is not None and news.whole


# Several at once


def test_concurrent_changes_lose_nothing(store: Store, database_url: str) -> None:
    """Four writers, each with connections of its own, read and write back the same tenant 25 times."""
    add(store, Tenant("gold", weight=1))
    problems: list[BaseException] = []

    def work(at: int) -> None:
        own = Store(Database(database_url))
        try:
            for turn in range(25):
                with own.changing(f"writer {at}") as change:
                    change.set("gold", {"weight": change.tenant("gold").weight + 1})
                    change.add(Tenant(f"{at} {turn}"))
        except BaseException as error:
            problems.append(error)
        finally:
            own.database.close()

    threads = [threading.Thread(target=work, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []
    book = store.read()
    assert (book.tenants["gold"].weight, len(book.tenants), book.number) == (101, 101, 101)
    assert [entry.revision for entry in store.audit(limit=1000, tenant="gold")] == list(range(101, 0, -1))


def test_ten_thousand_tenants_are_a_few_queries(store: Store) -> None:
    tenants = [Tenant(f"tenant {n}", weight=1 + n % 7, rate=100, burst=1000) for n in range(10_000)]
    with store.changing("test") as change:
        change.add(*tenants)
        change.add_keys({tenant.name: [sha256(tenant.name.encode()).digest()] for tenant in tenants})
    statements: list[str] = []
    event.listen(store.database.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    book = store.read()
    assert len(book.tenants) == sum(map(len, book.keys.values())) == 10_000
    assert book.tenants["tenant 9"] == tenants[9]
    assert len([statement for statement in statements if "SELECT" in statement]) == 3
    assert len(store.audit(limit=5)) == 5


def test_differences_and_rows() -> None:
    assert differences(GOLD, Tenant("gold", weight=3.0, rate=2000, burst=20_000)) == {
        "over_rate": ("queue", "refuse"),
        "max_queued_tokens": (2**62, None),
    }
    assert set(plain(GOLD)) == set(FIELDS)


def test_a_database_that_is_gone_is_an_error(store: Store) -> None:
    with store.database.writing() as connection:
        connection.execute(text("DROP TABLE keys"))
    for attempt in (store.read, lambda: store.since(-1)):
        with pytest.raises(StoreError, match="keys"):
            attempt()

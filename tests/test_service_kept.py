"""A service on a store: seeded, read at the start, and what it does when the store cannot be had."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from aps.cli import main
from aps.service.access import Access
from aps.service.config import Config, Settings
from aps.service.config_reader import ConfigError
from aps.service.kept import Kept, looked, opened, seed
from aps.store.database import Database, Unreachable
from aps.store.store import Store
from aps.tenants import Tenant
from tests.administered import ADMIN, FREE, GOLD, METRICS, OTHER, config, digest

if TYPE_CHECKING:
    from tests.postgres import Server


def stored(path: Path | str, **changes: object) -> Config:
    return config(settings=Settings(store=str(path)), **changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "aps.db"


def reopened(given: Config) -> Kept:
    kept = opened(given)
    kept.store.database.close()
    return kept


def test_a_new_store_gets_the_tenants_and_keys_of_the_configuration(database_url: str) -> None:
    given = stored(database_url)
    kept = reopened(given)
    assert set(kept.config.tenants) == set(given.tenants)
    assert kept.config.keys == given.keys and kept.config.keyed
    assert kept.book.number == 1
    assert replace(kept.config, tenants=given.tenants, keyed=False) == given


def test_afterwards_the_store_wins(database_url: str) -> None:
    kept = opened(stored(database_url))
    with kept.store.changing("test") as change:
        change.set("gold", {"weight": 7})
        change.remove("free")
    kept.store.database.close()
    other = stored(database_url, tenants=(Tenant("another"),), keys={})
    again = reopened(other)
    assert [tenant.name for tenant in again.config.tenants] == ["gold"]
    assert again.config.tenants[0].weight == 7
    assert again.config.keys == {"gold": (digest(GOLD),)}


def test_a_default_bid_that_an_earlier_aps_let_be_keeps_no_service_from_its_start(path: Path) -> None:
    reopened(stored(path))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE tenants SET default_bid = 9, max_bid = 3 WHERE name = 'gold'")
    assert [(tenant.name, tenant.default_bid) for tenant in reopened(stored(path)).config.tenants] == [
        ("free", 5),
        ("gold", 3),
    ]


def test_a_postgresql_that_lets_nobody_in_is_a_wrong_configuration(
    postgres: "Server", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing to try again."""
    url = postgres.url("denied")
    owner = Database(url)
    with owner.writing() as connection:
        connection.execute(text("CREATE ROLE guest LOGIN PASSWORD 'another'"))
    owner.close()
    file = tmp_path / "aps.toml"
    for user, name, said in (
        ("guest:s3cret", "denied", 'password authentication failed for user "guest"'),
        ("guest", "denied", "no password supplied"),
        ("nobody", "denied", 'role "nobody" does not exist'),
        ("aps", "nowhere", 'database "nowhere" does not exist'),
    ):
        wrong = url.replace("aps@/denied", f"{user}@/{name}")
        file.write_text(f'[store]\nurl = "{wrong}"\n')
        for verb, origin in (
            (["serve", "--port", "0", "--store", wrong], "--store"),
            (["check-config", str(file)], str(file)),
        ):
            assert main(verb) == 2
            err = capsys.readouterr().err
            assert err.startswith(f"aps {verb[0]}: {origin}: store.url postgresql")
            assert err.endswith(f"{said}\n") and "s3cret" not in err


def test_a_store_whose_tenants_were_all_removed_is_not_seeded_again(path: Path) -> None:
    kept = opened(stored(path))
    with kept.store.changing("test") as change:
        change.remove("gold")
        change.remove("free")
    seed(kept.store, kept.config)
    kept.store.database.close()
    again = reopened(stored(path))
    assert again.config.tenants == ()
    assert again.book.number == 2


def test_it_stays_closed_when_its_last_key_is_gone(path: Path) -> None:
    given = stored(path, admin_key=None, metrics_key=None)
    kept = opened(given)
    with kept.store.changing("test") as change:
        change.remove("gold")
        change.remove("free")
    kept.store.database.close()
    again = reopened(given).config
    assert not again.open and not Access.of(again).open
    assert reopened(stored(path.with_name("b.db"), admin_key=None, metrics_key=None, keys={})).config.open


def test_without_keys_it_is_not_exposed_to_other_machines(path: Path) -> None:
    beyond = Settings(host="0.0.0.0", store=str(path))
    nobodys = config(settings=beyond, admin_key=None, metrics_key=None, keys={})
    with pytest.raises(ConfigError, match="reachable from other machines and no keys are configured"):
        opened(nobodys)
    store = Store(Database(str(path)))
    with store.changing("test") as change:
        change.issue("gold", digest(GOLD))
    store.database.close()
    assert not reopened(nobodys).config.exposed


def test_revoked_keys_are_left_out_and_expiring_ones_have_their_instant(path: Path) -> None:
    kept = opened(stored(path))
    at = datetime.now(UTC)
    with kept.store.changing("test", at) as change:
        change.rotate("gold", change.keys("gold")[0].id, digest(OTHER), 60)
        change.revoke("free", change.keys("free")[0].id)
    kept.store.database.close()
    again = reopened(stored(path)).config
    assert again.keys == {"gold": (digest(GOLD), digest(OTHER)), "free": ()}
    assert again.expiries == {digest(GOLD): pytest.approx((at + timedelta(seconds=60)).timestamp(), abs=1e-3)}


@pytest.mark.parametrize("key", [ADMIN, METRICS])
def test_a_key_of_two_roles_is_refused_at_the_start(path: Path, key: str) -> None:
    kept = opened(stored(path))
    with kept.store.changing("test") as change:
        change.add_keys({"gold": [digest(key)]})
    kept.store.database.close()
    with pytest.raises(ConfigError, match="share one"):
        opened(stored(path))


def test_a_configuration_with_keys_does_not_open_to_everybody_on_a_store_without_any(path: Path) -> None:
    """A database that somebody made before the first start is not seeded."""
    database = Database(str(path))
    database.upgrade()
    with Store(database).changing("test") as change:
        change.add(Tenant("gold"))
    database.close()
    given = stored(path, admin_key=None, metrics_key=None)
    for look in (opened, looked):
        with pytest.raises(ConfigError, match=r"has none: the service would be open.*aps tenants apply"):
            look(given)
    assert not reopened(stored(path)).config.open  # the admin's key closes it
    assert reopened(replace(given, keys={})).config.open  # as it says


def test_a_store_that_cannot_be_had_is_a_configuration_that_is_wrong_or_not_there_now(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("not a database" * 100)
    for url, kind, said in (
        (str(tmp_path / "nowhere" / "aps.db"), ConfigError, "there is no directory"),
        (str(tmp_path / "notes"), ConfigError, "not a database"),
        ("postgresql://aps:secret@127.0.0.1:1/aps", Unreachable, "127.0.0.1"),
    ):
        with pytest.raises(kind, match=said) as error:
            opened(stored(url))
        assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("store", "code", "said"),
    [("nowhere/aps.db", 2, "there is no directory"), ("postgresql://aps@127.0.0.1:1/aps", 75, "127.0.0.1")],
)
def test_serve_without_its_store_says_why_and_by_its_exit_code_whether_to_try_again(
    tmp_path: Path, store: str, code: int, said: str
) -> None:
    command = [sys.executable, "-m", "aps", "serve", "--port", "0", "--store", store]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert "aps serve: store: " in done.stderr and said in done.stderr


# Keys that expire


def test_a_key_works_until_its_instant() -> None:
    now = [100.0]
    keys = {"gold": [digest(GOLD)], "free": [digest(FREE)]}
    access = Access(keys, expiries={digest(GOLD): 200.0}, clock=lambda: now[0])
    header = f"Bearer {GOLD}".encode()
    for now[0] in (100.0, 199.9):
        assert access.identify(header).tenant == "gold"
    for now[0] in (200.0, 1e9):
        with pytest.raises(Exception, match="the key is not known"):
            access.identify(header)
    assert access.identify(f"Bearer {FREE}".encode()).tenant == "free"
    assert not access.open


def test_uses_are_told_once() -> None:
    access = Access({"gold": [digest(GOLD)], "free": [digest(FREE)]}, expiries={digest(FREE): 1e12})
    assert access.uses() == set()
    for _ in range(2):
        for key in (GOLD, FREE):
            for _ in range(3):
                access.identify(f"Bearer {key}".encode())
        assert access.uses() == {digest(GOLD), digest(FREE)}
    access.identify(f"Bearer {GOLD}".encode())
    assert access.uses() == {digest(GOLD)}
    assert access.uses() == set()


def test_a_key_that_goes_to_another_tenant_is_theirs_at_once() -> None:
    access = Access({"gold": [digest(GOLD)], "free": [digest(FREE)]})
    header = f"Bearer {GOLD}".encode()
    assert access.identify(header).tenant == "gold"  # from now on it is known by heart
    access.change([digest(GOLD)], {"gold": [], "free": [], "new": [digest(GOLD)]}, {})
    assert access.identify(header).tenant == "new"

"""`aps tenants`: on a database and through a running service, for people and for programs."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn

from aps.cli import main
from aps.driver import Driver
from aps.service import admin
from aps.service.access import Access
from aps.service.app import create_app
from aps.service.config import Settings
from aps.service.kept import opened
from aps.service.keys import hash_line
from aps.service.running import Running
from aps.service.tenancy import InStore
from aps.store.database import MAYBE, Database
from aps.store.store import Store
from aps.tenants import Tenant
from tests.administered import ADMIN, GOLD, OTHER, config
from tests.committing import breaks_in_commits

if TYPE_CHECKING:
    from tests.postgres import Server


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("APS_STORE_URL", "APS_CONFIG", "APS_ADMIN_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "aps.db"


def made(path: Path) -> None:
    """A database with nothing in it."""
    database = Database(str(path))
    database.upgrade()
    database.close()


class Ran:
    """What a command line came to."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


class Tenants:
    """`aps tenants` with options that say which."""

    def __init__(self, where: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
        self._where, self._capsys = where, capsys

    def __call__(self, *arguments: str) -> Ran:
        code = main(["tenants", *arguments, *self._where])
        return Ran(code, *self._capsys.readouterr())


@pytest.fixture
def service(path: Path) -> Iterator[str]:
    """The address of a service on the store, in a thread of its own."""
    kept = opened(config(settings=Settings(store=str(path), store_poll_s=0.01), tenants=(), keys={}))
    backend = kept.config.devices.backend()
    driver = Driver(kept.config.scheduler(backend), backend)
    access = Access.of(kept.config)
    app = create_app(driver, settings=kept.config.settings, access=access)
    running = Running(kept.config, driver, access, app.state)
    tenancy = InStore(kept.store, kept.book.number, running, 0.01)
    app.state.beside.append(tenancy.following())
    admin.install(app, running, tenancy)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
        kept.store.database.close()


@pytest.fixture(params=["store", "url"])
def tenants(
    request: pytest.FixtureRequest,
    path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Tenants:
    if request.param == "store":
        made(path)
        return Tenants(["--store", str(path)], capsys)
    monkeypatch.setenv("APS_ADMIN_KEY", ADMIN)
    return Tenants(["--url", request.getfixturevalue("service")], capsys)


def test_a_tenant_is_added_shown_set_and_removed(tenants: Tenants) -> None:
    added = tenants(
        "add", "a b/c".replace("/", "-"), "weight=3", "rate=2000", "burst=20_000".replace("_", ""), "--json"
    )
    assert [added.json[name] for name in ("tenant", "weight", "rate", "keys")] == ["a b-c", 3, 2000, 0]
    assert tenants("add", "a b-c").err == "aps tenants: there is a tenant 'a b-c' already\n"
    assert "added tenant free" in tenants("add", "free", "over_rate=queue", "max_in_flight=8", "max_queued=none").out
    assert list(tenants("list", "--json").json) == ["a b-c", "free"]
    table = tenants("list").out
    assert "2,000" in table and "20,000" in table and "2 tenants" in table

    told = tenants("set", "a b-c", "rate=inf", "burst=none", "max_bid=7")
    assert told.out.splitlines() == [
        "tenant a b-c",
        "  rate: 2,000 is now -",
        "  burst: 20,000 is now -",
        "  max_bid: 10 is now 7",
    ]
    limited = tenants("set", "free", "request_rate=5", "request_burst=10", "max_request_tokens=300", "--json").json
    assert (limited["request_rate"], limited["request_burst"], limited["max_request_tokens"]) == (5, 10, 300)
    assert "nothing has changed" in tenants("set", "a b-c", "max_bid=7").out
    refused = tenants("set", "a b-c", "default_bid=8")
    assert (refused.code, refused.err) == (2, "aps tenants: default_bid must be at most max_bid, 7, got 8\n")
    shown = tenants("show", "a b-c", "--json").json
    assert shown["tenant"] == "a b-c"
    assert (shown["rate"], shown["max_bid"], shown["weight"], shown["api_keys"]) == (None, 7, 3, [])
    assert "no keys" in tenants("show", "a b-c").out
    assert tenants("set", "free", "max_in_flight=none", "--json").json["max_in_flight"] is None

    assert "removed tenant free" in tenants("remove", "free").out
    for verb in (("remove", "free"), ("show", "free"), ("set", "free", "weight=1"), ("keys", "list", "free")):
        ran = tenants(*verb)
        assert (ran.code, ran.out) == (2, "")
        assert ran.err == "aps tenants: there is no tenant 'free'\n"


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (["weight"], "'weight': expected FIELD=VALUE, such as weight=3"),
        (["wheight=3"], "unknown field 'wheight', there are weight, rate, "),
        (["wheight=3"], "did you mean 'weight'?"),
        (["keys=x"], "aps tenants keys issue"),
        (["weight=heavy"], "weight must be a number in 1e-9..1e9, got 'heavy'"),
        (["max_bid=11"], "max_bid must be an int in 1..10, got 11"),
        (["max_bid=none"], "max_bid must be an int in 1..10, got 'none'"),
        (["max_in_flight=0"], "max_in_flight must be an int in 1..2147483647 or None, got 0"),
        (["over_rate=never"], "over_rate must be 'refuse' or 'queue', got 'never'"),
        (["rate=5"], "burst must be a number of tokens > 0, finite exactly when rate is, got inf"),
        (["request_rate=5"], "request_burst must be a number of requests >= 1, finite exactly when request_rate is"),
        (["weight=1", "weight=2"], "weight is given twice"),
        (["weight"], "FIELD=VALUE"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named_with_its_value_and_what_is_allowed(
    path: Path, capsys: pytest.CaptureFixture[str], pairs: list[str], said: str
) -> None:
    made(path)
    tenants = Tenants(["--store", str(path)], capsys)
    tenants("add", "gold")
    for verb, name in (("add", "new"), ("set", "gold")):
        ran = tenants(verb, name, *pairs)
        assert (ran.code, ran.out) == (2, "")
        assert said in ran.err and "Tenant." not in ran.err and "Traceback" not in ran.err
    assert "the tenant's name must be a str of 1 to 256" in tenants("add", "a\nb").err
    assert list(tenants("list", "--json").json) == ["gold"]


def test_a_wrong_field_is_named_by_a_service_too(
    service: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APS_ADMIN_KEY", ADMIN)
    tenants = Tenants(["--url", service], capsys)
    tenants("add", "gold")
    assert "burst must be a number of tokens > 0" in tenants("set", "gold", "rate=5").err
    assert "the tenant's name must be a str of 1 to 256" in tenants("add", "a\nb").err


def test_keys_are_issued_rotated_revoked_and_listed(tenants: Tenants) -> None:
    tenants("add", "gold")
    issued = tenants("keys", "issue", "gold", "--label", "web", "--expires-in", "3600")
    key = issued.out.strip()
    assert key.startswith("aps_") and len(key) == 47 and "shown this once" in issued.err
    (found,) = tenants("keys", "list", "gold", "--json").json
    assert (found["label"], found["state"], found["tenant"]) == ("web", "expiring", "gold")
    rotated = tenants("keys", "rotate", "gold", found["id"], "--overlap", "60")
    assert rotated.out.strip() not in ("", key) and f"{found['id']}, works until" in rotated.err
    both = tenants("keys", "list", "gold", "--json").json
    assert {one["state"] for one in both} == {"valid", "expiring"}
    new = next(one["id"] for one in both if one["state"] == "valid")
    assert "is revoked" in tenants("keys", "revoke", "gold", new).out
    table = tenants("keys", "list", "gold").out
    assert "revoked" in table and "expiring" in table and new in table
    assert tenants("keys", "revoke", "gold", "nothing").err == "aps tenants: tenant 'gold' has no key 'nothing'\n"
    assert "is revoked: issue another" in tenants("keys", "rotate", "gold", new).err
    assert tenants("show", "gold", "--json").json["keys"] == 1
    at_once = tenants("keys", "rotate", "gold", found["id"], "--overlap", "0", "--json").json
    assert at_once["old"]["state"] == "revoked" and at_once["new"]["key"].startswith("aps_")


# Which database


@pytest.mark.parametrize(
    ("verb", "most"),
    [(("issue", "gold", "--expires-in"), "316224000"), (("rotate", "gold", "x", "--overlap"), "31622400")],
)
def test_an_instant_beyond_any_calendar_is_refused(
    path: Path, capsys: pytest.CaptureFixture[str], verb: tuple[str, ...], most: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["tenants", "keys", *verb, "1e300", "--store", str(path)])
    assert f"must be at most {most} seconds" in capsys.readouterr().err


def test_which_database_is_said_or_asked_for(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tenants = Tenants([], capsys)
    assert "--store FILE|URL, --config FILE, APS_STORE_URL, or --url" in tenants("list").err
    for verb in (("list",), ("add", "gold")):  # a name that is misspelt is no new database
        missing = tenants(*verb, "--store", str(path))
        assert (missing.code, path.exists()) == (2, False)
        assert "there is no such database; aps serve makes it" in missing.err
    for nothing in ("", ":memory:"):
        refused = tenants("list", "--store", nothing)
        assert refused.code == 2 and "the store must be an SQLite file's path, sqlite:///FILE, or" in refused.err
    made(path)
    assert tenants("add", "gold", "--store", str(path)).code == 0
    file = path.with_name("aps.toml")
    file.write_text('[store]\nurl = "aps.db"\n')
    assert list(tenants("list", "--json", "--config", str(file)).json) == ["gold"]
    monkeypatch.setenv("APS_CONFIG", str(file))
    assert list(tenants("list", "--json").json) == ["gold"]
    monkeypatch.setenv("APS_STORE_URL", str(path.with_name("other.db")))
    assert "other.db" in tenants("list").err
    file.write_text("")
    monkeypatch.delenv("APS_STORE_URL")
    assert "names no store" in tenants("list").err
    file.write_text("[server]\nprot = 3\n")
    assert "unknown key 'prot'" in tenants("list").err
    assert "must be an SQLite file's path" in tenants("list", "--store", "mysql://u:secret@h/d").err


def test_a_service_is_reached_with_its_admin_key(
    service: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tenants = Tenants(["--url", service], capsys)
    assert "in APS_ADMIN_KEY" in tenants("list").err
    monkeypatch.setenv("APS_ADMIN_KEY", OTHER)
    assert "the key is not known" in tenants("list").err
    monkeypatch.setenv("APS_ADMIN_KEY", ADMIN)
    for url in ("http://127.0.0.1:9", "nonsense"):
        ran = Tenants(["--url", url], capsys)("list")
        assert ran.code == 2 and "does not answer" in ran.err


def test_a_change_that_may_have_been_made_is_told_from_one_that_was_not(
    postgres: "Server", capsys: pytest.CaptureFixture[str]
) -> None:
    url = postgres.url("told")
    database = Database(url)
    database.upgrade()
    tenants = Tenants(["--store", url], capsys)
    tenants("add", "gold")
    breaks_in_commits(database)
    database.close()
    ran = tenants("set", "gold", "weight=2")
    assert ran.code == 2 and "lost during the commit" in ran.err and ran.err.endswith(f"{MAYBE}\n")
    assert MAYBE not in tenants("set", "silver", "weight=2").err


def test_a_service_that_hangs_up_may_have_made_the_change(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APS_ADMIN_KEY", ADMIN)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                connection.recv(65_536)
                connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        tenants = Tenants(["--url", f"http://127.0.0.1:{listener.getsockname()[1]}"], capsys)
        removed, listed = tenants("remove", "gold"), tenants("list")
        thread.join(30)
    assert removed.code == listed.code == 2
    assert "does not answer: " in removed.err and MAYBE in removed.err
    assert "does not answer: " in listed.err and MAYBE not in listed.err


@pytest.mark.parametrize("key", [None, "", ADMIN + "\r", "sha256:" + "0" * 64])
def test_an_admin_key_that_is_none_is_not_sent_nor_shown(
    key: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("APS_ADMIN_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("APS_ADMIN_KEY", key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        for verb in (("usage",), ("tenants", "list")):
            assert main([*verb, "--url", f"http://127.0.0.1:{listener.getsockname()[1]}"]) == 2
            said = capsys.readouterr().err
            assert "in APS_ADMIN_KEY" in said and ADMIN not in said
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_who_did_it_is_in_the_audit(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(path)
    Tenants(["--store", str(path)], capsys)("add", "gold")
    with closing(Database(str(path)).engine.raw_connection()) as connection:
        assert connection.cursor().execute("SELECT actor FROM audit").fetchone()[0].startswith("cli ")


def test_looking_changes_nothing(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(path)
    Tenants(["--store", str(path)], capsys)("add", "gold")
    before = path.read_bytes(), path.stat().st_mtime_ns
    for verb in (["tenants", "list"], ["tenants", "show", "gold"], ["tenants", "keys", "list", "gold"], ["usage"]):
        assert main([*verb, "--store", str(path)]) == 0, verb
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_the_audit_is_read(tenants: Tenants) -> None:
    tenants("add", "gold")
    tenants("set", "gold", "weight=3")
    key = tenants("keys", "issue", "gold", "--label", "nightly jobs", "--json").json["id"]
    tenants("add", "other")
    last, issued, changed, added = tenants("audit", "--json").json
    assert [one["action"] for one in (last, issued, changed, added)] == [
        "tenant.add",
        "key.issue",
        "tenant.set",
        "tenant.add",
    ]
    assert (issued["details"]["key"], issued["subject"]) == (key, "gold")
    assert all(one["at"].endswith("Z") for one in (last, issued))
    assert [one["id"] for one in tenants("audit", "--tenant", "gold", "--limit", "2", "--json").json] == [
        issued["id"],
        changed["id"],
    ]
    table = tenants("audit").out
    assert "weight 1 is now 3" in table and f"{key} nightly jobs" in table
    assert len(table.splitlines()) == 2 + 4  # a line each: it is read by programs


# A file


def test_apply_makes_the_store_what_the_file_says(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tenants = Tenants([], capsys)
    file = path.with_name("aps.toml")
    file.write_text(f'[store]\nurl = "aps.db"\n[tenants.gold]\nweight = 3\nkeys = ["{hash_line(GOLD)}"]\n')
    dry = tenants("apply", str(file), "--dry-run")
    assert (dry.code, path.exists()) == (2, False)  # there is nothing to compare with
    done = tenants("apply", str(file))
    assert done.out.splitlines() == ["tenant gold: not in the store: added", "applied: 1 difference"]
    assert done.err == f"made sqlite:///{path}\n"
    assert tenants("apply", str(file), "--dry-run").code == 0
    file.write_text('[store]\nurl = "aps.db"\n[tenants.gold]\nweight = 5\n[tenants.new]\n')
    tenants("add", "byhand", "--store", str(path))
    dry = tenants("apply", str(file), "--dry-run")
    assert dry.code == 1
    assert dry.out.splitlines() == [
        "tenant gold, weight: 3 in the store, 5 in the file",
        "tenant new: not in the store",
        "tenant byhand: not in the file",
        "3 differences; nothing has been changed",
    ]
    assert main(["check-config", str(file)]) == 0
    assert dry.out.splitlines()[0] in capsys.readouterr().out
    kept = tenants("apply", str(file), "--no-remove", "--json")
    assert kept.json["applied"] and [one["tenant"] for one in kept.json["changes"]] == ["gold", "new"]
    assert kept.json["left"] == [{"tenant": "byhand", "field": None, "store": True, "file": False}]
    assert "tenant byhand: not in the file: removed" in tenants("apply", str(file)).out
    found = tenants("list", "--json", "--store", str(path)).json
    assert {name: row["weight"] for name, row in found.items()} == {"gold": 5, "new": 1}
    assert found["gold"]["keys"] == 1  # a key that only the store has stays
    file.write_text("[server]\nport = 1\n")
    assert "names no tenants" in tenants("apply", str(file), "--store", str(path)).err


def test_check_config_makes_nothing_and_says_what_it_found(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = path.with_name("aps.toml")
    file.write_text('[store]\nurl = "aps.db"\n[tenants.gold]\nweight = 3\n')

    def check(*options: str) -> tuple[int, str]:
        code = main(["check-config", str(file), *options])
        out, err = capsys.readouterr()
        return code, out + err

    code, said = check()
    assert (code, path.exists()) == (0, False)
    assert "nothing is there yet; aps serve makes it" in said
    path.touch()  # an empty file stays one
    assert "nothing is there yet" in check()[1] and path.stat().st_size == 0
    Database(str(path)).upgrade()
    assert "nothing is in it yet" in check()[1]
    with Store(Database(str(path))).changing("test") as change:
        change.add(Tenant("gold", weight=7))
    code, said = check("--json")
    found = json.loads(said)
    assert found["tenants"]["gold"]["weight"] == 7  # what the service would be
    assert found["differing"] == [{"tenant": "gold", "field": "weight", "store": 7, "file": 3}]
    with closing(Database(str(path)).engine.raw_connection()) as connection:
        connection.cursor().execute("UPDATE alembic_version SET version_num = '9999'")
    code, said = check()
    assert code == 2 and "newer than this APS" in said
    path.with_name("notes").write_text("not a database, but long enough to be looked at as one" * 100)
    file.write_text('[store]\nurl = "notes"\n')
    code, said = check()
    assert code == 0 and "it cannot be looked at now" in said and "not a database" in said
    file.write_text('[store]\nurl = "postgresql://aps:secret@127.0.0.1:1/aps"\n')
    code, said = check()
    assert code == 0 and "it cannot be looked at now" in said and "secret" not in said

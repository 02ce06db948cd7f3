"""The configuration's `[store]`: addresses, passwords, what is wrong."""

from dataclasses import replace
from pathlib import Path

import pytest

from aps.service.config import Config
from aps.service.config_reader import ConfigError, Given, read_config
from aps.service.config_view import notes, plain, words


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "aps.toml"


def read(file: Path, text: str, **environ: str) -> Config:
    file.write_text(text)
    return read_config(file, environ)


@pytest.mark.parametrize(
    ("url", "means"),
    [
        ("aps.db", "{}/aps.db"),
        ("../aps.db", "{}/../aps.db"),
        ("/var/aps.db", "/var/aps.db"),
        ("sqlite:///aps.db", "sqlite:///{}/aps.db"),
        ("sqlite:////var/aps.db", "sqlite:////var/aps.db"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
    ],
)
def test_a_path_in_a_file_counts_from_that_file(file: Path, url: str, means: str) -> None:
    assert read(file, f'[store]\nurl = "{url}"\n').settings.store == means.format(file.parent)
    assert read(file, "", APS_STORE_URL=url).settings.store == url
    flags = {"store.url": Given("none", "--store")}
    assert read_config(file, {"APS_STORE_URL": url}, flags).settings.store is None


def test_the_password_is_not_shown(file: Path) -> None:
    config = read(file, '[store]\nurl = "postgresql://aps:secret@db/aps"\n')
    assert config.settings.store == "postgresql://aps:secret@db/aps"
    seen = f"{plain(config)} {list(words(config))} {list(notes(config))} {config}"
    assert "secret" not in seen and "postgresql+psycopg://aps:***@db/aps" in seen


def test_what_is_deleted_is_said(file: Path) -> None:
    config = read(file, '[store]\nurl = "/var/aps.db"\nkeep_days = 400\n')
    says = "tenants, keys and usage are kept in /var/aps.db; usage, the audit and ended runs for 400 days"
    assert dict(words(config))["store"] == says


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('url = "mysql://u:secret@h/d"', "store.url must be an SQLite file's path, sqlite:///FILE, or postgresql://"),
        ('url = "sqlite:///:memory:"', "a store is a file"),
        ("url = 3", "store.url must be a file's path or a database's address, got 3"),
        ("poll_s = 0", "store.poll_s must be seconds in 0.01..3600, got 0"),
        ("keep_days = 0", "store.keep_days must be an int in 1..36500"),
        ('service = ""', "store.service must be a str of 1 to 256 printable characters, got ''"),
    ],
)
def test_a_problem_names_key_value_and_what_is_allowed(file: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(file, f"[store]\n{text}\n")
    (problem,) = caught.value.problems
    assert problem.startswith(f"{file}: ") and said in problem and "secret" not in problem


def test_a_store_may_have_the_keys_that_a_file_has_not(file: Path) -> None:
    config = read(file, '[server]\nhost = "0.0.0.0"\n[store]\nurl = "aps.db"\n')
    assert config.exposed and not replace(config, keyed=True).exposed

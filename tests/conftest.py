"""Hypothesis profiles, the repository's root, databases, and a header that says which build is under test."""

import os
import signal
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

import aps_core

if TYPE_CHECKING:
    from aps.store.database import Database
    from tests.postgres import Server

ROOT = Path(__file__).resolve().parent.parent

# For `tests` and `loadtests`; last, so that an installed aps_core comes before the checkout's sources.
sys.path.append(str(ROOT))

# A shell starts what it runs in the background with interrupts ignored, and so would be whatever the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The default is the same run every time; `quick` is for the slow debug and sanitizer builds; `nightly` looks further.
SLOW = [HealthCheck.too_slow]
settings.register_profile("default", deadline=None, derandomize=True, suppress_health_check=SLOW, print_blob=True)
settings.register_profile("quick", settings.get_profile("default"), max_examples=15)
settings.register_profile("nightly", settings.get_profile("default"), derandomize=False, max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_report_header() -> str:
    return f"aps_core: {Path(aps_core.__file__).parent}"


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout: what is not installed (documents, sources, examples) is read from here."""
    return ROOT


@pytest.fixture(scope="session")
def postgres() -> "Iterator[Server]":
    """A PostgreSQL server; skips where there can be none."""
    from tests.postgres import Missing, server

    try:
        with server() as running:
            yield running
    except Missing as error:
        pytest.skip(str(error))


_numbers = count(1)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database, once of SQLite and once of PostgreSQL."""
    if request.param == "sqlite":
        return str(tmp_path / "aps.db")
    running: Server = request.getfixturevalue("postgres")
    return running.url(f"aps_{next(_numbers)}")


@pytest.fixture
def database(database_url: str) -> "Iterator[Database]":
    """Such a database with its tables."""
    from aps.store.database import Database

    made = Database(database_url)
    made.upgrade()
    yield made
    made.close()

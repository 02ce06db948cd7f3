"""Hypothesis profiles, the repository's root, and a header that says which build is under test."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import aps_core

ROOT = Path(__file__).resolve().parent.parent

# For `tests` and `loadtests`; last, so that an installed aps_core comes before the checkout's sources.
sys.path.append(str(ROOT))

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

"""What verbs share: errors with an exit code, numbers as options, the extras they need."""

import argparse
import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec

SERVICE_EXTRA = ("fastapi", "uvicorn", "httpx", "rich", "sqlalchemy", "alembic")
OTEL_EXTRA = ("opentelemetry.sdk", "opentelemetry.exporter")
LAB_EXTRA = ("jinja2", "joblib", "matplotlib", "rich", "scipy")


class UsageError(Exception):
    """Something that the caller must change; `main` prints it and exits with 2."""


class TryAgain(UsageError):
    """What is needed cannot be had now; later it may be. `main` prints it and exits with 75 (EX_TEMPFAIL)."""


def need_service_extra() -> None:
    """UsageError, with the pip line, when a package of the extra `service` is missing."""
    _need("service", SERVICE_EXTRA)


def need_lab_extra() -> None:
    """UsageError, with the pip line, when a package of the extra `lab` is missing."""
    _need("lab", LAB_EXTRA)


def need_otel_extra() -> None:
    """UsageError, with the pip line, when a package of the extra `otel` is missing."""
    _need("otel", OTEL_EXTRA)


def _need(extra: str, packages: Sequence[str]) -> None:
    missing = [name for name in packages if not _found(name)]
    if missing:
        raise UsageError(f'needs {", ".join(missing)}: pip install "aps-scheduler[{extra}]"')


def _found(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # not even what it is in
        return False


def positive(text: str) -> float:
    """An option's value: a finite number above 0."""
    return _number(text, "a finite number above 0", lambda value: 0 < value < math.inf)


def not_negative(text: str) -> float:
    """An option's value: a finite number, 0 or more."""
    return _number(text, "a finite number, 0 or more", lambda value: 0 <= value < math.inf)


def count(text: str) -> int:
    """An option's value: an integer, 1 or more."""
    value = _integer(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be an integer, 1 or more, got {text!r}")
    return value


def _integer(text: str) -> int:
    """0 when it is none."""
    try:
        return int(text)
    except ValueError:
        return 0


def _number(text: str, allowed: str, fits: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not fits(value):
        raise argparse.ArgumentTypeError(f"must be {allowed}, got {text!r}")
    return value

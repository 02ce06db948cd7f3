"""The tenants that `aps serve` starts with, and tenants from a TOML file."""

import tomllib
from pathlib import Path
from typing import Any

from aps.tenants import Tenant

DEFAULT_TENANTS = (
    Tenant("tenant_a", rate=500.0, burst=5_000.0),
    Tenant("tenant_b", rate=300.0, burst=3_000.0),
    Tenant("tenant_c", rate=1_000.0, burst=10_000.0),
)

# The tenants of `aps stress`: shares 85:15, buckets that hold its burst (50 requests of 590 + 128 tokens) twice over.
STRESS_TENANTS = (
    Tenant("stress_vip", weight=0.85, rate=10_000.0, burst=100_000.0),
    Tenant("stress_free", weight=0.15, rate=10_000.0, burst=100_000.0),
)


def read_tenants(path: Path) -> tuple[Tenant, ...]:
    """The tenants of a TOML file: a table `[tenants.NAME]` each, with the fields of `aps.Tenant`.

    OSError when it cannot be read; ValueError names the file, the tenant and what is wrong.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")).get("tenants")
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError, an int of more digits than Python reads
        raise ValueError(f"{path} is not TOML: {error}") from error
    if not isinstance(tables, dict) or not tables:
        raise ValueError(f"{path} must have a table [tenants.NAME] for each tenant")
    return tuple(_tenant(path, name, fields) for name, fields in tables.items())


def _tenant(path: Path, name: str, fields: Any) -> Tenant:
    if not isinstance(fields, dict) or "name" in fields:
        raise ValueError(f"{path}: tenants.{name} must be a table of the fields of aps.Tenant, without name")
    try:
        return Tenant(name, **fields)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: tenants.{name}: {error}") from error

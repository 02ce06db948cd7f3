"""Which tenant plays which role, and its key, from the environment.

By default the tenants that `aps serve` has without a configuration, and no keys. `APS_LOAD_TENANTS` names a TOML file:

    vip = "gold"                                   # role = tenant
    free = { tenant = "trial", key = "aps_..." }   # with its key

`APS_KEYS="gold=aps_...,trial=aps_..."` gives keys without a file. `APS_METRICS_KEY` or `APS_ADMIN_KEY` reads
GET /metrics, which fairness needs.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from loadtests.plan import ROLES, PlanError

DEFAULT = {"vip": "stress_vip", "free": "stress_free", "bursty": "tenant_c", "abusive": "tenant_b"}


class Caller(NamedTuple):
    """A tenant and the headers that its requests carry."""

    tenant: str
    headers: dict[str, str]


def callers(environ: Mapping[str, str] = os.environ) -> dict[str, Caller]:
    """Role -> caller. PlanError: the file or APS_KEYS is not as it should be."""
    tenants, keys = dict(DEFAULT), _keys(environ.get("APS_KEYS", ""))
    if file := environ.get("APS_LOAD_TENANTS"):
        for role, value in _read(Path(file)).items():
            table = {"tenant": value} if isinstance(value, str) else value
            if role not in ROLES or not isinstance(table, dict) or not set(table) <= {"tenant", "key"}:
                raise PlanError(f"{file}: {role}: roles are {', '.join(ROLES)}, each a tenant or {{tenant, key}}")
            tenants[role] = table.get("tenant", tenants[role])
            if "key" in table:
                keys[tenants[role]] = table["key"]
    return {role: Caller(tenant, bearer(keys.get(tenant))) for role, tenant in tenants.items()}


def bearer(key: str | None) -> dict[str, str]:
    """The header that carries a key."""
    return {} if not key else {"Authorization": f"Bearer {key}"}


def metrics_headers(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What GET /metrics is to be asked with."""
    return bearer(environ.get("APS_METRICS_KEY") or environ.get("APS_ADMIN_KEY"))


def _keys(text: str) -> dict[str, str]:
    pairs = [pair.strip().partition("=") for pair in text.split(",") if pair.strip()]
    if any(not tenant or not key for tenant, _, key in pairs):
        raise PlanError("APS_KEYS must be TENANT=KEY,TENANT=KEY,...")
    return {tenant: key for tenant, _, key in pairs}


def _read(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise PlanError(f"{path}: {error}") from error

"""A configuration to look at: as plain data without secrets, in words, and what is odd about it."""

from collections.abc import Iterator, Sequence
from math import floor, inf
from typing import Any

from aps.service.config import Config
from aps.service.config_keys import BY_NAME, KEYS, TENANT_KEYS
from aps.tenants import Tenant


def plain(config: Config) -> dict[str, Any]:
    """JSON-able data: every table with its effective values, infinite ones and "none" as null; of keys their number.

    "set": what was set, and where; the rest are defaults.
    """
    tables: dict[str, dict[str, Any]] = {}
    for key in KEYS:
        tables.setdefault(key.table, {})[key.name] = _finite(shown(key.full, value_of(config, key.full)))
    return {
        "file": str(config.file) if config.file is not None else None,
        "open": config.open,
        "admin_key": config.admin_key is not None,
        "metrics_key": config.metrics_key is not None,
        **tables,
        "tenants": {tenant.name: plain_tenant(config, tenant) for tenant in config.tenants},
        "set": dict(config.origins),
        "notes": list(notes(config)),
    }


def plain_tenant(config: Config, tenant: Tenant) -> dict[str, Any]:
    """A tenant's fields without its name, and the number of its keys."""
    names = [key.field for key in TENANT_KEYS if key.name != "keys"]
    fields = {name: _finite(getattr(tenant, name)) for name in names}
    return fields | {"keys": config.working_keys(tenant.name)}


def value_of(config: Config, full: str) -> Any:
    """The effective value of `table.name`."""
    key = BY_NAME[full]
    if full == "policy.base":
        return config.policy_base
    owners = (config.settings, config.devices, config.policy, config.limits)
    return getattr(next(owner for owner in owners if isinstance(owner, key.owner)), key.field)


def shown(full: str, value: Any) -> Any:
    """The value of `table.name`; of a database's address what may be shown."""
    if full != "store.url" or value is None:
        return value
    from aps.store import database

    return database.shown(database.address(value)) if "://" in value else value


def words(config: Config) -> Iterator[tuple[str, str]]:
    """What the service is, a topic and a line each."""
    settings, devices = config.settings, config.devices
    device = devices.device
    reach = "reachable from other machines" if settings.beyond_this_machine else "this machine only"
    yield "listens on", f"{settings.host} port {settings.port or '(any free one)'}, {reach}"
    budget = f"{device.token_budget} tokens a step" if device.token_budget else "whole prompts"
    yield (
        "devices",
        f"{devices.gpus} x simulated GPU, profile {devices.spec.name}: {device.slots} slots, "
        f"{device.kv_blocks * devices.block_tokens:,} KV tokens, {budget}; time scale {devices.time_scale:g}",
    )
    policy = config.policy
    mode = "" if policy.batching == "continuous" else f", {policy.batching} batching"
    displaces = "" if policy.preemption == "off" else f", preemption by {policy.preemption}"
    yield "policy", f"{config.policy_base}: {policy.knobs}{mode}{displaces}"
    yield "price", f"${settings.gpu_hour_dollars:g} a GPU-hour ({settings.price_source})"
    if settings.record is not None:
        kept = f"at most {settings.record_files} files of {settings.record_max_mb} MB"
        yield "record", f"every call goes to {settings.record}, {kept}"
    if settings.store is not None:
        yield "store", f"tenants, keys and usage are kept in {shown('store.url', settings.store)}"
    if settings.traces:
        yield "traces", "a span a request, as the OTEL_ variables say (to http://localhost:4318 unless they do)"
    yield "roles", roles(config)


def roles(config: Config) -> str:
    """Who may do what, in a line."""
    if config.open:
        reach = " and other machines can reach it" if config.settings.beyond_this_machine else ""
        return f"OPEN: no keys{reach}; whoever reaches this address may spend any tenant's tokens"
    keys = sum(map(len, config.keys.values()))
    keyed = sum(1 for digests in config.keys.values() if digests)
    return (
        f"{_count(keys, 'tenant key')} of {_count(keyed, 'tenant')}, "
        f"{'a' if config.metrics_key else 'no'} metrics key, "
        + ("an admin key" if config.admin_key else "no admin key (no administration over HTTP)")
    )


def limit(tenant: Tenant) -> str:
    """A tenant's buckets and its largest request in words."""
    parts = []
    if tenant.rate < inf:
        parts.append(f"{tenant.rate:,g} tokens/s, burst {tenant.burst:,.10g}")
    if tenant.request_rate < inf:
        parts.append(f"{tenant.request_rate:,g} requests/s, burst {tenant.request_burst:,.10g}")
    if not parts:
        parts.append("no rate limit")
    if tenant.max_request_tokens is not None:
        parts.append(f"at most {tenant.max_request_tokens:,} tokens a request")
    return ", ".join(parts)


def notes(config: Config) -> Iterator[str]:
    """What works, and is most likely not meant."""
    if config.file is not None and config.settings.store is None:
        yield "without a store (--store FILE) changes of tenants and their usage are lost when the service ends"
    keyless = [tenant.name for tenant in config.tenants if not config.keys.get(tenant.name)]
    whose = "the admin key" if config.admin_key else "nobody"
    if keyless and not config.open:
        yield f"without keys, {whose} can use {_some(keyless)}"
    if not config.open and config.metrics_key is None and config.admin_key is None:
        yield "without a metrics key and an admin key nobody can read GET /metrics"
    blocks = config.devices.device.kv_blocks
    for tenant in config.tenants:
        where = f"tenants.{tenant.name}"
        if tenant.default_bid > tenant.max_bid:
            yield f"{where}.default_bid {tenant.default_bid} is above its max_bid: {tenant.max_bid} counts"
        most, why = min(_bounds(config, blocks, tenant))
        if tenant.max_request_tokens is not None and tenant.max_request_tokens > most:
            yield f"{where}.max_request_tokens {tenant.max_request_tokens:,} never binds: {why} is {most:g} tokens"
        most, why = _largest_request(config, blocks, tenant)
        if tenant.default_max_tokens >= most:
            yield f"{where}.default_max_tokens {tenant.default_max_tokens} never fits {why} of {most:g} tokens"


def _largest_request(config: Config, blocks: int, tenant: Tenant) -> tuple[float, str]:
    """Prompt + max tokens that can ever be admitted at the default bid, and what bounds them."""
    premium = 1 + config.policy.bid_premium * (min(tenant.default_bid, tenant.max_bid) - 1)
    return min(
        (tenant.burst / premium, "its burst at that bid"),
        (tenant.max_request_tokens or inf, "its max_request_tokens"),
        *_bounds(config, blocks, tenant),
    )


def _bounds(config: Config, blocks: int, tenant: Tenant) -> tuple[tuple[float, str], ...]:
    """Of prompt + max tokens, by what the service is: devices of so many KV blocks, and the rest."""
    block = config.devices.block_tokens
    return (
        (floor(config.policy.kv_high_watermark * blocks) * block, "the KV cache"),
        (floor(tenant.kv_share * blocks * config.devices.gpus) * block, "its share of the KV cache"),
        (config.limits.max_context or inf, "limits.max_context"),
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and value == inf else value


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"

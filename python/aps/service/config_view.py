"""A configuration to look at: as plain data without secrets, in words, and what is odd about it."""

from collections.abc import Iterator, Sequence
from math import floor, inf
from typing import Any

from aps.policy import Limits
from aps.service import open_files
from aps.service.config import Config
from aps.service.config_keys import BY_NAME, KEYS, TENANT_KEYS, Key
from aps.tenants import Tenant, queue_tokens


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
    bounds = [_bound(key, value_of(config, key.full)) for key in KEYS if key.table == "limits"]
    if any(bounds):
        yield "limits", ", ".join(filter(None, bounds))
    yield "price", f"${settings.gpu_hour_dollars:g} a GPU-hour ({settings.price_source})"
    if settings.record is not None:
        kept = f"at most {settings.record_files} files of {settings.record_max_mb} MB"
        yield "record", f"every call goes to {settings.record}, {kept}"
    if settings.store is not None:
        days = settings.store_keep_days
        until = "" if days is None else f"; usage, the audit and ended runs for {_count(days, 'day')}"
        yield "store", f"tenants, keys and usage are kept in {shown('store.url', settings.store)}{until}"
    if settings.traces:
        yield "traces", "a span a request, as the OTEL_ variables say (to http://localhost:4318 unless they do)"
    yield "roles", roles(config)


def _bound(key: Key, value: float | None) -> str:
    """Of [limits]; empty: the default."""
    if value == key.default:
        return ""
    return f"no {key.name}" if value is None else f"{key.name} {value:,.10g}"


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
    """A tenant's buckets in words, and what else of its limits is not the default."""
    parts = []
    if tenant.rate < inf:
        queued = " (waits when over it)" if tenant.over_rate == "queue" else ""
        parts.append(f"{tenant.rate:,g} tokens/s, burst {tenant.burst:,.10g}{queued}")
    if tenant.request_rate < inf:
        parts.append(f"{tenant.request_rate:,g} requests/s, burst {tenant.request_burst:,.10g}")
    if not parts:
        parts.append("no rate limit")
    for value, what in (
        (tenant.max_request_tokens, "tokens a request"),
        (tenant.max_in_flight, "requests in flight"),
        (tenant.max_queued, "requests waiting"),
        (tenant.max_queued_tokens, "tokens waiting"),
    ):
        if value is not None:
            parts.append(f"at most {value:,} {what}")
    if tenant.kv_share < 1:
        parts.append(f"{tenant.kv_share:.4g} of the KV cache")
    fresh = Tenant(tenant.name)
    if (tenant.default_bid, tenant.max_bid) != (fresh.default_bid, fresh.max_bid):
        parts.append(f"bid {min(tenant.default_bid, tenant.max_bid)} by default, at most {tenant.max_bid}")
    if tenant.default_max_tokens != fresh.default_max_tokens:
        parts.append(f"{tenant.default_max_tokens:,} output tokens by default")
    return ", ".join(parts)


def notes(config: Config) -> Iterator[str]:
    """What works, and is most likely not meant."""
    if (shortage := open_files.shortage(config.settings.max_connections, open_files.allowed())) is not None:
        yield shortage
    if config.file is not None and config.settings.store is None:
        yield "without a store (--store FILE) changes of tenants and their usage are lost when the service ends"
    for table, needed in (("record", "record.file"), ("store", "store.url")):
        if value_of(config, needed) is None:
            idle = (full for full in config.origins if full.startswith(f"{table}.") and full != needed)
            yield from (f"{full} counts for nothing without {needed}" for full in idle)
    keyless = [tenant.name for tenant in config.tenants if not config.keys.get(tenant.name)]
    whose = "the admin key" if config.admin_key else "nobody"
    if keyless and not config.open:
        yield f"without keys, {whose} can use {_some(keyless)}"
    if not config.open and config.metrics_key is None and config.admin_key is None:
        yield "without a metrics key and an admin key nobody can read GET /metrics"
    blocks, block = config.devices.device.kv_blocks, config.devices.block_tokens
    of_all = min(
        (floor(config.policy.kv_high_watermark * blocks) * block, "the KV cache"),
        (config.limits.max_context or inf, "limits.max_context"),
        (queue_tokens(config.limits), "limits.max_queued_tokens"),
    )
    if queue_tokens(config.limits) < 2:
        yield "no request is ever admitted: limits." + _closed(config.limits)
        return
    for tenant in config.tenants:
        where = f"tenants.{tenant.name}"
        if queue_tokens(tenant) < 2:
            yield f"no request of {tenant.name} is ever admitted: {where}.{_closed(tenant)}"
            continue
        share = floor(tenant.kv_share * blocks * config.devices.gpus) * block
        most, why = bound = min(
            of_all, (share, "its share of the KV cache"), (queue_tokens(tenant), "its max_queued_tokens")
        )
        if tenant.max_request_tokens is not None and tenant.max_request_tokens > most:
            yield f"{where}.max_request_tokens {tenant.max_request_tokens:,} never binds: {why} is {most:.10g} tokens"
        most, why = _largest_request(config, tenant, bound)
        if tenant.default_max_tokens >= most:
            yield f"{where}.default_max_tokens {tenant.default_max_tokens} never fits: {why} is {most:.10g} tokens"


def _closed(limits: Limits | Tenant) -> str:
    """Which bound leaves no room for a prompt of 1 and an output of 1 in the queue."""
    return "max_queued is 0" if limits.max_queued == 0 else f"max_queued_tokens is {limits.max_queued_tokens}"


def _largest_request(config: Config, tenant: Tenant, bound: tuple[float, str]) -> tuple[float, str]:
    """Prompt + max tokens that can ever be admitted at the default bid, and why; bound: but for the tenant's limits."""
    bid = min(tenant.default_bid, tenant.max_bid)
    premium = 1 + config.policy.bid_premium * (bid - 1)
    return min(
        bound,
        (tenant.burst / premium, "its burst" if premium == 1 else f"its burst at bid {bid}"),
        (tenant.max_request_tokens or inf, "its max_request_tokens"),
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and value == inf else value


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"

"""Every key of a configuration: its table, its field, what it means, and whether a reload changes it."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple, get_args, get_type_hints

from aps.policy import Limits, Policy
from aps.service.config import Devices, Settings
from aps.tenants import Tenant

CORNERS = ("aps", "fifo", "strict", "vtc", "fair", "bids")
NO_BOUND = "none"  # how a key that may be None says so

# Whether a change of a key takes hold at a reload.
LIVE, RESTART = "yes", "restart"


class Key(NamedTuple):
    """A key. table, name: where it stands. owner, field: whose field it sets; `policy.base` sets none of them.

    live: LIVE when a reload changes it in the running service.
    """

    table: str
    name: str
    owner: type
    field: str
    live: str
    meaning: str

    @property
    def full(self) -> str:
        """`table.name`."""
        return f"{self.table}.{self.name}"

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"APS_{self.table}_{self.name}".upper()

    @property
    def optional(self) -> bool:
        """Whether it may be "none"."""
        return type(None) in self._types

    @property
    def kind(self) -> type:
        """bool, int, float or str."""
        return next(kind for kind in (bool, int, float, str) if kind in self._types)

    @property
    def default(self) -> Any:
        """What holds without it; None for a tenant's `keys`."""
        if self.name == "base":
            return CORNERS[0]
        value = next((f.default for f in fields(self.owner) if f.name == self.field), MISSING)
        return None if value is MISSING else value

    @property
    def _types(self) -> tuple[Any, ...]:
        return _kinds(self.owner).get(self.field, (str,))


@cache
def _kinds(owner: type) -> dict[str, tuple[Any, ...]]:
    """The types that each field of a dataclass may have; a Literal's are those of its values."""
    hints = {name: get_args(hint) or (hint,) for name, hint in get_type_hints(owner).items()}
    return {name: tuple(str if isinstance(kind, str) else kind for kind in kinds) for name, kinds in hints.items()}


def _keys(table: str, owner: type, live: str, meanings: Mapping[str, str]) -> tuple[Key, ...]:
    """Keys named as their fields, or `name: field`."""
    pairs = ((*(text.split(": ") * 2)[:2], meaning) for text, meaning in meanings.items())
    return tuple(Key(table, name, owner, field, live, meaning) for name, field, meaning in pairs)


KEYS = (
    *_keys(
        "server",
        Settings,
        RESTART,
        {
            "host": "address to listen on",
            "port": "0 to 65535; 0: any free one",
            "insecure_open": "whether it may listen beyond this machine without any keys",
            "drain_s": "wall seconds that accepted requests get to finish, and answers to be read, after SIGTERM",
        },
    ),
    *_keys(
        "devices",
        Devices,
        RESTART,
        {
            "gpus": "simulated GPUs, all alike, 1 to 1024",
            "profile": "how fast they are: a built-in profile's name, or the path of a profile's file (from this one)",
            "slots": "requests at once on each; none: the profile's",
            "kv_tokens": "tokens that the KV cache of each holds; none: the profile's",
            "token_budget": "tokens a step computes at most; 0: whole prompts; none: the profile's",
            "block_tokens": "tokens in a KV block",
            "time_scale": "simulated seconds in a wall second, 0.0001 to 10000",
        },
    ),
    Key("policy", "base", Policy, "base", RESTART, f"the corner that the other keys change: {', '.join(CORNERS)}"),
    *_keys(
        "policy",
        Policy,
        LIVE,
        {
            "aging_horizon_s": "H: seconds after which a waiting bid 1 ranks with a fresh bid 10; 0: arrival order; "
            "inf: bids alone",
            "fairness_window": "D: cost that a tenant may be ahead of the least served; 0: fair only; inf: no fairness",
        },
    ),
    *_keys(
        "policy",
        Policy,
        RESTART,
        {
            "input_weight": "cost of a prompt token",
            "output_weight": "cost of an output token",
            "expected_output": "output tokens charged at dispatch; 0: as they are generated; none: max_tokens",
            "bid_premium": "p: a request is charged 1 + p * (bid - 1) times its tokens",
            "max_passes": "backfills past its reserved step that a request which does not fit may suffer; 0: none",
            "backfill_depth": "candidates set aside before a batch is closed",
            "preemption": "off, recompute or swap; continuous batching only",
            "preempt_margin": "by how many bids a waiting request must be above a running one to displace it, 1 to 9",
            "max_preemptions": "times that a request may be displaced",
            "batching": "continuous (join and leave at step boundaries) or micro (a batch runs to completion)",
            "batch_window_s": "seconds after which a micro batch goes",
            "batch_fill_target": "part of the slots or the KV blocks at which a micro batch goes at once",
            "kv_high_watermark": "part of a device's KV blocks that may be reserved",
        },
    ),
    *_keys(
        "limits",
        Limits,
        RESTART,
        {
            "max_queued": "waiting requests of all tenants, each keeps a part; 0: none is admitted; none: no bound",
            "max_queued_tokens": "their prompt + max tokens, and so of one request at most; none: no bound",
            "max_context": "prompt + max tokens of one request; none: no bound",
        },
    ),
    *_keys(
        "limits",
        Settings,
        RESTART,
        {
            "max_body_bytes": "size of a request's body",
            "body_s": "wall seconds in which it must have arrived",
            "max_pending_bytes": "bytes of prompts of outstanding requests and of bodies that are being read; at least "
            "8 * max_body_bytes; none: no bound",
            "max_header_bytes": "size of a request's header",
            "header_s": "wall seconds in which it must have arrived",
            "max_connections": "open at once; further ones get 503",
            "keep_alive_s": "wall seconds that a connection may be idle",
            "send_s": "wall seconds after which a client that takes nothing of its answer is cut off",
        },
    ),
    *_keys(
        "price",
        Settings,
        LIVE,
        {
            "gpu_hour_dollars": "dollars for one GPU-hour; the profile's unless given",
            "source: price_source": "where and when that price was seen; the profile's unless a price is given",
        },
    ),
    *_keys(
        "metrics",
        Settings,
        RESTART,
        {
            "max_labels": "values of the label tenant; the tenants beyond are together _other",
            "jain_window_s": "seconds of the service's clock over which Jain's index is taken",
        },
    ),
    *_keys(
        "requests",
        Settings,
        RESTART,
        {
            "keep_finished_s": "wall seconds that ended requests stay readable",
            "max_finished": "how many of them",
            "max_finished_bytes": "how much of their text",
            "comment_s": "wall seconds between the comments that keep a stream without tokens open",
        },
    ),
    *_keys(
        "logging",
        Settings,
        RESTART,
        {"level: log_level": "debug, info, warning or error", "format: log_format": "text, or json: one object a line"},
    ),
    *_keys(
        "telemetry",
        Settings,
        RESTART,
        {"traces": "whether each request is traced; the standard OTEL_ variables say where to, which and as whose"},
    ),
    *_keys(
        "record",
        Settings,
        RESTART,
        {
            "file: record": "where every call of the scheduler is written, from this file's directory; none: nowhere",
            "max_mb: record_max_mb": "megabytes (2^20 bytes) of a file; then it is moved on to .1, .2, ...",
            "files: record_files": "how many of them are kept",
        },
    ),
    *_keys(
        "store",
        Settings,
        RESTART,
        {
            "url: store": "the database of tenants, keys and usage: an SQLite file (from this one's directory), or "
            "`postgresql://...`; none: nothing is kept",
            "interval_s: store_interval_s": "wall seconds between two saves of usage and of the scheduler's state",
            "poll_s: store_poll_s": "wall seconds after which a change that was made elsewhere takes hold, at most",
            "service: store_service": "whose state it is, when several services share a database",
            "keep_days: store_keep_days": "days, and today, that usage, refusals, the audit and ended runs stay there; "
            "none: for ever",
        },
    ),
)

# Of [tenants.NAME]; `keys` beside the fields of aps.Tenant.
TENANT_KEYS = (
    *_keys(
        "tenants.NAME",
        Tenant,
        LIVE,
        {
            "weight": "its share of the service against the other tenants' weights",
            "rate": "tokens a second of its bucket; with burst; inf: no limit",
            "burst": "tokens that its bucket holds; with rate",
            "over_rate": "refuse (429 with Retry-After) or queue (wait for the bucket)",
            "request_rate": "requests a second of its request bucket, 429 beyond; with request_burst; inf: no limit",
            "request_burst": "requests that its request bucket holds, at least 1; with request_rate",
            "max_request_tokens": "prompt + max tokens of one request, at most burst; none: no bound",
            "default_bid": "the bid of a request that names none, 1 to max_bid",
            "max_bid": "the highest bid it may make; a higher one is lowered",
            "default_max_tokens": "output tokens of a request that does not say",
            "max_in_flight": "requests started and not ended; none: no bound",
            "max_queued": "waiting requests; 0: none is admitted; none: no bound",
            "max_queued_tokens": "their prompt + max tokens, and so of one request at most; none: no bound",
            "kv_share": "part of all KV blocks that its running requests may hold",
        },
    ),
    Key("tenants.NAME", "keys", Tenant, "keys", LIVE, "hashes of its API keys, as `aps keygen` prints them"),
)

TABLES = tuple(dict.fromkeys(key.table for key in KEYS))
BY_NAME: Mapping[str, Key] = MappingProxyType({key.full: key for key in KEYS})

# Variables that stand for no key. (name, meaning)
VARIABLES = {
    "APS_CONFIG": "the configuration's file, when there is no `--config`",
    "APS_ADMIN_KEY": "the admin key, or its hash; without it there is no administration over HTTP",
    "APS_METRICS_KEY": "the metrics key, or its hash",
}

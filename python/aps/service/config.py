"""What the service is started with: settings, devices, policy, limits, tenants and the digests of their keys."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from math import inf
from pathlib import Path
from time import time
from typing import Literal

from aps import _checks as check
from aps.backends.simulated import TIME_SCALES, SimulatedBackend
from aps.devices import Device
from aps.policy import Limits, Policy
from aps.profile import Profile
from aps.profiles import A100_DOLLARS, A100_PRICE, profile_named
from aps.scheduler import Scheduler
from aps.tenants import Tenant

LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")
MAX_GPUS = 1024
MAX_SLOTS = 1 << 20  # of all devices: what one process can step through
DAY_S = 86_400.0
DURATIONS = ("drain_s", "body_s", "header_s", "keep_alive_s", "send_s", "comment_s", "jain_window_s")
STORE_S = 0.01  # the shortest interval of the store


@dataclass(frozen=True, slots=True)
class Settings:
    """How the service behaves around the scheduler. Immutable and checked when made. Durations are wall seconds.

    host, port: where it listens (port 0: any free one). insecure_open: whether it may listen beyond this machine
        although it has no keys. drain_s: what accepted requests get to finish and answers to be read after SIGTERM.
    max_body_bytes, body_s: the size of a request's body, and the time that it may take to arrive.
    max_pending_bytes: prompts until their requests have ended, and bodies that are being read; None: no bound.
    max_header_bytes, header_s: the same of its header. max_connections: open at once; further ones get 503.
    keep_alive_s: how long a connection may be idle.
    send_s: after so long a client that takes nothing of its answer is cut off and its request cancelled.
    comment_s: how often a stream that has no token yet gets a comment, which keeps its connection open.
    gpu_hour_dollars, price_source: the price behind dollar figures, and where and when it was seen.
    max_labels: values of the label `tenant` in `GET /metrics`; the rest are together "_other".
    jain_window_s: seconds of the service's clock over which Jain's index is taken.
    keep_finished_s, max_finished, max_finished_bytes: how long ended requests stay readable, how many, how much text.
    log_level, log_format: of the service's log on stderr.
    traces: whether each request is traced; the rest is said by the standard OTEL_ variables.
    record: the file that every call of the scheduler is written to; None: it is not. record_max_mb, record_files: the
        size at which a file is moved on, in 2**20 bytes, and how many are kept.
    store: the database of tenants and keys, as `aps.store.database.address` reads it; None: they are not kept.
        store_interval_s: how often usage and the scheduler's state are saved. store_poll_s: how often changes that were
        made elsewhere are looked for. store_service: whose state it is, when several services share a database.
        store_keep_days: how long usage, refusals, the audit and ended runs stay there; None: for ever.

    Raises ValueError (TypeError for a wrong type) naming the field, the value and what is allowed.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    insecure_open: bool = False
    drain_s: float = 30.0
    max_body_bytes: int = 1 << 20
    body_s: float = 30.0
    max_pending_bytes: int | None = 256 << 20
    max_header_bytes: int = 1 << 14
    header_s: float = 10.0
    max_connections: int = 4096
    keep_alive_s: float = 75.0
    send_s: float = 30.0
    comment_s: float = 15.0
    gpu_hour_dollars: float = A100_DOLLARS
    price_source: str = A100_PRICE
    max_labels: int = 100
    jain_window_s: float = 60.0
    keep_finished_s: float = 300.0
    max_finished: int = 10_000
    max_finished_bytes: int = 64 << 20
    log_level: Literal["debug", "info", "warning", "error"] = "warning"
    log_format: Literal["text", "json"] = "text"
    traces: bool = False
    record: str | None = None
    record_max_mb: int = 256
    record_files: int = 10
    store: str | None = field(default=None, repr=False)  # it may have a password
    store_interval_s: float = 5.0
    store_poll_s: float = 0.5
    store_service: str = "aps"
    store_keep_days: int | None = None

    def __post_init__(self) -> None:
        check.text("Settings.host", self.host, "an IP address or a host's name", str.isprintable)
        check.integer("Settings.port", self.port, 0, 65535)
        for name in ("insecure_open", "traces"):
            if not isinstance(value := getattr(self, name), bool):
                raise TypeError(f"Settings.{name} must be true or false, got {value!r}")
        for name in DURATIONS:
            allowed = "seconds above 0 and at most 86400"
            check.number(f"Settings.{name}", getattr(self, name), allowed, lambda x: 0 < x <= DAY_S)
        check.number("Settings.keep_finished_s", self.keep_finished_s, "seconds in 0..86400", lambda x: 0 <= x <= DAY_S)
        check.integer("Settings.max_body_bytes", self.max_body_bytes, 1 << 10, 1 << 30)
        self._check_pending()
        check.integer("Settings.max_header_bytes", self.max_header_bytes, 1 << 10, 1 << 20)
        check.integer("Settings.max_connections", self.max_connections, 1, 1 << 20)
        allowed = "dollars, a finite number >= 0"
        check.number("Settings.gpu_hour_dollars", self.gpu_hour_dollars, allowed, lambda x: 0 <= x < inf)
        check.text("Settings.price_source", self.price_source)
        check.integer("Settings.max_labels", self.max_labels, 1, 1 << 20)
        check.integer("Settings.max_finished", self.max_finished, 0, 1 << 24)
        check.integer("Settings.max_finished_bytes", self.max_finished_bytes, 0, 1 << 40)
        check.choice("Settings.log_level", self.log_level, LOG_LEVELS)
        check.choice("Settings.log_format", self.log_format, LOG_FORMATS)
        if self.record is not None:
            check.text("Settings.record", self.record, "a file's path")
        check.integer("Settings.record_max_mb", self.record_max_mb, 1, 1_000_000)
        check.integer("Settings.record_files", self.record_files, 1, 1000)
        self._check_store()

    def _check_pending(self) -> None:
        most = self.max_pending_bytes
        check.integer("Settings.max_pending_bytes", most, 1 << 10, 1 << 40, optional=True)
        if most is not None:  # a prompt takes up to four times its body; bodies have half of it
            least = 8 * self.max_body_bytes
            allowed = f"at least 8 times max_body_bytes ({least}) or None"
            check.number("Settings.max_pending_bytes", most, allowed, lambda x: x >= least)

    def _check_store(self) -> None:
        allowed = f"seconds in {STORE_S:g}..3600"
        for name in ("store_interval_s", "store_poll_s"):
            check.number(f"Settings.{name}", getattr(self, name), allowed, lambda x: STORE_S <= x <= 3600)
        check.integer("Settings.store_keep_days", self.store_keep_days, 1, 36_500, optional=True)
        allowed = "a str of 1 to 256 printable characters"
        check.text("Settings.store_service", self.store_service, allowed, lambda x: len(x) <= 256 and x.isprintable())
        if self.store is None:
            return
        check.text("Settings.store", self.store, "a file's path or a database's address", str.isprintable)
        from aps.store.database import address  # SQLAlchemy: not for those who keep nothing

        try:
            address(self.store)
        except ValueError as error:
            raise ValueError(f"Settings.store {error}") from None

    @property
    def beyond_this_machine(self) -> bool:
        """Whether other machines can reach `host`."""
        try:
            return not ip_address(self.host).is_loopback
        except ValueError:
            return self.host != "localhost"


@dataclass(frozen=True, slots=True)
class Devices:
    """The simulated GPUs. Immutable and checked when made.

    gpus: how many, all alike. profile: the name of a profile, or the path of its file. slots, kv_tokens,
    token_budget: instead of the profile's; None: the profile's; token_budget 0: whole prompts. block_tokens: tokens in
    a KV block. time_scale: simulated seconds in a wall second.

    Raises ValueError (TypeError for a wrong type) naming the field, the value and what is allowed; an OSError when a
    profile's file cannot be read becomes a ValueError.
    """

    gpus: int = 1
    profile: str = "reference"
    slots: int | None = None
    kv_tokens: int | None = None
    token_budget: int | None = None
    block_tokens: int = 16
    time_scale: float = 1.0
    spec: Profile = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check.integer("Devices.gpus", self.gpus, 1, MAX_GPUS)
        check.text("Devices.profile", self.profile)
        check.integer("Devices.slots", self.slots, 1, 2**16, optional=True)
        check.integer("Devices.block_tokens", self.block_tokens, 1, 2**16)
        check.integer("Devices.kv_tokens", self.kv_tokens, 1, check.INT32_MAX, optional=True)
        check.integer("Devices.token_budget", self.token_budget, 0, check.INT32_MAX, optional=True)
        slowest, fastest = TIME_SCALES
        allowed = f"a number in {slowest:g}..{fastest:g}"
        check.number("Devices.time_scale", self.time_scale, allowed, lambda x: slowest <= x <= fastest)
        try:
            object.__setattr__(self, "spec", profile_named(self.profile))
        except (OSError, ValueError) as error:
            allowed = "a profile that there is and that can be read"
            raise ValueError(f"Devices.profile must be {allowed}, got {self.profile!r}: {error}") from error
        tokens, slots = self.kv_tokens or self.spec.kv_tokens, self.slots or self.spec.slots
        allowed = f"at most the {tokens} tokens of a KV cache"
        check.number("Devices.block_tokens", self.block_tokens, allowed, lambda x: x <= tokens)
        allowed = f"at most {MAX_SLOTS // slots}: {MAX_SLOTS} slots in all, {slots} each"
        check.number("Devices.gpus", self.gpus, allowed, lambda x: x * slots <= MAX_SLOTS)

    @property
    def device(self) -> Device:
        """One of them, as the scheduler sees it."""
        budget = self.spec.token_budget if self.token_budget is None else self.token_budget or None
        return Device(
            slots=self.slots or self.spec.slots,
            kv_blocks=(self.kv_tokens or self.spec.kv_tokens) // self.block_tokens,
            token_budget=budget,
        )

    def backend(self) -> SimulatedBackend:
        """Simulated GPUs, not yet open."""
        return SimulatedBackend(
            self.spec,
            gpus=self.gpus,
            time_scale=self.time_scale,
            slots=self.slots,
            kv_tokens=self.kv_tokens,
            token_budget=self.token_budget,
            block_tokens=self.block_tokens,
        )


@dataclass(frozen=True, slots=True)
class Config:
    """All that `aps serve` needs. Made by `aps.service.config_reader`.

    policy_base: the corner that the policy's other keys changed. keys: digests of each tenant's keys; admin_key,
    metrics_key: those of the other two roles. expiries: of those of the tenants' keys that expire, seconds since the
    epoch of Unix. keyed: there have been keys, though none may be left. file: where it was read from; names_tenants:
    whether it has tables of tenants. origins: what was set, by its full key, and where; the rest are defaults.
    """

    settings: Settings
    devices: Devices
    policy: Policy
    limits: Limits
    tenants: tuple[Tenant, ...]
    policy_base: str = "aps"
    keys: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)
    admin_key: bytes | None = None
    metrics_key: bytes | None = None
    expiries: Mapping[bytes, float] = field(default_factory=dict)
    keyed: bool = False
    file: Path | None = None
    names_tenants: bool = False
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def open(self) -> bool:
        """Whether no key of any role is configured, nor ever was in its store."""
        return not (self.keyed or self.admin_key or self.metrics_key or any(self.keys.values()))

    @property
    def exposed(self) -> bool:
        """Whether it would be open to other machines, and nobody said that it may."""
        return self.open and self.settings.beyond_this_machine and not self.settings.insecure_open

    def working_keys(self, name: str) -> int:
        """How many keys of a tenant work now."""
        now = time()
        return sum(self.expiries.get(digest, inf) > now for digest in self.keys.get(name, ()))

    def scheduler(self, backend: SimulatedBackend) -> Scheduler:
        """A scheduler of these tenants for the backend's devices. ValueError as of `aps.Scheduler`."""
        return Scheduler(
            self.tenants,
            policy=self.policy,
            devices=backend.devices,
            limits=self.limits,
            block_tokens=self.devices.block_tokens,
        )

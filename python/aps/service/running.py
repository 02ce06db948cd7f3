"""The configuration in force, and changing it while the service runs: all of a change or none, at one instant."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from typing import Any

from aps.driver import Driver
from aps.scheduler import Scheduler
from aps.service.access import Access
from aps.service.aside import Unanswered, aside
from aps.service.config import Config
from aps.service.config_keys import KEYS, LIVE
from aps.service.config_reader import ConfigError
from aps.service.config_view import shown, value_of
from aps.tenants import Tenant

Digests = tuple[bytes, ...]

KNOBS = ("aging_horizon_s", "fairness_window")


@dataclass(frozen=True)
class Changes:
    """What a change did. added, changed, removed: tenants by name; rekeyed: those whose keys are others now.

    values: keys of the configuration that have another value now, left: that would, but cannot change in a running
    service; each by its full name, (value before or in force, value configured). differing: what the file says of
    tenants and the store, which wins, does not.
    """

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    rekeyed: tuple[str, ...] = ()
    values: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    left: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    differing: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """In words, a line each."""
        out = [
            f"{what} {len(names)} tenant{'s' if len(names) > 1 else ''}: {', '.join(names[:10])}"
            + (", ..." if len(names) > 10 else "")
            for what, names in (
                ("added", self.added),
                ("changed", self.changed),
                ("removed", self.removed),
                ("other keys of", self.rekeyed),
            )
            if names
        ]
        out += [f"{name}: {_short(old)} is now {_short(new)}" for name, (old, new) in self.values.items()]
        out += [f"{name}: stays {_short(old)}; {_short(new)} needs a restart" for name, (old, new) in self.left.items()]
        return [*(out or ["nothing has changed"]), *self.differing]


class Running:
    """What runs, and as what. Methods are called on the driver's loop.

    config: in force. load: reads the configuration again, in a thread; None: it came from no file. state: has the
    attribute `settings`, which a change of the price replaces. compare: says, in a thread, how the tenants of a
    configuration differ from those of the store, which has them; None: there is no store.
    """

    def __init__(
        self,
        config: Config,
        driver: Driver,
        access: Access,
        state: Any,
        load: Callable[[], Config] | None = None,
        compare: Callable[[Config], tuple[str, ...]] | None = None,
    ) -> None:
        self.config = config
        self._compare = compare
        self._driver, self._access, self._state, self._load = driver, access, state, load
        self._one_at_a_time = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def can_reload(self) -> bool:
        """Whether there is a file to read again."""
        return self._load is not None

    async def reload(self) -> Changes:
        """Read the configuration again and take what can be taken. ConfigError: all that is wrong; nothing changed."""
        if self._load is None:
            raise ConfigError(["the service was started without --config: there is no file to read again"])
        async with self._one_at_a_time:
            wanted = await asyncio.to_thread(self._load)
            if self._compare is None:
                return self.change(wanted)
            try:
                differing = await aside(partial(self._compare, wanted))
            except Unanswered as error:
                differing = (f"how the file's tenants differ from the store's cannot be said: {error}",)
            now = self.config
            wanted = replace(wanted, tenants=now.tenants, keys=now.keys, expiries=now.expiries, keyed=now.keyed)
            return replace(self.change(wanted), differing=differing)

    def tenant(self, name: str) -> Tenant:
        """KeyError: unknown."""
        return self._driver.scheduler.tenants[name]

    def put_tenant(self, tenant: Tenant, keys: Digests | None = None) -> Changes:
        """Add or replace a tenant; keys None: it keeps those it has. ConfigError: a key is somebody else's."""
        return self.change_tenants({tenant.name: tenant}, {} if keys is None else {tenant.name: keys}, {})

    def remove_tenant(self, name: str) -> Changes:
        """Take no more requests of a tenant; what was accepted is served. KeyError: unknown."""
        return self.change_tenants({self.tenant(name).name: None}, {name: ()}, {})

    def change_tenants(
        self,
        tenants: Mapping[str, Tenant | None],
        keys: Mapping[str, Digests],
        expiries: Mapping[bytes, float],
        *,
        keyed: bool = False,
    ) -> Changes:
        """Add or replace tenants, or remove them (None), and give some their keys; all the others stay.

        expiries: of those keys. keyed: there has been a key, though none may be left. The cost does not depend on how
        many others there are, but for copying references to them. Errors as of `change`.
        """
        now, active = self.config, self._driver.scheduler.tenants
        given = [tenant for tenant in tenants.values() if tenant is not None]
        changes = Changes(
            added=tuple(tenant.name for tenant in given if tenant.name not in active),
            changed=tuple(tenant.name for tenant in given if active.get(tenant.name, tenant) != tenant),
            removed=tuple(name for name, tenant in tenants.items() if tenant is None and name in active),
            rekeyed=tuple(name for name, digests in keys.items() if set(digests) != set(now.keys.get(name, ()))),
        )
        new = {tenant.name: tenant for tenant in given}
        self._rehearse_tenants(now, [new[name] for name in (*changes.added, *changes.changed)])
        old = {digest for name in keys for digest in now.keys.get(name, ())}
        try:
            self._access.change(old, keys, expiries, keyed=keyed)
        except ValueError as error:
            raise ConfigError([str(error)]) from error
        rest = tuple(tenants.get(tenant.name, tenant) for tenant in now.tenants)
        whose = {name: digests for name, digests in {**now.keys, **keys}.items() if tenants.get(name, True)}
        target = replace(
            now,
            tenants=(*(tenant for tenant in rest if tenant is not None), *(new[name] for name in changes.added)),
            keys=whose,
            expiries={digest: at for digest, at in now.expiries.items() if digest not in old} | dict(expiries),
            keyed=keyed or now.keyed or any(keys.values()),
        )
        self._make(changes, new)
        self.config = target
        return changes

    def set_knobs(self, **knobs: Any) -> Changes:
        """Turn `aging_horizon_s`, `fairness_window`. ValueError as of `aps.Policy`."""
        return self.change(replace(self.config, policy=replace(self.config.policy, **knobs)))

    def change(self, wanted: Config) -> Changes:
        """Make the service what is wanted, as far as it can be while it runs.

        ConfigError: it cannot be that; DriverError: the driver has failed. Nothing has changed then.
        """
        now = self.config
        target = _reachable(now, wanted)
        active = dict(self._driver.scheduler.tenants)
        asked = {tenant.name: tenant for tenant in target.tenants}
        added = [tenant for name, tenant in asked.items() if name not in active]
        changed = [tenant for name, tenant in asked.items() if active.get(name, tenant) != tenant]
        self._rehearse(target, added + changed)
        changes = Changes(
            added=tuple(tenant.name for tenant in added),
            changed=tuple(tenant.name for tenant in changed),
            removed=tuple(name for name in active if name not in asked),
            rekeyed=tuple(
                name
                for name in dict.fromkeys((*now.keys, *target.keys))
                if set(now.keys.get(name, ())) != set(target.keys.get(name, ()))
            ),
            values=_differences(now, target, live=True),
            left=_differences(now, wanted, live=False) | _profile(now, wanted),
        )
        self._make(changes, asked, {name: getattr(target.policy, name) for name in KNOBS})
        self._access.replace(target.keys, admin=target.admin_key, metrics=target.metrics_key, expiries=target.expiries)
        self._state.settings = target.settings
        self.config = target
        return changes

    def hangup(self, say: Callable[[str], None], warn: Callable[[str], None]) -> Callable[[], None] | None:
        """What SIGHUP does: reload, and say what became of it; warn when that is nothing. None: there is nothing to
        reload."""
        if self._load is None:
            return None

        async def reload() -> None:
            tell = warn
            try:
                lines = (await self.reload()).lines()
                tell = say
            except ConfigError as error:
                lines = [f"refused, nothing has changed: {problem}" for problem in error.problems]
            except Exception as error:  # of the driver, which says the rest itself
                lines = [f"failed: {error}"]
            for line in lines:
                tell(f"reload: {line}")

        def hangup() -> None:
            task = asyncio.get_running_loop().create_task(reload())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return hangup

    def rehearse_tenant(self, tenant: Tenant, keys: Iterable[bytes] = ()) -> None:
        """ConfigError: the service cannot have this tenant, or one of these keys. Any thread may ask."""
        now = self.config
        self._rehearse_tenants(now, [tenant])
        if not {now.admin_key, now.metrics_key}.isdisjoint(keys):
            raise ConfigError([f"tenant {tenant.name} and the admin or the metrics key share one"])

    def _make(self, changes: Changes, tenants: Mapping[str, Tenant], knobs: Mapping[str, Any] | None = None) -> None:
        """At one instant; nothing is dispatched in between."""
        driver = self._driver
        turned = {name: value for name, value in (knobs or {}).items() if f"policy.{name}" in changes.values}
        with driver.together():
            for name in changes.removed:
                driver.remove_tenant(name)
            for name in changes.changed:
                driver.set_tenant(tenants[name])
            for name in changes.added:
                driver.add_tenant(tenants[name])
            if turned:
                driver.set_policy(**turned)

    def _rehearse(self, target: Config, tenants: list[Tenant]) -> None:
        """On a scheduler of its own, and with keys of their own: what fails there has changed nothing here."""
        if target.open and not self._access.open:
            raise ConfigError(["the service has keys, and would have none: start it again to open it to everybody"])
        self._rehearse_tenants(target, tenants)
        try:
            Access.of(target)
        except ValueError as error:
            raise ConfigError([str(error)]) from error

    def _rehearse_tenants(self, target: Config, tenants: list[Tenant]) -> None:
        scheduler = self._driver.scheduler
        try:
            Scheduler(
                tenants,
                policy=target.policy,
                devices=scheduler.devices,
                limits=scheduler.limits,
                block_tokens=scheduler.block_tokens,
            )
        except (ValueError, OverflowError) as error:
            raise ConfigError([str(error)]) from error


def _reachable(now: Config, wanted: Config) -> Config:
    """What of the wanted configuration a running service can become."""
    settings = {
        key.field: getattr(wanted.settings, key.field)
        for key in KEYS
        if key.live == LIVE and key.owner is type(now.settings)
    }
    return replace(
        now,
        settings=replace(now.settings, **settings),
        policy=replace(now.policy, **{name: getattr(wanted.policy, name) for name in KNOBS}),
        tenants=wanted.tenants,
        keys=wanted.keys,
        expiries=wanted.expiries,
        keyed=wanted.keyed,
        origins=wanted.origins,
    )


def _differences(now: Config, then: Config, *, live: bool) -> dict[str, tuple[Any, Any]]:
    """Infinite values as "inf"."""
    pairs = {
        key.full: (value_of(now, key.full), value_of(then, key.full)) for key in KEYS if (key.live == LIVE) is live
    }
    return {
        name: (_plain(shown(name, old)), _plain(shown(name, new))) for name, (old, new) in pairs.items() if old != new
    }


def _profile(now: Config, then: Config) -> dict[str, tuple[Any, Any]]:
    """A profile of the same name or path whose file says something else now."""
    old, new = now.devices, then.devices
    if old.profile != new.profile or old.spec == new.spec:
        return {}
    return {"devices.profile": (f"{old.profile} as it was read", f"{new.profile} as it is now")}


def _plain(value: Any) -> Any:
    return "inf" if isinstance(value, float) and value == inf else value


def _short(value: Any) -> str:
    return f"{value:.10g}" if isinstance(value, float) else "none" if value is None else str(value)

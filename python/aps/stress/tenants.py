"""The tenants of the stress test, brought to a service that lacks them and taken away again."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from math import inf
from types import TracebackType
from typing import Any, Self

from aps.service.tenants import DEFAULT_TENANTS, STRESS_TENANTS
from aps.stress.client import Client, ServiceError
from aps.stress.counters import Counters
from aps.tenants import Tenant

TENANTS = {tenant.name: tenant for tenant in DEFAULT_TENANTS + STRESS_TENANTS}


class Tenants:
    """An async context manager: the test's tenants that the service lacks are there inside the block.

    That takes the admin key; without one the service's tenants are what there is. Tenants that the service has stay as
    they are, whatever their limits. `there`: which of them can be used; `brought`: which are ours.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self.there: frozenset[str] = frozenset()
        self.brought: list[str] = []

    async def __aenter__(self) -> Self:
        scrape = Counters(await self._client.metrics())
        missing = [name for name in TENANTS if not scrape.has("aps_tenant_weight", tenant=name)]
        if self._client.has_key:
            try:
                for name in missing:
                    self.brought.append(name)  # whoever is cut off here does not hear that it is there
                    await self._client.administer("PUT", name, settings(TENANTS[name]))
            except BaseException:
                for name in self.brought:
                    with suppress(ServiceError):  # the last may not be there
                        await self._client.administer("DELETE", name)
                raise
        self.there = frozenset(TENANTS) - frozenset(missing) | frozenset(self.brought)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in self.brought:
            await self._client.administer("DELETE", name)

    def lacks(self, names: Sequence[str]) -> list[str]:
        """Which of these cannot be used."""
        return [name for name in names if name not in self.there]


def settings(tenant: Tenant) -> dict[str, Any]:
    """A tenant as `PUT /admin/tenants/{id}` takes it."""
    fields = {key: value for key, value in asdict(tenant).items() if key != "name"}
    return {key: None if value == inf else value for key, value in fields.items()}

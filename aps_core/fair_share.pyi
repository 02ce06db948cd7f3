from typing import SupportsFloat, SupportsIndex, final

@final
class FairShare:
    """Service accounts by tenant number: see the module.

    TypeError: no number, or no integer where one is due. ValueError: out of range. Nothing has changed then.
    """

    def __new__(cls, tenants: SupportsIndex = 16, fairness_window: SupportsFloat = 2048.0) -> FairShare: ...
    @property
    def tenants(self) -> int:
        """Tenant numbers are 0..tenants-1."""
    @property
    def virtual_time(self) -> float:
        """V: the running maximum of the least service among the contending, cost units / weight."""
    @property
    def widest_gap(self) -> float:
        """The largest (S - V) * weight of a contending account at the end of a step so far, cost units."""
    @property
    def window(self) -> float:
        """D, cost units."""
    @property
    def contending(self) -> int:
        """Tenants that contend."""
    @property
    def outside(self) -> int:
        """Contending tenants outside the window."""
    def reserve(self, tenants: int) -> None:
        """Make room for tenant numbers below `tenants` (1..2**24)."""
    def set_weight(self, tenant: SupportsIndex, weight: SupportsFloat) -> None:
        """Change a tenant's share (1e-9 to 1e9); its lead over V, in cost, is kept."""
    def set_fairness_window(self, fairness_window: SupportsFloat) -> None:
        """Change D (cost units, at least 0, infinity allowed)."""
    def set_contending(self, tenant: SupportsIndex, contends: bool) -> None:
        """The tenant's first request may go by its own limits, or not."""
    def charge_cost(self, tenant: SupportsIndex, cost: SupportsFloat) -> None:
        """Charge `cost` (cost units, 0 to 1e18); credit is used up first."""
    def give_credit(self, tenant: SupportsIndex, unused: SupportsFloat) -> None:
        """Cost units (0 to 1e18) that were charged and not used."""
    def forget(self, tenant: SupportsIndex) -> None:
        """Give a tenant's account up: its number starts anew. ValueError while it contends."""
    def is_in_window(self, tenant: SupportsIndex) -> bool:
        """Contends, and ``S - D / weight <= V``."""
    def account(self, tenant: SupportsIndex) -> tuple[float, float, float, float, bool]:
        """(service, credit, weight, threshold, contends)."""

"""Section 5 of the rules as written: V by a scan of all contending tenants at the end of each step."""

import math
from dataclasses import dataclass


@dataclass
class Account:
    service: float = 0.0  # S
    credit: float = 0.0
    weight: float = 1.0
    threshold: float = 0.0  # T
    contends: bool = False


class FairShare:
    def __init__(self, tenants: int, fairness_window: float) -> None:
        self.window = fairness_window  # D
        self.virtual_time = 0.0  # V
        self.widest_gap = 0.0
        self.last: int | None = None  # the last to stop
        self.accounts: list[Account] = []
        self.reserve(tenants)

    def reserve(self, tenants: int) -> None:
        while len(self.accounts) < tenants:
            self.accounts.append(Account())
            self._place(self.accounts[-1])

    def _place(self, it: Account) -> None:
        it.threshold = -math.inf if self.window == math.inf else it.service - self.window / it.weight

    def _finish(self) -> None:
        contending = [it.service for it in self.accounts if it.contends]
        if contending:
            self.virtual_time = max(self.virtual_time, min(contending))
        for it in self.accounts:
            if it.contends:
                self.widest_gap = max(self.widest_gap, (it.service - self.virtual_time) * it.weight)

    def set_contending(self, tenant: int, contends: bool) -> None:
        it = self.accounts[tenant]
        if contends == it.contends:
            return
        if contends:
            self._begin(it)
        else:
            self.last = tenant
        it.contends = contends
        self._finish()

    def _begin(self, it: Account) -> None:
        if self.last is not None and not any(other.contends for other in self.accounts):
            last = self.accounts[self.last]
            self.virtual_time = max(self.virtual_time, last.service - last.credit / last.weight)
        it.service = max(self.virtual_time, it.service - it.credit / it.weight)
        it.credit = 0.0
        self._place(it)

    def charge_cost(self, tenant: int, cost: float) -> None:
        it = self.accounts[tenant]
        offset = min(it.credit, cost)
        it.credit = it.credit - offset
        it.service = it.service + (cost - offset) / it.weight
        self._place(it)
        self._finish()

    def give_credit(self, tenant: int, unused: float) -> None:
        self.accounts[tenant].credit += unused

    def set_weight(self, tenant: int, weight: float) -> None:
        it = self.accounts[tenant]
        it.service = self.virtual_time + max(0.0, it.service - self.virtual_time) * it.weight / weight
        it.weight = weight
        self._place(it)
        self._finish()

    def set_fairness_window(self, window: float) -> None:
        if window < self.window:
            for it in self.accounts:
                it.service = min(it.service, self.virtual_time + window / it.weight)
        self.window = window
        for it in self.accounts:
            self._place(it)
        self._finish()

    def forget(self, tenant: int) -> None:
        it = self.accounts[tenant]
        assert not it.contends
        if self.last == tenant:
            if not any(other.contends for other in self.accounts):
                self.virtual_time = max(self.virtual_time, it.service - it.credit / it.weight)
            self.last = None
        self.accounts[tenant] = Account()
        self._place(self.accounts[tenant])

    def is_in_window(self, tenant: int) -> bool:
        return self.accounts[tenant].contends and self.accounts[tenant].threshold <= self.virtual_time

    @property
    def contending(self) -> int:
        return sum(it.contends for it in self.accounts)

    @property
    def outside(self) -> int:
        return sum(it.contends and not self.is_in_window(tenant) for tenant, it in enumerate(self.accounts))

    def account(self, tenant: int) -> tuple[float, float, float, float, bool]:
        it = self.accounts[tenant]
        return it.service, it.credit, it.weight, it.threshold, it.contends

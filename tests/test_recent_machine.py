"""The sliding window and its slow twin on the same instants: any lengths of silence, tenants that come, wait and go."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from aps.backends.protocol import Usage
from aps.recent import PIECES, USED, Recent
from tests.twins import recent as twin

NAMES = ("a", "b", "c")
GAPS = st.sampled_from([0.0, 0.001, 0.3, 1.0, 2.5, 7.0, 59.0, 60.0, 66.0, 500.0])
COLUMNS = {"admitted": np.int64, "throttled": np.int64, "rejected": np.int64, "contending": np.bool_, "weight": float}
NEW = twin.Tenant(weight=1.0, contends=False, waits_since=None, tokens=0, told=(0, 0, 0))


class World:
    """As much of a scheduler, a backend and a driver's metrics as the window looks at."""

    time_scale = 1.0
    devices = (None, None)

    def __init__(self) -> None:
        self.now = 0.0
        self.there: dict[str, twin.Tenant] = {}
        self.tallies: dict[str, SimpleNamespace] = {}
        self.used = [0.0] * len(USED)
        self.first = SimpleNamespace(ttft=SimpleNamespace(count=0))
        self.recomputed_tokens = 0
        self.bids = {5: self.first}

    @property
    def tenants(self) -> dict[str, SimpleNamespace]:
        return self.tallies

    def put(self, name: str, tenant: twin.Tenant) -> None:
        self.there[name] = tenant
        tally = self.tallies.setdefault(name, SimpleNamespace(name=name, account=len(self.tallies)))
        tally.waiting, tally.waits_since = tenant.waits_since is not None, tenant.waits_since
        tally.tokens = tenant.tokens

    def remove(self, name: str) -> None:
        del self.there[name]
        self.tallies[name].waiting, self.tallies[name].waits_since = False, None

    def instant(self) -> twin.Instant:
        work = (*self.used, self.first.ttft.count, self.recomputed_tokens)
        return twin.Instant(self.now, dict(self.there), tuple(map(float, work)))

    def snapshot(self, *, now: float) -> Any:
        assert now == self.now
        rows = self.there.values()
        told = zip(*(row.told for row in rows), strict=True) if rows else ((),) * 3
        values = [*told, [row.contends for row in rows], [row.weight for row in rows]]
        columns: dict[str, Any] = {
            name: np.array(value, kind) for (name, kind), value in zip(COLUMNS.items(), values, strict=True)
        }
        places = {name: place for place, name in enumerate(self.there)}
        return SimpleNamespace(tenants=SimpleNamespace(names=[*self.there], columns=columns, places=places))

    def served(self, accounts: int) -> Any:
        tokens = [tally.tokens for tally in self.tallies.values()]
        return np.array([[n // 2 for n in tokens], [n - n // 2 for n in tokens]], np.int64).reshape(2, accounts)

    def usage(self, device: int) -> Usage | None:
        return SimpleNamespace(**dict(zip(USED, self.used, strict=True))) if device else None  # type: ignore[return-value]


class Window(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        for name in NAMES[:2]:
            self.world.put(name, NEW)
        everything: Any = self.world
        self.recent = Recent(everything, everything, everything)
        self.recent.roll(0.0)
        self.twin = twin.Recent(self.recent.window_s, 1.0, self.world.instant())

    @rule(gap=GAPS, name=st.sampled_from(NAMES), told=st.tuples(*[st.integers(0, 9)] * 3), tokens=st.integers(0, 99))
    def serve(self, gap: float, name: str, told: tuple[int, int, int], tokens: int) -> None:
        """Time passes; then there is news of a tenant and a device."""
        world = self.world
        world.now += gap
        row = world.there.get(name, NEW)
        counts = row.told[0] + told[0], row.told[1] + told[1], row.told[2] + told[2]
        kept = world.tallies[name].tokens if name in world.tallies else 0  # also of one that was away
        world.put(name, replace(row, told=counts, tokens=kept + tokens))
        world.used = [n + tokens * factor for n, factor in zip(world.used, (0.125, 0.25, 0.5, 1, 2), strict=True)]
        world.first.ttft.count += told[0]
        world.recomputed_tokens += told[1]
        self.starts()

    @rule(name=st.sampled_from(NAMES), waits=st.booleans(), contends=st.booleans(), weight=st.sampled_from([1.0, 2.5]))
    def change(self, name: str, waits: bool, contends: bool, weight: float) -> None:
        row = self.world.there.get(name)
        if row is None:
            return
        since = (self.world.now if row.waits_since is None else row.waits_since) if waits else None
        self.world.put(name, replace(row, waits_since=since, contends=contends, weight=weight))
        self.starts()

    @precondition(lambda self: self.world.there)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        self.world.remove(data.draw(st.sampled_from(sorted(self.world.there))))
        self.starts()

    def starts(self) -> None:
        """As when a batch starts."""
        if self.world.now >= self.recent.due_at:
            self.recent.roll(self.world.now)
        self.twin.starts(self.world.instant())

    @rule(gap=GAPS)
    def look(self, gap: float) -> None:
        self.world.now += gap
        found, right = self.recent.look(self.world.now), self.twin.look(self.world.instant())
        assert found.seconds == pytest.approx(right.seconds) == pytest.approx(min(self.world.now, self.twin.window_s))
        assert found.contended_s == pytest.approx(right.contended_s)
        assert [*found.work] == pytest.approx(right.work, abs=1e-9)
        assert {name: [*share] for name, share in found.shares.items()} == {
            name: pytest.approx(share) for name, share in right.shares.items()
        }
        assert found.jain == pytest.approx(right.jain) and found.weighted_jain == pytest.approx(right.weighted_jain)
        assert {name: [*found.verdicts(name)] for name in self.world.there} == right.told
        assert len(self.recent._pieces) <= PIECES + 1


TestWindow = Window.TestCase

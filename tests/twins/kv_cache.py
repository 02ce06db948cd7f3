"""Slow twin of `aps_core.kv_cache`, written from docs/rules.md section 7: it looks at every step up to the horizon."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, floor
from typing import Literal, Protocol


class Need(Protocol):
    """What a request would need on a device (prefill None: its prompt and what it has generated)."""

    @property
    def prompt_tokens(self) -> int: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def generated(self) -> int: ...
    @property
    def prefill(self) -> int | None: ...
    @property
    def bid(self) -> int: ...


@dataclass
class Request:
    """A request that runs, or that is imagined to."""

    p: int
    m: int
    g: int
    q: int
    bid: int
    number: int
    request: int = -1
    target: int = 0
    g_at_start: int = 0
    computed: int = 0


class Device:
    """Slots and blocks of one device."""

    def __init__(self, slots: int, kv_blocks: int, token_budget: int, block_tokens: int, watermark: float) -> None:
        self.slots, self.token_budget, self.block_tokens = slots, token_budget, block_tokens
        self.limit = floor(watermark * kv_blocks)
        self.rows: dict[int, Request] = {}
        self.starts = 0

    def imagine(self, need: Need, number: int) -> Request:
        q = need.prompt_tokens + need.generated if need.prefill is None else need.prefill
        p, m, g = need.prompt_tokens, need.max_tokens, need.generated
        return Request(p, m, g, q, need.bid, number, target=q, g_at_start=g)

    def max_blocks(self, r: Request) -> int:
        return -(-(r.p + r.m) // self.block_tokens)

    def held_blocks(self, r: Request) -> int:
        return min(self.max_blocks(r), ceil((r.p + r.g) / self.block_tokens))

    def end(self, r: Request, everyone: Iterable[Request]) -> int:
        """The step after which r has released its blocks, at the latest."""
        lag = 0
        if r.q > 0 and self.token_budget == 0:
            lag = 1
        elif r.q > 0:
            ahead = sum(other.q for other in everyone if (-other.bid, other.number) <= (-r.bid, r.number))
            lag = ceil(ahead / max(1, self.token_budget - self.slots))
        return max(1, lag + r.m - r.g)

    def use(self, r: Request, k: int) -> int:
        """Blocks of r in step k if it decodes from now on and has not ended."""
        if 0 < self.token_budget < 2 * self.slots:
            return self.max_blocks(r)
        return ceil(min(r.p + r.m, r.p + r.g + k) / self.block_tokens)

    def fits(self, running: list[Request], c: Request) -> bool:
        everyone = [*running, c]
        if len(everyone) > self.slots:
            return False
        ends = [(self.end(r, everyone), r) for r in everyone]
        horizon = max(end for end, _ in ends)
        return all(sum(self.use(r, k) for end, r in ends if k <= end) <= self.limit for k in range(1, horizon + 1))

    def fits_at(self, running: list[Request], r: Request, step: int) -> bool:
        """r starts after `step` more steps; its prefill is in the order from now on."""
        everyone = [*running, r]
        ends = [(self.end(o, everyone), o) for o in running]
        if sum(end > step for end, _ in ends) > self.slots - 1:
            return False
        return all(
            sum(self.use(o, k) for end, o in ends if k <= end) + self.use(r, k - step) <= self.limit
            for k in range(step + 1, step + self.end(r, everyone) + 1)
        )

    def earliest(self, running: list[Request], r: Request) -> int:
        everyone = [*running, r]
        horizon = max((self.end(o, everyone) for o in running), default=0)
        return next(step for step in range(horizon + 1) if self.fits_at(running, r, step))


class KVCache:
    """The same answers as the compiled class."""

    def __init__(
        self,
        slots: Iterable[int],
        kv_blocks: Iterable[int],
        token_budgets: Iterable[int],
        block_tokens: int = 16,
        kv_high_watermark: float = 1.0,
    ) -> None:
        self._devices = [
            Device(*device, block_tokens, kv_high_watermark)
            for device in zip(slots, kv_blocks, token_budgets, strict=True)
        ]

    def can_start(self, device: int, need: Need, without: Iterable[int] = ()) -> bool:
        d, gone = self._devices[device], set(without)
        return d.fits([r for row, r in d.rows.items() if row not in gone], d.imagine(need, d.starts + 1))

    def earliest_step(self, device: int, need: Need) -> int:
        d = self._devices[device]
        return d.earliest([*d.rows.values()], d.imagine(need, d.starts + 1))

    def backfill_kind(
        self, device: int, need: Need, reserved: Need, step: int
    ) -> Literal["blocked", "ends_before", "ends_after"]:
        d = self._devices[device]
        running, c = [*d.rows.values()], d.imagine(need, d.starts + 1)
        if not (d.fits(running, c) and d.fits_at([*running, c], d.imagine(reserved, d.starts + 2), step)):
            return "blocked"
        return "ends_before" if d.end(c, [*running, c]) <= step else "ends_after"

    def start(self, device: int, need: Need, row: int, request: int = -1) -> None:
        """Starts in the row that the compiled class chose."""
        d = self._devices[device]
        d.starts += 1
        d.rows[row] = d.imagine(need, d.starts)
        d.rows[row].request = request

    def advance(self, device: int, row: int, computed: int, generated: int) -> None:
        r = self._devices[device].rows[row]
        r.q = 0 if generated > r.g or r.q == 0 else max(0, r.target - computed)
        r.g, r.computed = generated, computed

    def finish(self, device: int, row: int) -> None:
        del self._devices[device].rows[row]

    def device_state(self, device: int) -> tuple[int, int, int, int, int]:
        d = self._devices[device]
        rows = d.rows.values()
        return d.slots, len(rows), sum(map(d.held_blocks, rows)), sum(map(d.max_blocks, rows)), d.limit

    def row_state(self, device: int, row: int) -> tuple[int, int, int, int, int, int]:
        r = self._devices[device].rows[row]
        return r.request, r.number, r.target, r.q, r.computed, r.computed + r.g - r.g_at_start

"""What fits in the KV cache of one device, by the late-release envelope (docs/rules.md, section 7): every sum anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Space:
    """A device as the envelope sees it."""

    slots: int
    limit: int
    token_budget: int
    block_tokens: int


@dataclass(frozen=True, eq=False)
class Claim:
    """A request that runs or would run; `order` is its place in the prefill order."""

    prompt_tokens: int
    max_tokens: int
    generated: int
    prefill: int
    order: tuple[int, float]  # (-bid at its start, start number)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def lag(claim: Claim, everyone: Sequence[Claim], space: Space) -> int:
    if claim.prefill == 0:
        return 0
    if space.token_budget == 0:
        return 1
    ahead = sum(other.prefill for other in everyone if other.order <= claim.order)
    return ceil_div(ahead, max(1, space.token_budget - space.slots))


def end(claim: Claim, everyone: Sequence[Claim], space: Space) -> int:
    """The last step, counted from now, at which it may hold blocks."""
    return max(1, lag(claim, everyone, space) + claim.max_tokens - claim.generated)


def use(claim: Claim, last: int, k: int, space: Space) -> int:
    """Blocks at step k of a claim that ends at step `last`."""
    if not 1 <= k <= last:
        return 0
    most = claim.prompt_tokens + claim.max_tokens
    if 0 < space.token_budget < 2 * space.slots:
        return ceil_div(most, space.block_tokens)
    return ceil_div(min(most, claim.prompt_tokens + claim.generated + k), space.block_tokens)


def fits(claim: Claim, running: Sequence[Claim], space: Space) -> bool:
    everyone = [*running, claim]
    if len(everyone) > space.slots:
        return False
    ends = {c: end(c, everyone, space) for c in everyone}
    # Uses only grow until they end, so a sum is largest at some end.
    return all(sum(use(c, ends[c], k, space) for c in everyone) <= space.limit for k in ends.values())


def fits_at(reserved: Claim, step: int, others: Sequence[Claim], space: Space) -> bool:
    """Whether `reserved` could start at `step`, prefilling in the place it would have if it started now."""
    everyone = [*others, reserved]
    ends = {c: end(c, everyone, space) for c in everyone}
    if sum(ends[c] > step for c in others) > space.slots - 1:
        return False
    return all(
        sum(use(c, ends[c], k, space) for c in others) + use(reserved, ends[reserved], k - step, space) <= space.limit
        for k in [*(ends[c] for c in others), step + ends[reserved]]
        if step < k <= step + ends[reserved]
    )


def earliest_step(reserved: Claim, others: Sequence[Claim], space: Space) -> int:
    step = 0
    while not fits_at(reserved, step, others, space):
        step += 1
    return step


def last_step(claim: Claim, running: Sequence[Claim], space: Space) -> int:
    return end(claim, [*running, claim], space)

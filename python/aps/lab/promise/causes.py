"""Which of bid, weight and bucket made the shares of the burst: each is taken away, and the share looked at again."""

from collections.abc import Mapping, Sequence
from typing import Any

from aps.lab.progress import Parts, Progress
from aps.lab.promise.burst import FREE, PROMISED, VIP, burst

MAKES = 0.10  # of the share: what moves it by more makes it
MOVES = 0.005  # what moves it by less has no part in it
EQUAL_BID = 5


def vip_share(figures: Mapping[str, Any]) -> float:
    """The VIP's part of the tokens computed while both tenants wait: totals over the seeds."""
    tokens = {name: figures["fairness"]["all_wait_tokens"][name]["mean"] for name in (VIP, FREE)}
    return float(tokens[VIP] / sum(tokens.values()))


def causes(
    seeds: Sequence[int], figures: Mapping[str, Any], *, on_progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Bid, weight and bucket, the one that moves the VIP's share most first.

    [{"factor", "without", "share_with", "share_without", "part": "makes" | "moves" | "none", "words"}].
    figures: of the burst under each policy, as `burst` gives them.
    """
    name = PROMISED.name
    share = vip_share(figures[name])
    parts = Parts(on_progress, {"bid": 1.0, "bucket": 1.0})
    equal_bids = burst(seeds, policies=(PROMISED,), on_progress=parts.of("bid"), vip_bid=EQUAL_BID, free_bid=EQUAL_BID)
    unlimited = burst(seeds, policies=(PROMISED,), on_progress=parts.of("bucket"), buckets=False)
    found = [
        _cause("weight", "equal weights", share, vip_share(figures["equal-weights"])),
        _cause("bid", "equal bids", share, vip_share(equal_bids["figures"][name])),
        _cause("bucket", "no buckets", share, vip_share(unlimited["figures"][name])),
    ]
    return sorted(found, key=lambda cause: -abs(cause["share_with"] - cause["share_without"]))


def _cause(factor: str, without: str, share: float, left: float) -> dict[str, Any]:
    moved = abs(share - left)
    part = "makes" if moved > MAKES else "moves" if moved > MOVES else "none"
    does = {
        "makes": f"the {factor} makes the shares",
        "moves": f"the {factor} moves them by {100 * moved:.1f} points",
        "none": f"the {factor} has no part in them",
    }
    return {
        "factor": factor,
        "without": without,
        "share_with": share,
        "share_without": left,
        "part": part,
        "words": f"With {without} the VIP gets {left:.1%} of the tokens computed while both wait instead of "
        f"{share:.1%}: {does[part]}.",
    }

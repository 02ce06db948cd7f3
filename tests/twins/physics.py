"""The physics of a step in plain Python, straight from its formula; pow is the C library's."""

import math
from collections.abc import Mapping, Sequence


def seconds(
    constants: Mapping[str, float], decode_contexts: Sequence[int], chunks: Sequence[tuple[int, int]], s: int, m: int
) -> float:
    """decode_contexts: cached tokens of each decode; chunks: (length, cached before); s: emits; m: swapped tokens."""
    L, d, kv, W, H, BW, F, p, e1, e0, BW_kv, a0, a1, F_self, F_past, t_host, BW_swap = constants.values()
    b, K = len(decode_contexts), float(sum(decode_contexts))
    n = b + sum(length for length, _ in chunks)
    T = n if n <= 64 else 128 * math.ceil(n / 128)
    u = L * d / 4096
    products = math.pow(math.pow(W / BW, p) + math.pow(W * T / F, p), 1 / p)
    lin = products + e1 * n * u + e0 * u
    head = max(H / BW, H * s / F)
    dec = L * (a0 + K * kv / BW_kv + a1 * b) if b else 0.0
    squares = sum((float(length) ** 2 for length, _ in chunks), 0.0)
    past = sum((float(length) * k for length, k in chunks), 0.0)
    pre = L * 4 * d * (squares / (2 * F_self) + past / F_past)
    swap = m * L * kv / BW_swap
    return t_host + lin + head + dec + pre + swap

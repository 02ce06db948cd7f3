"""The promised stress test in virtual time: W1 and W2, what each promised figure is, and whether it is met."""

from aps.lab.promise.promised import BURST_SEEDS, promised

__all__ = ["BURST_SEEDS", "promised"]

"""What requests run on."""

from dataclasses import dataclass

from aps import _checks as check


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU or engine that pulls batches. Immutable and checked when made.

    slots: requests that may run on it at once, 1..65536.
    kv_blocks: blocks of its KV cache (the scheduler's `block_tokens` tokens each). The default, 4,096 blocks of 16
        tokens, is 32 GiB at Llama-2-7B's 0.5 MiB a token.
    token_budget: tokens a step computes at most, prefill chunks included; None: prompts are prefilled whole. Below
        2 * slots, requests are held to the sum of their largest sizes.
    name: how snapshots call it; one scheduler's devices have different names.

    Raises ValueError (TypeError for a wrong type) naming the field, the value and what is allowed.
    """

    slots: int = 16
    kv_blocks: int = 4096
    token_budget: int | None = 512
    name: str = "gpu0"

    def __post_init__(self) -> None:
        check.integer("Device.slots", self.slots, 1, 2**16)
        check.integer("Device.kv_blocks", self.kv_blocks, 1, check.INT32_MAX)
        check.integer("Device.token_budget", self.token_budget, 1, check.INT32_MAX, optional=True)
        check.text("Device.name", self.name)

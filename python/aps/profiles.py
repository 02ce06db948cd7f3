"""What a simulated GPU is: how long its steps take, what fits on it, what it costs."""

from dataclasses import dataclass

from aps.devices import Device
from aps_core.step_time import ReferenceModel, StepTimeModel


@dataclass(frozen=True, slots=True)
class Profile:
    """A GPU with a model on it.

    step_time: seconds of one step. slots: requests at once. kv_tokens: tokens that its KV cache holds.
    token_budget: tokens in a step; None: whole prompts. dollars_per_hour: of one GPU, and where that price is from.
    """

    name: str
    description: str
    step_time: StepTimeModel
    slots: int
    kv_tokens: int
    token_budget: int | None
    dollars_per_hour: float
    price_source: str

    def device(self, name: str, block_tokens: int = 16) -> Device:
        """The profile as the scheduler sees it: whole blocks only."""
        return Device(
            name=name, slots=self.slots, kv_blocks=self.kv_tokens // block_tokens, token_budget=self.token_budget
        )


_LLAMA2_7B_KV_BYTES = 2 * 32 * 32 * 128 * 2  # keys and values, layers, heads, head size, fp16: 512 KiB a token

REFERENCE = Profile(
    name="reference",
    description="stylised, slower than a real A100: prefill 1,024 tokens/s, decode 128 tokens/s, 2.5 times at batch 16",
    step_time=ReferenceModel(),
    slots=16,
    kv_tokens=32_000_000_000 // _LLAMA2_7B_KV_BYTES,
    token_budget=None,
    dollars_per_hour=1.39,
    price_source="RunPod Community Cloud, A100 SXM 80 GB, November 2026",
)

PROFILES = {profile.name: profile for profile in (REFERENCE,)}


def profile_named(name: str) -> Profile:
    """ValueError lists the names there are."""
    if name not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {name!r}")
    return PROFILES[name]

"""The profiles that come with APS, and finding one by name or by file."""

from aps.models import LLAMA2_7B, LLAMA2_13B, LLAMA3_8B, ModelShape
from aps.profile import Profile, kv_tokens_in, physics
from aps.profile_files import read_profile
from aps_core.step_time import ReferenceModel

A100_DOLLARS = 1.39
A100_PRICE = "RunPod Community Cloud, A100 SXM 80 GB, November 2026"
A100_FLOPS = 312e12  # fp16 without sparsity, NVIDIA's data sheet
A100_MEMORY = 72_000_000_000  # nine tenths of 80e9 bytes, for weights and cache: vLLM's default

REFERENCE = Profile(
    name="reference",
    description="stylised, several times slower than a real A100: prefill 1,024 tokens/s, decode 128 tokens/s, "
    "speed-up rising in a straight line from 1 at batch 1 to 2.5 at batch 16; 32e9 bytes of KV cache",
    step_time=ReferenceModel(),
    slots=16,
    kv_tokens=32_000_000_000 // LLAMA2_7B.kv_bytes_per_token,
    token_budget=None,
    dollars_per_hour=A100_DOLLARS,
    price_source=A100_PRICE,
    kv_bytes_per_token=LLAMA2_7B.kv_bytes_per_token,
    measured_on="nothing: chosen numbers",
)


def _a100(name: str, model: ModelShape, called: str) -> Profile:
    return Profile(
        name=name,
        description=f"{called} in fp16 on one A100-80GB SXM, chunked prefill",
        step_time=physics(model),
        slots=16,
        kv_tokens=kv_tokens_in(A100_MEMORY, model),
        token_budget=512,
        dollars_per_hour=A100_DOLLARS,
        price_source=A100_PRICE,
        kv_bytes_per_token=model.kv_bytes_per_token,
        measured_on="Vidur's operator profiles of an A100-80GB SXM",
        model=model,
        memory_bytes=A100_MEMORY,
        peak_flops=A100_FLOPS,
    )


PROFILES = {
    profile.name: profile
    for profile in (
        REFERENCE,
        _a100("a100-llama2-7b", LLAMA2_7B, "Llama-2-7B"),
        _a100("a100-llama2-13b", LLAMA2_13B, "Llama-2-13B"),
        _a100("a100-llama3-8b", LLAMA3_8B, "Llama-3-8B"),
    )
}


def profile_named(name: str) -> Profile:
    """A built-in profile by its name, or a user's by the path of its TOML file (it ends in .toml or has a /).

    ValueError: there is none of that name, or what is wrong in the file. OSError: the file cannot be read.
    """
    if name in PROFILES:
        return PROFILES[name]
    if name.endswith(".toml") or "/" in name:
        return read_profile(name, PROFILES)
    raise ValueError(f"profile must be one of {', '.join(PROFILES)}, or the path of a .toml file, got {name!r}")


__all__ = ["PROFILES", "REFERENCE", "Profile", "profile_named"]

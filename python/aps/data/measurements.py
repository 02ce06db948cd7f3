"""Published measurements of models on an A100-80GB, fp16. Sources, versions and licences: the file NOTICE."""

import csv
from collections.abc import Iterator
from importlib.resources import files
from typing import NamedTuple


class StaticBatch(NamedTuple):
    """A batch of equal requests that all start together.

    output_tokens_per_s: output tokens of the batch over the time of the whole batch. token_latency_p50_s: the median
    time between two tokens of a sequence, published in whole milliseconds; None: not published.
    """

    model: str
    batch: int
    prompt_tokens: int
    output_tokens: int
    output_tokens_per_s: float
    token_latency_p50_s: float | None


class FirstToken(NamedTuple):
    """Seconds until one prompt, alone on the device, has its first token; published in whole milliseconds."""

    source: str
    model: str
    prompt_tokens: int
    seconds: float


class Attention(NamedTuple):
    """Seconds that the attention of one layer takes.

    phase "decode": `tokens` sequences, `context_tokens` cached of each; "prefill": one chunk of `tokens` after
    `context_tokens` cached ones.
    """

    phase: str
    tokens: int
    context_tokens: int
    layer_s: float


def lmdeploy_a100() -> list[StaticBatch]:
    """40 rows: Llama-2-7B and 13B under LMDeploy v0.1.0a1."""
    return [_batch(row, row["model"]) for row in _rows("lmdeploy_a100_80gb.csv")]


def tensorrt_llm_a100() -> list[StaticBatch]:
    """7 rows: LLaMA-7B, of the same shape as Llama-2-7B, under TensorRT-LLM v0.5.0 and v0.6.1."""
    return [_batch(row, "llama2-7b") for row in _rows("tensorrt_llm_llama_7b_a100.csv")]


def first_token_a100() -> list[FirstToken]:
    """8 rows: both models under LMDeploy, LLaMA-7B under TensorRT-LLM."""
    return [
        FirstToken(row["source"], row["model"], int(row["prompt_tokens"]), float(row["first_token_ms"]) * 1e-3)
        for row in _rows("first_token_a100.csv")
    ]


def vidur_attention_a100() -> list[Attention]:
    """56 rows: Llama-2-7B, sampled from the profile of the simulator Vidur."""
    return [
        Attention(row["phase"], int(row["batch_or_chunk"]), int(row["context_tokens"]), float(row["layer_ms"]) * 1e-3)
        for row in _rows("vidur_llama2_7b_attention.csv")
    ]


def _rows(name: str) -> Iterator[dict[str, str]]:
    text = files("aps.data").joinpath(name).read_text(encoding="ascii")
    yield from csv.DictReader(text.splitlines())


def _batch(row: dict[str, str], model: str) -> StaticBatch:
    latency_ms = row.get("token_latency_p50_ms")
    return StaticBatch(
        model,
        int(row["batch"]),
        int(row["prompt_tokens"]),
        int(row["output_tokens"]),
        float(row["output_tokens_per_s"]),
        None if latency_ms is None else float(latency_ms) * 1e-3,
    )

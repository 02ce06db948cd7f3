"""Data that ships with the package. Licences, sources and citations: the file NOTICE beside this module."""

import csv
import gzip
from importlib.resources import files
from typing import NamedTuple

from aps.data.instants import nanoseconds

AZURE_CODE_2023 = "azure_llm_code_2023.csv.gz"


class Arrival(NamedTuple):
    """One request of a trace: seconds after the trace's first request, prompt and output tokens."""

    at_s: float
    prompt_tokens: int
    output_tokens: int


def azure_code_trace(start_s: float = 0.0, duration_s: float = float("inf")) -> list[Arrival]:
    """Requests of the Azure code trace of 2023 with `start_s <= at_s < start_s + duration_s`, in order of arrival.

    `at_s` counts from the trace's first request. Source: Microsoft, Azure LLM inference trace 2023, CC BY 4.0
    (Patel et al., "Splitwise", ISCA 2024).
    """
    text = gzip.decompress(files(__name__).joinpath(AZURE_CODE_2023).read_bytes()).decode("ascii")
    instants, prompts, outputs = zip(*list(csv.reader(text.splitlines()))[1:], strict=True)
    at_ns = nanoseconds(instants)
    at_s = ((at_ns - at_ns[0]) / 1e9).tolist()
    arrivals = map(Arrival, at_s, map(int, prompts), map(int, outputs))
    return [arrival for arrival in arrivals if start_s <= arrival.at_s < start_s + duration_s]

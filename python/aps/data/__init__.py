"""Data that ships with the package. Licences, sources and citations: the file NOTICE beside this module."""

import csv
import gzip
from datetime import datetime
from importlib.resources import files
from typing import NamedTuple

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
    arrivals = []
    first: datetime | None = None
    for row in csv.DictReader(text.splitlines()):
        at = _instant(row["TIMESTAMP"])
        first = first or at
        at_s = (at - first).total_seconds()
        if at_s >= start_s + duration_s:
            break
        if at_s >= start_s:
            arrivals.append(Arrival(at_s, int(row["ContextTokens"]), int(row["GeneratedTokens"])))
    return arrivals


def _instant(text: str) -> datetime:
    """`YYYY-MM-DD hh:mm:ss[.fffffff]`; the seventh decimal (100 ns) is cut."""
    return datetime.fromisoformat(text[:26])

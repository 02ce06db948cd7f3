"""Studies: what APS must show, measured in virtual time and judged."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aps.lab.studies import load, noisy, vip, vtc


@dataclass(frozen=True, slots=True)
class Study:
    """says: the question in a line. run(seeds=..., parallel=..., on_progress=...) gives its plain data
    (`aps.lab.studies.results.result`), the same whatever computes it. seeds: the default."""

    name: str
    says: str
    run: Callable[..., dict[str, Any]]
    seeds: int


STUDIES: Mapping[str, Study] = {
    study.name: study
    for study in (
        Study(
            "vip", "a VIP over a free tier that keeps the GPU full: its wait, and the price of it", vip.study, vip.SEEDS
        ),
        Study("noisy", "a tenant that sends ten times its share: what quiet ones feel", noisy.study, noisy.SEEDS),
        Study("vtc", "the workloads on which VTC was published: its results, its bound", vtc.study, vtc.SEEDS),
        Study("load", "waiting at low, medium and nearly full load, FIFO and APS", load.study, load.SEEDS),
    )
}


def study_named(name: str) -> Study:
    """ValueError lists the names there are."""
    if name not in STUDIES:
        raise ValueError(f"study must be one of {', '.join(STUDIES)}, got {name!r}")
    return STUDIES[name]

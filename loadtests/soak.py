"""Ten minutes of a noisy neighbour, and what is left of them: `make soak`, or `python loadtests/soak.py`.

Plays a load profile against a service of our own with a store, and samples the service's resident size. Afterwards
nothing may be astray, the only refusals are 429, memory stays level, and the ledger has what the counters have.
Writes `soak.json`, `memory.png` and Locust's report. Exit code 1 when anything of that does not hold.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))

import matplotlib

from aps.store.database import Database
from aps.store.usage import read, total
from aps.stress.counters import Counters
from loadtests.books import MEGABYTE, astray, idle, verdict
from loadtests.figures import Check
from loadtests.plan import PlanError, Profile, read_profiles
from loadtests.playing import Loaded, loaded_service, play
from loadtests.serving import Service

SAMPLES = 100  # at least; a long run has one a second
IDLE_WITHIN_S = 60.0
LEVEL_BYTES = 8 * MEGABYTE
# Parts of the run between which memory must stay level: both are after ended requests, which stay readable for a
# while, have filled their shelf.
EARLY, LATE = (0.5, 0.65), (0.85, 1.0)

# Reasons of a 429: a tenant's own limit.
OWN_LIMITS = {"over_rate", "over_request_rate", "tenant_queue_full", "tenant_queue_tokens_full"}

Samples = list[tuple[float, int]]


@contextmanager
def sampling(service: Service, every_s: float) -> Iterator[Samples]:
    """(seconds since now, resident bytes), again and again until the block ends."""
    samples: Samples = []
    done = threading.Event()
    began = time.monotonic()

    def sample() -> None:
        while not done.wait(every_s):
            samples.append((time.monotonic() - began, service.resident_bytes()))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def level(samples: Samples) -> tuple[str, bool]:
    """Whether the median of a late part of the run is no more than 8 MiB above that of an earlier one."""
    seconds = samples[-1][0] if samples else 0.0
    medians = []
    for begins, ends in (EARLY, LATE):
        sizes = [size for at, size in samples if begins * seconds <= at <= ends * seconds]
        if not sizes:
            return "resident size: too short a run to judge", False
        medians.append(statistics.median(sizes))
    grew = (medians[1] - medians[0]) / MEGABYTE
    line = (
        f"resident, MiB: {medians[0] / MEGABYTE:.1f} from {EARLY[0]:.0%} to {EARLY[1]:.0%} of the run, "
        f"{medians[1] / MEGABYTE:.1f} from {LATE[0]:.0%} on; grew by {grew:.1f} <= {LEVEL_BYTES / MEGABYTE:.0f}"
    )
    return line, medians[1] - medians[0] <= LEVEL_BYTES


def draw(samples: Samples, profile: Profile, seconds: float, file: Path) -> None:
    """Resident size over time, with the phases of the profile."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 3.2), layout="constrained")
    axes.plot([at / 60 for at, _ in samples], [size / MEGABYTE for _, size in samples], color="#0072b2", linewidth=1.5)
    for step in profile.steps:
        if step.phase:
            at = step.at * seconds / 60
            axes.axvline(at, color="#888888", linewidth=0.8, linestyle=":")
            axes.annotate(f" {step.phase}", (at, 0.03), xycoords=("data", "axes fraction"), color="#444444")
    top = 1.25 * max((size for _, size in samples), default=MEGABYTE) / MEGABYTE
    axes.set(xlabel="minutes", ylabel="resident size, MiB", ylim=(0, top), xlim=(0, None))
    axes.set_title(f"The service's memory: {profile.says}", loc="left", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)
    pyplot.close(figure)


def after(loaded: Loaded, data: dict[str, Any], samples: Samples) -> tuple[list[tuple[str, bool]], Counters]:
    """What must hold once the load has gone, in lines; and the service's counters then."""
    lines = [(check.says, check.met) for check in (Check(**each) for each in data["checks"])]
    took = asyncio.run(idle(loaded.service, IDLE_WITHIN_S, loaded.admin))
    text = loaded.service.get("/metrics", loaded.admin)
    counters, found = Counters(text), astray(text)
    refused = counters.by("aps_refused_total", "reason")
    lines += [
        (
            f"errors: {_list(data.get('errors', {}))}; refused: {_list(refused)}",
            not data.get("errors", {"": 1}) and {reason for reason, count in refused.items() if count} <= OWN_LIMITS,
        ),
        (f"idle {took:.1f} s after the load had gone", True),
        (f"astray: {_list(found)}", not any(found.values())),
        level(samples),
    ]
    return lines, counters


# Of the ledger, and of the metrics.
SAME = {
    "admitted": "aps_admitted_total",
    "refused": "aps_refused_total",
    "prompt_tokens": "aps_prompt_tokens_total",
    "output_tokens": "aps_output_tokens_total",
    "charged_tokens": "aps_charged_tokens_total",
}


def ledger(store: str, counters: Counters) -> tuple[str, bool]:
    """Whether the store of the stopped service has what its counters had."""
    database = Database(store)
    with database.reading() as connection:
        used = total(read(connection))
    database.close()
    kept = {
        "admitted": used.admitted,
        "refused": sum(used.refused.values()),
        "prompt_tokens": used.prompt_tokens,
        "output_tokens": used.output_tokens,
        "charged_tokens": used.charged_micro / 1e6,
    }
    counted = {name: sum(counters.by(metric, "tenant").values()) for name, metric in SAME.items()}
    same = all(abs(kept[name] - counted[name]) < 1e-6 * max(1.0, counted[name]) for name in SAME)
    said = ", ".join(f"{name} {kept[name]:,.0f} of {counted[name]:,.0f}" for name in SAME)
    return f"in the ledger: {said}", same


def _list(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in figures.items()) or "none"


def main() -> int:
    """Run it; the exit code."""
    options = _options()
    try:
        profile = read_profiles()[options.profile]
    except (PlanError, KeyError) as error:
        print(f"loadtests: no profile: {error}", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        store = options.store or str(Path(folder) / "aps.db")
        with loaded_service("--store", store) as loaded:
            with sampling(loaded.service, min(1.0, options.seconds / SAMPLES)) as samples:
                data = play(loaded, profile.name, options.seconds, options.out)
            lines, counters = after(loaded, data, samples)
        lines.append(ledger(store, counters))
    draw(samples, profile, options.seconds, options.out / "memory.png")
    found = {"lines": [{"what": what, "met": met} for what, met in lines], "resident": samples, **data}
    (options.out / "soak.json").write_text(json.dumps(found, indent=2))
    print(f"the memory over time: {options.out / 'memory.png'}")
    return verdict(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--profile", default="noisy", metavar="NAME", help="of profiles.toml (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=600.0, metavar="N", help="(default %(default)s)")
    parser.add_argument("--store", metavar="FILE|URL", help="(default: an SQLite file that goes afterwards)")
    parser.add_argument("--out", type=Path, default=Path("build/soak"), metavar="DIR", help="(default %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

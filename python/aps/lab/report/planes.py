"""The report of a sweep over the plane of the two knobs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aps.lab.report.csvs import table
from aps.lab.report.files import write
from aps.lab.report.html import Plot, Report, Section
from aps.lab.sweep import DEFINITIONS


def write_sweep(data: Mapping[str, Any], directory: str | Path, *, command: str = "") -> None:
    """Write the report of `aps.lab.sweep.sweep`, its data. ValueError when `directory` may not be written."""
    setup = data["setup"]
    report = Report(
        kind="sweep",
        title=f"The two knobs on {data['workload']['name']}",
        summary=(data["suggestion"],),
        sections=(
            Section(
                "Which knobs serve the VIP, and what do the others pay?",
                f"VIP: {', '.join(data['vip'])}. {_others(data)}. {len(data['seeds'])} seeds, "
                f"{setup['gpus']} x {setup['profile']}, {setup['slots']} slots each. The rule: {data['rule']}",
                (heat_maps(data),),
                (table("cells", "Every point", data["cells"]),),
            ),
        ),
        definitions=DEFINITIONS,
        notes=tuple(data["workload"]["notes"]),
        command=command,
        data=data,
    )
    write(report, directory)


def heat_maps(data: Mapping[str, Any]) -> Plot:
    """p99 queue wait of the VIP and of the worst other tenant over the plane."""
    from aps.lab.report.plots import knobs
    from aps.lab.report.plots.style import short

    horizons = [float(value) for value in data["horizons_s"]]
    windows = [float(value) for value in data["windows"]]
    who = short(data["vip"][0]) if len(data["vip"]) == 1 else "the VIPs"
    others = short(data["quiet"][0]) if len(data["quiet"]) == 1 else "the worst quiet tenant"

    def seconds(name: str) -> Any:
        values = [np.nan if cell[name] is None else cell[name] for cell in data["cells"]]
        return np.array(values, dtype=np.float64).reshape(len(horizons), len(windows))

    def place(at: int | None) -> tuple[int, int] | None:
        return None if at is None else divmod(at, len(windows))

    return knobs.heat_maps(
        "knobs",
        "Which knobs serve the VIP, and what do the others pay?",
        horizons,
        windows,
        [
            knobs.Map(f"p99 queue wait of {who}", seconds("vip_queue_wait_p99_s")),
            knobs.Map(f"p99 queue wait of {others}", seconds("quiet_queue_wait_p99_s")),
        ],
        place(data["given"]),
        place(data["suggested"]),
    )


def _others(data: Mapping[str, Any]) -> str:
    quiet = f"Quiet: {', '.join(data['quiet'])}"
    return f"{quiet}. Heavy, not judged: {', '.join(data['heavy'])}" if data["heavy"] else quiet

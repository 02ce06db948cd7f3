"""Workloads by name or path: the shipped trace, or any trace file."""

from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path

from aps.data import AZURE_CODE_2023
from aps.lab.traces import FORMATS, TraceOptions, read
from aps.lab.workload import Workload

AZURE_CODE = "azure-code"
SHIPPED = {AZURE_CODE: "Azure's coding service, 57 minutes of November 2023, 8,819 requests; a trace without tenants"}


def open_workload(
    name_or_path: str,
    seed: int = 0,
    parameters: Mapping[str, str] | None = None,
    options: TraceOptions | None = None,
) -> Workload:
    """The shipped trace by its name, or the trace at a path.

    seed: of all that is drawn. parameters: the trace's options as text, on top of `options`.
    Raises ValueError: nothing of that name, an unknown parameter or a wrong value, a malformed trace (TraceError).
    """
    chosen = replace((options or TraceOptions()).set(parameters or {}), seed=seed)
    if name_or_path == AZURE_CODE:
        with as_file(files("aps.data") / AZURE_CODE_2023) as path:
            return replace(read(path, chosen), name=AZURE_CODE)
    if not Path(name_or_path).exists():
        raise ValueError(
            f"no workload {name_or_path!r}; expected one of {', '.join(SHIPPED)}, or the path of a trace: {FORMATS}"
        )
    return read(name_or_path, chosen)

"""Workloads by name or path: scenarios, the trace that ships with the package, and any trace file."""

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from importlib.resources import as_file, files

from aps.data import AZURE_CODE_2023
from aps.lab.scenarios import SCENARIOS
from aps.lab.traces import FORMATS, TraceOptions, described, read
from aps.lab.workload import Workload

AZURE_CODE = "azure-code"
SHIPPED = {AZURE_CODE: "A trace of Azure's coding service: 8,819 requests in 57 minutes of 2023, without tenants."}
PATH = f"A trace, plain or gzip: {FORMATS}."


def open_workload(
    name_or_path: str,
    seed: int = 0,
    parameters: Mapping[str, str] | None = None,
    options: TraceOptions | None = None,
) -> Workload:
    """The workload of a scenario's name, of the shipped trace's name, or of a trace at a path. A name goes first.

    seed: of all that is drawn, and of nothing else: a trace without a drawn option is the same for every seed.
    parameters: as text, of the scenario or of the trace (`TraceOptions`, on top of `options`). options: traces alone.
    Raises ValueError: nothing of that name; an unknown parameter or a wrong value; options for a scenario; a
    malformed trace (TraceError).
    """
    given = dict(parameters or {})
    options = options or TraceOptions()
    scenario = SCENARIOS.get(name_or_path)
    if scenario is not None:
        if changed := _changed(options):
            raise ValueError(f"{name_or_path} is a scenario and takes no options of traces, got {', '.join(changed)}")
        return scenario.build(seed, **scenario.parse(f"{name}={value}" for name, value in given.items()))
    options = replace(options, seed=seed).set(given)
    if name_or_path == AZURE_CODE:
        with as_file(files("aps.data") / AZURE_CODE_2023) as path:
            return replace(read(path, options), name=AZURE_CODE)
    if not os.path.exists(name_or_path):
        known = ", ".join([*SCENARIOS, *SHIPPED])
        raise ValueError(f"no workload {name_or_path!r}; expected one of {known}, or the path of a trace: {FORMATS}")
    return read(name_or_path, options)


def describe(name: str | None = None) -> str:
    """A line for every workload there is; with a name or path, that workload's parameters. ValueError: unknown."""
    if name is None:
        says = {**{scenario.name: scenario.says for scenario in SCENARIOS.values()}, **SHIPPED, "PATH": PATH}
        return _listed(says)
    if name in SCENARIOS:
        scenario = SCENARIOS[name]
        return f"{name}: {scenario.says}\n" + _listed(
            {f"{one.name}={one.shown}": f"{one.says} ({one.kind.allowed})" for one in scenario.parameters}
        )
    if name in SHIPPED or name == "PATH" or os.path.exists(name):
        return f"{name}: {SHIPPED.get(name, PATH)}\n" + _listed(described())
    raise ValueError(f"no workload {name!r}; expected one of {', '.join([*SCENARIOS, *SHIPPED, 'PATH'])}")


def _changed(options: TraceOptions) -> list[str]:
    usual = TraceOptions(seed=options.seed)
    return [one.name for one in fields(options) if getattr(options, one.name) != getattr(usual, one.name)]


def _listed(says: Mapping[str, str]) -> str:
    width = max(map(len, says))
    return "\n".join(f"  {name:{width}}  {what}" for name, what in says.items())

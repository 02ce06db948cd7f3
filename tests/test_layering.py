"""Dependencies point down only, and third-party packages appear only where they belong."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Lowest first: a module may use those of the rows above its own, never its neighbours.
COMPILED = [
    ["types"],
    [
        "arguments",
        "clock",
        "envelope",
        "histogram",
        "indexed_heap",
        "json_lines",
        "named_rows",
        "request_table",
        "winner_tree",
    ],
    ["deadlines", "device_time", "fair_share", "front", "kv_cache", "pairing_heap", "step_time", "tenant_table"],
    ["lanes", "physics", "tally", "token_buckets"],
    ["all_wait", "arrivals", "books", "ledger", "stay_log"],
    ["aging_heap", "contention", "tickets"],
    ["admission", "batch_assembler", "gpu", "stage"],
    ["asking", "inspection", "settlement", "state", "time_series"],
    ["timeline"],
    ["scheduler"],
    ["recorded", "replay"],
]
# A name stands for the package below it too. Modules of one row may use one another.
PYTHON = [
    ["aps._checks", "aps.cuts", "aps.data", "aps.toml_file"],
    ["aps.devices", "aps.models", "aps.policy", "aps.state", "aps.tenants", "aps.verdicts"],
    ["aps.profile", "aps.profile_files", "aps.profiles", "aps.scheduler"],
    ["aps.backends", "aps.metrics", "aps.recent", "aps.record", "aps.store"],
    ["aps.tickets"],
    ["aps.pump"],
    ["aps.conservation", "aps.player"],
    ["aps.driver"],
    ["aps.service"],
    ["aps.stress"],
    ["aps.lab"],
    ["aps.cli"],
    ["aps.__main__"],
]
# Everything else is written with the standard library, NumPy and aps_core.
THIRD_PARTY = {
    "aps.service": {
        "fastapi", "fastapi_offline", "httptools", "msgspec", "opentelemetry", "pydantic", "starlette", "uvicorn",
        "uvloop",
    },
    "aps.store": {"alembic", "sqlalchemy"},
    "aps.stress": {"httpx", "rich"},
    "aps.lab": {"jinja2", "joblib", "matplotlib", "rich", "scipy"},
    "aps.cli": {"httpx", "rich"},
}  # fmt: skip
# May use asyncio; a record is written by a thread of its own.
LOOP = {
    "aps.backends", "aps.driver", "aps.player", "aps.record", "aps.tickets", "aps.service", "aps.stress", "aps.cli",
}  # fmt: skip
THREADS = {"aps.lab": {"concurrent"}}  # runs at once, waited for; no event loop
CORE_MAY_IMPORT = {"numpy", "cython", "libc", "cpython", "collections", "math"}
LONGEST = 500  # lines a file

SOURCES = sorted(ROOT.glob("aps_core/*.p[yx][xd]"))
MODULES = sorted((ROOT / "python/aps").rglob("*.py"))


def name_of(module: Path) -> str:
    return ".".join(module.relative_to(ROOT / "python").with_suffix("").parts).removesuffix(".__init__")


def row(name: str) -> int | None:
    """The row of PYTHON that a module stands in; None: nowhere."""
    return next((at for at, names in enumerate(PYTHON) for own in names if f"{name}.".startswith(f"{own}.")), None)


def part(name: str) -> str:
    """`aps.service.schemas` -> `aps.service`."""
    return ".".join(name.split(".")[:2])


def imports(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            assert node.module is not None
            # `from aps import policy` may name a module
            yield from (f"aps.{alias.name}" for alias in node.names) if node.module == "aps" else [node.module]


def cimports(source: Path) -> set[str]:
    """Modules of aps_core that a compiled one uses, at C or at Python level."""
    return set(re.findall(r"^\s*(?:from|c?import) +aps_core\.(\w+)", source.read_text(), re.MULTILINE))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_compiled_modules_use_only_lower_ones(source: Path) -> None:
    rows = {name: at for at, names in enumerate(COMPILED) for name in names}
    own = source.stem
    if own == "__init__":
        assert not cimports(source)
        return
    above = {name for name in cimports(source) - {own} if rows[name] >= rows[own]}
    assert not above, f"{source.name} uses {sorted(above)}"


def test_every_compiled_module_stands_in_one_row() -> None:
    listed = [name for names in COMPILED for name in names]
    assert sorted(listed) == sorted({path.stem for path in SOURCES} - {"__init__"})


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_compiled_modules_use_nothing_but_numpy(source: Path) -> None:
    found = re.findall(r"^\s*(?:from +(\w+)[\w.]* +c?import|c?import +(\w+))", source.read_text(), re.MULTILINE)
    assert {name for pair in found for name in pair} <= CORE_MAY_IMPORT | {"aps_core", ""}


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_python_modules_use_only_lower_ones(module: Path) -> None:
    name = name_of(module)
    if name == "aps":
        return
    own = row(name)
    assert own is not None, f"{name} stands in no row of PYTHON"
    for used in imports(module):
        if used.split(".")[0] == "aps":
            at = row(used)
            assert at is not None and at <= own, f"{name} uses {used}"


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_third_party_packages_stay_where_they_belong(module: Path) -> None:
    name = part(name_of(module))
    found = {used.split(".")[0] for used in imports(module)} - sys.stdlib_module_names
    assert found <= {"aps", "aps_core", "numpy"} | THIRD_PARTY.get(name, set())


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_the_event_loop_stays_above_the_scheduler(module: Path) -> None:
    loops = {"asyncio", "threading", "socket", "concurrent", "multiprocessing"} & {
        used.split(".")[0] for used in imports(module)
    }
    name = part(name_of(module))
    assert name in LOOP or loops <= THREADS.get(name, set())


def test_every_third_party_package_is_in_an_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = {re.split(r"[\[<>=~ ]", line)[0] for extra in ("service", "otel", "lab") for line in extras[extra]}
    declared = {"opentelemetry" if name.startswith("opentelemetry-") else name.replace("-", "_") for name in declared}
    assert set().union(*THIRD_PARTY.values()) - {"starlette"} == declared  # FastAPI brings starlette


def test_the_library_imports_with_numpy_alone() -> None:
    """Everything below the service, in a process where no other package can be found."""
    names = [name for module in MODULES if part(name := name_of(module)) not in THIRD_PARTY and name != "aps.__main__"]
    program = f"""
import sys

class NumPyAlone:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        known = top in sys.stdlib_module_names or top in ("numpy", "aps", "aps_core")
        if not known and not top.startswith("__editable__"):
            raise ModuleNotFoundError(f"{{name}} is not NumPy")

sys.meta_path.insert(0, NumPyAlone())
import importlib
for name in {names!r}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_no_file_is_longer_than_one_concept_needs() -> None:
    files = [
        path
        for folder in ("aps_core", "python", "tests", "loadtests", "examples")
        for path in (ROOT / folder).rglob("*.p*")
        if path.suffix in {".py", ".pyx", ".pxd", ".pyi"}
    ]
    long = {str(path.relative_to(ROOT)): n for path in files if (n := len(path.read_text().splitlines())) > LONGEST}
    assert not long

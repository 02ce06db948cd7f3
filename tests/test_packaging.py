"""What an installation holds, and that others can build on it."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

import aps
import aps_core

SETUP = """
from setuptools import Extension, setup

setup(name="consumer", ext_modules=[Extension("consumer", ["consumer.c"])])
"""
CONSUMER = """
from libc.stdint cimport int64_t
from aps_core.request_table cimport RequestTable


def capacity(RequestTable table) -> int:
    cdef int64_t rows = table.capacity
    return rows
"""


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def names(folder: Path, *suffixes: str) -> set[str]:
    """Files below a folder, relative to it."""
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return {name for name in files if "__pycache__" not in name and (not suffixes or name.endswith(suffixes))}


@pytest.fixture(scope="module")
def checkout(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, without what was built or installed in it."""
    copy = tmp_path_factory.mktemp("checkout") / "aps"
    (copy / "build").mkdir(parents=True)
    for name in ("aps_core", "python", "tests", "loadtests", "examples", "docs", ".ci"):
        shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info"))
    for path in root.iterdir():
        if path.is_file():
            shutil.copy2(path, copy)
    if (root / "build/cython").is_dir():  # spares translating everything once more
        shutil.copytree(root / "build/cython", copy / "build/cython")
        shutil.copy2(root / "build/settings", copy / "build")
    return copy


def test_every_data_file_is_installed(checkout: Path, tmp_path: Path) -> None:
    run(sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path), cwd=checkout)
    assert names(tmp_path / "aps") == names(checkout / "python/aps")
    assert names(tmp_path / "aps_core") == names(checkout / "aps_core", ".py", ".pxd", ".pyi", "py.typed")


def test_the_sdist_holds_every_source(checkout: Path, tmp_path: Path) -> None:
    run(sys.executable, "setup.py", "-q", "sdist", "--dist-dir", str(tmp_path), cwd=checkout)
    (archive,) = tmp_path.iterdir()
    with tarfile.open(archive) as tar:
        held = {member.name.partition("/")[2] for member in tar.getmembers() if member.isfile()}
    wanted = names(checkout) - {name for name in names(checkout) if name.startswith(("build/", ".git", ".editor"))}
    assert {name for name in wanted if ".egg-info" not in name} <= held
    assert not {name for name in held if name.endswith((".so", ".c", ".html"))}


def test_every_compiled_module_has_a_stub_and_a_contract(root: Path) -> None:
    modules = {path.stem for path in root.glob("aps_core/*.pyx")}
    assert modules
    assert modules == {path.stem for path in root.glob("aps_core/*.pyi")} - {"__init__"}
    assert modules <= {path.stem for path in root.glob("aps_core/*.pxd")}


def test_others_can_cimport_the_installed_core(tmp_path: Path) -> None:
    (tmp_path / "consumer.pyx").write_text(CONSUMER)
    installed = str(Path(aps_core.__file__).parent.parent)
    run(sys.executable, "-m", "cython", "-3", "-I", installed, "consumer.pyx", cwd=tmp_path)
    (tmp_path / "setup.py").write_text(SETUP)
    run(sys.executable, "setup.py", "-q", "build_ext", "--inplace", cwd=tmp_path, CFLAGS="-O0")
    program = "import consumer; from aps_core import request_table as r; print(consumer.capacity(r.RequestTable(5000)))"
    path = os.pathsep.join([str(tmp_path), installed])
    assert int(run(sys.executable, "-c", program, cwd=tmp_path, PYTHONPATH=path)) >= 5000


def test_versions_agree(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert importlib.metadata.version("aps-scheduler") == project["version"] == aps.__version__

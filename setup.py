"""Extension modules only; everything declarative is in pyproject.toml.

APS_DEBUG=1: bounds checks and assertions. APS_SANITIZE=1: ASan and UBSan. APS_ANNOTATE=1: Cython's annotated pages.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("APS_DEBUG") == "1"
SANITIZE = os.environ.get("APS_SANITIZE") == "1"
ANNOTATE = os.environ.get("APS_ANNOTATE") == "1"

# Contraction into FMA changes the last bit and with it a replay: off everywhere.
COMPILE = ["-O3", "-g0", "-ffp-contract=off", "-fno-math-errno"]
LINK: list[str] = []
MACROS = [("CYTHON_WITHOUT_ASSERTIONS", "1")]
if DEBUG:
    COMPILE = ["-O1", "-g", "-ffp-contract=off"]
    MACROS = []
if SANITIZE:
    COMPILE += ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
    LINK += ["-fsanitize=address,undefined"]
DIRECTIVES = {
    "language_level": "3",
    "boundscheck": DEBUG,
    "wraparound": False,
    "initializedcheck": DEBUG,
    "nonecheck": False,  # its exception is not allowed without the GIL
    "cdivision": True,
    "embedsignature": True,
    "binding": False,  # plain method descriptors: a call from Python is 6 ns cheaper; signatures are in the stubs
    "auto_pickle": False,
    "freethreading_compatible": True,
    "show_performance_hints": not DEBUG,
}

# Memoryview support is compiled once, not into every module: a third of the time, half of the size. (With it, Cython
# 3.3.1 cannot cast `<T[:n]>c_array` in a module that declares no memoryview: assign to a declared one instead.)
UTILITY = "aps_core._cyutility"


def extension(name: str, source: str) -> Extension:
    return Extension(name, [source], extra_compile_args=COMPILE, extra_link_args=LINK, define_macros=MACROS)


# Cython and setuptools compare time stamps alone, so other settings than last time's must regenerate everything.
settings = repr((UTILITY, COMPILE, LINK, MACROS, DIRECTIVES, ANNOTATE))
record = Path("build/settings")
changed = not record.is_file() or record.read_text() != settings

modules = cythonize(
    [extension(f"aps_core.{path.stem}", path.as_posix()) for path in sorted(Path("aps_core").glob("*.pyx"))]
    + [extension(UTILITY, "aps_core/_cyutility.c")],
    shared_utility_qualified_name=UTILITY,
    build_dir="build/cython",
    force=changed,
    annotate=ANNOTATE,
    compiler_directives=DIRECTIVES,
)
record.parent.mkdir(exist_ok=True)
record.write_text(settings)

setup(ext_modules=modules, options={"build_ext": {"parallel": os.cpu_count()}})

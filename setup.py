"""Extension modules only; everything declarative is in pyproject.toml.

APS_DEBUG=1 builds with bounds checks and assertions; APS_SANITIZE=1 adds ASan and UBSan; APS_ANNOTATE=1 writes Cython's HTML.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("APS_DEBUG") == "1"
SANITIZE = os.environ.get("APS_SANITIZE") == "1"
ANNOTATE = os.environ.get("APS_ANNOTATE") == "1"

# Contraction into FMA changes the last bit and with it a replay: off everywhere.
COMPILE = ["-O3", "-g0", "-ffp-contract=off"]
LINK: list[str] = []
if DEBUG:
    COMPILE = ["-O1", "-g", "-ffp-contract=off", "-DCYTHON_WITHOUT_ASSERTIONS=0"]
if SANITIZE:
    flags = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer"]
    COMPILE += flags
    LINK += flags

extensions = [
    Extension(
        f"aps_core.{path.stem}",
        [path.as_posix()],
        extra_compile_args=COMPILE,
        extra_link_args=LINK,
        define_macros=[] if DEBUG else [("CYTHON_WITHOUT_ASSERTIONS", "1")],
    )
    for path in sorted(Path("aps_core").glob("*.pyx"))
]

setup(
    ext_modules=cythonize(
        extensions,
        build_dir="build/cython-debug" if DEBUG else "build/cython",
        force=DEBUG or SANITIZE,
        annotate=ANNOTATE,
        compiler_directives={
            "language_level": "3",
            "boundscheck": DEBUG,
            "wraparound": False,
            "initializedcheck": DEBUG,
            "nonecheck": DEBUG,
            "cdivision": True,
            "embedsignature": True,
            "binding": True,
            "auto_pickle": False,
            "freethreading_compatible": True,
        },
    )
)

"""Prints the lowest versions that pyproject.toml allows, as constraints for pip: `lowest.py EXTRA,EXTRA`."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
extras = [line for extra in sys.argv[1].split(",") for line in project["optional-dependencies"][extra]]
for line in sorted({*project["dependencies"], *extras}):
    name, version = line.partition(";")[0].split(">=")
    print(f"{name.partition('[')[0]}=={version}")

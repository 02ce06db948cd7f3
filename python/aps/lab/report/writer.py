"""A directory, or a file, that is written whole or not at all."""

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

FORMAT = "aps-report"
MANIFEST = "report.json"


def check_destination(directory: str | Path) -> None:
    """Say early whether a report may be written to `directory`: it is new, empty, or holds a report and nothing else.

    ValueError naming the path, what is there and what is allowed.
    """
    target = Path(directory).resolve()
    _check_parent(target)
    if not target.exists():
        return
    if not target.is_dir():
        raise ValueError(f"{target} must be a directory or new, it is a file")
    there = {path.name for path in target.iterdir()}
    foreign = sorted(there - _written(target))
    if foreign:
        named = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
        raise ValueError(f"{target} must be new, empty or an earlier report, it holds {named}")


@contextmanager
def whole_directory(directory: str | Path) -> Iterator[Path]:
    """A temporary directory beside `directory`, renamed to it when the block ends and removed when the block raises.

    What it replaces stays until then. The block must leave `report.json`, with `files`: every name that it wrote.
    """
    check_destination(directory)
    target = Path(directory).resolve()
    mark = secrets.token_hex(4)
    partial = target.with_name(f".{target.name}.partial-{mark}")
    partial.mkdir()
    try:
        yield partial
        check_destination(target)
        _replace(target, partial, target.with_name(f".{target.name}.old-{mark}"))
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def check_file(path: str | Path) -> None:
    """Say early whether a file may be written to `path`: it is new or a file. ValueError as `check_destination`."""
    target = Path(path).resolve()
    _check_parent(target)
    if target.exists() and not target.is_file():
        raise ValueError(f"{target} must be a file or new, it is a directory or a device")


@contextmanager
def whole_file(path: str | Path) -> Iterator[IO[bytes]]:
    """A temporary file beside `path`, renamed to it when the block ends and removed when the block raises."""
    check_file(path)
    target = Path(path).resolve()
    partial = target.with_name(f".{target.name}.partial-{secrets.token_hex(4)}")
    try:
        with partial.open("xb") as out:
            yield out
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _check_parent(target: Path) -> None:
    if not target.parent.is_dir():
        raise ValueError(f"the directory {target.parent} must exist, for {target.name}")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise ValueError(f"the directory {target.parent} must be writable, for {target.name}")


def _replace(target: Path, new: Path, aside: Path) -> None:
    if not target.exists():
        new.rename(target)
        return
    target.rename(aside)
    try:
        new.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    shutil.rmtree(aside)


def _written(target: Path) -> set[str]:
    """The names that the report in `target` says it wrote; none when there is no report."""
    try:
        manifest: Any = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        return set()
    return {name for name in manifest.get("files", []) if isinstance(name, str)}

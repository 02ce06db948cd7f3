"""Reading a TOML file that a person wrote."""

import tomllib
from pathlib import Path
from typing import Any


def read_toml(path: str | Path) -> dict[str, Any]:
    """The top table of a TOML file; a byte-order mark is skipped.

    OSError: it cannot be read. ValueError names the file and what is wrong: not TOML, not UTF-8, an integer of more
    digits than Python reads, tables nested deeper than Python's stack.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from error

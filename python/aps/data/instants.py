"""Instants as traces of Azure write them."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

INSTANT = "YYYY-MM-DD hh:mm:ss, with up to nine decimals, in UTC or without a time zone"
_PATTERN = re.compile(r"(?:19|20|21)\d\d-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d{1,9})?", re.ASCII)


def nanoseconds(texts: Sequence[str]) -> NDArray[np.int64]:
    """(n,) nanoseconds since 1970 of texts of the form `INSTANT`. Raises ValueError if any is of another form."""
    plain = [text.strip().removesuffix("+00:00") for text in texts]
    if not all(map(_PATTERN.fullmatch, plain)):
        raise ValueError(f"instants must be {INSTANT}")
    return np.array(plain, dtype="datetime64[ns]").astype(np.int64)

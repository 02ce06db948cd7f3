"""Pixels as a small PNG: at most 256 colours, which plots need no more of, and no metadata."""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOURS = 256
AT_ONCE = 4096  # rare colours mapped in one go


def encode(rgb: NDArray[np.uint8]) -> bytes:
    """(height, width, 3) pixels as an indexed PNG. Colours beyond the 256 most frequent become the nearest of those."""
    height, width, _ = rgb.shape
    wide = rgb.astype(np.int64)
    keys, inverse, counts = np.unique(
        (wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]).ravel(), return_inverse=True, return_counts=True
    )
    kept = np.argsort(-counts, kind="stable")[:COLOURS]
    palette = _channels(keys[kept])
    index = np.empty(len(keys), dtype=np.uint8)
    for start in range(0, len(keys), AT_ONCE):
        some = _channels(keys[start : start + AT_ONCE])
        distance = ((some[:, None, :] - palette[None, :, :]) ** 2).sum(axis=2)
        index[start : start + AT_ONCE] = np.argmin(distance, axis=1)
    rows = np.zeros((height, width + 1), dtype=np.uint8)  # each row begins with its filter, 0: none
    rows[:, 1:] = index[inverse].reshape(height, width)
    return b"".join(
        [
            SIGNATURE,
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            _chunk(b"PLTE", palette.astype(np.uint8).tobytes()),
            _chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)),
            _chunk(b"IEND", b""),
        ]
    )


def _channels(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.stack([keys >> 16, keys >> 8 & 255, keys & 255], axis=1)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

"""API keys: made at random, kept as digests.

A key is `aps_` and 32 random bytes in URL-safe base64. A slow, salted hash defends passwords, which can be guessed;
256 random bits cannot, at any speed, and no two keys are alike. So one SHA-256 keeps them as safe as a slow hash would,
and a request can afford it. Short keys are refused because that argument needs the length.
"""

import secrets
from hashlib import sha256

PREFIX = "aps_"
RANDOM_BYTES = 32
SHORTEST, LONGEST = 43, 256  # 32 random bytes in base64 are 43 characters
MARK = "sha256:"
ALLOWED = f"{SHORTEST} to {LONGEST} visible ASCII characters (aps keygen makes one), or its hash {MARK}..."
HASH = f'"{MARK}" and 64 hexadecimal digits (aps keygen prints it)'


def new_key() -> str:
    """A key that nobody has."""
    return PREFIX + secrets.token_urlsafe(RANDOM_BYTES)


def digest_of(key: bytes) -> bytes:
    """What is kept of a key."""
    return sha256(key).digest()


def hash_line(key: str) -> str:
    """A key as it stands in a configuration."""
    return MARK + digest_of(key.encode()).hex()


def parse_hash(text: object) -> bytes:
    """The digest in a hash line. ValueError when it is none; the message does not show the text, which may be a key."""
    digits = text[len(MARK) :] if isinstance(text, str) and text.startswith(MARK) else ""
    if len(digits) != 64 or not set(digits) <= set("0123456789abcdefABCDEF"):
        raise ValueError(f"must be {HASH}, got {_veiled(text)}")
    return bytes.fromhex(digits)


def parse_secret(text: str) -> bytes:
    """The digest of a key, or of a hash line. ValueError when it is too short; the message does not show the text."""
    if text.startswith(MARK):
        return parse_hash(text)
    visible = text.isascii() and text.isprintable() and " " not in text
    if not (visible and SHORTEST <= len(text) <= LONGEST):
        raise ValueError(f"must be {ALLOWED}, got {_veiled(text)}")
    return digest_of(text.encode())


def _veiled(text: object) -> str:
    return f"{len(text)} characters that are none" if isinstance(text, str) else f"a {type(text).__name__}"

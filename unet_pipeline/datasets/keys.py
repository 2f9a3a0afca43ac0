"""Keyed randomness: a number for a key, so that nothing depends on what was drawn before."""

from __future__ import annotations

import hashlib

Key = tuple[int | str | bytes, ...]
"""What randomness is a function of: (seed, epoch, sample_id)."""


def key_to_seed(key: Key) -> int:
    """A number below 2**63, the same everywhere for the same key and another for any other.

    >>> key_to_seed((0, 1, "a")) == key_to_seed((0, 1, "a"))
    True
    >>> key_to_seed((0, 11, "a")) == key_to_seed((0, 1, "1a"))
    False
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in key:
        data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogateescape")
        digest.update(len(data).to_bytes(8, "big") + data)
    return int.from_bytes(digest.digest(), "big") >> 1

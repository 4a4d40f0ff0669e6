"""Random generators by name, so that what is drawn does not depend on the order in which it is drawn."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(*names: object) -> np.random.Generator:
    """A random generator that follows from `names` alone (a seed, then what it is for)."""
    key = "/".join(str(name) for name in names).encode()
    words = np.frombuffer(hashlib.sha256(key).digest()[:16], dtype=np.uint32)
    return np.random.default_rng([int(word) for word in words])

"""Fingerprints: the SHA-256 of everything that changes a cube's numbers."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cinecube.store.base.bounded import refuse_special

_BLOCK_BYTES = 1 << 20

# Of a digest people compare the beginning.
_HASH = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")

ABSENT = "(absent)"
"""What `differences` shows for a field that one spec lacks."""


def canonical(spec: Mapping[str, Any]) -> str:
    """The one JSON text of a spec: sorted keys, no spaces, no NaN."""
    return json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def fingerprint(spec: Mapping[str, Any]) -> str:
    """SHA-256 of a spec's canonical JSON, as hex."""
    return hashlib.sha256(canonical(spec).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    digest = hashlib.sha256()
    refuse_special(path)
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def files_digest(paths: Iterable[Path]) -> str:
    """SHA-256 over the names and digests of several files, whatever folder holds them."""
    lines = sorted(f"{path.name}\0{file_digest(path)}" for path in paths)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def raised(versions: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """The field `version` of a spec whose cubes are older than it: versions above 1, and no field without any."""
    above = above_first(versions)
    return {"version": above} if above else {}


def above_first(versions: Mapping[str, int]) -> dict[str, int]:
    """Versions above 1: of folders that results of before do not name, since they count as made by version 1."""
    return {name: version for name, version in versions.items() if version > 1}


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Name the fields in which two specs differ, one line each: `clock.tr_s: 1.49 -> 2.0`; of digests the beginning.

    Parameters
    ----------
    old, new : Mapping
        Specs; mappings inside them are compared key by key.
    prefix : str
        Put before every field's name.

    Returns
    -------
    list of str
        By key; empty where they are the same.
    """
    lines: list[str] = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key, ABSENT), new.get(key, ABSENT)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(_HASH.sub(r"\1…", f"{prefix}{key}: {a} -> {b}"))
    return lines

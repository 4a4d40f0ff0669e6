"""The cubes: their schema, reading, writing and fingerprints, importers of brain data, and cubes of any revision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cinecube.store.dvc.dvc_zarr import dvc_zarr_store as dvc_zarr_store

__all__ = ["dvc_zarr_store"]


def __getattr__(name: str) -> Any:
    # Lazy: importing a room must not import dvc.
    if name == "dvc_zarr_store":
        from cinecube.store.dvc.dvc_zarr import dvc_zarr_store

        return dvc_zarr_store
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

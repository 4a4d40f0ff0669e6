"""Opening NIfTI volumes."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib

from cinecube.store.bounded import refuse_special
from cinecube.store.errors import StudyError, environment_error


def open_nifti(path: Path) -> nib.Nifti1Image:
    """Open a NIfTI image without loading its values.

    Raises
    ------
    StudyError
        If the file is none, or cannot be read.
    """
    refuse_special(path)
    try:
        image = nib.load(path)
    except Exception as error:  # nibabel and gzip raise many kinds for one damaged file
        raise environment_error(error, str(path)) or StudyError(
            where=str(path), found=f"an unreadable file ({error})", expected="NIfTI", do="fetch it again"
        ) from error
    if not isinstance(image, nib.Nifti1Image):
        raise StudyError(where=str(path), found=type(image).__name__, expected="NIfTI", do="convert it")
    return image

"""The one kind of error a user is meant to see."""

from __future__ import annotations


class StudyError(Exception):
    """An expected failure: what was found, what was expected, where, and what to do.

    Commands print it as one line and exit with code 1; anything else is a bug and keeps its traceback.

    Parameters
    ----------
    where : str
        The file, cube, segment, subject or key that the failure is about.
    found, expected : str
        Both sides of the disagreement, with their units.
    do : str
        What the reader can do about it.
    """

    def __init__(self, *, where: str, found: str, expected: str, do: str) -> None:
        self.where, self.found, self.expected, self.do = where, found, expected, do
        line = f"{where}: found {found}, expected {expected}; {do}"
        super().__init__(" ".join(line.split()))

    def __reduce__(self) -> tuple[object, ...]:
        """Survive the trip from a Dask worker, whose default copy would call us without keywords."""
        return (_rebuild, (self.where, self.found, self.expected, self.do))


def _rebuild(where: str, found: str, expected: str, do: str) -> StudyError:
    return StudyError(where=where, found=found, expected=expected, do=do)

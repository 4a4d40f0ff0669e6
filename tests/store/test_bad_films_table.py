"""`data/films.csv` as disks and editors leave it: right, or one line before any scan is read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from .scan_tree import Tree, assert_four_parts

pytestmark = pytest.mark.usefixtures("bounded")

Change = Callable[[str], str | bytes]
SAME: dict[str, Change] = {
    "a byte order mark": lambda text: "\ufeff" + text,
    "Windows line ends": lambda text: text.replace("\n", "\r\n"),
    "rows in another order": lambda text: "\n".join([*text.split("\n")[:1], *text.strip().split("\n")[:0:-1], ""]),
    "nothing known of frames and sound": lambda text: text.replace("25.0,1450,64,64,16000", ",,,,"),
    "further films": lambda text: text + "cedar,cedar01,10.0,7,25.0,250,64,64,16000\n",
}


def _write(tree: Tree, change: Change) -> None:
    path = tree.root / "data/films.csv"
    made = change(path.read_text())
    path.write_bytes(made if isinstance(made, bytes) else made.encode())


@pytest.mark.parametrize("name", SAME)
def test_same_numbers(tree: Tree, plain: dict[str, np.ndarray], name: str) -> None:
    _write(tree, SAME[name])
    np.testing.assert_array_equal(tree.cube()["bold"], plain["bold"])


WRONG: dict[str, tuple[Change, str]] = {
    "empty": (lambda text: "", r"found an empty file, expected the length of every segment; run `cinecube films`"),
    "a header alone": (lambda text: text.split("\n")[0] + "\n", r"found no segment amber01, expected all of films"),
    "cut in a row": (lambda text: text[:-20], r"found a last line that is cut"),
    "cut between rows": (
        lambda text: "\n".join(text.split("\n")[:2]) + "\n",
        r"found no segment birch01, expected all of films",
    ),
    "bytes": (lambda text: bytes(range(128, 256)), r"found no UTF-8 text"),
    "UTF-16": (lambda text: text.encode("utf-16"), r"found no UTF-8 text"),
    "other columns": (lambda text: text.replace("rows", "volumes"), r"found no column rows; there are film, segment"),
    "a column twice": (lambda text: text.replace("frames", "film"), r"found column film twice"),
    "a segment twice": (
        lambda text: text + text.split("\n")[1] + "\n",
        r"found segment amber01 twice, expected each once",
    ),
    "no rows": (lambda text: text.replace(",39,", ",,"), r"column rows: found '' in row 1, expected whole numbers"),
    "NaN rows": (lambda text: text.replace(",39,", ",nan,"), r"column rows: found 'nan' in row 1"),
    "text for rows": (lambda text: text.replace(",39,", ",many,"), r"column rows: found 'many' in row 1"),
    "half a row": (lambda text: text.replace(",39,", ",38.5,"), r"column rows: found '38.5' in row 1, expected whole"),
    "0 rows": (lambda text: text.replace(",39,", ",0,"), r"found 0 rows and 58 s of amber01, expected a length"),
    "fewer than none": (lambda text: text.replace(",58.0,", ",-58.0,"), r"found 39 rows and -58 s of amber01"),
    "an endless film": (lambda text: text.replace(",58.0,", ",inf,"), r"column duration_s: found 'inf' in row 1"),
    "another clock": (
        lambda text: text.replace(",39,", ",29,"),
        r"data/films.csv: found 29 rows of amber01, which lasts 58 s, expected 39 at clock.tr_s: 1.49; run",
    ),
    "a row of another clock": (
        lambda text: text.replace(",39,", ",40,"),
        r"found 40 rows of amber01, which lasts 58 s",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_one_line(tree: Tree, name: str) -> None:
    change, line = WRONG[name]
    _write(tree, change)
    message = tree.error("brain", "sub-01")
    assert_four_parts(message, line)
    assert message.endswith("run `cinecube films`")


def test_no_table(tree: Tree) -> None:
    (tree.root / "data/films.csv").unlink()
    assert_four_parts(tree.error("brain", "sub-01"), r"films.csv: found no table of films, .*run `cinecube films`")

"""Blocks of targets: what one task reads and solves. A block may hold targets of several subjects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from cinecube.analysis.cubes.rows import RowsGroup
from cinecube.analysis.cubes.spaces import Responses


@dataclass(frozen=True)
class Piece:
    """Some targets of one subject, by position in the brain cube, shape (target,)."""

    subject: str
    targets: np.ndarray


Block = tuple[Piece, ...]


def blocks_of(group: RowsGroup, targets: Mapping[str, np.ndarray], size: int) -> list[Block]:
    """Cut targets of a group's subjects (positions by subject), one subject after another, into blocks of `size`.

    Parameters
    ----------
    group : RowsGroup
    targets : Mapping of str to array of int, shape (target,)
        Positions by subject.
    size : int
        Targets of a block; the last may have fewer.
    """
    blocks: list[list[Piece]] = []
    room = 0
    for subject in group.subjects:
        left = targets[subject]
        while left.size:
            if room == 0:
                blocks.append([])
                room = size
            blocks[-1].append(Piece(subject, left[:room]))
            room, left = room - len(left[:room]), left[room:]
    return [tuple(block) for block in blocks]


def read_block(block: Block, group: RowsGroup, brains: Mapping[str, Responses]) -> np.ndarray:
    """Responses of a block at the group's rows, float32 (row, target).

    Parameters
    ----------
    block : Block
    group : RowsGroup
    brains : Mapping of str to Responses
        By subject.

    Returns
    -------
    array of float32, shape (row, target)
    """
    parts = [brains[piece.subject].read(group.showings[piece.subject], piece.targets) for piece in block]
    return np.concatenate(parts, axis=1)


def narrow_block(block: Block, inside: np.ndarray) -> Block:
    """The part of a block where `inside` (target,) is true, of the subjects that have some of it.

    Parameters
    ----------
    block : Block
    inside : array of bool, shape (target,)
    """
    return tuple(Piece(piece.subject, piece.targets[kept]) for piece, kept in split_block(block, inside) if kept.any())


def split_block(block: Block, values: np.ndarray) -> Iterator[tuple[Piece, np.ndarray]]:
    """A block's values (..., target) by piece.

    Parameters
    ----------
    block : Block
    values : array, shape (..., target)

    Yields
    ------
    piece : Piece
    values : array, shape (..., target)
    """
    edges = np.cumsum([piece.targets.size for piece in block])[:-1]
    yield from zip(block, np.split(values, edges, axis=-1), strict=True)

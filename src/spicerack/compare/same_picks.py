"""Cells of one seed with the same rows in the same order are one training: one runs, the others copy its result."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from spicerack.compare.bench import RESULT_FILE, Spec, of_the_cell, read_result
from spicerack.compare.plan import BASE, Cell
from spicerack.compare.workers import Work
from spicerack.store.files import write_json

Twin = tuple[Cell, Cell]
"""A cell, and the one whose result is its too."""


def share(work: Sequence[Work], finished: Collection[Path]) -> tuple[list[Work], list[Twin]]:
    """What is to be run, and whose result the other missing cells copy.

    Args:
        work: cells with the pool rows of each, in the order picked.
        finished: folders, below the comparison's own, of the cells that have their result.

    Returns:
        Cells to run, in the order given; and the twins.
    """
    first: dict[tuple[bool, int, bytes], Cell] = {}
    runs: list[Work] = []
    twins: list[Twin] = []
    for cell, indices in sorted(work, key=lambda one: one[0].folder not in finished):
        like = first.setdefault((cell.method.name == BASE, cell.seed, indices.tobytes()), cell)
        if cell.folder in finished:
            continue
        if like is cell:
            runs.append((cell, indices))
        else:
            twins.append((cell, like))
    return runs, twins


def copy_result(spec: Spec, cell: Cell, like: Cell) -> dict[str, Any]:
    """Give a cell the result of its twin, with the twin's name as `trained_as`."""
    there, folder = spec.folder(like), spec.folder(cell)
    shutil.rmtree(folder, ignore_errors=True)  # a training of its own that was broken off
    shutil.copytree(there, folder, ignore=shutil.ignore_patterns(RESULT_FILE))
    result = {**(read_result(there) or {}), **of_the_cell(cell), "trained_as": str(like)}
    write_json(folder / RESULT_FILE, result)
    return result

"""`results.parquet`: a row a cell, with all that a summary is made of, so that cells of several machines can be put
together.

Columns: label, method, options (JSON), budget, seed; loss, exact_match, `loss of GROUP`; samples, tokens,
trained_tokens, flagged, `samples of SOURCE`; seconds and steps, trained_as (the cell of the same picks whose training
this is), origin (JSON, see `origins`); picks (pool rows in the order picked) and losses (of every held-out row). The
file's metadata hold the settings that all cells share, and the groups of the held-out rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spicerack.compare.outcomes import Cells, Outcome
from spicerack.compare.plan import Budget, Cell, Method
from spicerack.errors import ConfigurationError, DataError, StoreMismatchError
from spicerack.store.files import write_atomically
from spicerack.store.read_back import read_table
from spicerack.store.settings import differences

TABLE_FILE = "results.parquet"
METADATA = b"spicerack"
LOSS_OF, SAMPLES_OF = "loss of ", "samples of "
OF_THE_CELL = ("label", "method", "budget", "seed", "loss", "exact_match")
OF_THE_PICKS = ("samples", "tokens", "trained_tokens", "flagged")
OF_THE_TRAINING = {"training_seconds": "seconds", "training_tokens": "tokens", "steps": "steps"}


def write_cells(path: Path, cells: Cells, settings: Mapping[str, Any]) -> None:
    """Write the table.

    Args:
        path: where to.
        cells: at least one.
        settings: that they share, as `driver.describe` gives them.
    """
    about = {"settings": _portable(settings), "pool": cells.pool, "groups": cells.outcomes[0].groups}
    rows = [_row(outcome) for outcome in cells.outcomes]
    columns = dict.fromkeys(name for row in rows for name in row)  # a source of which the first cell picked nothing too
    table = pa.table({name: [row.get(name) for row in rows] for name in columns})
    table = table.replace_schema_metadata({METADATA: json.dumps(about).encode()})
    write_atomically(path, lambda file: pq.write_table(table, file, compression="zstd"))


def read_cells(path: Path, settings: Mapping[str, Any]) -> Cells:
    """The cells of another comparison.

    Args:
        path: its table, or its folder.
        settings: of this comparison; the other must have been run with the same, but for where its model lay.

    Raises:
        DataError: no such table, or none of a comparison.
        StoreCorruptError: the file is damaged.
        StoreMismatchError: its cells were trained or measured with other settings; they are named.
    """
    path = path / TABLE_FILE if path.is_dir() else path
    table = read_table(path, f"name the {TABLE_FILE} of a comparison, or its folder")
    about = json.loads((table.schema.metadata or {}).get(METADATA, b"{}"))
    if "settings" not in about:
        raise DataError(
            f"{path} is no table of a comparison's cells, or an older one; the command that made it writes it anew "
            "(with --finished it runs nothing)"
        )
    if differing := differences(about["settings"], _portable(settings)):
        raise StoreMismatchError(
            f"{path} holds cells of other settings: {differing}; only cells trained and measured alike can be compared"
        )
    groups = None if about["groups"] is None else tuple(about["groups"])
    return Cells([_outcome(row, groups) for row in table.to_pylist()], about["pool"])


class Elsewhere:
    """Cells that other comparisons ran, each once: `cell in elsewhere` says whether one is among them."""

    def __init__(self) -> None:
        """None yet."""
        self.outcomes: list[Outcome] = []
        self.pool: Mapping[str, Any] = {}
        self.lines: list[str] = []
        self._known: set[tuple[str, str | None, int]] = set()

    @classmethod
    def read(cls, paths: Sequence[Path], settings: Mapping[str, Any], methods: Sequence[Method]) -> Elsewhere:
        """Read tables.

        Args:
            paths: as for `read_cells`; where two hold a cell, the first one's counts.
            settings: of this comparison.
            methods: of this comparison.

        Raises:
            ConfigurationError: a label that means another method, or other options, there.
            SpicerackError: as `read_cells`.
        """
        found, specs = cls(), {method.label: _spec(method) for method in methods}
        for path in paths:
            cells = read_cells(path, settings)
            new = [outcome for outcome in cells.outcomes if outcome.cell not in found]
            for method in (outcome.cell.method for outcome in new):
                if specs.setdefault(method.label, _spec(method)) != _spec(method):
                    raise ConfigurationError(
                        f"in {path} {method.label!r} is {_spec(method)}, and here {specs[method.label]}; give one of "
                        "them another label"
                    )
            found._put_in(new, cells.pool)
            found.lines.append(f"{len(new)} cells of {path} are put in")
        return found

    def __contains__(self, cell: Cell) -> bool:
        return _key(cell) in self._known

    def without(self, cells: Iterable[Cell]) -> list[Outcome]:
        """The outcomes of all but some cells."""
        others = {_key(cell) for cell in cells}
        return [outcome for outcome in self.outcomes if _key(outcome.cell) not in others]

    def _put_in(self, outcomes: Sequence[Outcome], pool: Mapping[str, Any]) -> None:
        self.outcomes += outcomes
        self.pool = pool
        self._known |= {_key(outcome.cell) for outcome in outcomes}


def _key(cell: Cell) -> tuple[str, str | None, int]:
    return *cell.series, cell.seed


def _row(outcome: Outcome) -> dict[str, Any]:
    result, selection = outcome.result, outcome.selection
    training = result["training"] or {}
    row = {name: result[name] for name in OF_THE_CELL}
    row |= {"options": _spec(outcome.cell.method)[1]}
    row |= {name: selection[name] for name in OF_THE_PICKS} | {"selection_seconds": selection["seconds"]}
    row |= {column: training.get(name) for column, name in OF_THE_TRAINING.items()}
    row |= {f"{LOSS_OF}{name}": value for name, value in result["groups"].items()}
    row |= {f"{SAMPLES_OF}{name}": count for name, count in selection["mix"].items()}
    row |= {"trained_as": result.get("trained_as")}
    row |= {"origin": None if outcome.origin is None else json.dumps(outcome.origin, sort_keys=True)}
    return row | {"picks": outcome.picks.tolist(), "losses": outcome.losses.tolist()}


def _outcome(row: Mapping[str, Any], groups: tuple[str, ...] | None) -> Outcome:
    def part(prefix: str) -> dict[str, Any]:
        return {name.removeprefix(prefix): v for name, v in row.items() if name.startswith(prefix) and v is not None}

    method = Method(row["label"], row["method"], json.loads(row["options"]))
    budget = None if row["budget"] is None else Budget(row["budget"], row["budget"], row["budget"])
    training = {name: row[column] for column, name in OF_THE_TRAINING.items()}
    result = {name: row[name] for name in OF_THE_CELL} | {"groups": part(LOSS_OF)}
    result |= {"training": None if training["steps"] is None else training}
    result |= {"trained_as": row["trained_as"]} if row.get("trained_as") else {}
    selection = {name: row[name] for name in OF_THE_PICKS} | {"seconds": row["selection_seconds"]}
    selection |= {"mix": part(SAMPLES_OF)}
    picks = np.asarray(row["picks"], dtype=np.int64)
    origin = None if row.get("origin") is None else json.loads(row["origin"])
    cell = Cell(method, budget, row["seed"])
    return Outcome(cell, result, selection, picks, np.asarray(row["losses"]), groups, origin)


def _spec(method: Method) -> tuple[str, str]:
    return method.name, json.dumps(dict(method.options), default=str, sort_keys=True)


def _portable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without where the model lies on this machine."""
    model = dict(settings["model"])
    place = Path(str(model["model_name_or_path"]))
    if place.exists():
        model["model_name_or_path"] = place.name
    return json.loads(json.dumps({**settings, "model": model}))  # type: ignore[no-any-return]

"""`spicerack analyze`: what a selection's gains and conflicts looked like, in numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from spicerack.information.analysis import Analysis, Decomposition
    from spicerack.information.matrix import BoolArray, IntArray
    from spicerack.information.overlap import Overlap
    from spicerack.store.reader import GradientStore


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("analyze")(analyze)


def analyze(
    store: Annotated[Path, typer.Argument(help="A gradient store: the folder that `gradients` wrote.")],
    selection: Annotated[
        Path | None,
        typer.Option("--selection", help="A selection's folder or its indices.npy; without it, SPICE picks now."),
    ] = None,
    other: Annotated[
        Path | None, typer.Option("--other", help="A second selection of the same pool, to compare with.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The JSON file to write.")] = Path("analysis.json"),
    samples: Annotated[
        Path | None,
        typer.Option("--samples", help="Also write base, epsilon and conflict of every sample to this .npz file."),
    ] = None,
    sizes: Annotated[
        str | None, typer.Option("--sizes", help="Set sizes, as in 1,10,100 (default: 1, 2, 5, 10, ... and all).")
    ] = None,
    budget: Annotated[str, typer.Option("--budget", help="What SPICE picks, without --selection.")] = "10%",
    penalty: Annotated[float, typer.Option("--penalty", help="lambda of SPICE, without --selection.")] = 0.1,
    rows: Annotated[
        str | None, typer.Option("--rows", help="plain | unit | sqrt (default: the selection's own, else plain)")
    ] = None,
    alpha: Annotated[
        str | None, typer.Option("--alpha", help="Weight of a row, or auto (default: the selection's own, else auto).")
    ] = None,
) -> None:
    """Decompose a selection's gains: epsilon, conflict, curvature, the paper's bound, overlap with another."""
    import numpy as np

    from spicerack.cli.console import console
    from spicerack.information import analysis as maths
    from spicerack.information.moments import median_alpha
    from spicerack.information.overlap import overlap
    from spicerack.selectors.rows import Rows
    from spicerack.store.forms import check_row_form
    from spicerack.store.reader import GradientStore

    opened = GradientStore.open(store)
    own = {"rows": "plain", "alpha": "auto", **_options_of(selection)}
    own.update({name: value for name, value in (("rows", rows), ("alpha", alpha)) if value is not None})
    form, weight = own["rows"], _weight(own["alpha"])
    check_row_form(form)
    if selection is None:
        from spicerack.selectors import select

        indices = select(opened, "spice", budget, penalty=penalty, rows=form, alpha=weight, certify=False).indices
    else:
        indices = _read_indices(selection, opened.n)
    source = Rows(opened)
    matrix, eligible = source.row_matrix(form, np.float32), source.included & _allowed(selection, opened)
    value = median_alpha(matrix, eligible)[0] if weight == "auto" else float(weight)
    decompositions = maths.decompose(matrix, value, indices, _sizes(sizes, indices.size))
    result = maths.analyze(matrix, value, indices, eligible, decompositions)
    second = _read_indices(other, opened.n) if other is not None else None
    _allowed(other, opened)
    compared = overlap(indices, second, opened.column("source").tolist()) if second is not None else None
    about = {"store": str(store), "fingerprint": opened.fingerprint(), "rows": form}
    _write(output, {**about, "selection": str(selection) if selection else None}, result, compared)
    if samples is not None:
        _write_samples(samples, decompositions)
    _print(result, compared)
    console.print(f"written: {output}" + (f", {samples}" if samples else ""), markup=False)


def _write(output: Path, about: dict[str, Any], result: Analysis, compared: Overlap | None) -> None:
    from dataclasses import asdict

    from spicerack.store import files

    both = {"analysis": asdict(result), "overlap": asdict(compared) if compared else None}
    files.write_json(output, {**about, **both})


def _write_samples(path: Path, decompositions: list[Decomposition]) -> None:
    """`sizes` (z,), `base` (n,), `epsilon` and `conflict` (z, n)."""
    import numpy as np

    from spicerack.store import files

    columns = {name: np.array([getattr(at, name) for at in decompositions]) for name in ("epsilon", "conflict")}
    sizes = np.array([at.size for at in decompositions])
    files.write_atomically(
        path, lambda file: np.savez(file, allow_pickle=False, sizes=sizes, base=decompositions[0].base, **columns)
    )


def _read_indices(path: Path, n: int) -> IntArray:
    """Rows of a selection in the order picked.

    Raises:
        DataError: no such file, not whole numbers, rows that the store does not have, or rows twice.
    """
    import numpy as np

    from spicerack.errors import DataError
    from spicerack.store.read_back import read_indices

    file = path / "indices.npy" if path.is_dir() else path
    indices: IntArray = read_indices(file)
    outside = indices[indices >= n]
    if outside.size:
        raise DataError(f"{file} names row {int(outside[0])}, the store has {n}; it is a selection of another pool")
    if np.unique(indices).size < indices.size:
        raise DataError(f"{file} names a row twice; expected each row of a selection once")
    return indices


def _options_of(selection: Path | None) -> dict[str, Any]:
    """The row form and alpha that a selection's manifest names; other methods call other things so."""
    import json

    from spicerack.errors import DataError

    manifest = selection / "manifest.json" if selection is not None else None
    if manifest is None or not manifest.is_file():
        return {}
    try:
        read = json.loads(manifest.read_text(encoding="utf-8"))
        method, options = read["method"], read["options"]
        if method != "spice" and (method, options.get("features")) != ("fisher", "gradients"):
            return {}
        return {name: options[name] for name in ("rows", "alpha") if name in options}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{manifest} is not the manifest of a selection ({error!r}); select again") from error


def _allowed(selection: Path | None, store: GradientStore) -> BoolArray:
    """Rows that the selection might have picked, (n,): all where it does not say, as with an indices.npy alone.

    Raises:
        DataError: it is a selection of another pool.
    """
    import numpy as np

    from spicerack.errors import DataError
    from spicerack.report.folder import REMEDY
    from spicerack.store.read_back import read_table

    scores = selection / "scores.parquet" if selection is not None else None
    if scores is None or not scores.is_file():
        return np.ones(store.n, dtype=bool)
    table = read_table(scores, REMEDY)
    ids = table.column("id").to_pylist() if "id" in table.column_names else store.column("id").tolist()
    if table.num_rows != store.n or ids != store.column("id").tolist():
        raise DataError(
            f"{scores} is of another pool than {store.path}: {table.num_rows} rows, {store.n} there, or other ids"
        )
    return np.asarray(table.column("excluded").is_null())


def _weight(text: Any) -> Any:
    import math

    from spicerack.errors import ConfigurationError

    if text == "auto":
        return text
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not (value > 0.0 and math.isfinite(value)):
        raise ConfigurationError(f"alpha={text!r}, expected a number above 0, or auto")
    return value


def _sizes(text: str | None, count: int) -> list[int]:
    from spicerack.errors import ConfigurationError
    from spicerack.information.analysis import default_sizes

    if text is None:
        return default_sizes(count)
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and 0 <= int(word) <= count for word in words):
        raise ConfigurationError(
            f"sizes={text!r}, expected whole numbers from 0 to {count} between commas, as in 1,{count}"
        )
    return sorted({int(word) for word in words})


def _print(result: Analysis, compared: Overlap | None) -> None:
    from spicerack.cli.console import console, make_table

    console.print(f"{result.picks:,} of {result.rows:,} samples, alpha = {result.alpha:.4g}", markup=False)
    table = make_table("along the picks", "", "value")
    bound = result.perturbation
    numbers: list[tuple[str, str]] = [
        ("information", f"{result.information:.4f}"),
        ("gain of the first and the last pick", f"{result.gain_first:.4f}, {result.gain_last:.4f}"),
        ("picks until the gain has halved", "not reached" if result.half_life is None else str(result.half_life)),
        ("mean conflict", f"{result.conflict_mean:.4f}"),
        ("Spearman of conflict and gain", _number(result.conflict_gain)),
        ("Spearman of conflict and |epsilon|", _number(result.conflict_epsilon)),
        ("perturbation bound: rho >= 1 (says nothing)", f"{bound.assumption_fails:.1%} of {bound.steps} steps"),
        ("perturbation bound: no constant C (says nothing)", f"{bound.no_constant:.1%}"),
        ("perturbation bound: violated where it holds", _share(bound.violated, bound.holds)),
        ("|epsilon| above the leading term (no guarantee)", f"{bound.above_leading_term:.1%}"),
    ]
    numbers += [
        (f"curvature of the {third.name} conflict third", f"{_number(third.curvature)} ({third.rows:,} samples)")
        for third in result.thirds
    ]
    for row in numbers:
        table.add_row(*row)
    console.print(table)
    _print_sizes(result)
    if compared is not None:
        _print_overlap(compared)


def _print_sizes(result: Analysis) -> None:
    from spicerack.cli.console import console, make_table

    columns = ("picks", "U", "gain", "epsilon", "kept", "opposed", "conflict", "~gain", "~|eps|")
    table = make_table("the samples not picked yet", *columns)
    for at in result.sizes:
        middle = (at.information, at.gain_median, at.epsilon_median, at.kept_median)
        shown = [*(f"{value:.3f}" for value in middle), f"{at.opposed:.1%}", f"{at.conflict_mean:.3f}"]
        table.add_row(f"{at.size:,}", *shown, _number(at.conflict_gain), _number(at.conflict_epsilon))
    console.print(table)
    console.print("  gain, epsilon, kept = gain / base: medians; opposed: share with a conflict", markup=False)
    console.print("  ~: Spearman correlation of the conflict with it, over samples", markup=False)


def _print_overlap(compared: Overlap) -> None:
    from spicerack.cli.console import console, make_table

    table = make_table("overlap of the two selections", "source", "first", "second", "common", "Jaccard")
    for at in compared.sources:
        table.add_row(at.source, f"{at.first:,}", f"{at.second:,}", f"{at.common:,}", f"{at.jaccard:.3f}")
    whole = (f"{compared.first:,}", f"{compared.second:,}", f"{compared.common:,}", f"{compared.jaccard:.3f}")
    table.add_row("all", *whole, style="bold")
    console.print(table)
    rank = _number(compared.rank_correlation)
    console.print(f"  Jaccard by chance {compared.by_chance:.3f}; rank correlation {rank}", markup=False)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _share(value: float | None, of: int) -> str:
    return "it holds nowhere" if value is None else f"{value:.1%} of {of} steps"

"""Where rows come from: an array in memory, or a named array of a gradient store. `Rows` puts forms on top.

A source has rows (n, k) and the table's columns. It gives *native* rows: those of an array as they are, those of a
store at unit length as stored, with their lengths in `scale`. `excluded` are the rows that may never be picked,
ascending, each with its reason; they read as zeros, as do rows that are not finite.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from spicerack.errors import ConfigurationError, GradientError
from spicerack.information.matrix import BoolArray, FloatArray, IntArray
from spicerack.numbers import all_finite, as_float32

if TYPE_CHECKING:
    from spicerack.store.reader import GradientStore

NON_FINITE = "non-finite gradient"
LARGEST = float(np.finfo(np.float32).max)
FAINTEST = 1e-140
FAINT = f"every value below {FAINTEST:g}, whose squares float64 loses: scale the rows"
BLOCK_ROWS = 4096

FEATURE_OF = {
    **dict.fromkeys(("loss_mean", "loss_sum"), "loss"),
    **dict.fromkeys(("loss_alone", "ifd"), "ifd"),
    **dict.fromkeys(("loss_mismatched", "mismatch"), "mismatch"),
    **dict.fromkeys(("selectit", "selectit_cut_tokens"), "selectit"),
}
"""What `spicerack features --compute` calls that which gives a column."""


class ArraySource:
    """Rows of an array (n, k) of floats."""

    scale = None

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self.array = array
        self.n, self.k = int(array.shape[0]), int(array.shape[1])

    @cached_property
    def _largest(self) -> FloatArray:
        """Largest magnitude in each row, (n,); NaN where there is one."""
        largest = np.zeros(self.n)
        for start in range(0, self.n, BLOCK_ROWS):
            block = self.array[start : start + BLOCK_ROWS]
            largest[start : start + BLOCK_ROWS] = np.abs(block.astype(np.float64)).max(axis=1, initial=0.0)
        return largest

    @cached_property
    def usable(self) -> BoolArray:
        """Rows whose every value is finite in float32, and whose squares do not vanish in float64, (n,)."""
        return np.asarray((self._largest <= LARGEST) & ((self._largest == 0.0) | (self._largest >= FAINTEST)))

    @cached_property
    def excluded(self) -> list[tuple[int, str]]:
        """The other rows."""
        lost = np.flatnonzero(~self.usable).tolist()
        return [(i, FAINT if self._largest[i] < FAINTEST else NON_FINITE) for i in lost]

    def native(self, rows: IntArray | slice) -> npt.NDArray[Any]:
        """The array's own rows, in its own dtype."""
        values = self.array[rows]
        bad = ~self.usable[rows]
        if bad.any():
            values = values.copy()
            values[bad] = 0.0
        return values

    def column(self, name: str) -> npt.NDArray[Any]:
        """An array has none.

        Raises:
            ConfigurationError: always; says what to give instead.
        """
        raise ConfigurationError(
            f"the method reads the column {name!r}, which an array does not have: give a gradient store, or "
            f"columns={{{name!r}: values}}"
        )

    def description(self) -> dict[str, Any]:
        """Shape, dtype and SHA-256."""
        digest = hashlib.sha256(self.array.data).hexdigest()
        return {"kind": "array", "dtype": str(self.array.dtype), "fingerprint": digest}


class StoreSource:
    """Rows of one named array of a store, read as they are asked for; by default the gradient, else the first.

    A store of columns alone has rows of no columns, under the name "".
    """

    def __init__(self, store: GradientStore, name: str | None = None) -> None:
        name = name or next(iter(["gradient"] if "gradient" in store.arrays else store.arrays), "")
        if name and name not in store.arrays:
            raise ConfigurationError(_missing_array(store, name))
        self.store, self.name = store, name
        self.n, self.k = int(store.n), int(store.arrays[name]) if name else 0

    @cached_property
    def scale(self) -> FloatArray:
        """Length of every plain row, (n,), 0 where excluded; float32 values, exact in float64."""
        norms = self._norms
        norms = np.where(np.isfinite(norms), norms, 0.0)
        norms[[i for i, _ in self.excluded]] = 0.0
        return norms

    @cached_property
    def excluded(self) -> list[tuple[int, str]]:
        """Rows that the store marks, and rows whose norm is not finite."""
        reasons = dict(self.store.excluded())
        bad = np.flatnonzero(~np.isfinite(self._norms))
        reasons.update({int(i): NON_FINITE for i in bad if int(i) not in reasons})
        return sorted(reasons.items())

    @cached_property
    def _norms(self) -> FloatArray:
        from spicerack.store.layout import norm_column

        if not self.name:
            return np.zeros(self.n)
        return np.asarray(self.column(norm_column(self.name)), dtype=np.float64)

    def native(self, rows: IntArray | slice) -> npt.NDArray[Any]:
        """Unit rows as stored, in float32; raises as `stored` does."""
        return as_float32(self.stored(rows))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the rows as stored, as `numbers.py` says."""
        dtype: np.dtype[Any] = self._rows.dtype
        return dtype

    def stored(self, rows: IntArray | slice, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Unit rows in the dtype that they are stored in.

        Args:
            rows: of the store.
            out: where to write them, (r, k); by default fresh memory.

        Raises:
            GradientError: a row that is not finite, though the table says so.
        """
        values: npt.NDArray[Any] = self._rows.take(rows, out)
        if self.excluded:
            values[self._banned[rows]] = 0.0
        if not self._seen[rows].all():
            self._check(values, rows)
        return values

    def _check(self, values: npt.NDArray[Any], rows: IntArray | slice) -> None:
        """Rows are looked at once, not at every pass."""
        if not all_finite(values):
            at = int(np.flatnonzero(~np.isfinite(as_float32(values)).all(axis=1))[0])
            row = at + rows.start if isinstance(rows, slice) else int(rows[at])
            raise GradientError(f"row {row} of {self.store.path} is not finite, though the store's table says so")
        self._seen[rows] = True

    @cached_property
    def _seen(self) -> BoolArray:
        return np.zeros(self.n, dtype=bool)

    @cached_property
    def _banned(self) -> BoolArray:
        banned = np.zeros(self.n, dtype=bool)
        banned[[i for i, _ in self.excluded]] = True
        return banned

    @cached_property
    def _rows(self) -> Any:
        from spicerack.store.gather import RowGatherer

        return RowGatherer(self.store, self.name)

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column of the store's table, or of its features.

        Raises:
            ConfigurationError: neither has it.
        """
        from spicerack.errors import StoreError

        try:
            return np.asarray(self.store.column(name))
        except StoreError as error:
            raise ConfigurationError(f"column {name!r} is asked for: {error}{self._how_it_is_made(name)}") from error

    def _how_it_is_made(self, column: str) -> str:
        feature = FEATURE_OF.get(column)
        if feature is None:
            return ""
        beside = self.store.more_features
        return f"; `spicerack features POOL --model M --compute {feature} --output {beside}` gives it"

    def description(self) -> dict[str, Any]:
        """Where it is, and its fingerprint."""
        about = {"kind": "store", "path": str(self.store.path), "fingerprint": self.store.fingerprint()}
        return about if self.name in ("gradient", "") else {**about, "array": self.name}


def _missing_array(store: GradientStore, name: str) -> str:
    made_by = {
        "gradient": "take gradients with `spicerack gradients`",
        "adam": "take gradients with --checkpoints WARMUP, or with --optimizer-state of a trained checkpoint",
        "embedding": "run `spicerack features` on the store",
        "embedding_weighted": "run `spicerack features` on the store",
        "states": "run `spicerack features --compute states` on the store",
    }
    hint = made_by.get(name, "make the store again with it")
    return f"{store.path} has no array {name!r} (it has {', '.join(store.arrays) or 'none'}); {hint}"


class JoinedSource:
    """Several sources one after the other: the named targets of a run. Native rows are plain, float64."""

    scale = None
    n: int
    k: int

    def __init__(self, parts: Sequence[tuple[str, Source]]) -> None:
        self.parts = list(parts)
        self.n, self.k = sum(source.n for _, source in parts), parts[0][1].k
        for name, source in parts:
            if source.k != self.k:
                raise GradientError(
                    f"target {name!r} has rows of {source.k} dimensions, {parts[0][0]!r} of {self.k}; project all alike"
                )

    @cached_property
    def excluded(self) -> list[tuple[int, str]]:
        """Those of every part, numbered through."""
        return [(start + i, reason) for start, source in self._placed() for i, reason in source.excluded]

    def native(self, rows: IntArray | slice) -> npt.NDArray[Any]:
        """Plain rows."""
        return self._matrix[rows]

    @cached_property
    def _matrix(self) -> FloatArray:
        return np.concatenate([_plain(source) for _, source in self.parts])

    def column(self, name: str) -> npt.NDArray[Any]:
        """The parts' columns, one after the other."""
        return np.concatenate([source.column(name) for _, source in self.parts])

    def description(self) -> dict[str, Any]:
        """Every part's, by name."""
        return {"kind": "joined", "parts": {name: source.description() for name, source in self.parts}}

    def _placed(self) -> Iterator[tuple[int, Source]]:
        start = 0
        for _, source in self.parts:
            yield start, source
            start += source.n


def _plain(source: Source) -> FloatArray:
    values = source.native(slice(0, source.n)).astype(np.float64)
    return values if source.scale is None else values * source.scale[:, None]


Source = ArraySource | StoreSource | JoinedSource

"""The forms that rows are read in: how long each is."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from spicerack.errors import UnknownNameError

RowForm = Literal["plain", "unit", "sqrt"]
"""plain: a row as it is; unit: at length 1; sqrt: at the square root of its length, between the two."""

Lengths = npt.NDArray[np.floating]


def check_row_form(form: str) -> None:
    """Find out whether there is such a form.

    Raises:
        UnknownNameError: there is not.
    """
    if form not in get_args(RowForm):
        raise UnknownNameError("row form", str(form), get_args(RowForm))


def lengths_in(form: RowForm, norms: Lengths) -> Lengths:
    """How long rows are in a form, (n,), given how long the plain ones are, `norms` (n,).

    A row of zeros has no direction to be brought to a length: what stands there for it (0 plain, else 1) has no effect.
    """
    if form == "plain":
        return norms
    return np.ones_like(norms) if form == "unit" else np.sqrt(np.where(norms > 0.0, norms, 1.0))


def bring(values: npt.NDArray[np.floating], lengths: Lengths, wanted: Lengths) -> None:
    """Bring rows (r, k) of these lengths (r,) to the wanted ones, in place; a row of zeros stays one."""
    values /= (np.where(lengths > 0.0, lengths, 1.0) / wanted)[:, None].astype(values.dtype)

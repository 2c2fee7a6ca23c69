"""The two forms that rows are read in."""

from __future__ import annotations

from typing import Literal, get_args

from spicerack.errors import UnknownNameError

RowForm = Literal["plain", "unit"]


def check_row_form(form: str) -> None:
    """Find out whether there is such a form.

    Raises:
        UnknownNameError: there is not.
    """
    if form not in get_args(RowForm):
        raise UnknownNameError("row form", str(form), get_args(RowForm))

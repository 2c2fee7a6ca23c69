"""Text that can be tokenized and written."""

from __future__ import annotations

from spicerack.errors import DataError


def writable(text: str, where: str) -> str:
    """The text, if it is Unicode: JSON lets half of an emoji pass, and no tokenizer and no table takes that.

    Raises:
        DataError: it has a lone surrogate.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = ascii(text[error.start])
        raise DataError(
            f"{where}: {found} is half of a surrogate pair, not a character; mend or drop the row"
        ) from error
    return text

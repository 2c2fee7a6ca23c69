"""What the label rule makes of a pool, known before the first gradient: totals, truncations, empty rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from spicerack.data.labels import nothing_to_train
from spicerack.data.responses import prompt_of

if TYPE_CHECKING:
    from spicerack.data.labels import Labeler
    from spicerack.data.records import Pool
    from spicerack.store.layout import Shard

Progress = Callable[[str, int, int, int], None]
"""Called as (stage, rows done, tokens done, tokens in all); stage is `survey` or `gradients`."""


@dataclass(frozen=True)
class Survey:
    """What the label rule makes of every row: (n,) arrays; `prompt` is a digest of the prompt, 0 for none."""

    tokens: np.ndarray
    trained_tokens: np.ndarray
    cut_tokens: np.ndarray
    missing_end_of_turn: np.ndarray
    empty_response: np.ndarray
    largest_id: np.ndarray
    prompt: np.ndarray

    def tokens_of(self, shards: Iterable[Shard]) -> int:
        """Tokens of the rows of some shards."""
        return int(sum(self.tokens[shard.start : shard.stop].sum() for shard in shards))

    def middle(self) -> int:
        """The row of middling length among those with a trained token: what one sample costs is counted on it."""
        trained = np.flatnonzero(self.trained_tokens > 0)
        return int(trained[np.argsort(self.tokens[trained], kind="stable")[len(trained) // 2]])

    def table(self, pool: Pool, shard: Shard) -> dict[str, Any]:
        """The columns of a shard's table that are known before a pass: ids, sources, counts."""
        part = slice(shard.start, shard.stop)
        return {
            "id": [pool.id(i) for i in range(shard.start, shard.stop)],
            "source": pool.sources[part],
            "tokens": self.tokens[part].astype(np.int32),
            "trained_tokens": self.trained_tokens[part].astype(np.int32),
            "cut_tokens": self.cut_tokens[part].astype(np.int32),
        }

    def summary(self) -> dict[str, int]:
        """Counts over the pool."""
        return {
            "rows": len(self.tokens),
            "tokens": int(self.tokens.sum()),
            "trained_tokens": int(self.trained_tokens.sum()),
            "truncated": int((self.cut_tokens > 0).sum()),
            "cut_tokens": int(self.cut_tokens.sum()),
            "without_trained_tokens": int((self.trained_tokens == 0).sum()),
            "missing_end_of_turn": int(self.missing_end_of_turn.sum()),
            "empty_responses": int(self.empty_response.sum()),
        }


def survey(pool: Pool, labeler: Labeler, progress: Progress | None = None) -> Survey:
    """Tokenize the whole pool, keeping the counts only.

    Raises:
        FormatError: a row that its format cannot read, named.
        DataError: not one row has a trained token.
    """
    counts = np.zeros((len(pool), 6), dtype=np.int64)
    prompts = np.zeros(len(pool), dtype=np.uint64)
    for i in range(len(pool)):
        encoded = labeler.encode(pool.sample(i), where=pool.where(i))
        counts[i, :3] = len(encoded.input_ids), encoded.trained_tokens, encoded.cut_tokens
        counts[i, 3:] = encoded.missing_end_of_turn, labeler.says_nothing(encoded), encoded.largest_id
        if len(prompt := prompt_of(encoded)):
            prompts[i] = int.from_bytes(blake2b(prompt.tobytes(), digest_size=8).digest(), "little") or 1
        if progress and (i % 256 == 255 or i + 1 == len(pool)):
            progress("survey", i + 1, 0, 0)
    if not counts[:, 1].any():
        raise nothing_to_train(pool, int((counts[:, 2] > 0).sum()), labeler.config)
    tokens, trained, cut, unended, empty, largest = counts.T
    return Survey(tokens, trained, cut, unended.astype(bool), empty.astype(bool), largest, prompts)

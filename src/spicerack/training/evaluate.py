"""How good is a model on held-out rows: token loss per group and overall, exact match, each with its interval.

A sample's loss is the mean of -log p over its trained tokens, in nats; a group's loss is the mean over its samples. The
loss `over groups` is the mean of the groups' losses, so that a large group does not speak for the small ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spicerack.errors import DataError, ModelError
from spicerack.models.modes import evaluating
from spicerack.store.files import write_atomically, write_json
from spicerack.training.answers import greedy_answers, normalize, question_of, reference_text
from spicerack.training.bootstrap import Interval, mean_interval, mean_of_means_interval
from spicerack.training.harness import require_harness, run_harness
from spicerack.training.losses import loss_sums
from spicerack.training.options import EvaluateConfig
from spicerack.training.samples import LabeledRows, model_summary

if TYPE_CHECKING:
    from spicerack.data.records import Pool
    from spicerack.gradients.survey import Progress
    from spicerack.models.loading import LoadedModel

EVALUATION_FILE = "evaluation.json"
SAMPLES_FILE = "samples.parquet"


@dataclass(frozen=True)
class Quality:
    """What was measured on some samples.

    Attributes:
        samples: how many.
        trained_tokens: of them all.
        loss: mean over the samples of their mean token losses, in nats.
        token_loss: mean over all their trained tokens alike, as trainers report it.
        answered: samples whose reference is short enough to be answered; 0 without exact_match.
        exact_match: share of those answered rightly; None where there are none.
    """

    samples: int
    trained_tokens: int
    loss: Interval
    token_loss: float
    answered: int = 0
    exact_match: Interval | None = None


@dataclass(frozen=True)
class Evaluation:
    """An evaluation.

    Attributes:
        overall: all samples alike.
        groups: by the group's name, in sorted order; empty without groups.
        loss_over_groups: mean of the groups' losses; None without groups.
        exact_match_over_groups: the same of exact match, over the groups that have answers.
        harness: by task and measure.
        table: a row a sample: row, id, group, trained_tokens, loss; with exact_match also reference,
            answer, exact_match.
        settings: options, model and data.
    """

    overall: Quality
    groups: dict[str, Quality]
    loss_over_groups: Interval | None
    exact_match_over_groups: Interval | None
    harness: dict[str, Any]
    table: pa.Table
    settings: dict[str, Any]

    def summary(self) -> dict[str, Any]:
        """Everything but the table, ready for JSON."""
        return {
            "overall": asdict(self.overall),
            "groups": {name: asdict(quality) for name, quality in self.groups.items()},
            "loss_over_groups": asdict(self.loss_over_groups) if self.loss_over_groups else None,
            "exact_match_over_groups": asdict(self.exact_match_over_groups) if self.exact_match_over_groups else None,
            "harness": self.harness,
            **self.settings,
        }

    def write(self, output_dir: Path) -> dict[str, Path]:
        """Write `samples.parquet`, and `evaluation.json` last: its presence means whole."""
        paths = {name: output_dir / name for name in (EVALUATION_FILE, SAMPLES_FILE)}
        write_atomically(paths[SAMPLES_FILE], lambda file: pq.write_table(self.table, file))
        write_json(paths[EVALUATION_FILE], self.summary())
        return paths


def evaluate(
    data: LabeledRows,
    loaded: LoadedModel,
    options: EvaluateConfig,
    *,
    groups: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a model on held-out rows.

    Args:
        data: see `training.samples.label_rows`.
        loaded: the model; with its tokenizer for exact match and the harness.
        options: what to measure, and the bootstrap.
        groups: (n,) the group of each sample; see `group_names`.
        progress: called as (stage, samples done, tokens done, tokens in all).

    Returns:
        The measures with their intervals, overall and by group.

    Raises:
        ModelError: the loss of a sample is not finite.
        DataError: a sample that the model cannot read.
        ConfigurationError: exact match without a tokenizer, or an unknown harness task.
        MissingDependencyError: harness tasks without lm-eval.
    """
    if options.harness_tasks:
        require_harness()  # before the work, not after it
    data.check_fits(loaded.model)
    with evaluating(loaded.model):
        sums = loss_sums(loaded, data.samples, tokens_per_batch=options.tokens_per_batch, progress=progress)
        tokens = np.array([sample.trained_tokens for sample in data.samples])
        _check_finite(sums, data)
        columns: dict[str, Any] = {"row": data.rows, "id": list(data.ids)}
        if groups is not None:
            columns["group"] = list(groups)
        columns |= {"trained_tokens": tokens, "loss": sums / tokens}
        matches = np.full(len(data), np.nan)
        if options.exact_match:
            answered, matches = _exact_matches(data, loaded, options, progress)
            columns |= answered
        harness = (
            run_harness(loaded, options.harness_tasks, limit=options.harness_limit) if options.harness_tasks else {}
        )
    scores = _Scores(sums, tokens, matches, options)
    members = _members(groups)
    return Evaluation(
        overall=scores.quality(np.arange(len(data))),
        groups={name: scores.quality(rows) for name, rows in members.items()},
        loss_over_groups=scores.over_groups(sums / tokens, list(members.values())),
        exact_match_over_groups=scores.over_groups(matches, list(members.values())),
        harness=harness,
        table=pa.table(columns),
        settings=_settings(data, loaded, options),
    )


def group_names(pool: Pool, rows: Iterable[int], column: str) -> list[str]:
    """The group of each of some rows: its value of a column, as text.

    Raises:
        DataError: a row without the column.
    """
    names = []
    for i in rows:
        row = pool.source[i]
        if row.get(column) is None:
            raise DataError(f"{pool.where(i)} has no {column!r}, which by= names; found {', '.join(map(str, row))}")
        names.append(str(row[column]))
    return names


class _Scores:
    """Per-sample numbers, and what they say of some of the samples."""

    def __init__(self, sums: np.ndarray, tokens: np.ndarray, matches: np.ndarray, options: EvaluateConfig) -> None:
        self.sums, self.tokens, self.matches = sums, tokens, matches
        self.bootstrap: dict[str, Any] = {
            "resamples": options.resamples,
            "confidence": options.confidence,
            "seed": options.bootstrap_seed,
        }

    def quality(self, rows: np.ndarray) -> Quality:
        matches = self.matches[rows]
        matches = matches[~np.isnan(matches)]
        return Quality(
            samples=len(rows),
            trained_tokens=int(self.tokens[rows].sum()),
            loss=mean_interval(self.sums[rows] / self.tokens[rows], **self.bootstrap),
            token_loss=float(self.sums[rows].sum() / self.tokens[rows].sum()),
            answered=len(matches),
            exact_match=mean_interval(matches, **self.bootstrap) if len(matches) else None,
        )

    def over_groups(self, values: np.ndarray, members: Sequence[np.ndarray]) -> Interval | None:
        """The mean over groups of their means; groups without a value are left out."""
        present = [values[rows][~np.isnan(values[rows])] for rows in members]
        present = [group for group in present if len(group)]
        return mean_of_means_interval(present, **self.bootstrap) if present else None


def _members(groups: Sequence[str] | None) -> dict[str, np.ndarray]:
    """Rows of each group, by name in sorted order."""
    if groups is None:
        return {}
    names = np.asarray(groups, dtype=object)
    return {name: np.flatnonzero(names == name) for name in sorted(set(groups))}


def _exact_matches(
    data: LabeledRows, loaded: LoadedModel, options: EvaluateConfig, progress: Progress | None
) -> tuple[dict[str, list[Any]], np.ndarray]:
    """Columns reference, answer and exact_match, None where a sample is not answered; and the last as (n,) floats."""
    questions = [question_of(sample, longest=options.max_answer_tokens) for sample in data.samples]
    places = [i for i, question in enumerate(questions) if question is not None]
    prompts = [question.prompt for question in questions if question is not None]
    said = greedy_answers(
        loaded,
        prompts,
        max_new_tokens=options.max_new_tokens,
        tokens_per_batch=options.tokens_per_batch,
        progress=progress,
    )
    matches = np.full(len(data), np.nan)
    columns: dict[str, list[Any]] = {name: [None] * len(data) for name in ("reference", "answer", "exact_match")}
    for i, answer in zip(places, said, strict=True):
        question = questions[i]
        assert question is not None
        assert loaded.tokenizer is not None
        reference = reference_text(loaded.tokenizer, question.reference)
        right = normalize(answer) == normalize(reference)
        matches[i] = float(right)
        columns["reference"][i], columns["answer"][i], columns["exact_match"][i] = reference, answer, right
    return columns, matches


def _check_finite(sums: np.ndarray, data: LabeledRows) -> None:
    bad = np.flatnonzero(~np.isfinite(sums))
    if len(bad):
        raise ModelError(
            f"the loss of {len(bad)} of {len(sums)} samples is not finite, the first is {data.ids[bad[0]]}; the "
            "model's weights or its dtype are at fault, try dtype float32"
        )


def _settings(data: LabeledRows, loaded: LoadedModel, options: EvaluateConfig) -> dict[str, Any]:
    return {
        "options": options.model_dump(mode="json"),
        "model": model_summary(loaded),
        "data": data.summary(),
    }

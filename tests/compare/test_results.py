"""What a comparison's summary says of its cells."""

import numpy as np

from spicerack.compare.intervals import Bootstrap
from spicerack.compare.outcomes import Outcome
from spicerack.compare.plan import Budget, Cell, Method
from spicerack.compare.results import overlaps, summarize

FIVE = Budget("5", 5, "rows-5")


def outcome(label, seed, picks):
    return Outcome(Cell(Method(label, label), FIVE, seed), {}, {}, np.asarray(picks), np.zeros(0), None)


def test_picks_of_one_seed_are_set_against_those_of_the_same():
    """Methods of which other seeds are there, as tables of other machines may have them."""
    series = {
        ("a", "5"): [outcome("a", 0, [0, 1]), outcome("a", 1, [2, 3])],
        ("b", "5"): [outcome("b", 1, [2, 3]), outcome("b", 2, [4, 5])],
        ("c", "5"): [outcome("c", 7, [0, 1])],
    }
    assert overlaps(series)["5"] == {
        "labels": ["a", "b", "c"],
        "jaccard": [[0.0, 1.0, None], [1.0, 0.0, None], [None, None, None]],
    }


def test_the_summary_goes_from_the_smallest_budget_whatever_was_asked_for_first():
    def cell(label, budget):
        given = Budget(budget, budget, budget) if budget else None
        result = {"training": None, "groups": {}, "exact_match": None}
        selection = {"mix": {}, **dict.fromkeys(("samples", "tokens", "trained_tokens", "flagged", "seconds"), 1.0)}
        return Outcome(Cell(Method(label, label), given, 0), result, selection, np.arange(2), np.ones(3), None)

    asked = ["10%", "9k tokens", "2%", None, "300 tokens", "50", "0.2"]
    found = summarize(
        [cell(label, budget) for label in ("b", "a") for budget in asked],
        {"samples": 1000},
        Bootstrap(10, 0.95, 0),
        about={},
    )
    budgets = ["2%", "50", "10%", "0.2", "300 tokens", "9k tokens", None]
    assert [(row["label"], row["budget"]) for row in found["summary"]] == [(m, b) for b in budgets for m in ("b", "a")]
    assert list(found["overlap"]) == budgets[:-1]

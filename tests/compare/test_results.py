"""What a comparison's summary says of its cells."""

import numpy as np

from spicerack.compare.outcomes import Outcome
from spicerack.compare.plan import Budget, Cell, Method
from spicerack.compare.results import overlaps

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

"""A step's winner depends on exact scores only."""

import numpy as np

from spicerack.information.matrix import RowMatrix
from spicerack.information.ties import contenders, settle, smallest_best


def test_contenders_hold_every_row_that_could_be_best():
    scores, slack = np.array([1.0, 0.95, 0.7, 1.0]), np.array([0.1, 0.0, 0.0, 0.0])
    assert contenders(scores, slack, 1e-10, 0.0).tolist() == [0, 3]
    assert contenders(scores, slack + 0.1, 1e-10, 0.0).tolist() == [0, 1, 3]


def test_ties_are_relative_to_the_gain():
    tiny = np.array([1.0e-12, 1.1e-12])
    assert smallest_best(tiny, tiny, 1e-10, 0.0) == 1
    huge = np.array([1e12, 1e12 + 1.0])
    assert smallest_best(huge, huge, 1e-10, 0.0) == 0


def test_of_tied_rows_the_first_wins_and_one_alone_is_not_scored():
    def exact(rows):
        assert rows.size > 1
        return np.array([0.9, 1.0, 1.0]), np.ones(rows.size)

    assert settle(np.array([2, 5, 9]), exact, 1e-10, 0.0) == 5
    assert settle(np.array([7]), exact, 1e-10, 0.0) == 7


def test_copies_are_bitwise_equal_rows_of_the_exact_rows():
    exact = np.array([[1.0, 2.0], [1.0, 2.0 + 1e-12], [1.0, 2.0]])
    matrix = RowMatrix(exact.astype(np.float32), lambda rows: exact[rows])
    copies = matrix.copies.numbers(np.array([2, 1, 0]))
    assert copies[0] == copies[2] != copies[1]
    assert matrix.copies.distinct(np.array([0, 1, 2])).tolist() == [0, 1]
    assert matrix.copies.distinct(np.array([2])).tolist() == [2]

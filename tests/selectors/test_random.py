"""Random is uniform, repeats by seed, and only grows with the budget."""

import numpy as np

from spicerack.selectors import select

G = np.zeros((200, 2))


def test_the_seed_decides():
    np.testing.assert_array_equal(select(G, "random", 20, seed=1).indices, select(G, "random", 20, seed=1).indices)
    assert (select(G, "random", 20, seed=1).indices != select(G, "random", 20, seed=2).indices).any()


def test_a_larger_budget_only_adds():
    small, large = select(G, "random", 20).indices, select(G, "random", 60).indices
    np.testing.assert_array_equal(large[:20], small)
    assert np.unique(large).size == 60


def test_scores_fall_in_the_order_picked_and_are_above_the_rest():
    selection = select(G, "random", 50)
    assert (np.diff(selection.scores[selection.indices]) < 0).all()
    assert np.delete(selection.scores, selection.indices).max() < selection.scores[selection.indices].min()
    assert selection.certificate is None


def test_every_row_is_as_likely():
    counts = sum(np.bincount(select(G, "random", 40, seed=seed).indices, minlength=200) for seed in range(300))
    expected, spread = 300 * 0.2, np.sqrt(300 * 0.2 * 0.8)
    assert np.abs(counts - expected).max() < 5 * spread

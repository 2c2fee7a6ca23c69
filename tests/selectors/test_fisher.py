"""Fisher is SPICE without the penalty, and FisherSFT equals a plain loop over its determinants."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from spicerack.information.grouped import GroupedFisher
from spicerack.information.matrix import RowMatrix
from spicerack.selectors import select
from spicerack.selectors.rows import Rows
from spicerack.store.reader import GradientStore

R, H = 3, 5


@pytest.fixture
def states():
    rng = np.random.default_rng(0)
    return rng.standard_normal((30, R, H)) * rng.lognormal(0.0, 0.7, (30, 1, 1)) * np.array([3.0, 1.0, 0.2])[:, None]


def information(chosen, alpha):
    X = chosen.reshape(-1, H)
    return np.linalg.slogdet(np.eye(H) + alpha * X.T @ X)[1]


def plain_loop(X, alpha, count):
    picks = []
    for _ in range(count):
        rest = [i for i in range(len(X)) if i not in picks]
        picks.append(max(rest, key=lambda i: (information(X[[*picks, i]], alpha), -i)))
    return picks


def test_gradients_are_spice_without_penalty():
    G = np.random.default_rng(0).standard_normal((80, 6))
    fisher, spice = select(G, "fisher", 20), select(G, "spice", 20, penalty=0.0)
    np.testing.assert_array_equal(fisher.indices, spice.indices)
    np.testing.assert_array_equal(fisher.scores, spice.scores)
    assert fisher.certificate == spice.certificate
    assert fisher.manifest["options"]["alpha"] == spice.manifest["options"]["alpha"]


def test_last_hidden_states_equal_the_plain_loop(states, tmp_path, write_features):
    store = write_features(tmp_path / "s", {"states": states.reshape(30, -1)}, settings={"hidden_size": H})
    X = store.matrix(array="states", dtype=np.float64).reshape(30, R, H)
    selection = select(store, "fisher", 12, features="last_hidden", alpha=0.5)
    assert selection.indices.tolist() == plain_loop(X, 0.5, 12)
    gained = [information(X[selection.indices[: t + 1]], 0.5) for t in range(12)]
    np.testing.assert_allclose(np.cumsum(selection.trace["gain"]), gained, rtol=1e-7)
    rest = np.delete(np.arange(30), selection.indices)
    truth = [information(X[[*selection.indices, i]], 0.5) - gained[-1] for i in rest]
    np.testing.assert_allclose(selection.scores[rest], truth, rtol=1e-6, atol=1e-7)


def test_the_certificate_of_states_bounds_the_best_set(states, tmp_path, write_features):
    store = write_features(tmp_path / "s", {"states": states[:9].reshape(9, -1)}, settings={"hidden_size": H})
    X = store.matrix(array="states", dtype=np.float64).reshape(9, R, H)
    selection = select(store, "fisher", 3, features="last_hidden", alpha=1.0)
    best = max(information(X[list(some)], 1.0) for some in itertools.combinations(range(9), 3))
    certificate = selection.certificate
    assert certificate.information == pytest.approx(information(X[selection.indices], 1.0))
    assert certificate.upper_bound >= best - 1e-9
    assert certificate.share >= certificate.greedy_factor > 1 - 1 / np.e
    assert select(store, "fisher", 3, features="last_hidden", certify=False).certificate is None


def test_the_inverse_is_kept_through_many_picks(states, monkeypatch):
    monkeypatch.setattr("spicerack.information.grouped.REFRESH", 4)
    monkeypatch.setattr("spicerack.information.grouped.AT_ONCE", 8 * R * H * 4)
    objective = GroupedFisher(RowMatrix(states.reshape(30, -1)), H, 100.0)
    for i in range(20):
        objective.add(i)
    assert objective.value == pytest.approx(information(states[:20], 100.0), rel=1e-10)
    truth = [information(states[[*range(20), i]], 100.0) - objective.value for i in (20, 29)]
    np.testing.assert_allclose(objective.gains(np.array([20, 29])), truth, rtol=1e-6)


def exact_information(chosen, alpha):
    """By elimination in rational numbers: float64 would round the identity away."""
    h = chosen.shape[-1]
    rows = [[Fraction(float(x)) for x in row] for row in chosen.reshape(-1, h)]
    M = [[Fraction(alpha) * sum(row[i] * row[j] for row in rows) + (i == j) for j in range(h)] for i in range(h)]
    found = 0.0
    for c in range(h):
        found += math.log(M[c][c].numerator) - math.log(M[c][c].denominator)
        for i in range(c + 1, h):
            factor = M[i][c] / M[c][c]
            M[i] = [x - factor * y for x, y in zip(M[i], M[c], strict=True)]
    return found


@pytest.mark.parametrize(("width", "long", "times"), [(9, 4, 1e8), (10, 4, 1e8), (10, 0, 1e7), (10, 2, 1.0)])
def test_samples_of_very_different_lengths_have_their_own_information(width, long, times, tmp_path, write_features):
    """Ones 1e5 times longer, an alpha far above the automatic one, and nothing like it before the tenth pick."""
    X = np.random.default_rng(0).standard_normal((40, R, width))
    X[:long] *= 1e5
    alpha = times / float(np.median((X**2).sum(axis=(1, 2))))
    store = write_features(tmp_path / "s", {"states": X.reshape(40, -1)}, settings={"hidden_size": width})
    X = Rows(store).array("states").take(np.arange(40)).reshape(40, R, width)
    selection = select(store, "fisher", 12, features="last_hidden", alpha=alpha)
    truth = [exact_information(X[selection.indices[: t + 1]], alpha) for t in range(12)]
    np.testing.assert_allclose(np.cumsum(selection.trace["gain"]), truth, rtol=1e-9)
    assert selection.certificate.information == pytest.approx(truth[-1], rel=1e-9)
    rest = np.delete(np.arange(40), selection.indices)[:5]
    gains = [exact_information(X[[*selection.indices, i]], alpha) - truth[-1] for i in rest]
    np.testing.assert_allclose(selection.scores[rest], gains, rtol=1e-6, atol=1e-8)


def test_states_beside_a_gradient_store_are_found_and_missing_ones_named(states, tmp_path, write_features):
    from spicerack.errors import ConfigurationError

    store = write_features(tmp_path / "s", {"embedding": states[:, 0]})
    with pytest.raises(ConfigurationError, match=r"no array 'states'.*--compute states"):
        select(store, "fisher", 3, features="last_hidden")
    wide = write_features(tmp_path / "w", {"states": states.reshape(30, -1)})
    with pytest.raises(ConfigurationError, match="does not say how wide"):
        select(GradientStore.open(wide.path), "fisher", 3, features="last_hidden")

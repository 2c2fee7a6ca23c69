"""Rows brought up to date, whatever their ages and however many."""

import numpy as np
import pytest

from spicerack.information import Conflict, FullFisher, ground
from spicerack.information.ground import Ground


@pytest.mark.parametrize("penalized", [False, True])
@pytest.mark.parametrize("first", [256, 700], ids=["then most rows", "then few rows"])
def test_a_refresh_gives_every_row_its_value_of_now(first, penalized, monkeypatch):
    monkeypatch.setattr(ground, "CHUNK_BYTES", 1)  # 256 rows a product: here the first of them are all of now already
    G = np.random.default_rng(0).standard_normal((1000, 8))
    state, conflict = FullFisher(G, 1.0), Conflict(G)
    rows = Ground(state, conflict, penalized=penalized)
    for i in (3, 500):
        conflict.add(i)
        rows.push(i)
    rows.refresh(np.arange(first))
    rows.refresh(np.arange(1000))

    assert rows.fresh().all()
    M = np.eye(8) + G[[3, 500]].T @ G[[3, 500]]
    np.testing.assert_allclose(state.aq, np.einsum("ij,ij->i", G, np.linalg.solve(M, G.T).T), rtol=1e-10)
    if penalized:
        mean = G[[3, 500]].sum(axis=0)
        cosine = G @ mean / (np.linalg.norm(G, axis=1) * np.linalg.norm(mean))
        np.testing.assert_allclose(rows.cosine, cosine, atol=1e-12)

"""Every selector keeps the promises of the conformance suite, and the suite can fail."""

import numpy as np
import pytest

import spicerack
from spicerack.selectors import spice
from spicerack.testing import check_selector

TARGET = np.random.default_rng(1).standard_normal((5, 12))

CASES = [
    ("random", {}, None),
    ("spice", {}, None),
    ("spice", {"penalty": 2.0}, None),
    ("spice", {"fisher": "diag"}, None),
    ("spice", {"fisher": "adafisher-code"}, None),
    ("spice", {"objective": "transductive"}, None),
    ("spice", {"objective": "transductive", "rows": "unit"}, TARGET),
]


@pytest.mark.parametrize(("method", "options", "target"), CASES)
def test_a_selector_keeps_its_promises(method, options, target):
    check_selector(method, options=options, target=target)


def test_the_suite_finds_a_selector_that_does_not(monkeypatch):
    honest = spice.Spice.select

    def twice(self, problem, options):
        picks = honest(self, problem, options)
        picks.indices[-1] = picks.indices[0]
        return picks

    monkeypatch.setattr(spice.Spice, "select", twice)
    with pytest.raises(AssertionError, match="picked twice"):
        check_selector("spice")


def test_the_manifest_tells_arrays_apart():
    rows = np.random.default_rng(0).standard_normal((6, 3))
    first = spicerack.select(rows, "random", 2).manifest["gradients"]
    assert first == spicerack.select(rows.copy(), "random", 2).manifest["gradients"]
    assert first["fingerprint"] != spicerack.select(rows + 1, "random", 2).manifest["gradients"]["fingerprint"]

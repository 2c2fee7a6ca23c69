"""Methods are found by name, and others can add theirs."""

from importlib.metadata import EntryPoint

import numpy as np
import pytest

from spicerack.errors import ConfigurationError, UnknownNameError
from spicerack.selectors import get_selector, methods, registry, select


class First:
    name, summary, paper = "first", "the first rows", ""
    needs = get_selector("random").needs
    Options = get_selector("random").Options

    def select(self, problem, options):
        from spicerack.selectors import Picks

        indices = np.flatnonzero(problem.eligible)[: problem.budget.count]
        scores = -np.arange(problem.rows.n, dtype=np.float64)
        return Picks(indices, scores, np.zeros(indices.size, dtype=[("score", np.float64)]))


FIRST = First()


@pytest.fixture
def installed(monkeypatch):
    def install(*points):
        monkeypatch.setattr(registry, "_third_party", lambda: {point.name: point for point in points})

    return install


def test_every_method_says_what_it_is():
    for method in methods():
        assert method.name == get_selector(method.name).name
        assert method.summary
    assert {"spice", "random"} <= {method.name for method in methods()}


def test_a_method_from_an_entry_point_is_used_like_a_built_in_one(installed):
    class Point:
        name, value = "first", "somewhere:FIRST"

        def load(self):
            return FIRST

    installed(Point())
    assert select(np.eye(5), "first", 3).indices.tolist() == [0, 1, 2]
    assert "first" in [method.name for method in methods()]


def test_a_method_that_cannot_be_loaded_is_named(installed):
    installed(EntryPoint("broken", "no_such_module_anywhere:X", registry.GROUP))
    with pytest.raises(ConfigurationError, match=r"'broken'.*no_such_module_anywhere"):
        get_selector("broken")


def test_what_is_no_selector_says_what_it_lacks(installed):
    installed(EntryPoint("hollow", "json:dumps", registry.GROUP))
    with pytest.raises(ConfigurationError, match="lacks name, summary"):
        get_selector("hollow")


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'random'"):
        get_selector("ramdom")

"""What is checked before a pass is what `select` would say after it, word for word, and nothing else."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from stores import write_store

import spicerack
from spicerack.errors import BudgetError, ConfigurationError, SpicerackError, UnknownNameError
from spicerack.selectors.bids import BIDS
from spicerack.selectors.foreseen import Foreseen, check_foreseen, check_given
from spicerack.selectors.spice import SPICE

N = 12
SOURCES = ["a", "b", "b", "c", "a", "b", "c", "b", "a", "b", "b", "b"]
TRAINED = [5, 5, 5, 0, 5, 5, 5, 5, 0, 5, 5, 5]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    G = np.random.default_rng(0).normal(size=(N, 4))
    return write_store(tmp_path_factory.mktemp("g") / "s", {"gradient": G}, sources=SOURCES, trained=TRAINED)


@pytest.fixture(scope="module")
def rows():
    known = {
        "id": [f"r{i}" for i in range(N)],
        "source": SOURCES,
        "tokens": np.full(N, 5),
        "trained_tokens": np.array(TRAINED),
    }
    return Foreseen(known, {"loss_mean", "gradient_norm"}, "pool.jsonl")


def said(work):
    """What was refused, or None."""
    try:
        work()
    except SpicerackError as error:
        return type(error), str(error)
    return None


ranges = st.sampled_from(
    [0, 1, 2, 3, 7, "..2", "1..", "2..1", "20%..", "..30%", "50%", "x", (1, None), (None, 3), True]
)
quotas = st.none() | st.just("proportional") | st.dictionaries(st.sampled_from(["a", "b", "c", "zz", "*"]), ranges)
listed = st.lists(st.integers(-1, N) | st.integers(0, N + 1).map("r{}".format), max_size=3)
budgets = st.integers(1, N + 1) | st.floats(0.05, 1.0) | st.sampled_from([3, 12, 31, 70]).map("{} tokens".format)
asked = st.fixed_dictionaries(
    {
        "budget": budgets,
        "quotas": quotas,
        "groups": st.sampled_from([None, None, "source", "id", "tokens"]),
        "include": listed,
        "exclude": listed,
    }
)


@settings(max_examples=300, deadline=None)
@given(asked=asked)
def test_refused_before_is_refused_after(store, rows, asked):
    assert said(lambda: check_foreseen(rows, **asked)) == said(lambda: spicerack.select(store, "random", **asked))


@settings(max_examples=150, deadline=None)
@given(asked=asked, trim=st.sampled_from([0.1, 0.3, 0.6]), groups=st.sampled_from(["source", "clusters:2"]))
def test_with_rows_trimmed_nothing_is_refused_that_would_pass(store, rows, asked, trim, groups):
    if said(lambda: spicerack.select(store, "random", **asked, trim=trim, trim_groups=groups)) is None:
        check_foreseen(rows, **asked, trim=trim, trim_groups=groups)


@pytest.mark.parametrize("groups", ["clusters:3", "loss_mean", "gradient_norm"])
def test_groups_that_only_a_pass_can_tell_are_left_to_it(rows, groups):
    check_foreseen(rows, 3, quotas={"cluster-00": "..2"}, groups=groups)
    check_foreseen(rows, 3, quotas={"a": "..2"}, trim=0.1, trim_groups=groups)


def test_a_column_that_no_pass_gives_is_named_with_the_way_to_have_it(rows):
    with pytest.raises(ConfigurationError, match=r"'domain', which the store of pool.jsonl will not.*source_column="):
        check_foreseen(rows, 3, quotas="proportional", groups="domain")
    with pytest.raises(ConfigurationError, match="'domain'"):
        check_foreseen(rows, 3, trim=0.2, trim_groups="domain")


@settings(max_examples=150, deadline=None)
@given(
    count=st.integers(1, N),
    trim=st.sampled_from([0.1, 0.3, 0.6, 0.9]),
    include=st.lists(st.integers(0, 2), max_size=2),
    by=st.sampled_from([None, "tokens"]),
)
def test_what_a_trim_leaves_is_counted_where_its_groups_are_known(store, rows, count, trim, include, by):
    asked = {"budget": count, "include": include, "trim": trim, "trim_groups": "source", "trim_by": by}
    after = said(lambda: spicerack.select(store, "random", **asked))
    before = said(lambda: check_foreseen(rows, **asked))
    if before is not None or not include:  # which rows a trim takes, forced ones or others, only a pass can tell
        assert (before is None) == (after is None)


def test_more_rows_than_a_trim_of_clusters_leaves_are_refused(rows):
    check_foreseen(rows, 7, trim=0.5, trim_groups="clusters:1")
    with pytest.raises(BudgetError, match="above the 6 rows that trim"):
        check_foreseen(rows, 7, trim=0.5, trim_groups="clusters:1", exclude=[11])


def test_rows_of_zeros_are_a_group_beside_the_clusters(tmp_path, rows):
    G = np.random.default_rng(0).normal(size=(N, 4))
    G[[0, 1, 2, 4, 5]] = 0.0  # of each half of the ten 1.75 rows are to go, and one does
    zeros = write_store(tmp_path / "s", {"gradient": G}, sources=SOURCES, trained=TRAINED)
    asked = {"budget": 8, "trim": 0.35, "trim_groups": "clusters:1"}
    assert len(spicerack.select(zeros, "random", **asked).indices) == 8
    check_foreseen(rows, **asked)


@pytest.mark.parametrize("groups", ["source", "clusters:2"])
def test_rows_that_may_have_no_value_are_not_counted_as_trimmed(store, rows, groups):
    """A row without a value of the column stays, and before the pass no one knows how many there are."""
    some = np.where(np.arange(N) < 9, np.nan, 1.0)
    asked = {"budget": 9, "trim": 0.6, "trim_by": "gradient_norm", "trim_groups": groups}
    assert len(spicerack.select(store, "random", **asked, columns={"gradient_norm": some}).indices) == 9
    check_foreseen(rows, **asked)
    with pytest.raises(BudgetError, match=r"rows that trim=0\.6 leaves"):
        check_foreseen(rows, **asked | {"trim_by": "tokens"})


@settings(max_examples=60, deadline=None)
@example(budget=7, size=7, picks=3, include=[0])  # a forced row takes no seat in a pool
@given(
    budget=st.integers(1, N - 2) | st.just("30 tokens"),
    size=st.integers(1, N),
    picks=st.integers(1, N),
    include=st.lists(st.integers(0, 2), max_size=2, unique=True),
)
def test_a_walk_that_cannot_reach_its_budget_is_refused_before_the_pass(store, rows, budget, size, picks, include):
    options = {"schedule": "pools", "pool_size": size, "pool_picks": min(size, picks)}

    def foresee():
        SPICE.check_room(SPICE.Options(**options), check_foreseen(rows, budget, include=include))

    before = said(foresee)
    after = said(lambda: spicerack.select(store, "spice", budget, include=include, **options))
    assert before == after or (before is None and isinstance(budget, str))


def test_least_quotas_and_a_stop_are_refused_before_the_pass(rows):
    options = SPICE.Options(stop_ratio=0.5)
    SPICE.check_room(options, check_foreseen(rows, 3, quotas={"a": "..2"}))
    with pytest.raises(ConfigurationError, match="may stop before"):
        SPICE.check_room(options, check_foreseen(rows, 3, quotas={"a": "1.."}))


def test_options_are_checked_against_subtasks_and_devices(monkeypatch):
    weighed = BIDS.Options(task_weights={"math": 2.0})
    check_given(BIDS, weighed, ("math", "shell"))
    with pytest.raises(UnknownNameError, match="subtask 'math'"):
        check_given(BIDS, weighed, ("arithmetic-only", "shell"))
    monkeypatch.setattr("spicerack.selectors.devices.devices", dict)
    check_given(SPICE, SPICE.Options(), ())
    with pytest.raises(ConfigurationError, match="no GPU on this machine"):
        check_given(SPICE, SPICE.Options(device="cuda"), ())


def test_a_trim_by_a_column_that_no_pass_gives_is_refused(rows):
    check_foreseen(rows, 3, trim=0.2, trim_by="loss_mean")
    with pytest.raises(ConfigurationError, match="'quality', which the store of"):
        check_foreseen(rows, 3, trim=0.2, trim_by="quality")
    with pytest.raises(ConfigurationError, match="'quality', which the store of"):
        check_foreseen(rows, 3, trim_above=0.2, trim_by="quality")


@settings(max_examples=100, deadline=None)
@given(asked=asked, above=st.floats(-1.0, 15.0))
def test_with_rows_above_a_value_trimmed_nothing_is_refused_that_would_pass(store, rows, asked, above):
    trim = {"trim_above": above, "trim_by": "loss_mean"}
    if said(lambda: spicerack.select(store, "random", **asked, **trim)) is None:
        check_foreseen(rows, **asked, **trim)

"""A budget means one thing, or is refused with what is legal."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spicerack.errors import BudgetError
from spicerack.selectors.budget import ResolvedBudget, TokenBudget, parse_budget, resolve


@pytest.mark.parametrize(
    ("given_budget", "parsed"),
    [
        (7, 7),
        (np.int32(7), 7),
        (0.25, 0.25),
        (np.float32(0.5), 0.5),
        ("500", 500),
        (" 10% ", 0.1),
        ("0.1", 0.1),
        ("1", 1),
        ("1.0", 1.0),
        ("20000 tokens", TokenBudget(20000)),
        ("20k tokens", TokenBudget(20000)),
        ("1.5M tokens", TokenBudget(1_500_000)),
        ("4.1m tokens", TokenBudget(4_100_000)),  # 4.1 * 1e6 is below
        ("1,000 tokens", TokenBudget(1000)),
        (TokenBudget(5), TokenBudget(5)),
    ],
)
def test_what_a_budget_means(given_budget, parsed):
    assert parse_budget(given_budget) == parsed
    assert type(parse_budget(given_budget)) is type(parsed)


@pytest.mark.parametrize(
    "bad",
    [
        0,
        -1,
        0.0,
        -0.1,
        1.5,
        float("nan"),
        float("inf"),
        True,
        np.True_,
        "",
        "ten",
        "0",
        "-5",
        "0%",
        "101%",
        "nan",
        None,
        "0 tokens",
        "tokens",
        "-5 tokens",
        [1],
        "5 5",
        "1e400",
    ],
)
def test_what_is_no_budget_is_refused(bad):
    with pytest.raises(BudgetError):
        parse_budget(bad)


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, "5"])
def test_a_token_budget_is_a_whole_number(bad):
    with pytest.raises(BudgetError):
        TokenBudget(bad)


@given(share=st.floats(1e-9, 1.0), n=st.integers(1, 300), excluded=st.integers(0, 300))
def test_a_share_counts_the_rows_that_can_be_picked(share, n, excluded):
    eligible = np.arange(n + excluded) < n
    count = resolve(share, eligible, None).count
    assert 1 <= count <= n
    assert abs(count - share * n) <= 1.0


def test_a_count_above_what_can_be_picked_is_refused():
    eligible = np.array([True, False, True])
    assert resolve(2, eligible, None) == ResolvedBudget(count=2)
    with pytest.raises(BudgetError, match="3 is above the 2 rows"):
        resolve(3, eligible, None)

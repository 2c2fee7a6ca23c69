"""Settings that differ are named one by one, by dotted names, with both values."""

from hypothesis import given
from hypothesis import strategies as st

from spicerack.store.settings import differences, flatten, shorten

VALUES = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["a", "b"]) | st.lists(st.integers(0, 2))
SETTINGS = st.dictionaries(
    st.sampled_from("abc"), VALUES | st.dictionaries(st.sampled_from("xy"), VALUES, min_size=1), max_size=3
)


def test_nested_settings_are_named_alone():
    before = {"projection": {"seed": 0, "k": 8}, "rows": 3}
    now = {"projection": {"seed": 1, "k": 8}, "rows": 4}
    assert differences(before, now) == "projection.seed was 0, now 1; rows was 3, now 4"
    assert differences(before, now, but=("rows",)) == "projection.seed was 0, now 1"


def test_what_is_on_one_side_alone_differs_from_nothing():
    assert differences({"packing": True}, {}) == "packing was True, now None"
    assert differences({}, {"packing": True}) == "packing was None, now True"


@given(SETTINGS, SETTINGS)
def test_nothing_is_said_where_and_only_where_all_values_agree(before, now):
    names = {*flatten(before), *flatten(now)}
    agree = all(flatten(before).get(name) == flatten(now).get(name) for name in names)
    assert (differences(before, now) == "") is agree
    assert differences(before, before) == ""


def test_long_lists_are_counted():
    assert shorten("abc") == "abc"
    assert shorten([1] * 100, width=10) == "[1, 1, 1, ... (100 in all)"
    assert shorten("a" * 20, width=10) == "a" * 10 + "..."

"""Figures are well-formed XML with escaped text, and axes hold their values between round ticks."""

import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spicerack.report.figures import Axis, curves, heatmap, shares
from spicerack.report.quality import by_budget, forest

NASTY = "<script>alert('x')</script> & \"co\""


def entry(label, mean, budget="5%", spread=0.1, versus=None):
    return {
        "label": label,
        "budget": budget,
        "seeds": 2,
        "per_seed": [mean - spread, mean + spread],
        "loss": {"mean": mean, "low": mean - 2 * spread, "high": mean + 2 * spread},
        "versus_random": versus,
    }


def well_formed(svg):
    root = ET.fromstring(svg)
    assert root.tag == "svg"
    for element in root.iter():
        for name, value in element.attrib.items():
            if name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height"):
                assert math.isfinite(float(value))
                assert float(value) >= -20.0
    return root


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.booleans())
def test_an_axis_holds_its_values(values, zero):
    axis = Axis.over(values, 10.0, 110.0, zero=zero)
    assert 2 <= len(axis.ticks) <= 12
    for value in values:
        assert 10.0 - 1e-6 <= axis(value) <= 110.0 + 1e-6
    assert len({axis.label(tick) for tick in axis.ticks}) == len(axis.ticks)


def test_text_of_the_data_is_escaped_and_nothing_is_markup():
    rows = [entry(NASTY, 2.0), entry("random", 2.1), entry("u", 1.9, versus={"mean": -0.2, "low": -0.3, "high": -0.1})]
    figures = [
        shares({"the pool": {NASTY: 3, "b": 1}, NASTY: {"b": 2}}, title=NASTY),
        heatmap([NASTY, "b"], [[1.0, 0.2], [0.2, None]], title=NASTY),
        curves({NASTY: [1.0, 0.5, math.nan, 0.1], "b": [0.2]}, title=NASTY, x_label="pick", y_label=NASTY),
        forest(rows, title=NASTY, lines={NASTY: 2.05}),
        by_budget([*rows, entry("u", 1.7, "10%")], [["5%", "10%"]], title=NASTY, lines={"full": 1.8}),
    ]
    for figure in figures:
        well_formed(figure)
        assert "<script" not in figure
    assert NASTY in "".join(well_formed(figures[0]).itertext())


def test_a_method_s_line_goes_from_the_left_and_stays_within_a_kind_of_budget():
    names = [f"m{i}" for i in range(10)]
    rows = [entry(name, 2.0 + i / 10, budget) for i, name in enumerate(names) for budget in ("10%", "9 tokens", "2%")]
    root = well_formed(
        by_budget([*rows, entry("random", 1.9)], [["2%", "5%", "10%"], ["9 tokens"]], title="t", lines={})
    )
    lines = [line for line in root.iter("polyline") if "curve" in line.attrib["class"]]
    drawn = [[float(x) for x in line.attrib["points"].replace(",", " ").split()[::2]] for line in lines]
    assert len(drawn) == len(names) + len(names) + 1  # over the shares, and in the legend
    assert all(first < last < 600 for first, last in drawn[: len(names)])
    assert all(first == sorted(first) for first in drawn)
    looks = [line.attrib["class"] for line in lines[: len(names)]]
    assert len(set(looks)) == len(names), "a color used again is dashed"
    assert not any("s9" in look for look in looks), "random's"


@pytest.mark.parametrize("values", [[0.0] * 5, [3.0], []])
def test_flat_and_short_series_can_be_drawn(values):
    well_formed(curves({"a": values}, title="t", x_label="x", y_label="y"))


def test_shares_add_up_to_the_whole_width():
    root = well_formed(shares({"one": {"a": 1, "b": 2, "c": 1}}, title="t"))
    bars = [float(box.attrib["width"]) for box in root.iter("rect") if box.attrib["height"] == "17.0"]
    assert bars[1] == pytest.approx(sum(bars) / 2, abs=0.2)

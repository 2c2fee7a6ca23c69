"""Methods as the command line writes them, and the cells that they make."""

import pytest

from spicerack.compare.plan import Budget, Method, make_cells, parse_methods
from spicerack.errors import ConfigurationError

TEN = Budget("10%", 4, "rows-4")


def test_methods_options_and_labels_are_read():
    found = parse_methods(["spice,random", "u=spice:rows=unit,penalty=0.2,full", "spice:quotas={a: 3, b: 1..2}"])
    assert [method.label for method in found] == ["spice", "random", "u", "full", "spice-quotas_a_3_b_1..2_"]
    assert found[2] == Method("u", "spice", {"rows": "unit", "penalty": 0.2})
    assert found[4].options == {"quotas": {"a": 3, "b": "1..2"}}


def test_a_value_may_hold_a_colon():
    first, second = parse_methods("spice:quotas=proportional,groups=clusters:12,u=spice:rows=unit")
    assert first.options == {"quotas": "proportional", "groups": "clusters:12"}
    assert (second.label, second.options) == ("u", {"rows": "unit"})


def test_options_name_a_method_that_has_no_label():
    (method,) = parse_methods("spice:rows=unit,penalty=0.2,certify=false")
    assert method.label == "spice-unit-penalty0.2-certifyFalse"
    assert method.options["certify"] is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no method is named"),
        ("spice,spice", "two methods are called 'spice'"),
        ("spice:rows", "expected option=value"),
        ("a/b=spice", "cannot name a folder"),
        ("spice:exclude=@bad.txt", "exclude: cannot read the value '@bad.txt'"),
    ],
)
def test_what_is_no_method_is_said(text, message):
    with pytest.raises(ConfigurationError, match=message):
        parse_methods(text)


def test_cells_go_seed_by_seed_and_controls_are_not_multiplied():
    methods = parse_methods("random,full,none")
    cells = make_cells(methods, [TEN, Budget("5", 5, "rows-5")], [0, 7])
    assert [str(cell) for cell in cells] == [
        "random 10%, seed 0",
        "random 5, seed 0",
        "full, seed 0",
        "none, seed 0",
        "random 10%, seed 7",
        "random 5, seed 7",
        "full, seed 7",
    ]
    assert cells[0].folder.as_posix() == "cells/random/rows-4/seed-0"
    assert len({cell.folder for cell in cells}) == len(cells)

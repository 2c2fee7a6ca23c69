"""The method of docs/guides/add_a_method.md, installed as a package would be, works like a built-in one."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

import spicerack
from spicerack.errors import UnknownNameError
from spicerack.selectors import registry
from spicerack.testing import check_selector

GUIDE = Path(__file__).parents[2] / "docs/guides/add_a_method.md"


@pytest.fixture
def guide(tmp_path, monkeypatch):
    """The guide's package on the path, with the entry point that its pyproject.toml declares."""
    blocks = re.findall(r"```(python|toml)\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)
    (_, module), (_, project), (_, check) = blocks
    assert len([line for line in module.splitlines() if line.strip()]) <= 40
    (tmp_path / "typical.py").write_text(module)
    info = tmp_path / "typical_method-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: typical-method\nVersion: 0.1\n")
    points = tomllib.loads(project)["project"]["entry-points"]
    (info / "entry_points.txt").write_text(
        "".join(
            f"[{group}]\n" + "".join(f"{n} = {at}\n" for n, at in entries.items()) for group, entries in points.items()
        )
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry._third_party.cache_clear()
    yield check
    registry._third_party.cache_clear()


def test_the_guides_method_is_found_listed_and_keeps_its_promises(guide):
    exec(guide)
    assert "typical" in [method.name for method in spicerack.methods()]
    check_selector("typical", options={"order": "rare"})
    with pytest.raises(UnknownNameError, match="did you mean 'order'"):
        spicerack.select(np.eye(3), "typical", 1, ordre="rare")


def test_it_takes_budgets_quotas_and_fixed_rows(guide):
    G = np.random.default_rng(0).standard_normal((30, 5)) + 1.0
    mean = (G / np.linalg.norm(G, axis=1, keepdims=True)).sum(axis=0)
    scores = G @ mean / np.linalg.norm(G, axis=1)
    assert spicerack.select(G, "typical", 5).indices.tolist() == np.argsort(-scores)[:5].tolist()
    groups = ["a"] * 15 + ["b"] * 15
    picks = spicerack.select(G, "typical", 6, quotas={"a": "2", "b": "4"}, groups=groups, include=[20]).indices
    assert picks[0] == 20
    assert (picks < 15).sum() == 2


def test_it_is_gone_with_its_package():
    with pytest.raises(UnknownNameError):
        spicerack.select(np.eye(3), "typical", 1)

"""The pages of a run and of a comparison: whole, self-contained, escaped, the same bytes for the same run."""

import json
import re

import numpy as np
import pytest

from spicerack.config import DataConfig, RunConfig, dump_config
from spicerack.data.records import load_pool
from spicerack.errors import DataError
from spicerack.export.rows import write_selection
from spicerack.report.comparison import comparison_page
from spicerack.report.page import selection_page
from spicerack.report.pages import write_page
from spicerack.selectors import select

NASTY = "<img src=x onerror=alert(1)>"


@pytest.fixture
def run_folder(tmp_path):
    import pyarrow as pa

    rows = [
        {"id": f"r{i}", "source": NASTY if i % 3 else "b&c", "instruction": f"{NASTY} {i}", "output": "y" * i * 40}
        for i in range(30)
    ]
    G = np.random.default_rng(0).standard_normal((30, 6))
    G[4] = np.nan

    def make(name, method="spice"):
        folder = tmp_path / name
        folder.mkdir()
        selection = select(G, method, 9)
        pool = load_pool(rows, DataConfig())
        table = pa.table({"id": pool.ids, "source": pool.sources, "tokens": list(range(10, 40))})
        write_selection(folder, pool, selection, config_yaml=dump_config(RunConfig()), rows_table=table)
        return folder

    return make


def is_self_contained(page):
    assert page.startswith("<!doctype html>")
    assert "default-src 'none'" in page
    assert not re.search(r"<(script|link|img|iframe|object)\b", page)
    assert not re.search(r"(src|href)\s*=|url\(|@import|https?://", page.replace("src=x onerror", ""))


def test_a_selection_is_explained(run_folder):
    page = selection_page(run_folder("a"))
    is_self_contained(page)
    assert NASTY not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    for words in ("What spice picked", "of the best possible information", "non-finite gradient", "r4", "alpha"):
        assert words in page
    assert page.count("<svg") >= 3
    assert "… (" in page


def test_the_same_selection_has_the_same_bytes_without_its_cost(run_folder):
    first, second = run_folder("a"), run_folder("b")
    (first / "cost.json").write_text(json.dumps({"seconds": 3.5}))
    assert selection_page(first, with_cost=False) == selection_page(second, with_cost=False)
    assert "Cost of the gradients" in selection_page(first)
    assert "Cost of the gradients" not in selection_page(first, with_cost=False)


def test_methods_without_gains_have_a_page_too(run_folder):
    page = selection_page(run_folder("a", "random"))
    is_self_contained(page)
    assert "What random picked" in page
    assert "best possible" not in page


def test_without_rows_there_are_no_samples(run_folder):
    folder = run_folder("a")
    assert "<h2>Samples</h2>" in selection_page(folder)
    (folder / "selected.jsonl").unlink()
    assert "<h2>Samples</h2>" not in selection_page(folder)


def test_another_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r"is no run's folder: it has no manifest\.json"):
        selection_page(tmp_path)


def comparison(*, seeds=2, control=2, random=True, flag=True):
    def row(label, method, budget, mean):
        other = (
            {"mean": mean - 2.0, "low": mean - 2.2, "high": mean - 1.9, "seeds": min(seeds, control)}
            if random and method != "random" and budget
            else None
        )
        return {
            **{
                "label": label,
                "method": method,
                "budget": budget,
                "seeds": seeds,
                "spread": 0.02,
                "versus_random": other,
            },
            **{"loss": {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}, "per_seed": [mean] * seeds},
            **{"groups": {"math": mean, NASTY: mean + 0.2}, "exact_match": None, "samples": 5.0, "tokens": 50.0},
            **{"trained_tokens": 20.0, "flagged": 0.2 if flag else None, "mix": {NASTY: 3.0, "b": 2.0}},
            **{"selection_seconds": 0.1, "training_seconds": None if method == "none" else 3.0, "steps": 4.0},
        }

    rows = [row("random", "random", b, 2.0) for b in ("10%", "5%")] if random else []
    rows += [row("u<b>", "spice", b, 1.7) for b in ("5%", "10%")] + [row("none", "none", None, 2.6)]
    labels = [r["label"] for r in rows if r["budget"] == "5%"]
    jaccard = [[1.0 if i == j else 0.1 for j in range(len(labels))] for i in range(len(labels))]
    return {
        "summary": rows,
        "cells": [{"training": {"seconds": 3.0}}, {"training": None}],
        "pool": {"samples": 100, "flagged": 0.125 if flag else None, "mix": {NASTY: 60, "b": 40}},
        "overlap": {"5%": {"labels": labels, "jaccard": jaccard}},
        "methods": [{"label": "u<b>", "method": "spice", "options": {"rows": NASTY}}],
        "names": {"pool": NASTY, "test": "t.jsonl", "model": "m"},
        "settings": {"test": {"rows": 10}, "recipe": {"lora_r": 4}, "measures": {"by": "c"}, "labels": {}},
        **{"seeds": list(range(seeds)), "by": "capability", "confidence": 0.95, "seconds": {NASTY: 4.0}},
        "flag_column": "noise" if flag else None,
    }


@pytest.mark.parametrize("options", [{}, {"seeds": 1}, {"control": 1}, {"random": False}, {"flag": False}])
def test_a_comparison_has_its_page(options):
    page = comparison_page(comparison(**options))
    is_self_contained(page)
    assert NASTY not in page
    assert "u&lt;b&gt;" in page
    assert ("Against random" in page) == options.get("random", True)
    assert ("no method sees it" in page) == options.get("flag", True)
    assert comparison_page(comparison(**options)) == page
    decided = options.get("random", True) and min(options.get("seeds", 2), options.get("control", 2)) > 1
    assert ('class="whole good"' in page) == decided
    assert page.index("<h3>budget 5%</h3>") < page.index("<h3>budget 10%</h3>")
    assert ("do not decide by them" in page) == (options.get("seeds", 2) == 1)


def test_a_comparison_with_seeds_of_some_methods_says_so():
    found = comparison()
    found["summary"][-1]["seeds"] = 1  # the untrained model: nothing is drawn
    assert "means over 2\nseeds" in comparison_page(found)
    found["summary"][-2]["seeds"] = 1
    assert "means over 1 to 2\nseeds" in comparison_page(found)


def test_a_page_with_a_lone_surrogate_can_be_written(tmp_path):
    path = write_page(tmp_path / "x.html", "a \ud800 b")
    assert path.read_bytes() == b"a \\ud800 b"

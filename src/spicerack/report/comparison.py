"""The page of a comparison, from what stands in its `results.json`: one file, no script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from spicerack.report.figures import heatmap, shares
from spicerack.report.pages import render
from spicerack.report.quality import by_budget, forest
from spicerack.selectors.budget import order_by_size

CONTROLS = {"full": "the whole pool", "none": "untrained"}
NO_BUDGET = "without a budget"


def comparison_page(results: Mapping[str, Any]) -> str:
    """The HTML of a comparison.

    Args:
        results: what `spicerack.compare.driver.compare` gives.
    """
    rows = list(results["summary"])
    kinds = order_by_size({row["budget"] for row in rows if row["budget"] is not None}, results["pool"]["samples"])
    budgets = [budget for kind in kinds for budget in kind]
    of_budget = {budget: [row for row in rows if row["budget"] == budget] for budget in budgets}
    lines = {CONTROLS.get(row["method"], row["label"]): row["loss"]["mean"] for row in rows if row["budget"] is None}
    limited = [row for row in rows if row["budget"] is not None]
    return render(
        "comparison.html.j2",
        title="Which selection trains the best model",
        results=results,
        facts=_facts(results, of_budget),
        what_is_measured=_measure(results),
        has_random=any(row["versus_random"] for row in rows),
        has_match=any(row["exact_match"] is not None for row in rows),
        forests=[
            (budget, Markup(forest(members, title=f"quality at {budget}", lines=lines)))
            for budget, members in of_budget.items()
        ],
        fewest=min(row["seeds"] for row in limited or rows),
        over_budgets=Markup(by_budget(limited, kinds, title="quality over budgets", lines=lines))
        if len(budgets) > 1
        else None,
        tables=_tables(rows, [*budgets, None], _group_names(rows)),
        groups=_group_names(rows),
        mixes=_mixes(results, of_budget),
        overlaps=[
            (budget, Markup(heatmap(found["labels"], found["jaccard"], title=f"overlap at {budget}")))
            for budget in budgets
            if (found := results["overlap"].get(budget)) and len(found["labels"]) > 1
        ],
        recipe=_recipe(results["settings"]),
    )


def _facts(results: Mapping[str, Any], of_budget: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[str, str]]:
    facts = []
    for budget, rows in list(of_budget.items())[:4]:
        best = min(rows, key=lambda row: row["loss"]["mean"])
        facts.append((best["label"], f"lowest mean loss at {budget}"))
    trained = [cell for cell in results["cells"] if cell["training"] and not cell.get("trained_as")]
    seconds = sum(cell["training"]["seconds"] for cell in trained)
    cells = len(results["cells"])
    facts.append((f"{seconds / 60:,.1f} min", f"of training, {cells} cell{'s' if cells > 1 else ''}"))
    return facts


def _measure(results: Mapping[str, Any]) -> str:
    if results["by"]:
        return f"Held-out loss: mean over the values of {results['by']} of the mean loss of each one's rows, in nats."
    return "Held-out loss: mean over the rows of each one's mean token loss, in nats."


def _group_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({name for row in rows for name in row["groups"]})


def _tables(
    rows: Sequence[Mapping[str, Any]], budgets: Sequence[str | None], groups: Sequence[str]
) -> list[tuple[str, list[dict[str, Any]]]]:
    """Rows of each budget, best first, as text."""
    tables = []
    for budget in budgets:
        members = sorted((row for row in rows if row["budget"] == budget), key=lambda row: row["loss"]["mean"])
        lowest = {name: min(row["groups"][name] for row in members) for name in groups} if len(members) > 1 else {}
        shown = [_texts(row, number == 0 and budget is not None, groups, lowest) for number, row in enumerate(members)]
        if shown:
            tables.append((f"budget {budget}" if budget is not None else NO_BUDGET, shown))
    return tables


def _texts(row: Mapping[str, Any], best: bool, groups: Sequence[str], lowest: Mapping[str, float]) -> dict[str, Any]:
    loss, change = row["loss"], row["versus_random"]
    verdict = ""
    if change and change["low"] is not None and change.get("seeds", 0) > 1:  # with one it holds the rows' share alone
        verdict = "good" if change["high"] < 0 else "bad" if change["low"] > 0 else ""
    return {
        "label": row["label"],
        "best": best,
        "loss": f"{loss['mean']:.4f}",
        "interval": "" if loss["low"] is None else f"{loss['low']:.3f} to {loss['high']:.3f}",
        "versus": "" if not change else _difference(change),
        "verdict": verdict,
        "spread": _number(row["spread"], ".4f"),
        "match": _number(row["exact_match"], ".1%"),
        "samples": _number(row["samples"], ",.0f"),
        "tokens": _number(row["tokens"], ",.0f"),
        "flagged": _number(row["flagged"], ".1%"),
        "select": _number(row["selection_seconds"], ",.1f"),
        "train": _number(row["training_seconds"], ",.0f"),
        "groups": [
            {"text": f"{row['groups'][name]:.3f}", "best": row["groups"][name] == lowest.get(name)} for name in groups
        ],
    }


def _difference(change: Mapping[str, Any]) -> str:
    between = "" if change["low"] is None else f" ({change['low']:+.3f} to {change['high']:+.3f})"
    return f"{change['mean']:+.3f}{between}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _mixes(
    results: Mapping[str, Any], of_budget: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[tuple[str, Markup]]:
    pool = results["pool"]["mix"]
    if len(pool) < 2:
        return []
    return [
        (
            budget,
            Markup(shares({"the pool": pool, **{row["label"]: row["mix"] for row in rows}}, title=f"mix at {budget}")),
        )
        for budget, rows in of_budget.items()
    ]


def _recipe(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What decides the training and the measure, without what is at nothing."""
    shown = []
    for section in ("recipe", "measures", "labels"):
        for name, value in sorted(settings[section].items()):
            if value is not None:
                shown.append((name, str(value)))
    return shown

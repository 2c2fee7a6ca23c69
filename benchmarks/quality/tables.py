"""What the regimes say together: a table of each, a map of method by regime, and which method keeps the promise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spicerack.compare.plan import BASE
from spicerack.compare.results import CONTROL

HARD = ("wrong-12", "wrong-40", "redundant", "imbalanced")
COLUMNS = ["method", "held-out loss", "against random", "of untrained", "seeds", "their spread", "wrong"]
COLUMNS += ["off the mix", "samples", "tokens", "select s", "train s"]
Results = Mapping[str, Any]


def regime_tables(regime: str, results: Results, untrained: Mapping[str, float] | None) -> list[str]:
    """A table for every budget, the best first; `untrained` is the loss of each capability without training."""
    pool = results["pool"]
    lines = [
        f"## {regime}",
        "",
        f"{pool['samples']:,} rows, {share(pool['flagged'])} wrong, mix {mix(pool['mix'])}.",
        "",
    ]
    for budget in dict.fromkeys(row["budget"] for row in results["summary"]):
        rows = [row for row in results["summary"] if row["budget"] == budget]
        lines += [f"### {budget or 'without a budget'}", ""]
        lines += header(COLUMNS)
        for row in sorted(rows, key=lambda row: row["loss"]["mean"]):
            cells = [
                row["label"],
                interval(row["loss"], ".3f"),
                interval(row["versus_random"], "+.3f"),
                number(of_untrained(row["groups"], untrained), ".3f"),
                str(row["seeds"]),
                number(row["spread"], ".3f"),
                share(row["flagged"]),
                number(off_the_mix(row["mix"], pool["mix"]), ".2f"),
                number(row["samples"], ",.0f"),
                number(row["tokens"], ",.0f"),
                number(row["selection_seconds"], ",.1f"),
                number(row["training_seconds"], ",.0f"),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return lines


def map_of(all_results: Mapping[str, Results]) -> list[str]:
    """Difference from random of every method in every regime and budget; bold where its interval leaves zero out."""
    columns = [
        (regime, budget)
        for regime, results in all_results.items()
        for budget in dict.fromkeys(row["budget"] for row in results["summary"] if row["budget"])
    ]
    found = {
        (row["label"], regime, row["budget"]): row["versus_random"]
        for regime, results in all_results.items()
        for row in results["summary"]
    }
    labels = dict.fromkeys(label for label, _, budget in found if budget)
    lines = ["## The map: difference from random", "", f"| method | {' | '.join(f'{r} {b}' for r, b in columns)} |"]
    lines.append(f"|---|{'---|' * len(columns)}")
    for label in labels:
        cells = [signed(found.get((label, *column))) for column in columns]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return [*lines, ""]


def promises(all_results: Mapping[str, Results]) -> list[str]:
    """For every method: is it never worse than random beyond the interval, better by twice the spread where pools are
    hard (the larger of its seeds' and random's), and are its picks less than half as often wrong as the pool?
    """
    controls = {
        (regime, row["budget"]): row["spread"]
        for regime, results in all_results.items()
        for row in results["summary"]
        if row["label"] == CONTROL
    }
    labels = dict.fromkeys(
        row["label"] for results in all_results.values() for row in results["summary"] if row["versus_random"]
    )
    lines = ["## Which method keeps the promise", ""]
    lines += header(
        ["method", "never worse than random", "better by twice the spread where it is hard", "under half of the wrong"]
    )
    for label in labels:
        rows = [
            (regime, results, row)
            for regime, results in all_results.items()
            for row in results["summary"]
            if row["label"] == label and row["versus_random"]
        ]
        worse = [f"{g} {r['budget']}" for g, _, r in rows if (r["versus_random"]["low"] or 0.0) > 0.0]
        known = [(r, controls[g, r["budget"]]) for g, _, r in rows if g in HARD]
        hard = [(r, max(r["spread"], other)) for r, other in known if r["spread"] is not None and other is not None]
        clear = [r for r, spread in hard if r["versus_random"]["mean"] < -2.0 * spread]
        wrongs = [(p["pool"]["flagged"], r["flagged"]) for _, p, r in rows if p["pool"]["flagged"]]
        few = sum(picked < pool / 2.0 for pool, picked in wrongs)
        never = "yes" if not worse else f"no: {', '.join(worse)}"
        lines.append(f"| {label} | {never} | {len(clear)} of {len(hard)} | {few} of {len(wrongs)} |")
    return [*lines, ""]


def header(columns: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]


def of_untrained(groups: Mapping[str, float], untrained: Mapping[str, float] | None) -> float | None:
    """Mean over capabilities of each one's loss as a share of the untrained model's: here no capability counts more
    for its losses being larger.
    """
    if untrained is None:
        return None
    return sum(groups[name] / untrained[name] for name in untrained) / len(untrained)


def off_the_mix(picked: Mapping[str, float], pool: Mapping[str, float]) -> float | None:
    """Half the sum of differences of shares: 0 for the pool's own mix, 1 for picks from nowhere in it."""
    total, everything = sum(picked.values()), sum(pool.values())
    if not total:
        return None
    return 0.5 * sum(abs(picked.get(name, 0.0) / total - count / everything) for name, count in pool.items())


def mix(counts: Mapping[str, float]) -> str:
    total = sum(counts.values())
    return ", ".join(f"{name} {count / total:.0%}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))


def interval(value: Mapping[str, Any] | None, form: str) -> str:
    if value is None:
        return ""
    between = "" if value["low"] is None else f" ({value['low']:{form}} to {value['high']:{form}})"
    return f"{value['mean']:{form}}{between}"


def signed(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return ""
    text = f"{value['mean']:+.3f}"
    decided = value["low"] is not None and (value["low"] > 0.0 or value["high"] < 0.0)
    return f"**{text}**" if decided else text


def number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def share(value: float | None) -> str:
    return number(value, ".1%")


def summary(all_results: Mapping[str, Results], heading: Sequence[str]) -> list[str]:
    """The whole page."""
    lines = [*heading, *promises(all_results), *map_of(all_results)]
    untrained = {
        results["settings"]["test"]["fingerprint"]: row["groups"]
        for results in all_results.values()
        for row in results["summary"]
        if row["method"] == BASE
    }
    for regime, results in all_results.items():
        lines += regime_tables(regime, results, untrained.get(results["settings"]["test"]["fingerprint"]))
    return lines

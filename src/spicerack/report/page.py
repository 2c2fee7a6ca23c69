"""The page of a selection: what was picked, from where, how the gains fell, what was decided on the way.

One file without scripts; nothing in it depends on the time or the place of the run, unless its cost is asked for.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from spicerack.report.figures import curves, shares
from spicerack.report.folder import RunFolder
from spicerack.report.pages import render

PREFIX = "spicerack_"
SOURCES_SHOWN = 12
LONGEST_TEXT = 700
FIRST, LAST = 4, 2
NUMBERS = ("tokens", "trained_tokens", "loss_mean", "gradient_norm")
OTHERS = "others"
WORDS = {
    "gain": "Marginal gain: the information that a pick added to those before it. It falls as the picks repeat.",
    "epsilon": "What the picks before it had taken of a pick's own information: epsilon, never above zero.",
    "conflict": "How far a pick points against the mean direction of those before it; zero where it does not.",
    "score": "What the method picked by.",
    "loss": "Loss of a pick under the weights of that moment.",
}


def selection_page(folder: str | Path, *, with_cost: bool = True) -> str:
    """The HTML of a run's or a selection's folder.

    Args:
        folder: what `spicerack run` or `spicerack select` wrote.
        with_cost: also what the gradient pass took, if it is known; without, two runs have the same page.

    Raises:
        DataError: it is no such folder.
    """
    run = RunFolder.open(folder)
    manifest = run.manifest
    sources = _sources(run)
    picked, rows = len(run.indices), run.scores.num_rows
    pool = Path(str(run.config.data.pool)).name if run.config.data.pool else "the pool"
    return render(
        "template.html.j2",
        title=f"What {manifest['method']} picked from {pool}",
        lead=_lead(run),
        facts=_facts(run),
        certificate=_certificate(manifest.get("certificate")),
        mix=Markup(shares(_mix(sources), title="sources of pool and picks")) if len(sources) > 1 else None,
        sources=[_source(name, *counts, rows, picked) for name, counts in sources.items()],
        columns=_numbers(run),
        curves=_curves(run),
        samples=_samples(run),
        choices=[{key: _short(value) for key, value in choice.items()} for choice in manifest["choices"]],
        excluded=_excluded(run),
        cost=[(name.replace("_", " "), _short(value)) for name, value in run.cost.items()]
        if with_cost and run.cost
        else None,
        method=manifest["method"],
        options=_pairs(manifest["options"]),
        settings=_settings(run),
        note="Every number of this page stands in the files beside it.",
    )


def _lead(run: RunFolder) -> str:
    model = run.config.model.model_name_or_path
    parts = [f"{len(run.indices):,} of {run.scores.num_rows:,} samples"]
    if model:
        parts.append(f"gradients of {Path(model).name}")
    parts.append(f"seed {run.manifest['seed']}")
    return ", ".join(parts) + "."


def _facts(run: RunFolder) -> list[tuple[str, str]]:
    picked, rows = len(run.indices), run.scores.num_rows
    facts = [(f"{picked:,}", f"samples picked, {picked / rows:.1%} of the pool")]
    tokens = run.column("tokens")
    if tokens is not None and tokens.sum():
        spent = int(tokens[run.indices].sum())
        facts.append((f"{spent:,}", f"tokens, {spent / tokens.sum():.1%} of the pool's"))
    certificate = run.manifest.get("certificate")
    if certificate:
        facts.append((f"{int(certificate['share'] * 1000) / 10:.1f} %", "of the best possible, at least"))
    gains = run.trace.get("gain")
    if gains is not None and len(gains) > 1 and gains[0] > 0:
        facts.append((f"{gains[-1] / gains[0]:.0%}", "of the first gain is left at the last pick"))
    excluded = sum(run.manifest["excluded_counts"].values())
    if excluded:
        facts.append((f"{excluded:,}", "samples could not be picked"))
    return facts


def _certificate(certificate: Mapping[str, Any] | None) -> str | None:
    if not certificate:
        return None
    percent = int(certificate["share"] * 1000) / 10
    return f"at least {percent:.1f} % of the best possible {certificate.get('measure', 'information')} for this budget"


def _sources(run: RunFolder) -> dict[str, tuple[int, int]]:
    """Rows of each source in the pool and among the picks, the largest first; small ones together."""
    names = run.column("source")
    if names is None:
        return {}
    pool = Counter(map(str, names))
    picked = Counter(map(str, names[run.indices]))
    order = sorted(pool, key=lambda name: (-pool[name], name))
    shown = order if len(order) <= SOURCES_SHOWN else order[: SOURCES_SHOWN - 1]
    counts = {name: (pool[name], picked[name]) for name in shown}
    if len(shown) < len(order):
        rest = order[len(shown) :]
        counts[f"{OTHERS} ({len(rest)})"] = sum(pool[name] for name in rest), sum(picked[name] for name in rest)
    return counts


def _mix(sources: Mapping[str, tuple[int, int]]) -> dict[str, dict[str, float]]:
    return {
        "the pool": {name: float(pool) for name, (pool, _) in sources.items()},
        "the picks": {name: float(picked) for name, (_, picked) in sources.items()},
    }


def _source(name: str, pool: int, picked: int, rows: int, picks: int) -> dict[str, str]:
    before, after = pool / rows, picked / max(1, picks)
    return {
        "name": name,
        "pool": f"{pool:,}",
        "picked": f"{picked:,}",
        "before": f"{before:.1%}",
        "after": f"{after:.1%}",
        "times": f"{after / before:.2f}",
    }


def _numbers(run: RunFolder) -> list[tuple[str, str, str]]:
    """Medians over the pool and over the picks."""
    table = []
    for name in NUMBERS:
        values = run.column(name)
        if values is None:
            continue
        values = values.astype(np.float64)
        pool, picked = values[np.isfinite(values)], values[run.indices]
        if len(pool) and len(picked):
            table.append((name.replace("_", " "), f"{np.median(pool):,.4g}", f"{np.nanmedian(picked):,.4g}"))
    return table


def _curves(run: RunFolder) -> list[tuple[str, str, Markup]]:
    """A figure for everything that the trace holds and a reader knows by name."""
    figures = []
    for names in (("gain", "score"), ("epsilon",), ("conflict",), ("loss",)):
        present = [name for name in names if name in run.trace and len(run.trace[name])]
        if len(present) == 2 and np.array_equal(run.trace[present[0]], run.trace[present[1]]):
            present = present[:1]  # one line would hide the other
        if not present:
            continue
        if present == ["conflict"] and not run.trace["conflict"].any():
            figures.append(("conflict", "No pick points against the mean direction of those before it.", Markup()))
            continue
        series = {name: run.trace[name].astype(np.float64).tolist() for name in present}
        figure = curves(series, title=f"{', '.join(present)} of each pick", x_label="pick", y_label=present[0])
        figures.append((" and ".join(present), " ".join(WORDS[name] for name in present), Markup(figure)))
    return figures


def _samples(run: RunFolder) -> list[dict[str, Any]]:
    """The first picks and the last, as the rows are, cut where they are long."""
    picked = len(run.indices)
    ranks = [*range(min(FIRST, picked)), *range(max(FIRST, picked - LAST), picked)]
    samples = []
    for rank, row in run.rows(ranks).items():
        source = run.column("source")
        about = [f"pick {rank + 1}", str(row.get(f"{PREFIX}id", ""))]
        if source is not None:
            about.append(str(source[run.indices[rank]]))
        for name in ("gain", "score"):
            if (value := row.get(PREFIX + name)) is not None:
                about.append(f"{name} {value:.4g}")
        own = {name: value for name, value in row.items() if not name.startswith(PREFIX)}
        if str(own.get("id")) == str(row.get(f"{PREFIX}id")):
            del own["id"]  # it stands above
        fields = [(name, _text(value)) for name, value in own.items()]
        samples.append({"about": " · ".join(filter(None, about)), "fields": [f for f in fields if f[1]]})
    return samples


def _text(value: Any) -> str:
    """A field for reading: turns one below the other, everything else as it is."""
    if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
        turns = [(turn.get("role") or turn.get("from"), turn.get("content") or turn.get("value")) for turn in value]
        text = "\n".join(f"{who}: {what}" for who, what in turns)
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}… ({len(text):,} characters)"


def _excluded(run: RunFolder) -> list[tuple[str, int, str]]:
    reasons, ids = run.column("excluded"), run.column("id")
    if reasons is None:
        return []
    found = []
    for reason, count in sorted(Counter(reason for reason in reasons if reason is not None).items()):
        rows = np.flatnonzero(reasons == reason)[:12]
        named = [str(ids[i]) if ids is not None else f"row {i}" for i in rows]
        found.append((str(reason), count, ", ".join(named) + (", …" if count > len(named) else "")))
    return found


def _settings(run: RunFolder) -> list[tuple[str, list[tuple[str, str]]]]:
    """The other sections of the configuration, and what the manifest found; no path of a machine."""
    config = run.config.model_dump(mode="json")
    sections = [(name, _pairs(config[name], without=("pool",))) for name in ("data", "labels", "gradients")]
    if run.manifest.get("findings"):
        sections.insert(0, ("findings", _pairs(run.manifest["findings"])))
    return [*sections, ("versions", _pairs(run.manifest["versions"]))]


def _pairs(values: Mapping[str, Any], without: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    return [(name, _short(value)) for name, value in values.items() if value is not None and name not in without]


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 160 else f"{text[:160]}…"

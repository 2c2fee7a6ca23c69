"""What a greedy selection says of itself: its certificate, and what the penalty did."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from spicerack.information.certificate import Allowance, Certificate, PrefixBounds, certify, greedy_factor
from spicerack.information.diagonal import DiagonalFisher
from spicerack.information.greedy import GreedyResult
from spicerack.information.logdet import FullFisher
from spicerack.information.matrix import IntArray
from spicerack.information.posterior import certify_transductive
from spicerack.information.state import InformationState
from spicerack.information.transductive import Transductive
from spicerack.selectors.base import Problem

QUICK = 2e11
"""Multiplications of a plain run, s n k, up to which a second run without penalty counts as quick."""


class GreedyOptions(Protocol):
    """What is asked of a method's options here."""

    @property
    def penalty(self) -> float:
        """Lambda."""
        ...

    @property
    def penalty_unit(self) -> str:
        """Of lambda."""
        ...

    @property
    def certify(self) -> bool:
        """Whether to bound at all."""
        ...

    @property
    def compare_penalty(self) -> Any:
        """Whether to tell what the penalty did: True, False or "auto"."""
        ...

    @property
    def stop_ratio(self) -> float | None:
        """Omega."""
        ...


def prefix_bounds(problem: Problem, options: GreedyOptions, state: InformationState) -> PrefixBounds | None:
    """The watcher of a run whose prefixes bound its budget, or None."""
    bounded = options.certify and options.stop_ratio is None and isinstance(state, (FullFisher, DiagonalFisher))
    return PrefixBounds(allowance(problem, None)) if bounded else None


def certificate_of(
    problem: Problem,
    options: GreedyOptions,
    state: InformationState,
    result: GreedyResult,
    prefixes: PrefixBounds | None,
    one_run: bool,
) -> Certificate | None:
    """The certificate of a selection whose state has absorbed it; None, with the reason recorded, where none holds."""
    if not options.certify:
        return None
    stopped = result.stopped == "stop_ratio"
    allowed = allowance(problem, result.indices if stopped else None)
    if isinstance(state, (FullFisher, DiagonalFisher)):
        certificate = certify(state, result.indices, eligible=problem.eligible, allowance=allowed, prefixes=prefixes)
    elif isinstance(state, Transductive):
        certificate = certify_transductive(state, result.indices, eligible=problem.eligible, allowance=allowed)
        about = "pool" if problem.target is None else "target"
        certificate = replace(certificate, measure=f"information about the {about}")
    else:
        problem.choose("certificate", None, "'adafisher-code' is not the information of a set: no bound holds")
        return None
    for note in certificate.notes:
        problem.choose("certificate", certificate.method, note)
    greedy_alone = one_run and problem.quotas is None and not problem.forced and isinstance(state, FullFisher)
    if not greedy_alone or allowed.count is None or options.penalty_unit == "gain":
        return certificate
    factor = greedy_factor(result.trace["gain"], result.trace["score"], penalty=options.penalty, count=allowed.count)
    return replace(certificate, greedy_factor=factor)


def allowance(problem: Problem, stopped_at: IntArray | None) -> Allowance:
    """The sets a certificate speaks of: those of the budget, or no larger than the set of a run that stopped early.

    Quotas and forced rows only narrow them, so that a bound over all of them holds.
    """
    if problem.budget.count is not None:
        return Allowance(count=problem.budget.count if stopped_at is None else int(stopped_at.size))
    assert problem.tokens is not None  # resolve() saw to it
    spent = problem.budget.tokens if stopped_at is None else int(problem.tokens[stopped_at].sum())
    return Allowance(capacity=spent, tokens=problem.tokens)


def penalty_report(
    problem: Problem, options: GreedyOptions, result: GreedyResult, without: Callable[[], GreedyResult]
) -> dict[str, Any]:
    """How many picks the penalty changed, and the mean conflict with and without it: a user must see an idle one."""
    if not options.penalty or options.compare_penalty is False:
        return {}
    cost = float(result.indices.size) * problem.rows.n * problem.rows.k
    if options.compare_penalty == "auto" and cost > QUICK:
        reason = f"a second run without it is not quick ({cost:.1e} multiplications); compare_penalty=True runs it"
        problem.choose("penalty effect", None, reason)
        return {}
    other = without()
    changed = int(np.setdiff1d(result.indices, other.indices).size)
    mean, bare = (float(np.mean(run.trace["conflict"])) if run.indices.size else 0.0 for run in (result, other))
    effect = f"{changed} of {result.indices.size} picks changed"
    problem.choose("penalty effect", effect, f"mean conflict of the picks {mean:.4f}, without penalty {bare:.4f}")
    return {"penalty_effect": {"changed_picks": changed, "mean_conflict": mean, "mean_conflict_without": bare}}


def penalty_sentence(findings: Mapping[str, Any]) -> str | None:
    """What the penalty did, in words; None where it was not compared, or there was none."""
    effect = findings.get("penalty_effect")
    if effect is None:
        return None
    mean, bare = effect["mean_conflict"], effect["mean_conflict_without"]
    if effect["changed_picks"] == 0:
        return (
            f"the penalty did nothing: the same samples are picked without it (their mean conflict is {mean:.4f}); a "
            "larger penalty, center=True or (for volume) penalty_unit='gain' may make it bite"
        )
    return f"the penalty changed {effect['changed_picks']:,} picks: mean conflict {mean:.4f}, without it {bare:.4f}"

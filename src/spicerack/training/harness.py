"""Tasks of the EleutherAI harness (lm-eval, the extra `harness`) on a loaded model."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from spicerack.errors import ConfigurationError, MissingDependencyError, first_line

if TYPE_CHECKING:
    from spicerack.models.loading import LoadedModel


def require_harness() -> None:
    """Find out early whether lm-eval is there.

    Raises:
        MissingDependencyError: it is not.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise MissingDependencyError("harness_tasks needs lm-eval; pip install 'spicerack[harness]'")


def run_harness(loaded: LoadedModel, tasks: str, *, limit: int | None = None, seed: int = 0) -> dict[str, Any]:
    """Run tasks, separated by commas, with the harness's own prompts and measures.

    Args:
        loaded: the model with its tokenizer.
        tasks: names that the harness knows.
        limit: samples of each task; None: all.
        seed: of its few-shot draws.

    Returns:
        Numbers by task and measure, as the harness names them.

    Raises:
        MissingDependencyError: lm-eval is not installed.
        ConfigurationError: no such task.
    """
    require_harness()
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    try:
        results = simple_evaluate(
            model=HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer),
            tasks=names,
            limit=limit,
            fewshot_random_seed=seed,
        )
    except (KeyError, ValueError) as error:
        raise ConfigurationError(f"the harness cannot run {', '.join(names)}: {first_line(error)}") from error
    return {
        task: {name: float(value) for name, value in measures.items() if isinstance(value, int | float)}
        for task, measures in results["results"].items()
    }

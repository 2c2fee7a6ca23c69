"""Does the subset train a better model? Pool regimes x methods x budgets x seeds, cell by cell, resumable.

    python benchmarks/quality/run.py --data DATA --work runs/quality --model MODEL --seeds 5

DATA holds pool.jsonl, test.jsonl and target.jsonl (see regimes.py). Every cell trains LoRA for the same number of
steps, whatever the method and budget. Random, random after trimming, the whole pool at equal steps and the untrained
model are controls; --equal-tokens repeats each share as a budget of tokens. What is finished is kept, every cell in
benchmarks/results/quality/REGIME.parquet, so that another machine can add to it; the table
benchmarks/results/quality.md is written anew after every regime.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness import RESULTS, machine
from quality.regimes import REGIMES, build
from quality.tables import summary

from spicerack.compare.bench import Spec
from spicerack.compare.driver import Comparison, Watcher, compare
from spicerack.compare.plan import parse_methods
from spicerack.compare.table import TABLE_FILE
from spicerack.config import make_config
from spicerack.report.comparison import comparison_page
from spicerack.report.pages import write_page
from spicerack.selectors.budget import parse_budget
from spicerack.training.options import EvaluateConfig, TrainConfig

NOTES = Path(__file__).with_name("notes.md")
"""What was seen in the kept result, in words; put above its tables."""

CONTROLS = ["random", "random-trimmed=random:trim=0.25", "full", "none"]
METHODS = [
    "spice",
    "spice-unit=spice:rows=unit",
    "spice-quotas=spice:quotas=proportional,groups=clusters:12",
    "spice-trimmed=spice:trim=0.25",
    "transductive=spice:objective=transductive,rows=unit",
    "transductive-trimmed=spice:objective=transductive,rows=unit,trim=0.25",
    "transductive-trimmed-quotas=spice:objective=transductive,rows=unit,trim=0.25,quotas=proportional,groups=clusters:12",
    "transductive-target=spice:objective=transductive,rows=unit,target=true",
    "fisher,dpp,k_center,loss,length,ifd,grad_norm,rds,bids",
]


def main() -> None:
    options = arguments()
    all_results: dict[str, Any] = {}
    for regime in options.regimes.split(","):
        folder = options.work / regime
        build(regime, options.data, folder, n=options.rows, tests=options.tests, seed=options.pool_seed)
        print(f"== {regime}", flush=True)
        all_results[regime] = run(regime, folder, options)
        keep(all_results, options)


def run(regime: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All cells of a regime beside those kept before; at equal tokens too, once the pool's tokens are known."""
    say = Watcher(say=lambda line: print(f"{regime}: {line}", flush=True))
    kept = options.results / options.name / f"{regime}.parquet"

    def compared(budgets: list[Any], *, with_quotas: bool) -> dict[str, Any]:
        comparison = make_comparison(folder, budgets, options, with_quotas=with_quotas)
        results = compare(replace(comparison, also=[kept] if kept.is_file() else []), say)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(comparison.spec.config.output_dir / TABLE_FILE, kept)
        return results

    budgets, goes_on = options.budgets.split(","), kept.is_file()
    results = compared(budgets, with_quotas=True)
    if options.equal_tokens:
        shares = [share for share in map(parse_budget, budgets) if isinstance(share, float)]
        tokens = [f"{int(share * results['pool']['tokens'])} tokens" for share in shares]
        results = compared(tokens, with_quotas=False)
    write_page(folder / "compare.html", comparison_page(results))
    return results | {"goes_on": goes_on}


def make_comparison(
    folder: Path, budgets: list[Any], options: argparse.Namespace, *, with_quotas: bool = True
) -> Comparison:
    """Proportional quotas are shares of a number of rows: methods with quotas have no budget of tokens."""
    config = make_config(
        {
            "data": {"pool": str(folder / "pool.jsonl"), "source_column": "capability"},
            "model": {"model_name_or_path": options.model, "dtype": options.dtype},
            "labels": {"max_length": options.max_length},
            "gradients": {"dimension": options.dimension},
            "output_dir": str(folder / "compare"),
        }
    )
    recipe = TrainConfig(
        max_steps=options.max_steps or None,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch,
        learning_rate=options.learning_rate,
        lora_dropout=options.lora_dropout,
        save_strategy="no",
    )
    spec = Spec(str(folder / "test.jsonl"), config, recipe, EvaluateConfig(by="capability"))
    methods = parse_methods([*CONTROLS, *(options.methods or METHODS)])
    methods = tuple(method for method in methods if with_quotas or "quotas" not in method.options)
    return Comparison(
        spec,
        methods,
        budgets,
        seeds=tuple(range(options.seeds)),
        target=folder / "target.jsonl",
        flag_column="noise",
        parallel=options.parallel,
        finished=options.finished,
    )


def keep(all_results: dict[str, Any], options: argparse.Namespace) -> None:
    """The table, and the numbers behind it without the cells' details; regimes that were not asked for stay in it."""
    command = (
        f"benchmarks/quality/run.py --regimes {options.regimes} --budgets {options.budgets} --seeds {options.seeds} "
        f"--rows {options.rows} --tests {options.tests} --max-steps {options.max_steps} --epochs {options.epochs} "
        f"--batch {options.batch} --lora-dropout {options.lora_dropout} --dimension {options.dimension} "
        f"--max-length {options.max_length}"
        f"{' --equal-tokens' if options.equal_tokens else ''}{' --finished' if options.finished else ''}"
        f"{''.join(f' --methods {method}' for method in options.methods or ())}"
    )
    for results in all_results.values():  # the model's name, not where it lies
        model = results["settings"]["model"]
        model["model_name_or_path"] = Path(model["model_name_or_path"]).name
    made = f"`{command}`, {machine('spicerack', 'torch', 'transformers', 'trl', 'peft')}"
    kept = ("names", "settings", "seeds", "budgets", "methods", "pool", "summary")
    before = earlier(options, all_results)
    slim = {regime: results for regime, results in before.items() if regime not in all_results}
    for regime, results in all_results.items():
        others = before[regime]["made"] if results["goes_on"] and regime in before else []
        slim[regime] = {"made": [*(by for by in others if by != made), made], **{key: results[key] for key in kept}}
    slim = {regime: slim[regime] for regime in REGIMES if regime in slim}
    regimes_of: dict[str, list[str]] = {}
    for regime, results in slim.items():
        for by in results["made"]:
            regimes_of.setdefault(by, []).append(regime)
    heading = [
        "# Quality of subsets",
        "",
        f"Model {Path(options.model).name}. Held-out loss: mean over capabilities, in nats; 95 % intervals over seeds "
        "and held-out rows. Of untrained: mean over capabilities of each one's loss as a share of the untrained "
        "model's, so that no capability counts more for its losses being larger.",
        "",
        *options.notes.read_text(encoding="utf-8").splitlines(),
        "",
    ]
    options.results.mkdir(parents=True, exist_ok=True)
    made_by = ["## Made by", "", *(f"- {', '.join(regimes)}: {by}" for by, regimes in regimes_of.items())]
    text = "\n".join([*summary(slim, heading), *made_by]) + "\n"
    (options.results / f"{options.name}.md").write_text(text, encoding="utf-8")
    (options.results / f"{options.name}.json").write_text(json.dumps(slim, indent=1) + "\n", encoding="utf-8")
    print(text, flush=True)


def earlier(options: argparse.Namespace, all_results: dict[str, Any]) -> dict[str, Any]:
    """The kept result. Regimes that were not asked for must have been trained and measured alike."""
    file = options.results / f"{options.name}.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    alike = ("model", "labels", "gradients", "recipe", "measures")
    for regime in found.keys() - all_results.keys():
        for new in all_results.values():
            differs = [key for key in alike if found[regime]["settings"][key] != new["settings"][key]]
            if differs:
                raise SystemExit(f"{file}: {regime} was made with another {', '.join(differs)}; give another --name")
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with pool.jsonl, test.jsonl, target.jsonl")
    parser.add_argument("--work", type=Path, default=Path("runs/quality"), help="stores and cells")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result")
    parser.add_argument("--name", default="quality", help="of the result's files")
    parser.add_argument("--notes", type=Path, default=NOTES, help="what was seen, put above the tables")
    parser.add_argument("--model", required=True, help="hub id, folder or GGUF file")
    parser.add_argument("--regimes", default=",".join(REGIMES), help="between commas")
    parser.add_argument(
        "--methods", action="append", help="as for spicerack compare, instead of all; controls are added"
    )
    parser.add_argument("--budgets", default="2%,5%,10%")
    parser.add_argument("--equal-tokens", action="store_true", help="each share again as a budget of tokens")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pool-seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=2000, help="of a pool at most")
    parser.add_argument("--tests", type=int, default=100, help="held-out rows of each capability at most")
    parser.add_argument("--max-steps", type=int, default=75, help="of every training; 0: by epochs")
    parser.add_argument("--epochs", type=float, default=3.0, help="with --max-steps 0")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=None)
    parser.add_argument(
        "--lora-dropout", type=float, default=TrainConfig().lora_dropout, help="0 is a third faster on a CPU"
    )
    parser.add_argument("--dimension", type=int, default=4096)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--finished", action="store_true", help="the table of what is finished; run nothing")
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("--seeds must be at least 2: with one, intervals hold the held-out rows' share alone")
    for regime in options.regimes.split(","):
        if regime not in REGIMES:
            parser.error(f"unknown regime {regime!r}; there is: {', '.join(REGIMES)}")
    return options


if __name__ == "__main__":
    main()

"""Pools of several kinds, made from one data folder: what a selector is worth depends on the pool.

    as-is          rows as they are
    wrong-0, wrong-12, wrong-40
                   right answers only; then that share of them swapped within their capability, `noise` set to 1
    redundant      300 distinct rows, repeated and lightly reworded by a power law
    imbalanced     one capability is 85 %
    long-tailed    every capability has less than half of the one before
    one-target     rows as they are, target and held-out rows of one capability

The folder holds pool.jsonl, test.jsonl and target.jsonl with the fields id, capability, instruction, response and, in
the pool, noise. Every regime is fixed by its seed: the same bytes each time.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

Row = dict[str, object]

DISTINCT = 300
POWER = 1.0
SHARE_OF_LARGEST = 0.85
FALL = 0.45
LARGEST = "shell_commands"
TARGET = "math_word_problems"

REWORDINGS: tuple[Callable[[str], str], ...] = (
    lambda text: text,
    lambda text: f"Please help me with this: {text}",
    lambda text: f"{text}\nAnswer:",
    lambda text: text[:1].lower() + text[1:],
    lambda text: f"Question: {text}",
    lambda text: text.rstrip(".?") + " ?",
    lambda text: f"{text} Thank you.",
)


def as_is(rows: list[Row], n: int, draw: random.Random) -> list[Row]:
    return draw.sample(rows, min(n, len(rows)))


def wrong(share: float) -> Callable[[list[Row], int, random.Random], list[Row]]:
    """Right answers, of which a share is swapped with another row's of the same capability."""

    def make(rows: list[Row], n: int, draw: random.Random) -> list[Row]:
        right = [row for row in rows if not row["noise"]]
        pool = [dict(row) for row in as_is(right, n, draw)]
        for members in by_capability(pool).values():
            chosen = draw.sample(members, round(share * len(members)))
            answers = [row["response"] for row in chosen]
            others = [row["response"] for row in members]
            for row, answer in zip(chosen, answers, strict=True):
                candidates = [other for other in others if other != answer]
                if candidates:
                    row["response"], row["noise"] = draw.choice(candidates), 1
        return pool

    return make


def redundant(rows: list[Row], n: int, draw: random.Random) -> list[Row]:
    distinct = as_is(rows, DISTINCT, draw)
    weights = [(rank + 1.0) ** -POWER for rank in range(len(distinct))]
    copies = [*range(len(distinct)), *draw.choices(range(len(distinct)), weights, k=max(0, n - len(distinct)))]
    seen: dict[int, int] = defaultdict(int)
    pool = []
    for place in copies[:n]:
        row = dict(distinct[place])
        reword = REWORDINGS[seen[place] % len(REWORDINGS)]
        row |= {"id": f"{row['id']}.{seen[place]}", "instruction": reword(str(row["instruction"]))}
        seen[place] += 1
        pool.append(row)
    draw.shuffle(pool)
    return pool


def imbalanced(rows: list[Row], n: int, draw: random.Random) -> list[Row]:
    members = by_capability(rows)
    n = min(n, int(len(members[LARGEST]) / SHARE_OF_LARGEST))
    others = [row for row in rows if row["capability"] != LARGEST]
    large = round(SHARE_OF_LARGEST * n)
    pool = draw.sample(members[LARGEST], large) + draw.sample(others, n - large)
    draw.shuffle(pool)
    return pool


def long_tailed(rows: list[Row], n: int, draw: random.Random) -> list[Row]:
    members = by_capability(rows)
    names = sorted(members, key=lambda name: (-len(members[name]), name))
    weights = [FALL**place for place in range(len(names))]
    largest = n / sum(weights)
    pool = []
    for name, weight in zip(names, weights, strict=True):
        pool += draw.sample(members[name], min(len(members[name]), max(1, round(largest * weight))))
    draw.shuffle(pool)
    return pool


REGIMES: dict[str, Callable[[list[Row], int, random.Random], list[Row]]] = {
    "as-is": as_is,
    "wrong-0": wrong(0.0),
    "wrong-12": wrong(0.125),
    "wrong-40": wrong(0.4),
    "redundant": redundant,
    "imbalanced": imbalanced,
    "long-tailed": long_tailed,
    "one-target": as_is,
}


def build(regime: str, data: Path, folder: Path, *, n: int, tests: int, seed: int) -> Path:
    """Write a regime's pool, target and held-out rows.

    Args:
        regime: a key of `REGIMES`.
        data: folder with pool.jsonl, test.jsonl, target.jsonl.
        folder: where to.
        n: rows of the pool at most.
        tests: held-out rows of each capability at most.
        seed: of everything drawn.
    """
    rows, test, target = (read(data / f"{name}.jsonl") for name in ("pool", "test", "target"))
    if regime == "one-target":
        test, target = ([row for row in part if row["capability"] == TARGET] for part in (test, target))
    held_out = [row for members in by_capability(test).values() for row in members[:tests]]
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "pool.jsonl", REGIMES[regime](rows, n, random.Random(f"{regime} {seed}")))
    write(folder / "test.jsonl", held_out)
    write(folder / "target.jsonl", target)
    return folder


def by_capability(rows: list[Row]) -> dict[str, list[Row]]:
    members: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        members[str(row["capability"])].append(row)
    return dict(sorted(members.items()))


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def write(path: Path, rows: list[Row]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if not (path.is_file() and path.read_text(encoding="utf-8") == text):
        path.write_text(text, encoding="utf-8")

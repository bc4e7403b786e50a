"""How well rankings agree with trained accuracy: Kendall's tau, Spearman's rho, top-5 regret.

    onnx-ghn rank --space narrow --seed 2 --sample 200 --data D --score flops --out flops.jsonl
    python tools/rank_table.py --truth truth.jsonl top1.jsonl flops.jsonl ...

Each ranking is what `rank --format json` printed, or the file of its --out; one by top1 also holds
the losses, by which `--score loss` ranks, and gives a row for each. It must hold every
architecture of the truth, as space/number: the generator's test lists are among the first 200
networks of seed 2. Intervals are of 95 %, from bootstrap samples of the
architectures. Top-5 regret: the best accuracy of all, less the best among the first five. The
last row is the truth trained a second time.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
SAMPLES = 2000
FIRST = 5


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rankings", nargs="+", type=Path)
    parser.add_argument("--truth", type=Path, required=True)
    arguments = parser.parse_args()
    runs = [json.loads(line) for line in arguments.truth.read_text().splitlines()]
    truths = [
        {f"{r['space']}/{r['architecture']}": r["accuracy"] for r in runs if r["seed"] == seed}
        for seed in (0, 1)
    ]
    print("| score | architectures | Kendall tau | 95 % interval | Spearman | top-5 regret |")
    print("| --- | ---: | ---: | --- | ---: | ---: |")
    for path in arguments.rankings:
        records = records_in(path)
        print(row(path.stem, truths[0], {r["model"]: r["score"] for r in records}))
        if all(r["score"] == r["top1"] for r in records):
            losses = {r["model"]: None if r["loss"] is None else -r["loss"] for r in records}
            print(row("loss", truths[0], losses))
    if len(truths[1]) > 1:
        print(row("trained again", {name: truths[0][name] for name in truths[1]}, truths[1]))


def records_in(path: Path) -> list[dict[str, Any]]:
    """What was found of each model."""
    text = path.read_text()
    lines = json.loads(text) if text.startswith("[") else map(json.loads, text.splitlines())
    return [record for record in lines if "model" in record]


def row(name: str, truth: dict[str, float], scores: dict[str, float | None]) -> str:
    """One line of the table; a model without a score is worse than all."""
    missing = sorted(truth.keys() - scores.keys())
    if missing:
        raise SystemExit(f"{name}: lacks {len(missing)} architectures of the truth: {missing[0]}")
    models = sorted(truth)
    y = np.array([truth[model] for model in models])
    found = [scores[model] for model in models]
    x = np.array([-np.inf if score is None else score for score in found], np.float64)
    low, high = interval(x, y)
    regret = y.max() - y[np.argsort(-x, kind="stable")[:FIRST]].max()
    return (
        f"| {name} | {len(models)} | {kendall(x, y):.3f} | {low:.3f} to {high:.3f} | "
        f"{spearman(x, y):.3f} | {100 * regret:.2f} points |"
    )


def kendall(x: Numbers, y: Numbers) -> float:
    """Kendall's tau-b, which allows for ties."""
    above = np.triu_indices(len(x), 1)
    a = np.sign(np.subtract.outer(ranks(x), ranks(x)))[above]
    b = np.sign(np.subtract.outer(ranks(y), ranks(y)))[above]
    pairs = np.sqrt(np.square(a).sum() * np.square(b).sum())
    return float((a * b).sum() / pairs) if pairs else 0.0


def spearman(x: Numbers, y: Numbers) -> float:
    """Correlation of the ranks."""
    return float(np.corrcoef(ranks(x), ranks(y))[0, 1])


def ranks(x: Numbers) -> Numbers:
    """Places from 0; equal numbers share their mean place."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[inverse]


def interval(x: Numbers, y: Numbers) -> tuple[float, float]:
    """95 % of the taus of bootstrap samples."""
    random = np.random.default_rng(0)
    taus = []
    for _ in range(SAMPLES):
        chosen = random.integers(0, len(x), len(x))
        taus.append(kendall(x[chosen], y[chosen]))
    low, high = np.percentile(taus, [2.5, 97.5])
    return float(low), float(high)


if __name__ == "__main__":
    main()

"""How well rankings agree with trained accuracy: Kendall's tau, Spearman's rho, top-5 regret.

    onnx-ghn rank --space narrow --seed 2 --sample 200 --data D --score flops --out flops.jsonl
    python tools/rank_table.py --truth truth.jsonl top1.jsonl flops.jsonl ...

Each ranking is what `rank --format json` printed, or the file of its --out. It must hold every
architecture of the truth, as space/number: the generator's test lists are among the first 200
networks of seed 2. Intervals are of 95 %, from bootstrap samples of the
architectures. Top-5 regret: the best accuracy of all, less the best among the first five. The
last row is the truth trained a second time.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

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
        print(row(path.stem, truths[0], scores_in(path)))
    if len(truths[1]) > 1:
        print(row("trained again", {name: truths[0][name] for name in truths[1]}, truths[1]))


def scores_in(path: Path) -> dict[str, float]:
    """Scores by model; one that failed is worse than all."""
    text = path.read_text()
    lines = json.loads(text) if text.startswith("[") else map(json.loads, text.splitlines())
    scored = {r["model"]: r["score"] for r in lines if "model" in r}
    return {name: -np.inf if score is None else score for name, score in scored.items()}


def row(name: str, truth: dict[str, float], scores: dict[str, float]) -> str:
    """One line of the table."""
    missing = sorted(truth.keys() - scores.keys())
    if missing:
        raise SystemExit(f"{name}: lacks {len(missing)} architectures of the truth: {missing[0]}")
    models = sorted(truth)
    y, x = (np.array([table[model] for model in models]) for table in (truth, scores))
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

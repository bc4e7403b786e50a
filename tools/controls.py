"""Tests an archive on held-out networks beside two controls, and prints one JSON object.

- predicted: as the archive predicts.
- shuffled edges: the nodes keep what they are, and take each other's places in the graph.
- mean weights: each parameter is the mean prediction for its shape over other networks of the
  space; what no other network has is predicted.

Batch statistics, no training of the networks, validation images only.

    OMP_NUM_THREADS=1 python tools/controls.py run/hypernet.pt --data images/ --split narrow
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from onnx_ghn.architectures.sample import sample
from onnx_ghn.architectures.splits import SPLITS, held_out, held_out_keys
from onnx_ghn.data import load_data
from onnx_ghn.hypernet.archive import load_network
from onnx_ghn.hypernet.kinds import COLUMNS, KindsHypernetwork
from onnx_ghn.random_stream import RandomStream
from onnx_ghn.train.corpus import Corpus, Task, prepare
from onnx_ghn.train.images import Images
from onnx_ghn.train.setup import VALIDATION_SHARE

Weights = dict[str, Tensor]
Shape = tuple[int, ...]
BATCH = 64
PLACE = [COLUMNS.index("depth"), COLUMNS.index("rest")]


def main() -> None:
    """Print the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", choices=SPLITS, default="narrow")
    parser.add_argument("--architectures", type=int, default=100)
    parser.add_argument("--others", type=int, default=300, help="Networks behind the means.")
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--examples", type=int, default=1024)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    network, config = load_network(arguments.archive)
    assert isinstance(network, KindsHypernetwork)
    data = load_data(arguments.data).split(VALIDATION_SHARE)[1]
    order = RandomStream(0, "validation").permutation(len(data))
    images = Images(data.take(np.asarray(order)), config.mean, config.std)
    batches = [
        images.batch(start, BATCH, arguments.side)
        for start in range(0, min(arguments.examples, len(images)) - BATCH + 1, BATCH)
    ]
    space = SPLITS[arguments.split]
    corpus = Corpus(config.network, held_out=held_out_keys(), reuse=1)
    others = (corpus.task(space, 8 * k, arguments.side) for k in range(arguments.others))
    with torch.no_grad():
        means = mean_weights(network, others)
        rows = []
        for entry in held_out(arguments.split, "val")[: arguments.architectures]:
            model = sample(
                entry.space,
                entry.seed,
                image_side=arguments.side,
                classes=config.network.classes,
            )
            task = prepare(model, config.network, entry.key)
            weights = predicted(network, task)
            stream = RandomStream(entry.seed, "shuffled edges")
            variants = {
                "predicted": weights,
                "shuffled edges": shuffled(network, task, stream),
                "mean weights": {n: means.get(_key(n, w), w) for n, w in weights.items()},
            }
            rows.append({name: accuracy(task, w, batches) for name, w in variants.items()})
    result: dict[str, object] = {
        "archive": arguments.archive.name,
        "split": arguments.split,
        "side": arguments.side,
        "architectures": len(rows),
        "examples": BATCH * len(batches),
    }
    for name in rows[0]:
        values = [row[name] for row in rows]
        result[name] = {
            "mean": round(float(np.mean(values)), 4),
            "min": round(min(values), 4),
            "max": round(max(values), 4),
        }
    print(json.dumps(result, indent=2))


def predicted(network: KindsHypernetwork, task: Task) -> Weights:
    """The archive's own weights."""
    states = network.encode(task.plan.features, task.plan.distance)
    return task.plan.predict(network, states)


def shuffled(network: KindsHypernetwork, task: Task, stream: RandomStream) -> Weights:
    """Weights predicted after all nodes but the input took each other's places in the graph."""
    plan = task.plan
    moved = 1 + torch.from_numpy(np.asarray(stream.permutation(len(plan.features) - 1)))
    places = torch.cat([torch.zeros(1, dtype=torch.int64), moved])
    features, distance = plan.features, plan.distance
    plan.features = features.clone()
    plan.features[:, PLACE] = features[places][:, PLACE]
    plan.distance = distance[places][:, places]
    try:
        return predicted(network, task)
    finally:
        plan.features, plan.distance = features, distance


def mean_weights(
    network: KindsHypernetwork, tasks: Iterable[Task]
) -> dict[tuple[str, Shape], Tensor]:
    """Mean prediction for each kind of tensor and shape."""
    sums: dict[tuple[str, Shape], Tensor] = {}
    counts: dict[tuple[str, Shape], int] = defaultdict(int)
    for task in tasks:
        for name, weight in predicted(network, task).items():
            key = _key(name, weight)
            sums[key] = sums[key] + weight if key in sums else weight.clone()
            counts[key] += 1
    return {key: total / counts[key] for key, total in sums.items()}


def _key(name: str, weight: Tensor) -> tuple[str, Shape]:
    """Sampled networks name a tensor by its kind and number: `conv_12`."""
    return name.rsplit("_", 1)[0], tuple(weight.shape)


def accuracy(task: Task, weights: Weights, batches: list[tuple[Tensor, Tensor]]) -> float:
    """Share of the images that is classified correctly."""
    right = sum(int((task.logits(x, weights).argmax(1) == y).sum()) for x, y in batches)
    return right / sum(len(y) for _, y in batches)


if __name__ == "__main__":
    main()

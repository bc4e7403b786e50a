"""Tests an archive on held-out networks beside three controls.

- predicted: as the archive predicts.
- shuffled edges: the nodes keep what they are, and take each other's places in the graph.
- mean weights: each parameter is the mean prediction for its shape over other networks of the
  space; where none of them has the shape, over the network's own parameters of that shape.
- classical: what `init --method classical` gives.

Batch statistics, no training of the networks: those of a split, or ONNX files. The val list is
tested on the last tenth of the training images, which no hypernetwork was trained on; the test
list on all of a test set's. One line of JSON for each network goes to --out; a command that was
stopped goes on where it was.

    export OMP_NUM_THREADS=1
    python tools/controls.py run/hypernet.pt --data train/ --split narrow --out narrow.jsonl
    python tools/controls.py run/hypernet.pt --data test/ --part test --side 32 --out test.jsonl
    python tools/controls.py run/hypernet.pt --data train/ --models *.onnx --side 32 --out zoo.jsonl
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from json_lines import Row, append, finished
from networks import Network, build, name_of
from torch import Tensor

from onnx_ghn.architectures.splits import SPLITS, held_out, held_out_keys
from onnx_ghn.data import Data, load_data
from onnx_ghn.hypernet.archive import load_network
from onnx_ghn.hypernet.kinds import COLUMNS, KindsHypernetwork
from onnx_ghn.options import InitializeOptions
from onnx_ghn.passes.initialize import Initialize
from onnx_ghn.random_stream import RandomStream
from onnx_ghn.read.parameter import Role
from onnx_ghn.read.reading import read_model
from onnx_ghn.train.corpus import Corpus, Task, prepare
from onnx_ghn.train.images import Images
from onnx_ghn.train.setup import VALIDATION_SHARE
from onnx_ghn.train.setup import shuffled as shuffled_data

Weights = dict[str, Tensor]
Shape = tuple[int, ...]
Kinds = Mapping[str, str]
COLUMN_NAMES = ("predicted", "shuffled edges", "mean weights", "classical")
BATCH = 64
PLACE = [COLUMNS.index("depth"), COLUMNS.index("rest")]
LIBRARY = "library"
KINDS = {Role.NORM_SCALE: "scale", Role.NORM_SHIFT: "shift"}
"""How sampled networks name tensors of a role, where that is not the role's name."""


def main() -> None:
    """Test what is missing in the file, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", choices=SPLITS, default="in-distribution")
    parser.add_argument("--models", type=Path, nargs="+", help="ONNX files in place of the split")
    parser.add_argument("--part", choices=("val", "test"), default="val")
    parser.add_argument("--architectures", type=int, default=100)
    parser.add_argument("--others", type=int, default=300, help="Networks behind the means.")
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--examples", type=int, default=10_000, help="Images, at most.")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = {row["key"]: row for row in finished(arguments.out)}
    networks: Sequence[Network] = arguments.models or held_out(arguments.split, arguments.part)
    chosen = {name_of(network): network for network in networks[: arguments.architectures]}
    missing = {key: network for key, network in chosen.items() if key not in rows}
    with torch.no_grad():
        for row in tested(missing, arguments):
            rows[row["key"]] = row
            append(arguments.out, row)
    print(table([rows[key] for key in chosen]))


def tested(networks: Mapping[str, Network], arguments: argparse.Namespace) -> Iterator[Row]:
    """Accuracies of each network with the weights of each column."""
    if not networks:
        return
    network, config = load_network(arguments.archive)
    assert isinstance(network, KindsHypernetwork)
    classes = config.network.classes
    images = Images(examples(arguments.data, arguments.part), config.mean, config.std)
    batches = [
        images.batch(start, BATCH, arguments.side)
        for start in range(0, min(arguments.examples, len(images)) - BATCH + 1, BATCH)
    ]
    corpus = Corpus(config.network, held_out=held_out_keys(), reuse=1)
    space = SPLITS[arguments.split]
    others = (corpus.task(space, 8 * k, arguments.side) for k in range(arguments.others))
    means = mean_weights(network, others)
    for key, entry in networks.items():
        model = build(entry, side=arguments.side, classes=classes)
        if isinstance(entry, Path):
            seed, split = 0, LIBRARY
            kinds = {p.name: KINDS.get(p.role, str(p.role)) for p in read_model(model).parameters}
        else:
            seed, split = entry.seed, arguments.split
            kinds = {name: _sampled_kind(name) for name in model.graph.initializers}
        task = prepare(model, config.network, key)
        weights = predicted(network, task)
        stream = RandomStream(seed, "shuffled edges")
        columns = {
            "predicted": weights,
            "shuffled edges": shuffled(network, task, stream),
            "mean weights": averaged(weights, kinds, means),
            "classical": classical(model, weights),
        }
        row: Row = {"split": split, "part": arguments.part, "side": arguments.side}
        row |= {"seed": seed, "key": key, "family": task.family or key, "norm": task.norm}
        row |= {"examples": BATCH * len(batches)}
        yield row | {name: accuracy(task, w, batches) for name, w in columns.items()}


def examples(folder: Path, part: str) -> Data:
    """Images to test on, shuffled."""
    data = load_data(folder)
    return shuffled_data(data.split(VALIDATION_SHARE)[1] if part == "val" else data)


def table(rows: Sequence[Row]) -> str:
    """Mean, lowest and highest accuracy, then the means by family and by normalisation."""
    lines = [
        "| networks | n | " + " | ".join(COLUMN_NAMES) + " |",
        "| --- | ---: |" + " ---: |" * len(COLUMN_NAMES),
    ]
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        for name in (row["family"], "norm: " + row["norm"] if row["norm"] else ""):
            groups[name].append(row)
    summaries: dict[str, Callable[..., Any]] = {
        "all": np.mean,
        "lowest": np.min,
        "highest": np.max,
    }
    for name, summary in summaries.items():
        cells = (f"{summary([row[column] for row in rows]):.3f}" for column in COLUMN_NAMES)
        lines.append(f"| {name} | {len(rows)} | " + " | ".join(cells) + " |")
    for name in sorted(filter(None, groups)):
        mine = groups[name]
        cells = (f"{np.mean([row[column] for row in mine]):.3f}" for column in COLUMN_NAMES)
        lines.append(f"| {name} | {len(mine)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def predicted(network: KindsHypernetwork, task: Task) -> Weights:
    """The archive's own weights."""
    states = network.encode(task.plan.features, task.plan.distance)
    return task.plan.predict(network, states)


def classical(model: ir.Model, like: Weights) -> Weights:
    """The best analytic start for each tensor."""
    Initialize(InitializeOptions(method="classical"))(model)
    values = {name: model.graph.initializers[name].const_value for name in like}
    return {name: torch.tensor(v.numpy()) for name, v in values.items() if v is not None}


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
            key = _sampled_kind(name), tuple(weight.shape)
            sums[key] = sums[key] + weight if key in sums else weight.clone()
            counts[key] += 1
    return {key: total / counts[key] for key, total in sums.items()}


def averaged(weights: Weights, kinds: Kinds, means: Mapping[tuple[str, Shape], Tensor]) -> Weights:
    """The mean weights in place of a network's own."""
    own: dict[tuple[str, Shape], list[Tensor]] = defaultdict(list)
    for name, weight in weights.items():
        own[kinds[name], tuple(weight.shape)].append(weight)
    every = {key: torch.stack(mine).mean(0) for key, mine in own.items()} | dict(means)
    return {name: every[kinds[name], tuple(weight.shape)] for name, weight in weights.items()}


def _sampled_kind(name: str) -> str:
    """Sampled networks name a tensor by its kind and number: `conv_12`."""
    return name.rsplit("_", 1)[0]


def accuracy(task: Task, weights: Weights, batches: list[tuple[Tensor, Tensor]]) -> float:
    """Share of the images that is classified correctly."""
    right = sum(int((task.logits(x, weights).argmax(1) == y).sum()) for x, y in batches)
    return right / sum(len(y) for _, y in batches)


if __name__ == "__main__":
    main()

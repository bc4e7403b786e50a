"""Trains held-out architectures for real: the truth that rankings are compared with.

    OMP_NUM_THREADS=1 python tools/rank_truth.py --data train/ --test test/ --out truth.jsonl

Architectures are the first of the generator's test lists, `--each` of each split; the first
`--twice` are trained a second time from another seed, which says how well truth predicts itself.
Each run is one line of JSON; a command that was stopped goes on where it was. SGD with momentum
and a cosine schedule, batches of 128 at 32 x 32, classical initialisation; in bfloat16 on CUDA.

`--processes N` trains N side by side. One GPU needs about as many as there are cores, because the
small networks wait for their kernels to be started, and better under NVIDIA's MPS.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import time
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
import torch.nn.functional as F
from json_lines import append, finished

from onnx_ghn.architectures.sample import sample
from onnx_ghn.architectures.splits import SPLITS, Entry, held_out
from onnx_ghn.data import load_data
from onnx_ghn.options import InitializeOptions
from onnx_ghn.passes.initialize import Initialize
from onnx_ghn.read.reading import read_model
from onnx_ghn.run.interpreter import Interpreter
from onnx_ghn.train.images import Images

SIDE = 32
_SHARED: dict[str, Any] = {}
"""What a process has loaded: the arguments of `train_one` besides the run."""


def main() -> None:
    """Train what is missing in the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="training images")
    parser.add_argument("--test", type=Path, required=True, help="test images")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=["in-distribution"])
    parser.add_argument("--each", type=int, default=64, help="architectures of each split")
    parser.add_argument("--twice", type=int, default=10)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=1, help="trainings side by side")
    arguments = parser.parse_args()
    entries = [
        entry for split in arguments.splits for entry in held_out(split, "test")[: arguments.each]
    ]
    runs = [(entry, 0) for entry in entries] + [(entry, 1) for entry in entries[: arguments.twice]]
    done = {
        (row["space"], row["architecture"], row["seed"], row["steps"])
        for row in finished(arguments.out)
    }
    todo = [
        (entry, seed)
        for entry, seed in runs
        if (entry.space, entry.seed, seed, arguments.steps) not in done
    ]
    load_data(arguments.data), load_data(arguments.test)  # decoded once, for all processes
    with multiprocessing.get_context("spawn").Pool(
        arguments.processes, initializer=_start, initargs=(arguments,)
    ) as pool:
        for record in pool.imap_unordered(_train, todo):
            append(arguments.out, record)
            print(record, flush=True)


def _start(arguments: argparse.Namespace) -> None:
    """Load the images, once in each process."""
    torch.set_num_threads(1)
    data = load_data(arguments.data)
    mean, std = data.statistics()
    train = Images(data, mean, std, arguments.device)
    test = Images(load_data(arguments.test), mean, std, arguments.device)
    _SHARED.update(train=train, test=test, classes=len(data.classes), options=arguments)


def _train(run: tuple[Entry, int]) -> dict[str, Any]:
    return train_one(*run, **_SHARED)


def train_one(
    entry: Entry, seed: int, train: Images, test: Images, classes: int, options: Any
) -> dict[str, Any]:
    """Train one architecture; its accuracy on all test images with running statistics."""
    start = time.perf_counter()
    model = sample(entry.space, entry.seed, image_side=SIDE, classes=classes)
    learnable = [p.name for p in read_model(model).parameters if p.learnable]
    Initialize(InitializeOptions(method="classical", seed=seed))(model)
    weights = {name: tensor_of(model, name, options.device).requires_grad_() for name in learnable}
    names = {str(value.name) for node in model.graph for value in statistics_of(node)}
    running = {name: tensor_of(model, name, options.device) for name in sorted(names)}
    network = Interpreter(
        model,
        record_statistics=True,
        device=options.device,
        autocast=torch.bfloat16 if options.device.startswith("cuda") else None,
        channels_last=True,
    )
    decayed = [w for w in weights.values() if w.dim() > 1]
    others = [w for w in weights.values() if w.dim() <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": 5e-4}, {"params": others}]
    optimizer = torch.optim.SGD(groups, lr=options.rate, momentum=0.9, nesterov=True)
    generator = torch.Generator().manual_seed(seed)
    for step in range(options.steps):
        warm = min(1.0, (step + 1) / (0.05 * options.steps))
        rate = options.rate * warm * 0.5 * (1 + math.cos(math.pi * step / options.steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        images, labels = train.random(generator, options.batch, SIDE)
        loss = F.cross_entropy(network(images, weights)[0].float(), labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(weights.values()), 5.0)
        optimizer.step()
        for pair, moments in network.statistics.items():
            for name, measured in zip(pair, moments, strict=True):
                running[name].lerp_(measured, 0.1)
    accuracy = tested(Interpreter(model, device=options.device), weights | running, test)
    return {
        "space": entry.space,
        "architecture": entry.seed,
        "key": entry.key,
        "seed": seed,
        "steps": options.steps,
        "batch": options.batch,
        "accuracy": accuracy,
        "loss": float(loss.detach()),
        "seconds": round(time.perf_counter() - start, 1),
    }


@torch.no_grad()
def tested(network: Interpreter, values: dict[str, torch.Tensor], test: Images) -> float:
    """Share of the test images that is classified correctly."""
    right = 0
    for start in range(0, len(test), 500):
        images, labels = test.batch(start, 500, SIDE)
        right += int((network(images, values)[0].argmax(1) == labels).sum())
    return right / len(test)


def statistics_of(node: ir.Node) -> list[ir.Value]:
    """Running mean and variance of a BatchNormalization."""
    if node.op_type != "BatchNormalization":
        return []
    return [value for value in node.inputs[3:5] if value is not None]


def tensor_of(model: ir.Model, name: str, device: str) -> torch.Tensor:
    """An initializer's value."""
    value = model.graph.initializers[name].const_value
    assert value is not None
    return torch.tensor(value.numpy(), device=device)


if __name__ == "__main__":
    main()

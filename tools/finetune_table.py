r"""Fine-tunes networks from several starts: what a predicted start is worth after N steps.

    OMP_NUM_THREADS=1 python tools/finetune_table.py run/hypernet.pt --train train/ --test test/ \
        --models skeletons/*.onnx --out finetune.jsonl --device cuda --processes 8

Networks are the first of the generator's in-distribution test list and ONNX files with ten
outputs. Data sets: CIFAR-10's folders as given; "vehicles", the same images with two labels,
animal and vehicle; and scikit-learn's digits at 32 x 32. For each network, data set and start the
learning rate is the best of three after `--rate-steps` steps of seed 0, by images held out of
the training images; then each seed is trained anew and tested on the test images after `--at`
steps. Cosine schedule, batches of 32; SGD with momentum for networks with BatchNormalization, AdamW
for the others: SGD hardly trains a transformer in so few steps, and leaves SqueezeNet, from Kaiming
weights and by each of its rates, at or near chance.

Each run is one line of JSON; a command that was stopped goes on where it was. `--processes N`
trains N side by side, on one GPU too. `harm_table.py` makes the do-no-harm table of these lines.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import multiprocessing
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from finetune_runs import compared
from json_lines import Row, append, finished
from lsuv import initialize_lsuv
from networks import Network, build, name_of

from onnx_ghn.architectures.splits import Entry, held_out
from onnx_ghn.data import load_data, normalised
from onnx_ghn.errors import OnnxGhnError
from onnx_ghn.finetuning.entry import finetune
from onnx_ghn.finetuning.options import FinetuneOptions
from onnx_ghn.hypernet.archive import read_info
from onnx_ghn.measures import Measures, measure
from onnx_ghn.options import NOISE, InitializeOptions, RunOptions
from onnx_ghn.passes.initialize import Initialize
from onnx_ghn.random_stream import RandomStream
from onnx_ghn.read.reading import read_model

STARTS = ("predicted", "kaiming", "orthogonal", "lsuv", "classical")
DATA = ("cifar10", "vehicles", "digits")
VEHICLES = frozenset({"airplane", "automobile", "ship", "truck"})
SIDE, BATCH = 32, 32
KEY = ("network", "data", "start", "archive", "rate", "seed", "steps", "probe")
RATES = {"sgd": (0.005, 0.02, 0.08), "adamw": (0.0003, 0.001, 0.003)}
"""Learning rates of which the best is taken."""

Call = tuple[Network, str, str, argparse.Namespace, Path, dict[str, Row]]
"""Network, data set and start; the options; the folder of the data sets; the lines there are."""


def main() -> None:
    """Train what is missing in the file, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument("--train", type=Path, required=True, help="folder of CIFAR-10")
    parser.add_argument("--test", type=Path, required=True, help="folder of CIFAR-10")
    parser.add_argument("--models", type=Path, nargs="*", default=[], help="ONNX files")
    parser.add_argument("--generated", type=int, default=10, help="networks of the test list")
    parser.add_argument("--sets", nargs="+", choices=DATA, default=["cifar10", "digits"])
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS[:-1]))
    parser.add_argument("--noise", type=float, default=NOISE, help="as in init, for predicted")
    parser.add_argument("--rate-steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--at", type=int, nargs="+", default=[50, 200, 1000, 2000])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=1, help="trainings side by side")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.at.sort()
    chosen: list[Network] = [
        *held_out("in-distribution", "test")[: arguments.generated],
        *arguments.models,
    ]
    # Read once: processes add to the file.
    rows = {key_of(row): row for row in finished(arguments.out)}
    with tempfile.TemporaryDirectory() as folder:
        save_data(arguments, Path(folder))
        # Network by network: a file that isn't finished has whole ones.
        calls = [
            (network, data, start, arguments, Path(folder), rows)
            for network in chosen
            for data in arguments.sets
            for start in arguments.starts
        ]
        if arguments.processes == 1:
            found = [*map(train_cell, calls)]
        else:
            # CUDA can't be used after a fork.
            with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
                found = pool.map(train_cell, calls, chunksize=1)
    print(tables([row for seeds in found for row in seeds]))


def train_cell(call: Call) -> list[Row]:
    """Train from one start what has no line yet; a line for each seed."""
    network, _, _, arguments, _, rows = call

    def trained(entry: Row) -> Row:
        row = rows.get(key_of(entry))
        if row is None:
            row = train_one(entry, call)
            append(arguments.out, row)
        return row

    steps = arguments.rate_steps
    accuracy = {
        rate: trained(job(call, rate, 0, [steps], probe=True))["accuracy"][str(steps)]
        for rate in rates(network)
    }
    best = max(accuracy, key=lambda rate: accuracy[rate])
    return [
        trained(job(call, best, seed, arguments.at, probe=False)) for seed in range(arguments.seeds)
    ]


def job(call: Call, rate: float, seed: int, at: Sequence[int], *, probe: bool) -> Row:
    """One training, before it has run."""
    network, data, start, arguments, _, _ = call
    row: Row = {"network": name_of(network), "data": data, "start": start, "archive": ""}
    if start == "predicted":
        row["archive"] = weights_hash(arguments.archive)
    return row | {"rate": rate, "seed": seed, "steps": at[-1], "at": list(at), "probe": probe}


@functools.cache
def weights_hash(archive: Path) -> str:
    """What tells weights from others: a do-no-harm table made of these runs changes the rest."""
    with archive.with_suffix(".safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def key_of(row: Row) -> str:
    """What tells a run from all others."""
    return json.dumps([row[name] for name in KEY])


def train_one(entry: Row, call: Call) -> Row:
    """Train one network; a run whose loss is not finite has accuracies of 0."""
    network, _, _, arguments, folder, _ = call
    torch.set_num_threads(1)
    row, seed = dict(entry), entry["seed"]
    model = build(network)
    row |= {"generated": isinstance(network, Entry), "measures": measured_sizes(network).to_json()}
    train, test = (folder / f"{entry['data']}.{part}.npz" for part in ("train", "test"))
    config = read_info(arguments.archive).config
    if entry["start"] == "lsuv":
        with np.load(train) as arrays:
            images = torch.from_numpy(normalised(arrays["x"][:256], config.mean, config.std))
        initialize_lsuv(model, images, seed=seed, device=arguments.device)
    else:
        Initialize(start_options(entry["start"], seed, arguments))(model)
    options = FinetuneOptions(
        steps=entry["steps"],
        optimizer=optimizer(network),
        learning_rate=entry["rate"],
        validate_at=tuple(entry["at"]),
        threads=1,
        keep_best=False,
    )
    run = RunOptions(
        batch_size=BATCH, side=SIDE, mean=config.mean, std=config.std, device=arguments.device
    )
    try:
        result = finetune(
            model,
            train,
            options=options,
            val=None if entry["probe"] else test,
            run=run,
            initialize=InitializeOptions(method="classical", seed=seed),
        )
        measured = {validation.step: validation.top1 for validation in result.validations}
    except OnnxGhnError as error:
        if "finite" not in str(error):
            raise
        measured = {}
    return row | {"accuracy": {str(step): measured.get(step, 0.0) for step in entry["at"]}}


@functools.cache
def measured_sizes(network: Network) -> Measures:
    """Node types and sizes."""
    found = measure(read_model(build(network)))
    assert found is not None, network
    return found


def optimizer(network: Network) -> str:
    """What usually trains such networks."""
    return "sgd" if "bn" in measured_sizes(network).types else "adamw"


def rates(network: Network) -> Sequence[float]:
    """The learning rates to choose from."""
    return RATES[optimizer(network)]


def start_options(start: str, seed: int, arguments: argparse.Namespace) -> InitializeOptions:
    """How a start is made."""
    if start != "predicted":
        return InitializeOptions(method=start, seed=seed)
    return InitializeOptions(
        method="ghn", seed=seed, hypernet=arguments.archive, noise=arguments.noise
    )


def save_data(arguments: argparse.Namespace, folder: Path) -> None:
    """Write the data sets as .npz files: numbered classes suit networks with ten outputs."""
    sets: dict[str, dict[str, tuple[Any, Any]]] = defaultdict(dict)
    if {"cifar10", "vehicles"} & set(arguments.sets):
        for part, source in (("train", arguments.train), ("test", arguments.test)):
            data = load_data(source)
            sets["cifar10"][part] = data.x, data.y
            vehicle = np.array([name in VEHICLES for name in data.classes], np.int64)
            sets["vehicles"][part] = data.x, vehicle[data.y]
    if "digits" in arguments.sets:
        sets["digits"] = digits()
    for name in arguments.sets:
        for part, (x, y) in sets[name].items():
            np.savez(folder / f"{name}.{part}.npz", x=x, y=y)


def digits() -> dict[str, tuple[Any, Any]]:
    """scikit-learn's 1,797 digits of 8 x 8 grey pixels as RGB images; every fourth is a test."""
    from sklearn.datasets import load_digits

    found = load_digits()
    grey = np.kron(found.images / 16 * 255, np.ones((SIDE // 8, SIDE // 8))).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=-1)
    order = np.asarray(RandomStream(0, "digits").permutation(len(images)))
    parts = {"test": order[::4], "train": np.delete(order, np.s_[::4])}
    return {part: (images[at], found.target[at].astype(np.int64)) for part, at in parts.items()}


def tables(rows: Sequence[Row]) -> str:
    """For each data set the mean accuracy of each start, over generated and library networks.

    Networks that lack a start are left out; classical starts are for `harm_table.py` alone.
    """
    lines: list[str] = []
    starts = [start for start in STARTS[:-1] if any(row["start"] == start for row in rows)]
    for data in dict.fromkeys(row["data"] for row in rows):
        for generated, title in ((True, "generated"), (False, "library")):
            mine = [row for row in rows if row["data"] == data and row["generated"] == generated]
            mine = compared(mine, starts)
            if not mine:
                continue
            steps = list(mine[0]["accuracy"])
            count = len({row["network"] for row in mine})
            plural = "s" if count > 1 else ""
            lines += [
                f"| {data}, {count} {title} network{plural} | " + " | ".join(steps) + " |",
                "| --- |" + " ---: |" * len(steps),
            ]
            for start in starts:
                chosen = [row for row in mine if row["start"] == start]
                means = (np.mean([row["accuracy"][step] for row in chosen]) for step in steps)
                lines.append(f"| {start} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")
            lines += ["", reached(mine), ""]
    return "\n".join(lines)


def reached(rows: Sequence[Row], after: str = "1000") -> str:
    """By which step predicted starts are where Kaiming ones are at `after`, in one sentence."""
    found: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found[row["network"]][row["start"]].append(row)
    first: Counter[str] = Counter()
    for starts in found.values():
        if {"predicted", "kaiming"} <= starts.keys() and after in rows[0]["accuracy"]:
            goal = np.mean([row["accuracy"][after] for row in starts["kaiming"]])
            steps = (
                step
                for step in rows[0]["accuracy"]
                if np.mean([row["accuracy"][step] for row in starts["predicted"]]) >= goal
            )
            step = next(steps, None)
            first["never" if step is None else f"by step {step}"] += 1
    parts = [f"{count} {when}" for when, count in first.items()]
    return f"What Kaiming has after {after} steps, predicted has: {', '.join(parts) or 'unknown'}"


if __name__ == "__main__":
    main()

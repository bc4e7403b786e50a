"""Compares variants of our hypernetwork's design, each trained from nothing for equally long.

    OMP_NUM_THREADS=1 python tools/ab_design.py --data train/ --out ab.jsonl --processes 2

Each variant differs from the design in one thing. All are trained in one space (`--space`, the
narrow one) at 16 x 16 for as many architecture steps, one process each, from the same seed on the
same architectures and batches, and tested on the first 30 networks of the space's validation list.
One line of JSON for each goes to --out; a command that was stopped goes on with the variants that
are missing. With `--from`, they start from an archive:

    python tools/ab_design.py --data train/ --out channels.jsonl --steps 3000 --space dense \
      --from onnx_ghn/hypernet/weights/hypernet.pt --variants "the design" "channels by number"
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from json_lines import append, finished
from torch import nn

from onnx_ghn.architectures.spaces import SPACES
from onnx_ghn.hypernet import kinds
from onnx_ghn.hypernet.graphormer import Layer
from onnx_ghn.hypernet.kinds import KindsHypernetwork
from onnx_ghn.train import export
from onnx_ghn.train import setup as setups
from onnx_ghn.train.loop import train
from onnx_ghn.train.options import Budget, TrainOptions
from onnx_ghn.train.setup import new_run

BASE = TrainOptions(
    space="narrow", side=16, final_side=16, evaluate_seconds=1e9, evaluate_architectures=30
)


def main() -> None:
    """Train the variants that are missing in the file, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="training images")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=8000, help="architecture steps of each")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--space", choices=SPACES, default="narrow")
    parser.add_argument("--from", dest="start", type=Path, help="archive to start from")
    parser.add_argument("--processes", type=int, default=1, help="variants side by side")
    arguments = parser.parse_args()
    done = {row["variant"]: row for row in finished(arguments.out)}
    missing = [name for name in arguments.variants if name not in done]
    measure = partial(
        measured,
        data=arguments.data,
        steps=arguments.steps,
        space=arguments.space,
        start=arguments.start,
    )
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for row in pool.imap_unordered(measure, missing):
            done[row["variant"]] = row
            append(arguments.out, row)
    print("| variant | mean | lowest | highest | node cosine | CPU ms a step |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in arguments.variants:
        row = done[name]
        numbers = [f"{row[key]:.3f}" for key in ("mean", "min", "max", "node_cosine")]
        print(f"| {name} | {' | '.join(numbers)} | {row['cpu_ms']:.0f} |")


def measured(name: str, data: Path, steps: int, space: str, start: Path | None) -> dict[str, Any]:
    """Train one variant."""
    torch.set_num_threads(1)
    changed, options = VARIANTS[name]
    with tempfile.TemporaryDirectory() as folder, changed():
        budget = Budget(steps=steps // options.meta_batch)
        options = replace(options, space=space)
        setup = new_run(data, Path(folder) / "run", budget, options, start=start)
        monitor = train(setup, lambda progress, values: None)
        assert monitor is not None
        log = (Path(folder) / "run" / "log.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in log]
    last = [event for event in events if "node_cosine" in event][-1]  # one every ten seconds
    counters = monitor.counters
    return {
        "variant": name,
        "space": space,
        "architecture_steps": counters.architecture_steps,
        "cpu_ms": 1e3 * counters.cpu_seconds / counters.architecture_steps,
        "node_cosine": last["node_cosine"],
        **{key: monitor.held_out[key] for key in ("mean", "min", "max", "architectures")},
    }


@contextmanager
def edited(edit: Callable[[KindsHypernetwork], None]) -> Iterator[None]:
    """Change each new hypernetwork before it is trained."""
    build = setups.build_network

    def built(config: Any) -> nn.Module:
        network = build(config)
        assert isinstance(network, KindsHypernetwork)
        with torch.no_grad():
            edit(network)
        return network

    with patch.object(setups, "build_network", built):
        yield


def no_fixed_features(network: KindsHypernetwork) -> None:
    """Decoders read zeros in place of the fixed random features."""
    network.fixed.zero_()


def branches_from_the_start(network: KindsHypernetwork) -> None:
    """Residual branches of the encoder start as other layers do, not at zero."""
    for layer in network.encoder.layers:
        assert isinstance(layer, Layer)
        layer.attention.out.reset_parameters()
        layer.feed_out.reset_parameters()


def channels_by_number() -> AbstractContextManager[Any]:
    """Channels take the part of a tile that is their number in their layer."""
    config = export.network_config
    return patch.object(
        export, "network_config", lambda classes: replace(config(classes), aligned=False)
    )


def templates(factor: float) -> Callable[[], AbstractContextManager[Any]]:
    """More or fewer templates in each decoder."""
    counts = tuple(int(count * factor) for count in kinds.TEMPLATES)
    return lambda: patch.object(kinds, "TEMPLATES", counts)


Variant = tuple[Callable[[], AbstractContextManager[Any]], TrainOptions]

VARIANTS: dict[str, Variant] = {
    "the design": (nullcontext, BASE),
    "another seed": (nullcontext, replace(BASE, seed=1)),
    "channels by number": (channels_by_number, BASE),
    "no fixed features": (lambda: edited(no_fixed_features), BASE),
    "branches not zero at first": (lambda: edited(branches_from_the_start), BASE),
    "no transformer layers": (lambda: patch.object(export, "LAYERS", 0), BASE),
    "half the templates": (templates(0.5), BASE),
    "twice the templates": (templates(2.0), BASE),
    "trunk rate 1e-3": (nullcontext, replace(BASE, trunk_rate=1e-3)),
    "four architectures an update": (nullcontext, replace(BASE, meta_batch=4)),
    "batch 32": (nullcontext, replace(BASE, batch=32)),
}


if __name__ == "__main__":
    main()

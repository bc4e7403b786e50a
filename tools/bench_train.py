"""Measures training: architecture steps a second, and CPU milliseconds of each half.

Trains for a while on random images, in each of several processes as `onnx-ghn train` does (on a
CPU or on one GPU), and prints the rate of all processes together, and for one step the CPU time of
the target network (forward and backward) and of the hypernetwork, the optimiser included.

    OMP_NUM_THREADS=1 python tools/bench_train.py --processes 2 --seconds 60
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from onnx_ghn.architectures.spaces import SPACES
from onnx_ghn.train.loop import train
from onnx_ghn.train.options import Budget, TrainOptions
from onnx_ghn.train.setup import new_run


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", choices=SPACES, default="narrow")
    parser.add_argument("--side", type=int, default=16, help="Image side.")
    parser.add_argument("--batch", type=int, default=64, help="Images of a step.")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60.0, help="How long to measure.")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(_measure(arguments, Path(folder)), indent=2))


def _measure(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2000, 32, 32, 3), np.uint8)
    np.savez(folder / "data.npz", x=images, y=np.arange(2000) % 10)
    options = TrainOptions(
        space=arguments.space,
        batch=arguments.batch,
        side=arguments.side,
        final_side=arguments.side,
        evaluate_seconds=1e9,
        evaluate_architectures=1,
        evaluate_examples=64,
    )
    budget = Budget(minutes=arguments.seconds / 60)
    setup = new_run(folder / "data.npz", folder / "run", budget, options, device=arguments.device)
    start = time.perf_counter()
    monitor = train(setup, lambda progress, measured: None, processes=arguments.processes)
    assert monitor is not None
    records = [json.loads(line) for line in setup.run.paths.log.read_text().splitlines()]
    # The first records are of starting processes and empty caches.
    steady = [r for r in records if r["event"] == "train" and "loss" in r][1:]
    counters = monitor.counters
    result: dict[str, object] = {
        "space": arguments.space,
        "side": arguments.side,
        "batch": arguments.batch,
        "processes": arguments.processes,
        "device": arguments.device,
        "seconds": round(time.perf_counter() - start, 1),
        "architecture_steps": counters.architecture_steps,
        "cpu_ms_a_step": round(1e3 * counters.cpu_seconds / counters.architecture_steps, 1),
    }
    if steady:
        for name in ("architectures_per_second", "target_ms", "hypernet_ms"):
            result[name] = round(float(np.median([r[name] for r in steady])), 2)
    return result


if __name__ == "__main__":
    main()

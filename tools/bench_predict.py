"""Times each stage of a prediction: process CPU seconds of one thread, values written out included.

Usage: python tools/bench_predict.py [--size t|s|l|xl|ghn2|FILE.pt]... [--repeat N]
                                      [--engine ENGINE] [--reference DIR]... MODEL...

MODEL is an ONNX file, which is read first (stage `read`), or a parity fixture (.npz), which holds
its graph. Sizes are those of the published hypernetworks, with seeded random weights; a file is
an archive. `first` is the first prediction of a fresh process state, the other columns are the
least of N repetitions. `fit` makes every predicted tensor in full; `peak` is the most memory that
the process has held.

With --reference (folders to put on the module path: a checkout of the reference, one of ppuda, and
what else they import) the reference predicts the torchvision model that the file is named after,
in a process of its own right after ours, and the ratios of CPU seconds are printed: reading to its
graph stage, and the whole path to the whole.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from make_untrained import untrained_state
from parity_values import read_fixture

from onnx_ghn.hypernet import predict as stages
from onnx_ghn.hypernet.archive import Archive, load_archive, write_archive
from onnx_ghn.hypernet.config import CORNER, GATED, GRAPHORMER, ArchiveConfig, NetworkConfig
from onnx_ghn.hypernet.features import features
from onnx_ghn.hypernet.tiles import decode_tiles
from onnx_ghn.options import ENGINES


def _ghn3(hidden: int, layers: int, heads: int) -> NetworkConfig:
    return NetworkConfig(
        encoder=GRAPHORMER,
        hidden=hidden,
        layers=layers,
        heads=heads,
        channels=(hidden, hidden),
        side=16,
        classes=1000,
    )


SIZES = {
    "t": _ghn3(64, 3, 8),
    "s": _ghn3(128, 5, 16),
    "l": _ghn3(256, 12, 16),
    "xl": _ghn3(384, 24, 16),
    "ghn2": NetworkConfig(
        encoder=GATED, hidden=32, channels=(64, 64), side=16, classes=1000, window=CORNER
    ),
}


def main() -> int:
    """Print one row for each size and model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--size", action="append", help="hypernetwork; t where left out")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0])
    parser.add_argument("--reference", action="append", type=Path, metavar="DIR", default=[])
    arguments = parser.parse_args()
    print("| hypernet | model | nodes | M values | read | encode | decode | fit | total | first |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for size in arguments.size or ["t"]:
        with tempfile.TemporaryDirectory() as folder:
            archive = _archive(size, Path(folder), arguments.engine)
        for model in arguments.models:
            ours = _row(size, model, archive, arguments.repeat)
            if arguments.reference:
                _compare(archive, model, ours, arguments.reference, arguments.repeat)
    return 0


def _compare(
    archive: Archive, model: Path, ours: tuple[float, float], folders: list[Path], repeat: int
) -> None:
    """Run the reference on the same model and print the ratios."""
    network, name = archive.info.config.network, model.stem.split(".")[0]
    paths = [str(folder.resolve()) for folder in folders]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }
    sizes = (network.hidden, network.layers, network.heads, repeat)
    script = Path(__file__).with_name("reference_times.py")
    command = [sys.executable, str(script), *map(str, sizes), name]
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    row = json.loads(result.stdout.strip().splitlines()[-1])
    print(
        f"{archive.info.name} {name}: reference graph {row['graph']:.3f} s, "
        f"total {row['total']:.3f} s, peak {row['peak_mb']:.0f} MB; "
        f"ours / reference: read {ours[0] / row['graph']:.2f}, total {ours[1] / row['total']:.2f}"
    )


def _archive(size: str, folder: Path, engine: str) -> Archive:
    file = Path(size)
    if size in SIZES:
        file = folder / f"{size}.pt"
        state = untrained_state(SIZES[size], seed=0)
        write_archive(file, ArchiveConfig(name=size, network=SIZES[size], trained=False), state)
        del state
    start = time.process_time()
    archive = load_archive(file, engine=engine)
    seconds = time.process_time() - start
    print(f"{size}: {file.stat().st_size:,} bytes, loaded in {seconds:.2f} s", file=sys.stderr)
    return archive


def _row(size: str, model: Path, archive: Archive, repeat: int) -> tuple[float, float]:
    """Print a row; the least seconds of reading, and of the whole."""
    runs = []
    for _ in range(max(2, repeat)):
        start = time.process_time()
        reading = _read(model)
        read = time.process_time() - start
        runs.append([read, *_predict(reading, archive)])
    network = archive.info.config.network
    found = stages.sources_of(reading, network)
    values = sum(
        int(np.prod(parameter.logical_shape))
        for parameter, source in zip(reading.parameters, found, strict=True)
        if not isinstance(source, str)
    )
    least = [min(column) for column in zip(*runs, strict=True)]
    first, total = sum(runs[0]), min(sum(run) for run in runs)
    cells = " | ".join(f"{seconds:.3f}" for seconds in [*least, total, first])
    print(f"| {size} | {model.stem} | {len(reading.graph)} | {values / 1e6:.1f} | {cells} |")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{size} {model.stem}: peak {peak:.0f} MB", file=sys.stderr)
    return least[0], total


def _predict(reading: Any, archive: Archive) -> tuple[float, float, float]:
    """CPU seconds of encode (with features), decode and fit."""
    network, clock = archive.info.config.network, time.process_time
    start = clock()
    rows = features(reading.graph, network, archive.info.config.columns)
    states = archive.engine.encode(rows, reading.graph.distance.astype(np.int64))
    encoded = clock()
    found = enumerate(stages.sources_of(reading, network))
    sources = {index: source for index, source in found if not isinstance(source, str)}
    tiles = decode_tiles(archive.engine, sources, states, rows, network)
    decoded = clock()
    prediction = stages.Prediction(reading, sources, tiles, states, seed=0)
    for index in prediction.indices:
        prediction.tensor(index)
    return encoded - start, decoded - encoded, clock() - decoded


def _read(model: Path) -> Any:
    if model.suffix == ".npz":
        return read_fixture(model)[0]
    from onnx_ghn.model_io import load
    from onnx_ghn.read.reading import read_model

    return read_model(load(model))


if __name__ == "__main__":
    sys.exit(main())

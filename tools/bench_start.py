"""Compares the engines from process start: CPU and wall seconds, and the most memory held.

Usage: python tools/bench_start.py [--hypernet FILE.pt]... [--repeat N] MODEL.onnx

`first` is a process that loads the archive, reads the model and makes one predicted tensor; `init`
is the command with --method ghn, all values written to a temporary folder. Each is started N times
with one thread, the engines in turn, and a column is the least of its runs. The last row of each
pair is what ONNX Runtime takes of torch's figures.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from onnx_ghn.hypernet.archive import SHIPPED
from onnx_ghn.options import ENGINES

FIRST = """
from onnx_ghn.deferred import defer
defer()  # as the command line does
import sys
from onnx_ghn.hypernet.archive import load_archive
from onnx_ghn.hypernet.predict import predict
from onnx_ghn.model_io import load
from onnx_ghn.read.reading import read_model
engine, hypernet, model = sys.argv[1:]
archive = load_archive(hypernet, engine=engine)
prediction = predict(read_model(load(model)), archive)
prediction.tensor(prediction.indices[0])
"""

Cost = tuple[float, float, float]
"""CPU seconds, wall seconds, MB."""


def main() -> int:
    """Print a row for each archive, stage and engine."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--hypernet", action="append", type=Path, help="the one that ships if none")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    print("| hypernet | stage | engine | CPU s | wall s | peak MB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for hypernet in arguments.hypernet or [SHIPPED]:
        for stage in ("first", "init"):
            runs: dict[str, list[Cost]] = {engine: [] for engine in ENGINES}
            for _ in range(arguments.repeat):
                for engine, costs in runs.items():
                    costs.append(_run(stage, engine, hypernet, arguments.model))
            least = {e: [min(c) for c in zip(*costs, strict=True)] for e, costs in runs.items()}
            for engine, (cpu, wall, peak) in least.items():
                row = f"| {hypernet.stem} | {stage} | {engine} |"
                print(f"{row} {cpu:.2f} | {wall:.2f} | {peak:.0f} |")
            shares = zip(least["onnxruntime"], least["torch"], strict=True)
            cells = " | ".join(f"{ours / theirs:.2f}" for ours, theirs in shares)
            print(f"| {hypernet.stem} | {stage} | share | {cells} |")
    return 0


def _run(stage: str, engine: str, hypernet: Path, model: Path) -> Cost:
    """What one process takes."""
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "out.onnx")
        command = [sys.executable, "-c", FIRST, engine, str(hypernet), str(model)]
        if stage == "init":
            options = ["--method", "ghn", "--engine", engine, "--hypernet", str(hypernet)]
            command = [sys.executable, "-m", "onnx_ghn", "init", str(model), "-o", out, *options]
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())

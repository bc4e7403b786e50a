"""`make demo`: predict the weights of a real architecture and run it in ONNX Runtime.

The architectures are those that the `onnx` package itself ships for its backend tests: graphs of
well-known networks whose weights are left out (each is a ConstantOfShape node).

    python tools/demo.py [--model resnet50] [--out DIR]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from rich.console import Console
from rich.table import Table

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def main() -> int:
    """Run the demo; returns the exit code."""
    names = sorted(path.stem.removeprefix("light_") for path in LIGHT.glob("light_*.onnx"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=names, default="resnet50")
    parser.add_argument("--out", type=Path, help="folder for the result (default: a temporary one)")
    arguments = parser.parse_args()
    source = LIGHT / f"light_{arguments.model}.onnx"
    with tempfile.TemporaryDirectory() as temporary:
        output = (arguments.out or Path(temporary)) / f"{arguments.model}.init.onnx"
        command = ["init", str(source), "-o", str(output), "--method", "ghn", "--force"]
        print("$ onnx-ghn", *command)
        start = time.perf_counter()
        completed = subprocess.run(
            [sys.executable, "-m", "onnx_ghn", *command, "--format", "json"],
            stdout=subprocess.PIPE,
            check=False,
        )
        if completed.returncode:
            return completed.returncode
        initialised = time.perf_counter() - start
        show(json.loads(completed.stdout), output, initialised)
    return 0


def show(report: dict, output: Path, initialised: float) -> None:
    """Run the initialised model on noise and print what happened."""
    start = time.perf_counter()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # these old files list every initializer as an input
    session = onnxruntime.InferenceSession(output, options, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    noise = np.random.default_rng(0).standard_normal(entry.shape, dtype=np.float32)
    result = session.run(None, {entry.name: noise})[0]
    ran = time.perf_counter() - start
    archive = report["decision"]["archive"]
    tensors, elements = report["summary"]["tensors"], report["summary"]["elements"]
    table = Table(title=f"{output.name}, {output.stat().st_size / 1e6:.0f} MB", show_header=False)
    table.add_row("hypernetwork", f"{archive['name']}, trained: {archive['trained']}")
    table.add_row("GHN nodes", f"{len(report['nodes'])}")
    for status, count in tensors.items():
        table.add_row(f"tensors {status}", f"{count} ({elements[status]:,} values)")
    table.add_row("read, predict, calibrate, write", f"{initialised:.2f} s with start-up")
    table.add_row("ONNX Runtime, load and run", f"{ran:.2f} s")
    table.add_row("output", f"{list(result.shape)}, all finite: {bool(np.isfinite(result).all())}")
    Console(width=100).print(table)
    if not np.isfinite(result).all():
        raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(main())

"""Initialises a model that is larger than memory, and measures peak memory and time.

Each method runs in a process of its own, by default on the 7-billion-parameter decoder skeleton of
the corpus (13.5 GB in half precision). Reported are the peak memory above what imports, archive
and parsed model take, which must stay below 3 times the largest tensor + 200 MB, and the time
against copying a file of that size to the disk: predictions within 2 times, classical
initialisers within 6 times. What was written is removed again.

    python tools/bench_big.py [MODEL] [--method ghn --method classical] [--folder DIR]
                              [--memory-mb N] [--json OUT]

--memory-mb limits the address space of the process, as `ulimit -v` does.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

DEFAULT = Path(__file__).parent.parent.parent / "shared" / "corpus"
NAME = "big_llama_7b__dyn-fake-op18.onnx"
MB = 1 << 20
MAX_TIMES_COPY = {"ghn": 2.0, "classical": 6.0}


def peak_bytes() -> int:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def give_frequencies(model: Any) -> None:
    """Give the rotary frequencies of a skeleton, which nothing can make up, their usual values."""
    import numpy as np
    import onnx_ir as ir

    from onnx_ghn.model_io import has_value
    from onnx_ghn.read.reading import read_model

    for parameter in read_model(model).parameters:
        if not parameter.learnable and not has_value(parameter.value):
            steps = np.linspace(0, 1, np.prod(parameter.shape), endpoint=False)
            array = (10000.0**-steps).reshape(parameter.shape).astype(parameter.dtype.numpy())
            parameter.value.const_value = ir.Tensor(array, dtype=parameter.dtype)


def run(model: Path, output: Path, method: str, memory_mb: int | None, results: Any) -> None:
    """Initialise in this process and put the figures into the queue `results`."""
    if memory_mb is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory_mb * MB, memory_mb * MB))
    from onnx_ghn import InitializeOptions, model_io
    from onnx_ghn.hypernet.archive import load_archive
    from onnx_ghn.passes import Initialize

    options = InitializeOptions(method=method, seed=1)
    archive = load_archive(None, engine=options.engine) if method == "ghn" else None
    loaded = model_io.load(model)
    give_frequencies(loaded)
    before = peak_bytes()
    start = time.perf_counter()
    Initialize(options, archive=archive)(loaded)
    predicted = time.perf_counter()
    model_io.save(loaded, output, source=model)
    end = time.perf_counter()
    tensors = [value.const_value for value in loaded.graph.initializers.values()]
    results.put(
        {
            "method": method,
            "baseline_mb": before / MB,
            "peak_above_mb": (peak_bytes() - before) / MB,
            "largest_tensor_mb": max(tensor.nbytes for tensor in tensors if tensor) / MB,
            "predict_s": predicted - start,
            "write_s": end - predicted,
            "cpu_s": sum(resource.getrusage(resource.RUSAGE_SELF)[:2]),
        }
    )


def copy_seconds(source: Path) -> float:
    """Time to copy a file beside itself and bring it to the disk, as saving does."""
    target = source.with_suffix(".copy")
    start = time.perf_counter()
    subprocess.run(["cp", source, target], check=True)
    descriptor = os.open(target, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    seconds = time.perf_counter() - start
    target.unlink()
    return seconds


def measure(model: Path, folder: Path, method: str, memory_mb: int | None) -> dict[str, Any]:
    """Figures of one method."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    output = folder / "out.onnx"
    process = context.Process(target=run, args=(model, output, method, memory_mb, results))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"error: {method} ended with exit code {process.exitcode}")
    figures: dict[str, Any] = results.get()
    largest = max(folder.iterdir(), key=lambda path: path.stat().st_size)
    figures["written_gb"] = sum(path.stat().st_size for path in folder.iterdir()) / 1e9
    figures["copy_s"] = copy_seconds(largest)
    figures["times_copy"] = (figures["predict_s"] + figures["write_s"]) / figures["copy_s"]
    for path in folder.iterdir():
        path.unlink()
    return figures


def main() -> int:
    """Measure; exit code 1 where memory exceeds its bound."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    corpus = Path(os.environ.get("ONNX_GHN_CORPUS", DEFAULT))
    parser.add_argument("model", type=Path, nargs="?", default=corpus / "models" / NAME)
    parser.add_argument("--method", action="append", choices=sorted(MAX_TIMES_COPY))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--memory-mb", type=int, metavar="N")
    parser.add_argument("--json", type=Path, metavar="OUT")
    arguments = parser.parse_args()
    measured, failed = [], False
    for method in arguments.method or ["ghn", "classical"]:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            free = shutil.disk_usage(folder).free / 1e9
            print(f"{method}: {free:.0f} GB free in {arguments.folder}", file=sys.stderr)
            figures = measure(arguments.model, Path(folder), method, arguments.memory_mb)
        bound = 3 * figures["largest_tensor_mb"] + 200
        over = figures["peak_above_mb"] > bound
        failed = failed or over
        measured.append(figures)
        print(
            f"{method}: {figures['written_gb']:.2f} GB; peak {figures['peak_above_mb']:.0f} MB "
            f"above {figures['baseline_mb']:.0f} MB (bound {bound:.0f} MB"
            f"{', EXCEEDED' if over else ''}); predict {figures['predict_s']:.1f} s, write "
            f"{figures['write_s']:.1f} s, {figures['times_copy']:.2f} times a copy "
            f"({figures['copy_s']:.1f} s; goal {MAX_TIMES_COPY[method]:g} times); "
            f"{figures['cpu_s']:.0f} CPU s",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(measured, indent=1) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

"""Parity on any torchvision model: exports it, runs the reference, compares graph and values.

    python tools/parity_unseen.py --reference DIR [--reference DIR]... [--keep FOLDER]
                                  CHECKPOINT MODEL[:eval]...

With `--reference` (folders to put on the module path: a checkout of the reference, one of ppuda,
and what else they import) the models of torchvision are exported in three forms in a process of
its own, and predicted by the reference with the checkpoint; then each ONNX file is read and
predicted here. `:eval` has the reference read the model in evaluation mode, which is what the ONNX
files of models with auxiliary heads hold. `--keep` keeps exports and predictions for another run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import parity_graphs
import parity_values

from onnx_ghn.convert.checkpoint import convert_checkpoint
from onnx_ghn.hypernet.archive import Archive, load_archive
from onnx_ghn.model_io import load
from onnx_ghn.options import ENGINES
from onnx_ghn.read.reading import read_model


def main() -> int:
    """Print the table; 1 where something differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--reference", action="append", type=Path, metavar="DIR", required=True)
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0])
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = arguments.keep or scratch
        folder.mkdir(parents=True, exist_ok=True)
        names = [entry.partition(":")[0] for entry in arguments.models]
        missing = [
            entry
            for entry, name in zip(arguments.models, names, strict=True)
            if not (folder / f"{name}.npz").exists()
        ]
        if missing:
            _run_reference(arguments.reference, arguments.checkpoint, folder, missing)
        target = scratch / f"{arguments.checkpoint.stem}.pt"
        convert_checkpoint(arguments.checkpoint, target)
        archive = load_archive(target, engine=arguments.engine)
        print("| checkpoint | model | form | nodes | graph | parameters | largest difference |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        differing = [_differs(folder, name, archive) for name in names]
    return int(any(differing))


def _run_reference(folders: list[Path], checkpoint: Path, out: Path, models: list[str]) -> None:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(
            [*(str(folder.resolve()) for folder in folders), os.environ.get("PYTHONPATH", "")]
        ),
        "OMP_NUM_THREADS": "1",
    }
    script = Path(__file__).with_name("reference_predict.py")
    command = [sys.executable, str(script), str(checkpoint), str(out), *models]
    subprocess.run(command, env=environment, stdout=sys.stderr, check=True)


def _differs(folder: Path, name: str, archive: Archive) -> bool:
    """Print a row for each form of a model; whether any differs from the reference."""
    fixture = folder / f"{name}.npz"
    if not fixture.exists():
        print(f"| {archive.info.name} | {name} | | | the reference can't read it | | |")
        return False
    differs = False
    for row, agrees in _rows(folder, fixture, archive):
        print(f"| {archive.info.name} | {row} |", flush=True)
        differs |= not agrees
    return differs


def _rows(folder: Path, fixture: Path, archive: Archive) -> Iterator[tuple[str, bool]]:
    network = archive.info.config.network
    for model in sorted(folder.glob(f"{fixture.stem}.*.onnx")):
        reading = read_model(load(model))
        graph = parity_graphs.compare(reading, fixture, network.classes, network.side)
        for kind in ("ours", "theirs", "edges"):
            if nodes := getattr(graph, kind):
                print(f"  {model.stem} {kind}: {nodes[:4]} ({len(nodes)})", file=sys.stderr)
        values = parity_values.compare_model(model, fixture, archive)
        if values.missing:
            print(f"  {model.stem} missing: {values.missing[:4]}", file=sys.stderr)
        cells = (
            fixture.stem,
            model.stem.partition(".")[2],
            str(graph.nodes),
            "same" if graph.agrees else "DIFFERS",
            f"{values.parameters}" + f" ({len(values.missing)} MISSING)" * bool(values.missing),
            f"{values.values:.1e}",
        )
        yield " | ".join(cells), graph.agrees and values.agrees


if __name__ == "__main__":
    sys.exit(main())

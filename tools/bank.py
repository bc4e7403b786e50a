"""Makes the archive of a training run the one that ships, if it is better.

Usage: python tools/bank.py RUN/hypernet.pt --data TRAIN/ [--name NAME] [--harm TABLE.json]
       python tools/bank.py RUN/hypernet.pt [--name NAME] [--harm TABLE.json] [--replace]
       python tools/bank.py --harm TABLE.json

The archive goes into `onnx_ghn/hypernet/weights/`, its weights in float16: TorchScript, safetensors
and ONNX parts take half the room. It must beat the one that ships by `MARGIN` in mean accuracy on
held-out architectures; an untrained one is beaten by any. With `--data`, both are tested here, on
validation images and the whole val lists of `SPACES`; else by what their runs recorded, which
another device may have measured otherwise (same space, same side). `--replace` is for the first
archive of another space, where there is nothing to compare. Each banking is a line in
`training/banked.jsonl`, and there are `MOST` at most: more would select by chance.

`--harm` puts a do-no-harm table into the archive (`onnx_ghn.hypernet.harm` has its format); without
a run, into the one that ships.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt
from networks import build

from onnx_ghn.architectures.splits import held_out
from onnx_ghn.data import Data, load_data
from onnx_ghn.errors import ArchiveError, OnnxGhnError
from onnx_ghn.hypernet.archive import (
    SHIPPED,
    ArchiveInfo,
    load_network,
    read_info,
    read_weights,
    write_archive,
)
from onnx_ghn.hypernet.config import ArchiveConfig
from onnx_ghn.hypernet.harm import HarmTable
from onnx_ghn.train.corpus import prepare
from onnx_ghn.train.heldout import evaluate
from onnx_ghn.train.images import Images
from onnx_ghn.train.setup import VALIDATION_SHARE, shuffled

MARGIN = 0.01
MOST = 10
SPACES, SIDE, EXAMPLES = ("full", "broad"), 32, 1024
"""What `--data` tests on: the val lists of these spaces, and so many images of each network."""

LOG = Path(__file__).parent.parent / "training" / "banked.jsonl"


def bank(
    run: Path,
    name: str,
    harm: HarmTable | None,
    log: Path = LOG,
    *,
    anew: bool = False,
    data: Path | None = None,
) -> ArchiveInfo:
    """Write the archive of a run as the one that ships.

    Args:
        run: The run's archive.
        name: What it is to be called.
        harm: Its do-no-harm table; that which it has where None.
        log: Where bankings are recorded.
        anew: Whether it may replace one that it can't be compared with.
        data: Training images, on the held-out ones of which both are tested.

    Raises:
        ArchiveError: It is not better, or it can't be read or written.
    """
    found, shipped = read_info(run), read_info()
    if data is not None:
        found, shipped = tested(found, data), tested(shipped, data)
    bankings = log.read_text().splitlines() if log.exists() else []
    if len(bankings) >= MOST:
        raise ArchiveError(f"{log}: {len(bankings)} bankings already, {MOST} at most")
    rows = compare(found.config, shipped.config, anew=anew)
    config = replace(
        found.config,
        name=name,
        harm=harm or found.config.harm,
        licence=found.config.licence or "MIT",
        provenance=found.config.provenance | {"weights": "float16", "from_sha256": found.sha256},
    )
    info = write_archive(SHIPPED, config, halved(read_weights(run)))
    record = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "name": name,
        "sha256": info.sha256,
        "run": found.name,
        "run_sha256": found.sha256,
        "val": [{key: value for key, value in row.items() if key != "families"} for row in rows],
    }
    with log.open("a") as file:
        file.write(json.dumps(record) + "\n")
    return info


def tested(info: ArchiveInfo, data: Path) -> ArchiveInfo:
    """An archive's description with its accuracy on the val lists, in the place of its run's."""
    network, config = load_network(info.path.with_suffix(".safetensors"))
    images = Images(validation(data), config.mean, config.std)
    rows = []
    for space in SPACES:
        models = [
            build(e, side=SIDE, classes=config.network.classes) for e in held_out(space, "val")
        ]
        tasks = [prepare(model, config.network, space) for model in models]
        result = evaluate(network, tasks, images, side=SIDE, examples=EXAMPLES)
        rows.append({"space": space, "side": SIDE, **result.summary()})
        print(f"{info.name}, {space}: {result.mean:.4f}", flush=True)
    return replace(info, config=replace(config, held_out=tuple(rows)))


def validation(data: Path) -> Data:
    """The images on which no run trains, in a fixed random order."""
    return shuffled(load_data(data).split(VALIDATION_SHARE)[1])


def compare(
    run: ArchiveConfig, shipped: ArchiveConfig, *, anew: bool = False
) -> list[dict[str, Any]]:
    """The rows of a run's held-out results for which it is banked.

    Raises:
        ArchiveError: It does not beat the archive that ships.
    """
    if not run.trained or not run.held_out:
        raise ArchiveError(f"{run.name}: an untrained archive, or one without held-out results")
    if not shipped.trained:
        return list(run.held_out)
    places = ("space", "side", "architectures")
    before = {tuple(row.get(key) for key in places): row for row in shipped.held_out}
    common = [row for row in run.held_out if tuple(row.get(key) for key in places) in before]
    if common:
        mean = fmean(row["mean"] for row in common)
        old = fmean(before[tuple(row[key] for key in places)]["mean"] for row in common)
        where = " and ".join(f"{row['space']!r} at {row['side']} pixels" for row in common)
        if mean < old + MARGIN:
            raise ArchiveError(
                f"{run.name}: mean {mean:.4f} on held-out architectures of {where}; "
                f"{shipped.name}, which ships, has {old:.4f}, and {MARGIN} more is needed"
            )
    if not common and not anew:
        raise ArchiveError(
            f"{run.name} was tested on other architectures than {shipped.name}, which ships: "
            f"nothing to compare; --replace banks it all the same"
        )
    return list(common or run.held_out)


def halved(weights: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Weights with float16 in place of float32; whole numbers stay.

    Raises:
        ArchiveError: A weight is too large for float16.
    """
    half = {}
    for key, tensor in weights.items():
        half[key] = tensor
        if tensor.dtype == np.float32:
            with np.errstate(over="ignore"):
                half[key] = tensor.astype(np.float16)
            if not np.isfinite(half[key]).all():
                raise ArchiveError(f"weight {key!r} does not fit into float16")
    return half


def read_table(path: Path) -> HarmTable:
    """Read a do-no-harm table.

    Raises:
        ArchiveError: It can't be read, or is no table.
    """
    try:
        return HarmTable.from_json(json.loads(path.read_text()), str(path))
    except (OSError, ValueError) as error:
        raise ArchiveError(f"{path}: can't be read: {error}") from error


def main() -> int:
    """Bank, or put a table into the archive that ships, and say what was written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("run", nargs="?", type=Path, help="archive of a training run")
    parser.add_argument("--name", help="name of the archive that ships  [default: the run's]")
    parser.add_argument("--data", type=Path, help="training images: test both archives here")
    parser.add_argument("--harm", type=Path, metavar="FILE", help="do-no-harm table, JSON")
    parser.add_argument("--replace", action="store_true", help="replace what can't be compared")
    options = parser.parse_args()
    try:
        table = None if options.harm is None else read_table(options.harm)
        if options.run is not None:
            name = options.name or read_info(options.run).name
            info = bank(options.run, name, table, anew=options.replace, data=options.data)
        elif table is not None:
            config = replace(read_info().config, harm=table)
            info = write_archive(SHIPPED, config, read_weights(SHIPPED))
        else:
            parser.error("name the archive of a run, or a table for the one that ships")
    except OnnxGhnError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    size = sum(file.stat().st_size for file in SHIPPED.parent.iterdir())
    print(f"{info.name}: {info.path}, {size / 1e6:.1f} MB in all, sha256 {info.sha256}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

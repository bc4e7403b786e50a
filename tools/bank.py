"""Makes the archive of a training run the one that ships, if it is better.

Usage: python tools/bank.py RUN/hypernet.pt [--name NAME] [--harm TABLE.json] [--replace]
       python tools/bank.py --harm TABLE.json

The archive goes into `onnx_ghn/hypernet/weights/`, its weights in float16: TorchScript, safetensors
and ONNX parts take half the room. It must beat the one that ships by `MARGIN` in mean accuracy on
the held-out architectures that both were tested on (same space, same side); an untrained one is
beaten by any. `--replace` is for the first archive of another space, where there is nothing to
compare. Each banking is a line in `training/banked.jsonl`, and there are `MOST` at most: more would
select by chance.

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
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_ghn.errors import ArchiveError, OnnxGhnError
from onnx_ghn.hypernet.archive import (
    SHIPPED,
    ArchiveInfo,
    read_info,
    read_weights,
    write_archive,
)
from onnx_ghn.hypernet.config import ArchiveConfig
from onnx_ghn.hypernet.harm import HarmTable

MARGIN = 0.01
MOST = 10
LOG = Path(__file__).parent.parent / "training" / "banked.jsonl"


def bank(
    run: Path, name: str, harm: HarmTable | None, log: Path = LOG, *, anew: bool = False
) -> ArchiveInfo:
    """Write the archive of a run as the one that ships.

    Args:
        run: The run's archive.
        name: What it is to be called.
        harm: Its do-no-harm table; that which it has where None.
        log: Where bankings are recorded.
        anew: Whether it may replace one that it can't be compared with.

    Raises:
        ArchiveError: It is not better, or it can't be read or written.
    """
    found, shipped = read_info(run), read_info()
    bankings = log.read_text().splitlines() if log.exists() else []
    if len(bankings) >= MOST:
        raise ArchiveError(f"{log}: {len(bankings)} bankings already, {MOST} at most")
    row = compare(found.config, shipped.config, anew=anew)
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
        "val": {key: value for key, value in row.items() if key != "families"},
    }
    with log.open("a") as file:
        file.write(json.dumps(record) + "\n")
    return info


def compare(run: ArchiveConfig, shipped: ArchiveConfig, *, anew: bool = False) -> dict[str, Any]:
    """The row of a run's held-out results for which it is banked.

    Raises:
        ArchiveError: It does not beat the archive that ships.
    """
    if not run.trained or not run.held_out:
        raise ArchiveError(f"{run.name}: an untrained archive, or one without held-out results")
    if not shipped.trained:
        return run.held_out[0]
    places = ("space", "side", "architectures")
    before = {tuple(row.get(key) for key in places): row for row in shipped.held_out}
    common = [row for row in run.held_out if tuple(row.get(key) for key in places) in before]
    for row in common:
        old = before[tuple(row.get(key) for key in places)]
        if row["mean"] < old["mean"] + MARGIN:
            raise ArchiveError(
                f"{run.name}: mean {row['mean']:.4f} on held-out architectures of the "
                f"{row['space']!r} space at {row['side']} pixels; {shipped.name}, which ships, has "
                f"{old['mean']:.4f}, and {MARGIN} more is needed"
            )
    if not common and not anew:
        raise ArchiveError(
            f"{run.name} was tested on other architectures than {shipped.name}, which ships: "
            f"nothing to compare; --replace banks it all the same"
        )
    return (common or run.held_out)[0]


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
    parser.add_argument("--harm", type=Path, metavar="FILE", help="do-no-harm table, JSON")
    parser.add_argument("--replace", action="store_true", help="replace what can't be compared")
    options = parser.parse_args()
    try:
        table = None if options.harm is None else read_table(options.harm)
        if options.run is not None:
            name = options.name or read_info(options.run).name
            info = bank(options.run, name, table, anew=options.replace)
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

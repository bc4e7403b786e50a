"""Compares predicted values with those that the reference implementations gave.

Usage: python tools/parity_values.py [FOLDER]

FOLDER holds `checkpoints/` and `fixtures/`; where left out, it is $ONNX_GHN_PARITY or
../shared/parity beside the repository. Each fixture holds the reference's own graph, so that
this measures the hypernetwork alone, from features to fitted tensors.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnx_ghn.convert.checkpoint import convert_checkpoint
from onnx_ghn.hypernet.archive import Archive, load_archive
from onnx_ghn.hypernet.features import features
from onnx_ghn.hypernet.predict import predict, reasons_against
from onnx_ghn.read.graph import ATTRIBUTES, GhnGraph, Op, Part, Slot
from onnx_ghn.read.layout import Layout
from onnx_ghn.read.parameter import Holder, Parameter, Role

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINTS = {
    "ghn3_tiny": "ghn3_tiny_hf.pt",
    "ghn3_t": "ghn3_t_hf.pt",
    "ghn2tiny_viaghn3": "ghn2tiny_hf.pt",
    "ghn2_viaghn3": "ghn2_hf.pt",
}


def parity_folder() -> Path:
    """Where the fixtures are, unless the caller says otherwise."""
    return Path(os.environ.get("ONNX_GHN_PARITY", ROOT.parent / "shared" / "parity"))


@dataclass(frozen=True)
class Difference:
    """Largest absolute differences of one fixture, and how many parameters were compared."""

    parameters: int
    shape_rows: int
    states: float
    values: float


def read_fixture(file: Path) -> tuple[Any, dict[str, np.ndarray]]:
    """A fixture as what the reader would say of the model, and its arrays.

    Predicted parameters keep the reference's order, so that indices agree.
    """
    arrays = dict(np.load(file, allow_pickle=False))
    meta = json.loads(str(arrays["meta"]))
    index = {name: k for k, name in enumerate(meta["params"])}
    nodes = meta["nodes"]
    shape = np.zeros((len(nodes), 4), np.int64)
    attributes = np.zeros((len(nodes), len(ATTRIBUTES)), np.int64)
    slots = []
    for k, node in enumerate(nodes):
        if node["shape"]:
            sizes = node["shape"]
            shape[k, : len(sizes)] = sizes
            shape[k] = np.maximum(shape[k], 1)
        head = node["last_weight"] or node["last_bias"]
        attributes[k, ATTRIBUTES.index("is_head")] = head
        slots.append(tuple(_slots(Op(int(arrays["prim"][k])), node["raw"], index)))
    parameters = [
        _parameter(name, tuple(sizes))
        for name, sizes in zip(meta["params"], meta["shapes"], strict=True)
    ]
    graph = GhnGraph(
        op=arrays["prim"].astype(np.int64),
        shape=shape,
        attributes=attributes,
        distance=arrays["adj"].astype(np.uint8),
        slots=tuple(slots),
        nodes=tuple(node["raw"] for node in nodes),
    )
    return SimpleNamespace(parameters=parameters, graph=graph, graph_reason=None), arrays


def _slots(op: Op, name: str, index: dict[str, int]) -> list[Slot]:
    if name not in index:
        return []
    if op is Op.BIAS:
        return [Slot(index[name], Part.SHIFT)]
    if op not in (Op.BN, Op.LN):
        return [Slot(index[name], Part.WEIGHT)]
    slots = [Slot(index[name], Part.SCALE)]
    shift = name.removesuffix("weight") + "bias"
    return [*slots, Slot(index[shift], Part.SHIFT)] if shift in index else slots


def _parameter(name: str, shape: tuple[int, ...]) -> Parameter:
    return Parameter(
        name=name,
        value=ir.Value(name=name),
        holder=Holder.INITIALIZER,
        shape=shape,
        dtype=ir.DataType.FLOAT,
        role=Role.OTHER,
        learnable=True,
        reason="",
        logical_shape=shape,
        layout=Layout(),
    )


def compare(file: Path, archive: Archive) -> Difference:
    """Predict a fixture's network and compare every stored value.

    Raises:
        AssertionError: The set of predicted parameters isn't the reference's.
    """
    reading, arrays = read_fixture(file)
    meta = json.loads(str(arrays["meta"]))
    reasons = reasons_against(reading, archive.info)
    wanted = [k for k, predicted in enumerate(meta["predicted"]) if predicted]
    assert [k for k, reason in enumerate(reasons) if reason is None] == wanted, file
    rows = features(reading.graph, archive.info.config.network)
    prediction = predict(reading, archive, seed=0)
    worst = 0.0
    for k in wanted:
        value = prediction.tensor(k)
        at = arrays["p_idx"][k]
        expected = arrays["p_val"][k][at >= 0]
        at = at[at >= 0]
        if reading.parameters[k].name.endswith("pos_embedding"):  # its first row is random
            beyond = at >= value.shape[-1]
            at, expected = at[beyond], expected[beyond]
        worst = max(worst, float(np.abs(value.reshape(-1)[at] - expected).max(initial=0)))
    return Difference(
        len(wanted),
        int((rows[:, 1:] != arrays["shape_ind"]).any(axis=1).sum()),
        float(np.abs(prediction.states - arrays["x1"]).max()),
        worst,
    )


def main() -> int:
    """Print the table; 1 where a value differs by more than 1e-5."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else parity_folder()
    failed = False
    print("| checkpoint | model | parameters | feature rows that differ | states | values |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as out:
        for name, checkpoint in CHECKPOINTS.items():
            target = Path(out) / f"{name}.pt"
            convert_checkpoint(folder / "checkpoints" / checkpoint, target)
            archive = load_archive(target)
            for file in sorted((folder / "fixtures" / name).glob("*.npz")):
                found = compare(file, archive)
                failed |= found.values > 1e-5 or found.shape_rows > 0
                print(
                    f"| {name} | {file.stem} | {found.parameters} | {found.shape_rows} | "
                    f"{found.states:.1e} | {found.values:.1e} |"
                )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

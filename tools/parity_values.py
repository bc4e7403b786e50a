"""Compares predicted values with those that the reference implementations gave.

Usage: python tools/parity_values.py [FOLDER]

FOLDER holds `checkpoints/`, `fixtures/`, `onnx/` and `onnx10/`; where left out, it is
$ONNX_GHN_PARITY or ../shared/parity beside the repository. A fixture holds the reference's own
graph, so that a row of `graph` measures the hypernetwork alone, from features to fitted tensors;
a row of an ONNX file is the whole way from the file.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnx_ghn.convert.checkpoint import convert_checkpoint
from onnx_ghn.hypernet.archive import Archive, load_archive
from onnx_ghn.hypernet.features import features
from onnx_ghn.hypernet.predict import predict
from onnx_ghn.model_io import load
from onnx_ghn.read.graph import ATTRIBUTES, GhnGraph, Op, Part, Slot
from onnx_ghn.read.layout import Layout
from onnx_ghn.read.parameter import Holder, Parameter, Role
from onnx_ghn.read.reading import read_model

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINTS = {
    "ghn3_tiny": "ghn3_tiny_hf.pt",
    "ghn3_t": "ghn3_t_hf.pt",
    "ghn2tiny_viaghn3": "ghn2tiny_hf.pt",
    "ghn2_viaghn3": "ghn2_hf.pt",
}
MODELS = {
    "ghn3_tiny": "onnx10",
    "ghn3_t": "onnx",
    "ghn2tiny_viaghn3": "onnx10",
    "ghn2_viaghn3": "onnx",
}
"""Folders of the ONNX files with as many classes as the checkpoint."""


def parity_folder() -> Path:
    """Where the fixtures are, unless the caller says otherwise."""
    return Path(os.environ.get("ONNX_GHN_PARITY", ROOT.parent / "shared" / "parity"))


@dataclass(frozen=True)
class Difference:
    """How a prediction differs from the reference's.

    Attributes:
        parameters: How many parameters were compared.
        missing: Names of those that the reference predicts and we don't, in that shape.
        features: Nodes with other feature rows; -1 where they can't be compared.
        values: Largest absolute difference of a stored value.
    """

    parameters: int
    missing: tuple[str, ...]
    features: int
    values: float

    @property
    def agrees(self) -> bool:
        """Whether it is the reference's prediction to 1e-5."""
        return not self.missing and self.features <= 0 and self.values < 1e-5


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


def compare(fixture: Path, archive: Archive) -> Difference:
    """Predict the network of a fixture's own graph, and compare every stored value."""
    reading, arrays = read_fixture(fixture)
    rows = features(reading.graph, archive.info.config.network)
    differ = int((rows[:, 1:] != arrays["shape_ind"]).any(axis=1).sum())
    return _compare(reading, arrays, archive, differ)


def compare_model(model: Path, fixture: Path, archive: Archive) -> Difference:
    """Read an ONNX file, predict its network, and compare every stored value."""
    arrays = dict(np.load(fixture, allow_pickle=False))
    return _compare(read_model(load(model)), arrays, archive, -1)


def _compare(
    reading: Any, arrays: dict[str, np.ndarray], archive: Archive, differ: int
) -> Difference:
    meta = json.loads(str(arrays["meta"]))
    prediction = predict(reading, archive, seed=0)
    index = {parameter.name: k for k, parameter in enumerate(reading.parameters)}
    compared, missing, worst = 0, [], 0.0
    for k, name in enumerate(meta["params"]):
        if not meta["predicted"][k]:
            continue
        found = index.get(name)
        if found not in prediction.indices:
            missing.append(name)
            continue
        value = prediction.tensor(found)
        at = arrays["p_idx"][k]
        expected = arrays["p_val"][k][at >= 0]
        at = at[at >= 0]
        if name.endswith("pos_embedding"):  # its first row is random
            beyond = at >= value.shape[-1]
            at, expected = at[beyond], expected[beyond]
        if value.size != np.prod(meta["shapes"][k]):
            missing.append(name)
            continue
        compared += 1
        worst = max(worst, float(np.abs(value.reshape(-1)[at] - expected).max(initial=0)))
    return Difference(compared, tuple(missing), differ, worst)


def fixture_of(model: Path, fixtures: Path) -> Path | None:
    """The fixture that describes the same network as an ONNX file."""
    name = model.stem.split(".")[0]
    setting = ".neteval" if name == "googlenet" else ""
    file = fixtures / f"{name}{setting}.npz"
    return file if file.exists() else None


def main() -> int:
    """Print the table; 1 where something differs."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else parity_folder()
    failed = False
    print("| checkpoint | model | from | parameters | missing | largest difference |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as out:
        for name, checkpoint in CHECKPOINTS.items():
            target = Path(out) / f"{name}.pt"
            convert_checkpoint(folder / "checkpoints" / checkpoint, target)
            archive = load_archive(target)
            for model, source, found in _differences(folder, name, archive):
                failed |= not found.agrees
                print(
                    f"| {name} | {model} | {source} | {found.parameters} | {len(found.missing)} | "
                    f"{found.values:.1e} |"
                )
    return int(failed)


def _differences(
    folder: Path, name: str, archive: Archive
) -> Iterator[tuple[str, str, Difference]]:
    """Model, where its graph comes from, and the difference, for all fixtures of a checkpoint."""
    fixtures = folder / "fixtures" / name
    for fixture in sorted(fixtures.glob("*.npz")):
        yield fixture.stem, "graph", compare(fixture, archive)
    for model in sorted((folder / MODELS[name]).glob("*.onnx")):
        if found := fixture_of(model, fixtures):
            stem, _, form = model.stem.partition(".")
            yield stem, form or "onnx", compare_model(model, found, archive)


if __name__ == "__main__":
    sys.exit(main())

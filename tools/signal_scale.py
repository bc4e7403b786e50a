"""The scale at which a network's signal arrives at its logits, on unit-variance noise.

Logits are what a float output is made from before the squash that ends it (Softmax, Sigmoid,
normalisation to unit length), if any.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnx_ghn import model_io
from onnx_ghn.run.noise import run_on_noise
from onnx_ghn.run.session import open_session

LOWEST, HIGHEST = 0.05, 20.0
"""Standard deviations between which a signal counts as alive."""

BATCH = 4
"""Samples of noise, where the model leaves the number open."""

SAMPLES, NUMBERS = 64, 256
"""Fresh noise is run until so many samples or logits are there: two logits have no deviation."""

_REARRANGING = frozenset(
    ["Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice"]
)
_SQUASHES = frozenset(
    ["Softmax", "LogSoftmax", "Sigmoid", "HardSigmoid", "Tanh", "Exp", "LpNormalization"]
)


def logits(model: ir.Model) -> dict[str, ir.Value]:
    """The value behind each output of a model, seen through rearrangements and one squash."""
    return {value.name or "": _behind_squash(value) for value in model.graph.outputs}


def _behind_squash(output: ir.Value) -> ir.Value:
    value, found = output, output
    while (node := value.producer()) is not None and node.inputs and node.inputs[0] is not None:
        if node.op_type in _REARRANGING:
            value = node.inputs[0]
        elif node.op_type in _SQUASHES:
            return node.inputs[0]
        else:
            break
    return found


def measure(path: Path, seed: int = 0) -> dict[str, float]:
    """Run a complete model on noise.

    Returns:
        For each float output in the file's order, by name, the standard deviation of its logits;
        NaN where one of them isn't finite.

    Raises:
        OnnxGhnError: ONNX Runtime can't load the model, or runs it on no size of noise.
    """
    model = model_io.load(path)
    behind = logits(model)
    for value in dict.fromkeys(behind.values()):
        if not value.is_graph_output():
            model.graph.outputs.append(value)
    runs = run_on_noise(open_session(model), model, seed=seed, batch=BATCH, samples=SAMPLES)
    found: dict[str, list[Any]] = {}
    for _, results in runs:
        for name, value in behind.items():
            if _is_signal(results.get(value.name or "")):
                found.setdefault(name, []).append(results[value.name or ""])
        if found and min(sum(a.size for a in arrays) for arrays in found.values()) >= NUMBERS:
            break
    return {name: _deviation(arrays) for name, arrays in found.items()}


def _is_signal(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind == "f" and array.size > 0


def _deviation(arrays: list[Any]) -> float:
    numbers = np.concatenate([array.astype(np.float64).ravel() for array in arrays])
    return float(numbers.std()) if np.isfinite(numbers).all() else math.nan


def is_alive(deviation: float) -> bool:
    """Whether a signal of this standard deviation lies within the accepted scale."""
    return LOWEST <= deviation <= HIGHEST

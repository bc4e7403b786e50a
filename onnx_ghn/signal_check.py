"""Does a signal pass through a complete model? One run on seeded noise in ONNX Runtime.

Weights can be fine one by one and yet, in a deep network without norms, let the signal vanish or
overflow. The run shows it: each BatchNormalization uses the statistics of the batch, as at the
start of training, and the root mean square before and after each weight is taken.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.tape

from onnx_ghn.errors import MissingDependencyError, ModelError
from onnx_ghn.read.parameter import Parameter

MAX_BYTES = 2 << 30
"""Of a model's tensors; a larger one isn't checked."""
SAMPLES = 2
"""Examples of noise, where the model takes any number: the fewest that give a batch a variance."""
LOWEST, HIGHEST = 1e-4, 1e3
"""Root mean squares between which the signal is well scaled."""

_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True)
class Layer:
    """What a weight does to the signal.

    Attributes:
        index: The parameter.
        name: Its name.
        before: Root mean square of what it multiplies.
        after: Root mean square of the product.
    """

    index: int
    name: str
    before: float
    after: float


@dataclass(frozen=True)
class Signal:
    """What a run on noise showed.

    Attributes:
        layers: The weights whose layers could be seen, in node order. One that gets no signal
            says nothing, and is left out.
        outputs: Names of the model's outputs that are not all finite.
        skipped: Why there was no run; "" where there was one.
    """

    layers: tuple[Layer, ...] = ()
    outputs: tuple[str, ...] = ()
    skipped: str = ""

    @property
    def finite(self) -> bool:
        """Whether all of it are numbers."""
        return not self.outputs and all(math.isfinite(layer.after) for layer in self.layers)

    @property
    def well_scaled(self) -> bool:
        """Whether the signal is neither lost nor about to overflow."""
        return self.finite and all(LOWEST <= layer.after <= HIGHEST for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Measured values and limits, for the report."""
        if self.skipped:
            return {"skipped": self.skipped}
        measured: dict[str, Any] = {"layers": len(self.layers), "limits": [LOWEST, HIGHEST]}
        seen = [layer for layer in self.layers if math.isfinite(layer.after)]
        if not self.finite:
            lost = [layer.name for layer in self.layers if layer not in seen]
            measured["not_finite"] = [*lost, *self.outputs]
        if seen:
            for word, pick in (("lowest", min), ("highest", max)):
                layer = pick(seen, key=lambda layer: layer.after)
                measured[word] = {"layer": layer.name, "signal": float(f"{layer.after:.4g}")}
        return measured


def measure_signal(
    model: ir.Model, parameters: Sequence[Parameter], indices: Collection[int], seed: int
) -> Signal:
    """Run a complete model on noise.

    Args:
        model: The model, all of whose tensors have values; it is not changed.
        parameters: Its parameters.
        indices: Which of them to look at; those that are no factor of a product are passed over.
        seed: Seed of the noise.
    """
    from onnx_ghn.passes.batch_statistics import BatchStatistics
    from onnx_ghn.run.noise import run_on_noise
    from onnx_ghn.run.session import open_session

    tensors = [
        value.const_value for graph in model.graphs() for value in graph.initializers.values()
    ]
    size = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    if size > MAX_BYTES:
        return Signal(skipped=f"the model's tensors take more than {MAX_BYTES >> 30} GiB")
    observed = BatchStatistics(expose=False)(model).model
    names = {index: _ends(parameters[index]) for index in sorted(indices)}
    squares = _observe(observed, {name for ends in names.values() if ends for name in ends})
    try:
        session = open_session(observed, few_runs=True)
        runs = run_on_noise(session, model, seed=seed, batch=SAMPLES, samples=1)
        results = next(iter(runs))[1]
    except (MissingDependencyError, ModelError) as error:
        return Signal(skipped=str(error))
    layers = []
    for index, ends in names.items():
        if ends and ends[0] in squares and ends[1] in squares:
            before, after = (math.sqrt(float(results[squares[name]])) for name in ends)
            if before != 0:
                layers.append(Layer(index, parameters[index].name, before, after))
    outputs = (value.name or "" for value in model.graph.outputs)
    return Signal(tuple(layers), tuple(x for x in outputs if not _finite(results.get(x))))


def corrections(signal: Signal, parameters: Sequence[Parameter]) -> Iterator[tuple[int, float]]:
    """For each weight, the factor by which its layer keeps the size of the signal.

    That of a classical initialiser: the mean square of the product is that of the factor, times
    the gain that makes up for the activation before it.
    """
    for layer in signal.layers:
        parameter = parameters[layer.index]
        if layer.after > 0:
            kept = math.sqrt(parameter.gain) * parameter.depth_scale
            yield layer.index, kept * layer.before / layer.after


def _ends(parameter: Parameter) -> tuple[str, str] | None:
    """Names of what a weight multiplies and of the product, at its first site."""
    site = parameter.sites[0]
    if site.node.op_type not in _PRODUCTS or site.index > 1:
        return None
    factor = site.node.inputs[1 - site.index]
    return None if factor is None else (factor.name or "", site.node.outputs[0].name or "")


def _finite(result: Any) -> bool:
    """Whether an output holds no infinity and no NaN; what isn't an array of floats doesn't."""
    floats = isinstance(result, np.ndarray) and result.dtype.kind == "f"
    return not floats or bool(np.isfinite(result).all())


def _observe(model: ir.Model, names: Collection[str]) -> dict[str, str]:
    """Let a model show the mean squares of its values; the outputs by the values' names."""
    graph = model.graph
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    outputs = {}
    for value in values:
        if value.name is None or value.name not in names:
            continue
        tape = ir.tape.Tape()
        # Float64: the square of a float32 can overflow.
        double = tape.op("Cast", [value], {"to": int(ir.DataType.DOUBLE)})
        square = tape.op("Mul", [double, double])
        mean = tape.op("ReduceMean", [square], {"keepdims": 0})
        for step, suffix in zip(tape.nodes, ("double", "square", "mean"), strict=True):
            step.outputs[0].name = f"{value.name}/onnx_ghn_signal_{suffix}"
        graph.extend(tape.nodes)
        graph.outputs.append(mean)
        mean.type, mean.shape = ir.TensorType(ir.DataType.DOUBLE), ir.Shape(())
        outputs[value.name] = mean.name or ""
    return outputs

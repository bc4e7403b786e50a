"""Makes each BatchNormalization use and show the statistics of the batch, as in training."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common

from onnx_ghn.model_copy import copy_model
from onnx_ghn.read.bodies import bodies

OBSERVED = "onnx_ghn.observed"
"""Key in `ir.Node.meta` of a node that was rewritten; memory only, never serialised."""

AXES_ARE_AN_INPUT = 18
"""Opset from which ReduceMean takes its axes as an input."""

BATCH_AND_PLACES = (0, 2)
"""The axes of [batch, channels, places] that a statistic goes over."""


@dataclass(frozen=True)
class Statistics:
    """Where the rewritten model shows the statistics of one BatchNormalization.

    Attributes:
        node: Name of the node, or of its output where it has none.
        running_mean: Name of the tensor that is its running mean.
        running_variance: Name of the tensor that is its running variance.
        mean: Output with the mean of the batch, [channels].
        variance: Output with the unbiased variance of the batch, [channels]; 0 where `count` is 1.
        count: Output with the number of elements a channel, float, no axes.
    """

    node: str
    running_mean: str
    running_variance: str
    mean: str
    variance: str
    count: str


class BatchStatistics(ir.passes.FunctionalPass):
    """Normalise by the statistics of the batch, and give them as additional outputs.

    Works on a copy that shares the tensors; functions are inlined in it. Left as they are: what
    normalises a weight (weight standardisation) and not data, and the nodes of old opsets with
    statistics of single activations (`spatial=0`). A node in the body of an If, Loop or Scan is
    rewritten, but what it computes can't be an output of the model.

    Statistics are computed in float32 (float64 in a double model), in two passes over the data.
    A node that was rewritten once is left by a second run.

    Attributes:
        statistics: After a run, what it exposed, in node order.
        hidden: After a run, by node name, why the statistics of the others are not exposed.

    Examples:
        >>> import onnx_ir as ir
        >>> from onnx_ghn.passes import BatchStatistics
        >>> model = ir.from_onnx_text('''
        ... <ir_version: 10, opset_import: ["" : 21]>
        ... net (float[n, 2, 8, 8] x) => (float[n, 2, 8, 8] y)
        ... <float[2] s = {1, 1}, float[2] b = {0, 0}, float[2] m = {0, 0}, float[2] v = {1, 1}>
        ... { y = BatchNormalization (x, s, b, m, v) }
        ... ''')
        >>> observe = BatchStatistics()
        >>> observed = observe(model).model
        >>> [(layer.running_mean, layer.running_variance) for layer in observe.statistics]
        [('m', 'v')]
        >>> len(model.graph.outputs), len(observed.graph.outputs)
        (1, 4)
    """

    def __init__(
        self,
        *,
        expose: bool = True,
        normalise: bool = True,
        only: Collection[str] | None = None,
    ) -> None:
        """Make the pass.

        Args:
            expose: Whether statistics become outputs.
            normalise: Whether nodes use them; otherwise the copy computes what the model does.
            only: Names of the nodes that are rewritten; all where None.
        """
        self.expose = expose
        self.normalise = normalise
        self.only = only
        self.statistics: tuple[Statistics, ...] = ()
        self.hidden: dict[str, str] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite a copy of the model."""
        copy = copy_model(model)
        if copy.functions:
            onnx_ir.passes.common.InlinePass()(copy)
        graph = copy.graph
        taken = {value.name for node in graph.all_nodes() for value in node.outputs}
        without_data = _values_without_data(graph)
        statistics: list[Statistics] = []
        self.hidden = {}
        modified = False
        for node in list(graph.all_nodes()):
            if node.op_type != "BatchNormalization" or node.domain not in ("", "ai.onnx"):
                continue
            label = node.name or node.outputs[0].name or ""
            if self.only is not None and label not in self.only:
                continue
            if OBSERVED in node.meta:
                self.hidden[label] = "it was rewritten before"
                continue
            if node.inputs[0] in without_data:
                self.hidden[label] = "it normalises a weight"
                continue
            if node.attributes.get_int("spatial", 1) == 0:
                self.hidden[label] = "its statistics are of single activations (spatial=0)"
                continue
            running = node.inputs[3:5]
            outputs = _observe(node, graph.opset_imports.get("", 1), taken, self.normalise)
            node.meta[OBSERVED] = True
            modified = True
            if node.graph is not graph:
                self.hidden[label] = "it is in the body of another node"
            elif self.expose:
                graph.outputs.extend(outputs)
                names = (value.name or "" for value in (*running, *outputs) if value is not None)
                statistics.append(Statistics(label, *names))
        self.statistics = tuple(statistics)
        return ir.passes.PassResult(copy, modified)


def _observe(
    node: ir.Node, opset: int, taken: set[str | None], normalise: bool
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Compute the statistics before a node and, if it shall and does not anyway, let it use them.

    Returns:
        Mean, unbiased variance, and number of elements a channel.
    """
    stored = node.inputs[3]
    assert stored is not None
    dtype = ir.DataType.DOUBLE if stored.dtype is ir.DataType.DOUBLE else ir.DataType.FLOAT
    tape = ir.tape.Tape()

    def constant(value: list[int] | float) -> ir.Value:
        array = np.array(value, np.int64 if isinstance(value, list) else dtype.numpy())
        return tape.op("Constant", [], {"value": ir.tensor(array)})

    def cast(value: ir.Value, to: ir.DataType) -> ir.Value:
        return tape.op("Cast", [value], {"to": int(to)})

    def mean_of(value: ir.Value) -> ir.Value:
        if opset >= AXES_ARE_AN_INPUT:
            return tape.op("ReduceMean", [value, constant(list(BATCH_AND_PLACES))])
        return tape.op("ReduceMean", [value], {"axes": list(BATCH_AND_PLACES)})

    # Any rank from 2 on: [batch, channels, ...] -> [batch, channels, places].
    data = tape.op("Reshape", [cast(node.inputs[0], dtype), constant([0, 0, -1])])  # type: ignore[arg-type]
    centre = mean_of(data)
    deviation = tape.op("Sub", [data, centre])
    flat = constant([-1])
    mean = tape.op("Reshape", [centre, flat])
    biased = tape.op("Reshape", [mean_of(tape.op("Mul", [deviation, deviation])), flat])
    count = tape.op(
        "Div", [cast(tape.op("Size", [data]), dtype), cast(tape.op("Size", [mean]), dtype)]
    )
    one = constant(1.0)
    others = tape.op("Max", [tape.op("Sub", [count, one]), one])
    variance = tape.op("Mul", [biased, tape.op("Div", [count, others])])
    if normalise and not node.attributes.get_int("training_mode", 0):
        stored_type = stored.dtype or dtype
        node.replace_input_with(3, cast(mean, stored_type))
        node.replace_input_with(4, cast(biased, stored_type))

    for number, step in enumerate(tape.nodes):
        name = f"{node.outputs[0].name}/statistics_{number}"
        while name in taken:  # only if this pass has been here before
            name += "_"
        taken.add(name)
        step.name = step.outputs[0].name = name
    assert node.graph is not None
    node.graph.insert_before(node, tape.nodes)
    for value, shape in ((mean, stored.shape), (variance, stored.shape), (count, ir.Shape(()))):
        value.type, value.shape = ir.TensorType(dtype), shape
    return mean, variance, count


def _values_without_data(graph: ir.Graph) -> set[ir.Value]:
    """The values that depend on initializers and constants alone."""
    found = {
        value for inner in (graph, *graph.subgraphs()) for value in inner.initializers.values()
    }
    for node in graph.all_nodes():
        alone = all(value is None or value in found for value in node.inputs)
        if alone and not [*bodies(node)]:
            found.update(node.outputs)
    return found

"""What depends on what: every value of a model is a constant, a parameter or data.

The analysis follows the data flow through the main graph, the bodies of If, Loop and Scan (and
what they capture), and calls of local functions, which are inlined in a private clone: the
model itself is never changed. One linear pass; reads no tensor bytes except those of small
integer tensors (shapes, axes, indices).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from onnx_ghn.errors import ModelError
from onnx_ghn.read import slots
from onnx_ghn.read.bodies import bodies, in_data_flow_order, is_same, values
from onnx_ghn.read.constants import Constants, Shape, root_tensor
from onnx_ghn.read.marks import Mark, mark_of
from onnx_ghn.read.parameter import Site
from onnx_ghn.read.weight_inputs import feeds_slot, scales_norm, weight_inputs

FLOATS = slots.FLOAT_TYPES

MAX_ORIGINS = 64
"""A value mixed from more tensors than this (a table computed in the graph) keeps the first."""

_FIRST_ONLY = frozenset(
    {
        *("BatchNormalization", "DequantizeLinear", "QuantizeLinear"),
        *("ScatterND", "ScatterElements", "Pad", "Resize", "Upsample", "Clip", "Tile", "Expand"),
    }
)
"""Operators that shape or limit their first input: what else they take is no part of a weight."""
_SHAPE_OPS = frozenset({"Shape", "Size", "NonZero", "SequenceLength"})
_GENERATORS = frozenset({"ConstantOfShape", "RandomNormal", "RandomUniform"})
_MIXING = frozenset(
    [
        "MatMul",
        "Gemm",
        "Einsum",
        "Conv",
        "ConvTranspose",
        "LayerNormalization",
        "GroupNormalization",
        "InstanceNormalization",
        "RMSNormalization",
        "SimplifiedLayerNormalization",
        "LSTM",
        "GRU",
        "RNN",
        "FusedMatMul",
        "FusedConv",
        "FusedGemm",
        "Attention",
        "MultiHeadAttention",
    ]
)
"""Operators whose output is a signal even where no input is data: an MLP over a table."""
_RANDOM_LIKE = frozenset({"RandomNormalLike", "RandomUniformLike", "Bernoulli", "EyeLike"})


class Kind(enum.StrEnum):
    """What a value depends on."""

    CONST = "const"
    """On nothing learnable: integers, shapes, ranges, one-element floats outside weight slots."""
    PARAM = "param"
    """On float tensors of the model (and constants) only: a candidate parameter, seen through
    whatever the graph does to it."""
    DATA = "data"
    """On a graph input that is data."""


@dataclass(frozen=True)
class Origin:
    """A root tensor that a parameter value is made of, and the nodes passed on the way."""

    root: ir.Value
    path: tuple[ir.Node, ...]


class DataFlow:
    """Kinds, origins and consumers of all values of a model. Made by `trace`.

    Attributes:
        model: The model that was traced: the caller's, or an inlined clone of it where it has
            local functions.
        nodes: All nodes in data-flow order; the nodes of a body stand before the node that
            holds it.
        roots: The tensors that may be parameters (initializers, Constant nodes, ConstantOfShape
            and Random* nodes of static shape that fill a weight slot, graph inputs that do),
            in order of first use, unused ones last.
        constants: Shapes and small integer values.
    """

    def __init__(self, model: ir.Model, twins: dict[ir.Value, ir.Value]):
        self.model = model
        self.nodes: list[ir.Node] = []
        self.roots: list[ir.Value] = []
        self._twins = twins
        self._kinds: dict[ir.Value, Kind] = {}
        self._origins: dict[ir.Value, tuple[Origin, ...]] = {}
        self._alias: dict[ir.Value, ir.Value] = {}
        self._formals: dict[ir.Value, list[ir.Value]] = {}
        self._bound_sites: set[tuple[ir.Node, int]] = set()
        self._weight_inputs: set[ir.Value] = set()
        self._signals: set[ir.Value] = set()
        self.constants = Constants(self.resolve)

    def kind(self, value: ir.Value | None) -> Kind:
        """The kind of a value; what is absent, or given by nothing in the file, is CONST."""
        return Kind.CONST if value is None else self._kinds.get(value, Kind.CONST)

    def is_data(self, value: ir.Value | None) -> bool:
        """Whether the value depends on the data of the network."""
        return self.kind(value) is Kind.DATA

    def is_signal(self, value: ir.Value | None) -> bool:
        """Whether the value is data, or computed by layers from tables alone.

        The output of an MLP over coordinates plays the part of data for what comes after it.
        """
        return value is not None and (self.is_data(value) or value in self._signals)

    def is_passed_in(self, node: ir.Node, index: int) -> bool:
        """Whether input `index` of a Loop or Scan goes into its body unchanged."""
        return (node, index) in self._bound_sites

    def is_param(self, value: ir.Value | None) -> bool:
        """Whether the value is made of candidate parameters."""
        return self.kind(value) is Kind.PARAM

    def origins(self, value: ir.Value | None) -> tuple[Origin, ...]:
        """The root tensors of a PARAM value, the one that gives its elements first."""
        return () if value is None else self._origins.get(value, ())

    def original(self, value: ir.Value) -> ir.Value:
        """The value of the caller's model for a traced value: itself, if nothing was inlined."""
        return self._twins.get(value, value)

    def is_inlined(self, value: ir.Value) -> bool:
        """Whether a value comes from the body of a local function, which no pass can set."""
        return bool(self._twins) and value not in self._twins

    def resolve(self, value: ir.Value) -> ir.Value:
        """The value behind a formal input of a body: the actual one that the node passes in."""
        seen = 0
        while value in self._alias and seen < 64:
            value = self._alias[value]
            seen += 1
        return value

    def producer(self, value: ir.Value | None) -> ir.Node | None:
        """The node that computes a value, seen through the borders of bodies."""
        return None if value is None else self.resolve(value).producer()

    @cached_property
    def marks_parameters(self) -> bool:
        """Whether the exporter marks which tensors are parameters."""
        return any(mark_of(root) is Mark.PARAMETER for root in self.roots)

    @cached_property
    def stores_weights(self) -> bool:
        """Whether kernels or matrices are initializers (or inputs), not Constant nodes."""
        return any(
            slot is not None and slot.form in slots.MATRICES
            for root in self.roots
            if root.producer() is None
            for slot in (slots.find(site.node, site.index) for site in self.uses(root))
        )

    def shape(self, value: ir.Value | None) -> Shape | None:
        """The static shape of a value, or None where it is not known."""
        return None if value is None else self.constants.shape(value)

    def uses(self, value: ir.Value) -> list[Site]:
        """The nodes that read a value, also inside bodies to which it is passed."""
        sites = [
            Site(usage.node, usage.idx)
            for usage in value.uses()
            if (usage.node, usage.idx) not in self._bound_sites
        ]
        for formal in self._formals.get(value, ()):
            sites.extend(self.uses(formal))
        return sites

    # -- construction ---------------------------------------------------------------------

    def _run(self) -> None:
        graph = self.model.graph
        self._weight_inputs = set(weight_inputs(self, graph))
        self._open(graph)
        self._walk(graph)
        self.roots.sort(key=self._first_use().__getitem__)

    def _first_use(self) -> dict[ir.Value, tuple[int, int]]:
        position = {node: index for index, node in enumerate(self.nodes)}
        first = {}
        for index, root in enumerate(self.roots):
            places = [position[s.node] for s in self.uses(root) if s.node in position]
            first[root] = (min(places, default=len(position)), index)
        return first

    def _open(self, graph: ir.Graph) -> None:
        for value in graph.inputs:
            if value in self._alias or value.is_initializer():
                continue
            if value in self._weight_inputs:
                self._root(value)
            else:
                self._kinds.setdefault(value, Kind.DATA)
        for value in graph.initializers.values():
            self._tensor(value, value.dtype, _count(value.shape))

    def _tensor(self, value: ir.Value, dtype: ir.DataType | None, count: int | None) -> None:
        """Class a stored tensor: a root if it is float and not a mere scalar, or quantised."""
        if dtype in FLOATS:
            learnable = count != 1 or feeds_slot(self, value)
        else:
            learnable = dtype in slots.QUANTIZED_TYPES and count != 1 and feeds_slot(self, value)
        if learnable:
            self._root(value)
        else:
            self._kinds[value] = Kind.CONST

    def _root(self, value: ir.Value) -> None:
        self._kinds[value] = Kind.PARAM
        self._origins[value] = (Origin(value, ()),)
        self.roots.append(value)

    def _walk(self, graph: ir.Graph) -> None:
        for node in in_data_flow_order(graph):
            for body in bodies(node):
                self._bind(node, body)
                self._open(body)
                self._walk(body)
            self.nodes.append(node)
            for output in node.outputs:
                self.constants.shape(output)  # in node order, so that no chain is followed deep
            if node.op_type in ("If", "Loop", "Scan") and node.domain == "":
                for output in node.outputs:
                    self._kinds[output] = Kind.DATA
            else:
                self._classify(node)

    def _bind(self, node: ir.Node, body: ir.Graph) -> None:
        """Pass what enters a Loop or Scan unchanged to the body; the rest of its inputs is data."""
        if node.op_type == "Loop":
            actuals = list(enumerate(node.inputs))
            for formal, returned, (index, actual) in zip(
                body.inputs[2:], body.outputs[1:], actuals[2:], strict=False
            ):
                if actual is not None and is_same(returned, formal):
                    self._pass_in(node, index, actual, formal)
        elif node.op_type == "Scan":
            scans = node.attributes.get_int("num_scan_inputs", 0)
            states = len(node.inputs) - scans
            for index, (formal, actual) in enumerate(zip(body.inputs, node.inputs, strict=False)):
                carried = index < states
                if actual is not None and carried and is_same(body.outputs[index], formal):
                    self._pass_in(node, index, actual, formal)

    def _pass_in(self, node: ir.Node, index: int, actual: ir.Value, formal: ir.Value) -> None:
        self._alias[formal] = actual
        self._formals.setdefault(actual, []).append(formal)
        self._bound_sites.add((node, index))
        self._kinds[formal] = self.kind(actual)
        if actual in self._origins:
            self._origins[formal] = self._origins[actual]

    def _classify(self, node: ir.Node) -> None:
        op = node.op_type
        if op == "Constant":
            self._constant(node)
            return
        if op in _SHAPE_OPS:
            kind = Kind.CONST
        elif op in _GENERATORS:
            kind = self._generated(node)
        elif op in _RANDOM_LIKE or op == "Range":
            kind = Kind.CONST
        elif op == "CastLike":
            kind = self.kind(node.inputs[0])
        else:
            kinds = [self.kind(value) for value in node.inputs if value is not None]
            if Kind.DATA in kinds:
                kind = Kind.DATA
            elif Kind.PARAM in kinds:
                kind = Kind.PARAM
            else:
                kind = Kind.CONST
        for output in node.outputs:
            if output not in self._origins:
                self._kinds[output] = kind
        if kind is Kind.PARAM and op not in _GENERATORS:
            self._follow(node)

    def _constant(self, node: ir.Node) -> None:
        output = node.outputs[0]
        tensor = root_tensor(output)
        if tensor is None:
            self._kinds[output] = Kind.CONST
        else:
            self._tensor(output, tensor.dtype, _count(tensor.shape))

    def _generated(self, node: ir.Node) -> Kind:
        output = node.outputs[0]
        if self.shape(output) is None or not (
            feeds_slot(self, output) or scales_norm(self, output)
        ):
            return Kind.CONST
        self._root(output)
        return Kind.PARAM

    def _follow(self, node: ir.Node) -> None:
        """Origins of the outputs of a node on parameters: those of its inputs, `node` added."""
        output = node.outputs[0]
        if node.op_type == "Identity" and self._is_untied(node):
            self._root(output)
            return
        if node.op_type in _MIXING or (
            any(value in self._signals for value in node.inputs if value is not None)
            and not feeds_slot(self, output)
        ):
            self._signals.update(node.outputs)
            return
        found: dict[ir.Value, Origin] = {}
        inputs = node.inputs[:1] if node.op_type in _FIRST_ONLY else node.inputs
        for value in inputs:
            for origin in self.origins(value):
                if origin.root not in found and len(found) < MAX_ORIGINS:
                    found[origin.root] = Origin(origin.root, (*origin.path, node))
        for output in node.outputs:
            self._origins[output] = tuple(found.values())

    def _is_untied(self, node: ir.Node) -> bool:
        """Whether an Identity undoes an exporter's merging of equal tensors: rank 0 or 1."""
        source = node.inputs[0]
        if source is None or self.origins(source) != (Origin(source, ()),):
            return False
        shape = self.shape(source)
        return shape is not None and len(shape) <= 1


def trace(model: ir.Model) -> DataFlow:
    """Class every value of `model`.

    Raises:
        ModelError: The local functions call each other in a circle.
    """
    twins: dict[ir.Value, ir.Value] = {}
    traced = model
    if model.functions:
        traced = model.clone()
        for ours, theirs in zip(values(traced.graph), values(model.graph), strict=True):
            twins[ours] = theirs
        try:
            InlinePass()(traced)
        except (ir.passes.PassError, ir.passes.InvariantError) as error:
            raise ModelError(
                f"local functions can't be expanded ({error.__cause__ or error}): "
                "check the model with onnx.checker"
            ) from error
    flow = DataFlow(traced, twins)
    flow._run()
    return flow


def _count(shape: ir.Shape | ir.ShapeProtocol | None) -> int | None:
    """Number of elements of a static shape."""
    if shape is None:
        return None
    count = 1
    for size in shape:
        if not isinstance(size, int):
            return None
        count *= size
    return count

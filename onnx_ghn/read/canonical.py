"""From ONNX nodes to the canonical graph: one walk along the data flow.

Each value carries its *sources*, the GHN nodes that feed it. A node that is a primitive of the
vocabulary takes the sources of its operands as predecessors and becomes the source of its
outputs; every other node is transparent and hands the sources on. What is a weight, a bias or a
norm is the reader's verdict on the tensors, not the operator's name.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import onnx_ir as ir

from onnx_ghn.read.assembly import INPUT, Node
from onnx_ghn.read.bodies import bodies
from onnx_ghn.read.context import NORMS, behind
from onnx_ghn.read.dataflow import DataFlow
from onnx_ghn.read.graph import Op, Part, Slot
from onnx_ghn.read.norms import is_inverse_deviation, normalised
from onnx_ghn.read.parameter import Parameter, Role
from onnx_ghn.read.primitives import (
    FUSED_ATTENTION,
    PRODUCTS,
    is_attention,
    is_gate,
    is_masked_score,
    pooling,
)
from onnx_ghn.read.sides import Sides

Sources = tuple[int, ...]

_ORDER = (
    *(Role.CONV, Role.CONV_TRANSPOSE, Role.LINEAR, Role.BIAS),
    *(Role.NORM_SCALE, Role.NORM_SHIFT, Role.POSITION),
)
"""Roles that have a node, as fused operators apply them."""
_SUMS = frozenset({"Add", "Sum", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"})
_HOLDERS = frozenset({"If", "Loop", "Scan"})


def find_nodes(flow: DataFlow, parameters: Sequence[Parameter]) -> list[Node]:
    """The canonical nodes of a traced model, the input first.

    Args:
        flow: `trace(model)`.
        parameters: `judge(model, flow)`; slots refer to them by index.
    """
    walk = _Walk(flow, parameters)
    for node in flow.nodes:
        walk.visit(node)
    walk.mark_head()
    return walk.nodes


class _Walk:
    def __init__(self, flow: DataFlow, parameters: Sequence[Parameter]) -> None:
        self.flow = flow
        self.parameters = parameters
        self.sides = Sides(flow)
        side = self.sides.of_input()
        self.nodes = [Node(Op.INPUT, [], None, attributes={"output_side": side})]
        self.sources: dict[ir.Value, Sources] = {}
        self.entering: dict[ir.Value, ir.Value | None] = {}
        self.weights: dict[ir.Node, list[tuple[int, int]]] = defaultdict(list)
        for index, parameter in enumerate(parameters):
            if parameter.learnable:
                for site in parameter.sites:
                    self.weights[site.node].append((site.index, index))
        for node in flow.nodes:
            if node.op_type in _HOLDERS:
                self._enter(node)

    def visit(self, node: ir.Node) -> None:
        """Find the sources of a node's outputs; nodes come in data-flow order."""
        if node.op_type in _HOLDERS and node.domain == "":
            self._leave(node)
        elif any(map(self.flow.is_signal, node.outputs)):
            self.sides.visit(node)
            combined = self._combine(node)
            sources = self._weigh(node, combined)
            for index, output in enumerate(node.outputs):
                # the fourth output of SkipLayerNormalization is its sum, for the next residual
                skip = index == 3 and node.op_type in _SUMS
                self.sources[output] = combined if skip else sources

    def _of(self, value: ir.Value | None) -> Sources:
        """The sources of a value; the input's node for what comes from outside."""
        while value is not None:
            value = self.flow.resolve(value)
            if value in self.sources or value not in self.entering:
                return self.sources.get(value, (INPUT,))
            value = self.entering[value]
        return ()

    def _enter(self, node: ir.Node) -> None:
        """Tie what a Loop or Scan passes to the inputs of its body."""
        skipped = 2 if node.op_type == "Loop" else 0
        if node.op_type != "If":
            for body in bodies(node):
                pairs = zip(body.inputs[skipped:], node.inputs[skipped:], strict=False)
                self.entering.update(pairs)

    def _leave(self, node: ir.Node) -> None:
        """What an If, Loop or Scan gives is what its bodies give."""
        skipped = 1 if node.op_type == "Loop" else 0
        for index, output in enumerate(node.outputs):
            place = index + skipped
            given = [value for body in bodies(node) for value in body.outputs[place : place + 1]]
            self.sources[output] = _union(map(self._of, given))

    # -- nodes without weights ------------------------------------------------------------

    def _combine(self, node: ir.Node) -> Sources:
        """What a node does to the sources of its data operands, before its weights."""
        operands = [self._of(value) for value in node.inputs if self.flow.is_signal(value)]
        sources = _union(operands)
        op = node.op_type
        if op in _SUMS and len(sources) > 1:
            if is_masked_score(self.flow, node):
                return _without_input(sources)
            return (self._add(Op.SUM, sources, node),)
        if op == "Concat" and len(sources) > 1:
            return (self._add(Op.CONCAT, sources, node),)
        if op in PRODUCTS and len(operands) > 1:
            return self._weigh_values(operands, sources)
        sources = _without_input(sources)
        if is_gate(self.flow, node):
            return (self._add(Op.CSE, sources, node),)
        if is_attention(self.flow, node):
            return (self._add(Op.MSA, sources, node),)
        if op == "Mul" and len(operands) > 1:
            return self._apply_scale(sources)
        pool = pooling(self.flow, node, self.sides.of(node.inputs[0] if node.inputs else None))
        if pool is not None:
            return (self._add_pool(node, sources, *pool),)
        return sources

    def _apply_scale(self, sources: Sources) -> Sources:
        """Data times scale / deviation, the form of a norm in TensorFlow: the norm of that data."""
        for source in sources:
            norm = self.nodes[source]
            if norm.op is Op.LN and norm.onnx is not None and norm.onnx.op_type == "Mul":
                sources = tuple(s for s in sources if s not in norm.predecessors)
        return sources

    def _weigh_values(self, operands: list[Sources], sources: Sources) -> Sources:
        """Attention times values: the values feed the attention, which alone feeds what follows."""
        for operand in operands:
            if len(operand) == 1 and self.nodes[operand[0]].op is Op.MSA:
                attention = self.nodes[operand[0]]
                for source in sources:
                    if source not in attention.predecessors and not self._follows(
                        source, operand[0]
                    ):
                        attention.predecessors.append(source)
                return operand
        return _without_input(sources)

    def _follows(self, index: int, other: int) -> bool:
        """Whether a node is `other` or comes after it; the latter feed nodes of larger index."""
        stack, seen = [index], {index}
        while stack:
            current = stack.pop()
            if current == other:
                return True
            for predecessor in self.nodes[current].predecessors:
                if predecessor >= other and predecessor not in seen:
                    seen.add(predecessor)
                    stack.append(predecessor)
        return False

    def _add_pool(self, node: ir.Node, sources: Sources, op: Op, window: tuple[int, int]) -> int:
        strides = node.attributes.get_ints("strides", [1])
        index = self._add(op, sources, node, stride=int(max(strides)))
        if op is not Op.GLOB_AVG:
            self.nodes[index].shape = (1, 1, *window)
        return index

    # -- nodes with weights ---------------------------------------------------------------

    def _weigh(self, node: ir.Node, sources: Sources) -> Sources:
        """Add the nodes of the parameters that `node` uses."""
        weights = sorted(self.weights.get(node, ()))
        for role in _ORDER:
            for _, index in weights:
                if self.parameters[index].role is role:
                    sources = self._weigh_with(node, index, sources)
        if node.op_type in FUSED_ATTENTION:
            return (self._add(Op.MSA, sources, node),)
        return sources

    def _weigh_with(self, node: ir.Node, index: int, sources: Sources) -> Sources:
        role = self.parameters[index].role
        if role in (Role.CONV, Role.CONV_TRANSPOSE, Role.LINEAR):
            # a layer over a table of constants stands at the beginning, like one at the input
            return (self._add_weight(node, index, sources or (INPUT,)),)
        if role is Role.BIAS:
            return (self._add_vector(Op.BIAS, node, index, Part.SHIFT, sources),)
        if role is Role.NORM_SCALE:
            return self._scale(node, index, sources)
        if role is Role.NORM_SHIFT:
            self._attach_shift(node, index, sources)
            return sources
        return self._add_position(node, index, sources)

    def _scale(self, node: ir.Node, index: int, sources: Sources) -> Sources:
        """A norm by its scale: a node of its own, or none where it repeats or isn't a layer's."""
        if node.op_type in NORMS:
            op = Op.BN if node.op_type == "BatchNormalization" else Op.LN
        elif node.op_type in ("Mul", "Div"):
            data = next(value for value in node.inputs if self.flow.is_signal(value))
            before = behind(self.flow, data)
            last = self.nodes[sources[0]] if len(sources) == 1 else self.nodes[INPUT]
            if last.op in (Op.BN, Op.LN) and last.onnx is before:
                return sources  # some exporters put a second scale and shift after each norm
            op = Op.BN if self._is_folded(node, data, before) else Op.LN
        else:
            return sources  # the gain of a normalised kernel
        return (self._add_vector(op, node, index, Part.SCALE, sources),)

    def _is_folded(self, node: ir.Node, data: ir.Value | None, before: ir.Node | None) -> bool:
        """Whether a scale is what a folded BatchNorm left: of channels, and nothing normalised."""
        if before is not None and before.op_type == "BatchNormalization":
            return True
        if normalised(self.flow, data) or is_inverse_deviation(self.flow, data):
            return False
        scale = next(value for value in node.inputs if value is not data)
        shape = self.flow.shape(scale) or ()
        return len(shape) > 2 and shape[-3] != 1 == shape[-2] == shape[-1]

    def _add_weight(self, node: ir.Node, index: int, sources: Sources) -> int:
        parameter = self.parameters[index]
        out, inputs, *kernel = (*parameter.logical_shape, 1)[: max(2, len(parameter.logical_shape))]
        # in three dimensions, the kernel of the last two stands for all
        height, width = kernel[-2:] if len(kernel) > 2 else (*kernel, 1, 1)[:2]
        # a transposed convolution strides over its output: it is one over a spread input
        turned = parameter.role is Role.CONV_TRANSPOSE
        strides = [1] if turned else node.attributes.get_ints("strides", [1])
        dilations = [int(d) for d in node.attributes.get_ints("dilations", [1])] or [1]
        op = Op.CONV
        if parameter.groups > 1:
            op = Op.DIL_CONV if min(dilations) > 1 else Op.SEP_CONV
        added = self._add(
            op,
            sources,
            node,
            groups=parameter.groups,
            stride=int(max(strides)),
            dilation=max(dilations),
            in_channels=inputs * parameter.groups,
            out_channels=out,
            is_linear=int(parameter.role is Role.LINEAR),
        )
        self.nodes[added].shape = (out, inputs, height, width)
        self._slot(added, node, index, Part.WEIGHT)
        return added

    def _add_vector(self, op: Op, node: ir.Node, index: int, part: Part, sources: Sources) -> int:
        size = math.prod(self.parameters[index].logical_shape)
        added = self._add(op, sources, node, out_channels=size)
        self.nodes[added].shape = (size, 1, 1, 1)
        self._slot(added, node, index, part)
        return added

    def _attach_shift(self, node: ir.Node, index: int, sources: Sources) -> None:
        """The shift of a norm is predicted from the node of its scale."""
        if len(sources) != 1:
            return
        norm = self.nodes[sources[0]]
        taken = any(slot.part is Part.SHIFT for slot in norm.slots)
        if norm.op in (Op.BN, Op.LN) and not taken:
            self._slot(sources[0], node, index, Part.SHIFT)

    def _add_position(self, node: ir.Node, index: int, sources: Sources) -> Sources:
        """A position table joins the stream: pos_enc, without predecessors, and a sum."""
        shape = self.parameters[index].logical_shape
        if len(shape) < 2:
            return sources
        side = math.isqrt(math.prod(shape[:-1]))
        position = self._add(Op.POS_ENC, (), node)
        self.nodes[position].shape = (1, shape[-1], side, side)
        self._slot(position, node, index, Part.WEIGHT)
        if node.op_type not in ("Add", "Sum"):
            return (position,)
        return (self._add(Op.SUM, (*sources, position), node),)

    def _slot(self, added: int, node: ir.Node, index: int, part: Part) -> None:
        """Predict a parameter from a node: where it is used first, if it is used more than once."""
        if self.parameters[index].sites[0].node is node:
            self.nodes[added].slots.append(Slot(index, part))

    def _add(self, op: Op, sources: Iterable[int], node: ir.Node, **attributes: int) -> int:
        attributes.setdefault("output_side", self.sides.of(node.outputs[0]))
        self.nodes.append(Node(op, list(sources), node, attributes=attributes))
        return len(self.nodes) - 1

    # -- the classifier -------------------------------------------------------------------

    def mark_head(self) -> None:
        """Find the classifier: the last weight before the first output, and its bias."""
        outputs = self.flow.model.graph.outputs
        sources = self._of(outputs[0]) if outputs else ()
        if len(sources) != 1:
            return
        last = sources[0]
        pool = last if self.nodes[last].op is Op.GLOB_AVG else None
        if pool is not None and len(self.nodes[pool].predecessors) == 1:
            last = self.nodes[pool].predecessors[0]
        bias = last if self.nodes[last].op is Op.BIAS else None
        if bias is not None and len(self.nodes[bias].predecessors) != 1:
            return
        weight = last if bias is None else self.nodes[bias].predecessors[0]
        if self.nodes[weight].op is not Op.CONV or self.nodes[weight].shape[2:] != (1, 1):
            return
        if any(self.parameters[slot.parameter].blocks > 1 for slot in self.nodes[weight].slots):
            return  # one matrix for each part of the signal: no classifier
        for index in (weight, bias):
            if index is not None:
                self.nodes[index].attributes["is_head"] = 1
        if pool is not None:
            # a convolution may classify before the pool: to a GHN the classifier comes last
            self.nodes[pool].predecessors = self.nodes[weight].predecessors
            self.nodes[weight].predecessors = [pool]


def _union(groups: Iterable[Iterable[int]]) -> Sources:
    """Distinct sources in order of appearance."""
    return tuple(dict.fromkeys(source for group in groups for source in group))


def _without_input(sources: Sources) -> Sources:
    """Drop the input where something else feeds the value too: a mask is no edge of the network."""
    rest = tuple(source for source in sources if source != INPUT)
    return rest or sources

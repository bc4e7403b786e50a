"""Judge every float tensor of a model: learnable or not, its role, layout, ties, and why.

Each use of a tensor is judged by itself: weight slots by the table in `slots`, the rest by
what stands around the node. A tensor in a weight slot is what the slot says; one outside is
learnable only if all its uses agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import onnx_ir as ir

from onnx_ghn.read import elementwise, norms, positions, skeleton_marks, slots, spectra
from onnx_ghn.read.constants import Shape, has_value, root_tensor
from onnx_ghn.read.dataflow import FLOATS, DataFlow
from onnx_ghn.read.finding import Finding, Use, keep
from onnx_ghn.read.forms import Logical, logical, operand
from onnx_ghn.read.gains import Moments
from onnx_ghn.read.given import GivenRole, as_given
from onnx_ghn.read.layout import Layout, Transpose
from onnx_ghn.read.marks import Mark, mark_of
from onnx_ghn.read.parameter import Holder, Parameter, Role, Site
from onnx_ghn.read.residual import depth_scales
from onnx_ghn.read.scalars import scalar, unlisted
from onnx_ghn.read.sharing import tie
from onnx_ghn.read.slots import Form

_LEFT = frozenset({"MatMul", "Gemm", "Einsum", "FusedMatMul"})

_SQUASHES = frozenset({"Exp", "Sigmoid", "Softplus", "Tanh", "Softmax", "HardSigmoid"})

_RULES: dict[str, Callable[[DataFlow, Use], Finding]] = {
    "Add": elementwise.added,
    "Sum": elementwise.added,
    "Sub": elementwise.added,
    "Mul": elementwise.multiplied,
    "Div": elementwise.divided,
    "Max": elementwise.compared,
    "Min": elementwise.compared,
    "Gather": positions.gathered,
    "GatherND": positions.gathered,
    "GatherElements": positions.gathered,
    "Concat": positions.joined,
    "Where": positions.chosen,
    "SkipLayerNormalization": positions.added_table,
    "QuantizeLinear": elementwise.quantised,
    "DequantizeLinear": elementwise.quantised,
}
"""What judges a use outside a slot, by operator."""

_ROLES_WITH_GAIN = frozenset({Role.CONV, Role.CONV_TRANSPOSE, Role.LINEAR})


def judge(
    model: ir.Model, flow: DataFlow, given: Mapping[str, GivenRole] | None = None
) -> tuple[Parameter, ...]:
    """All float tensors of `model`, in node order of first use, unused ones last.

    Args:
        model: The model as the caller holds it; never changed.
        flow: `trace(model)`.
        given: By name, roles that the user gives; they go before every rule and mark.
    """
    given = {**skeleton_marks.given_roles(model), **(given or {})}
    uses: dict[ir.Value, list[Use]] = {root: [] for root in flow.roots}
    for node in flow.nodes:
        _collect(flow, node, uses)
    scales = depth_scales(flow)
    moments = Moments(flow, scales)
    parameters: list[Parameter] = []
    copies: dict[str, tuple[str, Transpose]] = {}
    for root in flow.roots:
        found, use = _decide(flow, root, uses[root])
        role = given.get(flow.original(root).name or "")
        if role is not None and _may_be_set(flow, root):
            found = as_given(role, found, use)
        elif found.role is Role.CONSTANT and _holder(flow, root)[0] is Holder.INPUT:
            continue  # an input like any other
        parameters.append(_parameter(flow, root, found, use, uses[root], scales, moments))
        if found.copy is not None and found.learnable:
            source, permutation = found.copy
            copies[parameters[-1].name] = (flow.original(source).name or "", permutation)
    listed = {parameter.name for parameter in parameters}
    parameters.extend(scalar(flow, value, given) for value in unlisted(flow, listed))
    return tie(parameters, copies)


def _collect(flow: DataFlow, node: ir.Node, uses: dict[ir.Value, list[Use]]) -> None:
    signal = any(map(flow.is_signal, node.outputs))
    for index, value in enumerate(node.inputs):
        origins = flow.origins(value)
        if not origins or not (signal or _ends_at(node, index)):
            continue
        if flow.is_passed_in(node, index):
            continue
        shape = flow.shape(value)
        sizes = [_size(flow.shape(origin.root)) for origin in origins]
        for origin, size in zip(origins, sizes, strict=True):
            own = flow.shape(origin.root)
            arrived = shape
            if arrived is None and own is not None:
                arrived = operand(flow, origin, own)[1]
            main = size == max(sizes) or _axes(own) >= 2
            uses[origin.root].append(Use(node, index, origin, arrived, own, main))


def _size(shape: Shape | None) -> int:
    return 0 if shape is None else math.prod(shape)


def _axes(shape: Shape | None) -> int:
    """The number of axes longer than one."""
    return 0 if shape is None else sum(size != 1 for size in shape)


def _ends_at(node: ir.Node, index: int) -> bool:
    """Whether a parameter ends at this input even where the output is a parameter again."""
    return slots.find(node, index) is not None or (
        index > 0 and node.op_type in ("DequantizeLinear", "QuantizeLinear")
    )


def _parameter(
    flow: DataFlow,
    root: ir.Value,
    found: Finding,
    use: Use | None,
    uses: list[Use],
    scales: dict[ir.Node, float],
    moments: Moments,
) -> Parameter:
    original = flow.original(root)
    shape = flow.shape(root) or ()
    view = _view(flow, found, use, shape)
    gain, depth = 1.0, 1.0
    if use is not None and found.role in _ROLES_WITH_GAIN and len(use.node.inputs) > 1:
        gain = moments.gain(use.node.inputs[0 if use.index else 1])
        depth = scales.get(use.node, 1.0)
    neutral = _neutral(flow, found, use)
    if found.layer is not None:
        neutral *= math.sqrt(moments.centred_gain(found.layer.inputs[0]))
    holder, source = _holder(flow, root)
    return Parameter(
        name=original.name or "",
        value=original,
        holder=holder,
        shape=shape,
        dtype=_dtype(root),
        role=found.role,
        learnable=found.learnable,
        reason=found.reason,
        logical_shape=view.shape,
        layout=view.layout,
        fan_in=view.fan_in,
        groups=view.groups,
        blocks=view.blocks,
        gain=gain,
        neutral=neutral,
        depth_scale=depth,
        tie=original.name or "",
        source=source,
        has_value=has_value(root),
        sites=tuple(Site(u.node, u.index) for u in _first(use, uses)),
    )


def _neutral(flow: DataFlow, found: Finding, use: Use | None) -> float:
    """The do-nothing value of the tensor itself: 0 for a scale that arrives as `1 + w`.

    What is added is a single number; which one is not looked at, a norm leaves it no other choice.
    """
    if use is not None and found.role is Role.NORM_SCALE:
        for node in use.origin.path:
            if node.op_type == "Add" and any(
                math.prod(shape) == 1 for shape in map(flow.shape, node.inputs) if shape is not None
            ):
                return 0.0
    return found.neutral


def _first(use: Use | None, uses: list[Use]) -> list[Use]:
    return uses if use is None else [use, *(other for other in uses if other is not use)]


def _view(flow: DataFlow, found: Finding, use: Use | None, shape: Shape) -> Logical:
    if use is None or (not found.learnable and found.role is Role.CONSTANT):
        return Logical(shape, Layout(), max(1, math.prod(shape[1:])) if found.learnable else 1)
    return logical(flow, use.origin, shape, found.form, use.node, use.index)


def _may_be_set(flow: DataFlow, root: ir.Value) -> bool:
    """Whether anything at all could be stored in its place."""
    return flow.shape(root) is not None and _dtype(root) in FLOATS and not flow.is_inlined(root)


def _dtype(root: ir.Value) -> ir.DataType:
    if root.dtype is not None:
        return root.dtype
    tensor = root_tensor(root)
    if tensor is not None:
        return tensor.dtype
    node = root.producer()
    if node is not None and node.op_type == "ConstantOfShape" and "value" in node.attributes:
        return node.attributes["value"].value.dtype
    if node is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        return _dtype(node.inputs[0])
    return ir.DataType.FLOAT


def _decide(flow: DataFlow, root: ir.Value, uses: list[Use]) -> tuple[Finding, Use | None]:
    if flow.shape(root) is None:
        return keep("its shape is not known"), uses[0] if uses else None
    if not uses:
        return keep("not used by any layer"), None
    judged = [(_judge_use(flow, use), use) for use in uses]
    decisive = [pair for pair in judged if pair[0].decisive]
    # an exporter may have merged a shift of zeros with a running mean: a statistic is never set
    fixed = [pair for pair in decisive or judged if not pair[0].learnable]
    found, use = (fixed or decisive or judged)[0]
    if _dtype(root) not in FLOATS:
        return keep("quantised", Role.QUANTIZED), use
    if flow.is_inlined(root) and found.learnable:
        return keep("stands in the body of a local function"), use
    mark = mark_of(root)
    if mark is Mark.BUFFER and found.learnable:
        return keep("the exporter marks it as a buffer"), use
    in_slot = use is not None and slots.find(use.node, use.index) is not None
    if mark is Mark.COMPUTED and found.learnable and not in_slot:
        return keep("the exporter has computed it from other tensors"), use
    producer = root.producer()
    node = producer is not None and producer.op_type == "Constant"
    if node and found.learnable and not in_slot and flow.stores_weights:
        return keep("a Constant node in a file that keeps its weights in initializers"), use
    if mark is Mark.PARAMETER and not found.learnable and found.role is Role.CONSTANT:
        return _marked(use, math.prod(flow.shape(root) or ())), use
    return found, use


def _marked(use: Use | None, count: int) -> Finding:
    """A tensor that no rule knows, but that the exporter marks as a parameter."""
    op = use.node.op_type if use is not None else ""
    role, neutral = Role.OTHER, 0.0
    if op in ("Add", "Sub"):
        role = Role.BIAS
    elif op in ("Mul", "Div"):
        role, neutral = (Role.LOGIT_SCALE if count == 1 else Role.LAYER_SCALE), 1.0
    return Finding(role, True, "the exporter marks it as a parameter", neutral=neutral)


def _judge_use(flow: DataFlow, use: Use) -> Finding:
    node = use.node
    slot = slots.find(node, use.index)
    if slot is not None:
        return _in_slot(flow, use, slot)
    op = node.op_type
    if node.domain not in ("", "ai.onnx", slots.MICROSOFT):
        return keep(f"operator of an unknown domain: {node.domain}.{op}")
    passed = {step.op_type for step in use.origin.path}
    if passed & {"Sin", "Cos"}:
        return keep("goes through Sin or Cos")
    if op == "LayerNormalization":
        return positions.normalised_query(flow, use)
    if op in _LEFT:
        return _left_operand(flow, use)
    rule = _RULES.get(op)
    if rule is None:
        return keep(f"input {use.index} of {op}")
    if passed & _SQUASHES and op in ("Add", "Sub", "Mul", "Div", "Max", "Min"):
        return _reparametrised(use, passed)
    return rule(flow, use)


def _reparametrised(use: Use, passed: set[str]) -> Finding:
    """exp(p), sigmoid(p) ...: only learned numbers are squashed before they meet data."""
    scales = use.node.op_type in ("Mul", "Div") and elementwise.is_vector(use.shape)
    if "Exp" in passed and scales:
        return Finding(Role.LOGIT_SCALE, True, "its exponential scales data")
    return Finding(Role.OTHER, True, "a squashed number that meets data")


def _in_slot(flow: DataFlow, use: Use, slot: slots.Slot) -> Finding:
    node = use.node
    reason = f"input {use.index} of {node.op_type}"
    if slot.role in (Role.NORM_SCALE, Role.NORM_SHIFT, Role.RUNNING_MEAN, Role.RUNNING_VARIANCE):
        return norms.slot_finding(flow, use, slot)
    if slot.form in slots.MATRICES:
        if not use.main:
            return _scale_of_weight(flow, use)
        data = flow.shape(node.inputs[0])
        if not flow.is_signal(node.inputs[0]) and (
            len(use.shape or ()) < 2 or (data is not None and len(data) < 2)
        ):
            return keep(f"{node.op_type} of two stored vectors: a power iteration")
        if not flow.is_signal(node.inputs[0]) and _is_generated(use.origin.root):
            return keep("filled by the graph, and multiplied with no data")
        if positions.feeds_both_waves(flow, node.outputs[0]):
            return keep("frequencies: the product enters Sin and Cos")
        if slot.form is Form.KERNEL and norms.is_fixed_kernel(use):
            return keep("one kernel for all channels: a blur or an edge filter")
        if spectra.is_transform(flow, node):
            return keep("a Fourier or filterbank matrix: squared or logarithmic after it")
    if slot.role is Role.BIAS and _is_filler(flow, use):
        return keep("one number in the place of a bias")
    return Finding(slot.role, slot.learnable, reason, slot.form, slot.neutral, decisive=True)


def _is_generated(root: ir.Value) -> bool:
    node = root.producer()
    return node is not None and node.op_type == "ConstantOfShape"


def _scale_of_weight(flow: DataFlow, use: Use) -> Finding:
    """A smaller tensor on the way of a kernel: its gain, or the norm that it is divided by."""
    before = use.origin.root
    for step in use.origin.path:
        operands = [value for value in step.inputs if value is not None]
        if len(operands) > 1 and step.op_type not in slots.REARRANGING:
            if step.op_type == "Div" and step.inputs[1] is before:
                return keep("the norm of a kernel, folded by the exporter")
            if step.op_type in ("Add", "Sub"):
                return keep("added to a kernel")
        before = step.outputs[0]
    return Finding(
        Role.NORM_SCALE,
        True,
        f"scales the weight of {use.node.op_type}",
        neutral=1.0,
        decisive=True,
    )


def _is_filler(flow: DataFlow, use: Use) -> bool:
    """Whether one number stands where a layer with several outputs takes its bias."""
    if math.prod(use.shape or ()) != 1:
        return False
    weight = flow.shape(use.node.inputs[1]) if len(use.node.inputs) > 1 else None
    if weight is None:  # computed, by a spectral norm for instance, from a tensor of its shape
        origins = flow.origins(use.node.inputs[1])
        weight = flow.shape(origins[0].root) if origins else None
    if not weight or not use.shape:
        return True
    turned = use.node.op_type == "Gemm" and not use.node.attributes.get_int("transB", 0)
    return weight[-1 if turned else 0] != 1 and use.node.op_type != "ConvTranspose"


def _left_operand(flow: DataFlow, use: Use) -> Finding:
    """A tensor as the left factor of a product with data, or an operand of Einsum."""
    node, shape = use.node, use.shape
    others = [v for k, v in enumerate(node.inputs) if k != use.index]
    if not any(map(flow.is_signal, others)):
        if positions.is_query(use):
            return Finding(Role.TOKEN, True, "learned queries, projected", Form.TABLE)
        if node.op_type == "Einsum" and any(positions.is_wave(flow, value) for value in others):
            return Finding(
                Role.LINEAR, True, "projects a table of sinusoids", Form.EINSUM, decisive=True
            )
        return keep(f"the data of a {node.op_type}: a table, or a power iteration")
    if node.op_type == "Einsum":
        if len(node.inputs) != 2:
            return keep("Einsum of more than two tensors")
        if any(step.op_type.startswith("Gather") for step in use.origin.path):
            return Finding(
                Role.RELATIVE_POSITION, True, "a table of distances that meets queries", Form.TABLE
            )
        return Finding(Role.LINEAR, True, "operand of Einsum", Form.EINSUM, decisive=True)
    if shape is None or len(shape) < 2 or any(flow.is_param(v) for v in others):
        return keep(f"left operand of {node.op_type}")
    if positions.feeds_both_waves(flow, node.outputs[0]):
        return keep("frequencies: the product enters Sin and Cos")
    if shape[-1] == shape[-2]:
        return keep("square left operand: an adjacency or a mixing matrix")
    return Finding(Role.LINEAR, True, f"left operand of {node.op_type}", Form.MATRIX_LEFT)


def _holder(flow: DataFlow, root: ir.Value) -> tuple[Holder, str | None]:
    node = root.producer()
    if node is None:
        return (Holder.INITIALIZER if root.is_initializer() else Holder.INPUT), None
    if node.op_type == "Constant":
        return Holder.CONSTANT, None
    if node.op_type == "Identity":
        source = node.inputs[0]
        assert source is not None
        return Holder.IDENTITY, flow.original(source).name
    return Holder.CONSTANT_OF_SHAPE, None

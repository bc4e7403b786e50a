"""The interpreter as a whole: parameters, gradients, batch statistics, errors, whole models."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch.nn import functional

from onnx_ghn.errors import ModelError, UnsupportedOperatorError
from onnx_ghn.run.interpreter import Interpreter
from onnx_ghn.run.registry import operator, registered

NET = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[n, 3, h, w] x) => (float[n, 5] logits)
  <float[4, 3, 3, 3] conv_w, float[4] conv_b, float[4] scale, float[4] shift,
   float[4] mean, float[4] var, float[5, 4] fc_w, float[5] fc_b, int64[1] one = {1}> {
  a = Conv <pads: ints = [1, 1, 1, 1], strides: ints = [2, 2]> (x, conv_w, conv_b)
  b = BatchNormalization (a, scale, shift, mean, var)
  c = Relu (b)
  d = GlobalAveragePool (c)
  size = Shape <end: int = 1> (d)
  rest = Constant <value_ints: ints = [-1]> ()
  batch = Mul (size, one)
  shape = Concat <axis: int = 0> (batch, rest)
  e = Reshape (d, shape)
  logits = Gemm <transB: int = 1> (e, fc_w, fc_b)
}
"""
SHAPES = {
    "conv_w": (4, 3, 3, 3),
    "conv_b": (4,),
    "scale": (4,),
    "shift": (4,),
    "fc_w": (5, 4),
    "fc_b": (5,),
}


def store(model: ir.Model, name: str, tensor: ir.TensorProtocol) -> None:
    """Make the value of a name an initializer that holds `tensor`."""
    values = (value for node in model.graph for value in node.inputs if value is not None)
    value = next(value for value in values if value.name == name)
    value.const_value = tensor
    model.graph.register_initializer(value)


@pytest.fixture
def parameters(normal):
    return {n: torch.from_numpy(normal(*s)).requires_grad_() for n, s in SHAPES.items()}


def network(x, p, mean=None, var=None):
    """The same network in plain torch."""
    a = functional.conv2d(x, p["conv_w"], p["conv_b"], 2, 1)
    b = functional.batch_norm(a, mean, var, p["scale"], p["shift"], mean is None, 0.0)
    return functional.linear(torch.relu(b).mean((2, 3)), p["fc_w"], p["fc_b"])


def test_equal_to_torch_with_gradients(normal, parameters):
    x = torch.from_numpy(normal(6, 3, 8, 8))
    (logits,) = Interpreter(ir.from_onnx_text(NET), batch_statistics=True)(x, parameters)
    expected = network(x, parameters)
    torch.testing.assert_close(logits, expected)
    target = torch.arange(6) % 5
    got = torch.autograd.grad(functional.cross_entropy(logits, target), [*parameters.values()])
    want = torch.autograd.grad(functional.cross_entropy(expected, target), [*parameters.values()])
    torch.testing.assert_close(got, want)


def test_running_statistics_are_parameters_too(normal, parameters):
    x = torch.from_numpy(normal(6, 3, 8, 8))
    mean, var = torch.from_numpy(normal(4)), torch.from_numpy(np.abs(normal(4)) + 0.5)
    (logits,) = Interpreter(ir.from_onnx_text(NET))(x, parameters | {"mean": mean, "var": var})
    torch.testing.assert_close(logits, network(x, parameters, mean, var))


def test_one_interpreter_serves_any_batch_size_and_set_of_parameters(normal, parameters):
    model = ir.from_onnx_text(NET)
    for name, tensor in parameters.items():
        store(model, name, ir.tensor(tensor.detach().numpy(), name=name))
    interpreter = Interpreter(model, batch_statistics=True)
    for size in (2, 7):
        x = torch.from_numpy(normal(size, 3, 8, 8))
        expected = network(x, parameters)
        torch.testing.assert_close(interpreter(x)[0], expected, check_stride=False)
        some = {name: parameters[name] for name in ("fc_b", "conv_w")}
        torch.testing.assert_close(interpreter(x, some)[0], expected)


def test_double_gradients_by_finite_differences(normal):
    interpreter = Interpreter(ir.from_onnx_text(NET), batch_statistics=True)
    x = torch.from_numpy(normal(3, 3, 6, 6)).double()
    names = tuple(SHAPES)
    tensors = [torch.from_numpy(normal(*SHAPES[n])).double().requires_grad_() for n in names]

    def run(*values):
        return interpreter(x, dict(zip(names, values, strict=True)))[0]

    assert torch.autograd.gradcheck(run, tensors)


GRADIENTS = [
    ("y = LayerNormalization (x, w)", (2, 3, 4), (4,)),
    ("y = RMSNormalization (x, w)", (2, 3, 4), (4,)),
    ("y = GroupNormalization <num_groups: int = 2> (x, w, w)", (2, 4, 3), (4,)),
    ("y = InstanceNormalization (x, w, w)", (2, 3, 5), (3,)),
    ("y = ConvTranspose <strides: ints = [2], pads: ints = [0, 1]> (x, w)", (1, 2, 4), (2, 3, 3)),
    ('y = Conv <auto_pad: string = "SAME_LOWER"> (x, w)', (1, 2, 5), (3, 2, 4)),
    ("y = Attention <q_num_heads: int = 2, kv_num_heads: int = 2> (x, w, x)", (1, 3, 4), (1, 3, 4)),
    ('y = Einsum <equation: string = "bi,oi->bo"> (x, w)', (2, 3), (4, 3)),
    ("y = PRelu (x, w)", (2, 3, 4), (3, 1)),
    ("n = ReduceL2 <axes: ints = [-1]> (w)\n y = Div (x, n)", (2, 3), (2, 3)),
    ("n = LRN <size: int = 3, alpha: float = 0.5> (x)\n y = Mul (n, w)", (1, 4, 3, 2), (1,)),
    ("p = AveragePool <kernel_shape: ints = [2], pads: ints = [0, 1]> (x)\n y = Mul (p, w)",
     (1, 2, 5), (1,)),
]  # fmt: skip


@pytest.mark.parametrize(("body", "x", "w"), GRADIENTS, ids=[g[0].split()[2] for g in GRADIENTS])
def test_gradients_of_operators(normal, body, x, w):
    opset = 13 if "ReduceL2" in body else 23
    dims = [", ".join(map(str, shape)) for shape in (x, w)]
    text = (
        f'<ir_version: 10, opset_import: ["" : {opset}]>\n'
        f"g (float[{dims[0]}] x, float[{dims[1]}] w) => (float y) {{ {body} }}"
    )
    interpreter = Interpreter(ir.from_onnx_text(text))
    inputs = [torch.from_numpy(normal(*shape)).double().requires_grad_() for shape in (x, w)]
    assert torch.autograd.gradcheck(lambda x, w: interpreter({"x": x, "w": w})[0], inputs)


HOLDERS = """
<ir_version: 10, opset_import: ["" : 20]>
holders (float[n, 2] x, float[2] weight_input) => (float[n, 2] y, float[2] z)
  <float[2] stored = {1.0, 2.0}> {
  constant = Constant <value = float[2] {3.0, 4.0}> ()
  two = Constant <value_ints: ints = [2]> ()
  filled = ConstantOfShape (two)
  copy = Identity (stored)
  a = Add (x, weight_input)
  b = Add (a, constant)
  c = Add (b, filled)
  d = Add (c, copy)
  y = Add (d, stored)
  z = Identity (stored)
}
"""


def test_a_parameter_may_replace_whatever_holds_a_weight():
    interpreter = Interpreter(ir.from_onnx_text(HOLDERS))
    assert interpreter.input_names == ("x", "weight_input")
    x = torch.zeros(1, 2)
    feeds = {"x": x, "weight_input": torch.tensor([10.0, 10.0])}
    y, z = interpreter(feeds)
    torch.testing.assert_close(y, torch.tensor([[15.0, 18.0]]))
    torch.testing.assert_close(z, torch.tensor([1.0, 2.0]))
    ones = torch.ones(2, requires_grad=True)
    given = dict.fromkeys(("constant", "filled", "copy", "weight_input"), ones)
    y, z = interpreter(x, given)
    torch.testing.assert_close(y, torch.tensor([[5.0, 6.0]]))
    torch.testing.assert_close(z, torch.tensor([1.0, 2.0]))
    # The copy follows the stored tensor where only that one is given.
    y, z = interpreter(feeds, {"stored": ones})
    torch.testing.assert_close(y, torch.tensor([[15.0, 16.0]]))
    (gradient,) = torch.autograd.grad(y.sum() + z.sum(), ones)
    torch.testing.assert_close(gradient, torch.tensor([3.0, 3.0]))


def test_shape_arithmetic_never_reads_from_the_device():
    # Tensors of the meta device have no data: whatever would wait for a device fails there.
    model = ir.from_onnx_text(NET)
    interpreter = Interpreter(model, batch_statistics=True, device="meta")
    parameters = {name: torch.empty(shape, device="meta") for name, shape in SHAPES.items()}
    (logits,) = interpreter(torch.empty(6, 3, 8, 8, device="meta"), parameters)
    assert logits.device.type == "meta"
    assert logits.shape == (6, 5)


def test_what_the_device_computes_is_brought_to_the_host_where_numbers_are_needed():
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[n, 4] x, int64[2] shape) => (float[a, b] y) { y = Reshape (x, shape) }
    """
    interpreter = Interpreter(ir.from_onnx_text(text), device="meta")
    x = torch.empty(2, 4, device="meta")
    with pytest.raises(ModelError, match="meta"):
        interpreter({"x": x, "shape": torch.empty(2, dtype=torch.int64, device="meta")})


def test_functions_are_inlined_in_a_copy():
    text = """
    <ir_version: 10, opset_import: ["" : 20, "my" : 1]>
    net (float[2] x) => (float[2] y) { y = my.twice (x) }
    <domain: "my", opset_import: ["" : 20]>
    twice (a) => (b) { b = Add (a, a) }
    """
    model = ir.from_onnx_text(text)
    (y,) = Interpreter(model)(torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(y, torch.tensor([2.0, 4.0]))
    assert [node.op_type for node in model.graph] == ["twice"]


def test_nodes_in_any_order():
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[2] x) => (float[2] y) { y = Neg (a)
      a = Exp (x) }
    """
    (y,) = Interpreter(ir.from_onnx_text(text))(torch.zeros(2))
    torch.testing.assert_close(y, -torch.ones(2))


def test_a_cycle_is_an_error():
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[2] x) => (float[2] y) { y = Add (x, a)
      a = Exp (y) }
    """
    with pytest.raises(ModelError, match="its own output"):
        Interpreter(ir.from_onnx_text(text)).compile()


def test_mixed_precision_keeps_gradients(normal, parameters):
    x = torch.from_numpy(normal(6, 3, 8, 8))
    model = ir.from_onnx_text(NET)
    interpreter = Interpreter(
        model, batch_statistics=True, autocast=torch.bfloat16, channels_last=True
    )
    (logits,) = interpreter(x, parameters)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), network(x, parameters), rtol=0.1, atol=0.1)
    gradients = torch.autograd.grad(logits.float().sum(), [*parameters.values()])
    assert all(g.dtype == torch.float32 and torch.isfinite(g).all() for g in gradients)


def test_half_and_bfloat16_tensors(normal):
    for kind, dtype in (("float16", torch.float16), ("bfloat16", torch.bfloat16)):
        text = f"""
        <ir_version: 10, opset_import: ["" : 20]>
        net ({kind}[2] x) => ({kind}[2] y) {{ y = Mul (x, w) }}
        """
        model = ir.from_onnx_text(text)
        store(model, "w", ir.tensor([0.5, 3.0], dtype=ir.DataType[kind.upper()], name="w"))
        (y,) = Interpreter(model)(torch.tensor([1.0, 2.0], dtype=dtype))
        torch.testing.assert_close(y, torch.tensor([0.5, 6.0], dtype=dtype))


def test_unknown_operator_names_everything():
    text = """
    <ir_version: 10, opset_import: ["" : 20, "my.domain" : 3]>
    net (float[2] x) => (float[2] y) { [odd] y = my.domain.Strange (x) }
    """
    with pytest.raises(UnsupportedOperatorError, match=r"'odd' \(my.domain::Strange\), opset 3"):
        Interpreter(ir.from_onnx_text(text))


def test_operator_newer_than_the_opset():
    text = NET.replace("Relu", "Gelu").replace(": 20]", ": 19]")
    with pytest.raises(UnsupportedOperatorError, match=r"Gelu\), opset 19"):
        Interpreter(ir.from_onnx_text(text))


def test_errors_name_what_is_wrong(normal, parameters):
    x = torch.from_numpy(normal(2, 3, 8, 8))
    interpreter = Interpreter(ir.from_onnx_text(NET), batch_statistics=True)
    with pytest.raises(ModelError, match="nothing gives it"):
        interpreter(x)
    with pytest.raises(ModelError, match="no tensor 'missing'"):
        interpreter(x, parameters | {"missing": x})
    with pytest.raises(ModelError, match=r"takes the inputs \['x'\], got \['image'\]"):
        interpreter({"image": x}, parameters)
    with pytest.raises(ModelError, match=r"ai.onnx::Conv\) failed"):
        interpreter(x[:, :2], parameters)


def test_attributes_that_do_not_fit_are_an_error_that_names_the_node():
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,1,4,4] x, float[1,1,3,3] w) => (float[1,1,4,4] y)
        { [blurred] y = Conv <pads = [1, 1, 1]> (x, w) }"""
    )
    with pytest.raises(ModelError, match=r"'blurred'.*can't be computed"):
        Interpreter(model).compile()


def test_missing_bytes_are_an_error_only_where_they_are_needed(tmp_path, normal, parameters):
    model = ir.from_onnx_text(NET)
    for name in ("fc_w", "fc_b"):
        shape = ir.Shape(SHAPES[name])
        absent = ir.ExternalTensor(
            "absent.bin", 0, 4, ir.DataType.FLOAT, shape=shape, name=name, base_dir=tmp_path
        )
        store(model, name, absent)
    x = torch.from_numpy(normal(2, 3, 8, 8))
    interpreter = Interpreter(model, batch_statistics=True)
    interpreter(x, parameters)
    del parameters["fc_w"]
    with pytest.raises(ModelError, match="'fc_w' has no readable bytes"):
        interpreter(x, parameters)


def test_registering_twice_is_an_error():
    with pytest.raises(ValueError, match="Conv version 1 is registered twice"):
        operator("Conv", since=1)(lambda node: abs)


def test_more_than_fifty_operators_are_known():
    assert len({(domain, name) for domain, name, _ in registered()}) > 150

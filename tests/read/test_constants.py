"""Shapes and small integer constants."""

from __future__ import annotations

import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from onnx_ghn.read.constants import Constants, has_value
from onnx_ghn.read.norms import stored_array

SHAPES = [
    ("y = Transpose <perm = [2, 0, 1]> (w)", (4, 2, 3)),
    ("y = Transpose (w)", (4, 3, 2)),
    ("y = Reshape (w, minus)", (2, 12)),
    ("y = Flatten <axis = 2> (w)", (6, 4)),
    ("y = Unsqueeze (w, axes)", (2, 1, 3, 4)),
    ("u = Unsqueeze (w, axes) y = Squeeze (u, axes)", (2, 3, 4)),
    ("y = Slice (w, axes, ends, axes)", (2, 2, 4)),
    ("y = Concat <axis = 1> (w, w)", (2, 6, 4)),
    ("y, z = Split <axis = 2> (w)", (2, 3, 2)),
    ("y = Gather <axis = 1> (w, minus)", (2, 2, 4)),
    ("y = ConstantOfShape (minus_abs)", (2, 12)),
    ("s = Shape (w) y = ConstantOfShape (s)", (2, 3, 4)),
    ("e = Cast <to = 1> (w) y = Mul (e, row)", (2, 3, 4)),
]


@pytest.mark.parametrize(("body", "shape"), SHAPES)
def test_shapes_without_value_info(parse, body, shape):
    model = parse(
        f"""
        g (float[1] x) => (float y)
        <float[2, 3, 4] w, float[4] row, int64[2] minus = {{2, -1}}, int64[2] minus_abs = {{2, 12}},
         int64[1] axes = {{1}}, int64[1] ends = {{3}}>
        {{ {body} }}"""
    )
    output = next(v for n in model.graph for v in n.outputs if v.name == "y")
    output.shape = None
    assert Constants(lambda value: value).shape(output) == shape


def test_shapes_that_depend_on_data_are_unknown(parse):
    model = parse(
        """
        g (float[N, 3] x) => (y) <float[2, 3] w>
        { s = Shape (x)  y = Expand (w, s) }"""
    )
    known = Constants(lambda value: value)
    assert known.shape(model.graph.outputs[0]) is None
    assert known.integers(model.graph.node(0).outputs[0]) is None


def test_a_tensor_without_data_is_no_zero():
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x) => (y) <float[2] full = {0, 0}, float[2] empty = {0, 0}>
        { y = Add (x, full) }"""
    )
    empty = model.graph.initializer[1]
    empty.ClearField("float_data")
    empty.ClearField("raw_data")
    values = ir.from_proto(model).graph.initializers
    assert has_value(values["full"])
    assert not has_value(values["empty"])
    assert stored_array(values["empty"]) is None


def test_absent_external_bytes_are_no_value(tmp_path):
    tensor = ir.ExternalTensor(
        "absent.bin", 0, 16, ir.DataType.FLOAT, shape=ir.Shape([4]), name="w", base_dir=tmp_path
    )
    value = ir.Value(name="w", shape=ir.Shape([4]), const_value=tensor)
    assert not has_value(value)
    (tmp_path / "absent.bin").write_bytes(bytes(16))
    assert has_value(value)


def test_a_long_chain_of_integers_is_not_followed(parse):
    chain = "\n".join(f"i{k + 1} = Add (i{k}, i{k})" for k in range(2000))
    model = parse(
        f"""g (float[2, 3] x) => (float y) {{ i0 = Shape (x) {chain}
        y = Reshape (x, i2000) }}"""
    )
    nodes = {node.outputs[0].name: node for node in model.graph}
    constants = Constants(lambda value: value)
    assert constants.integers(nodes["i2000"].outputs[0]) is None
    assert constants.integers(nodes["i1"].outputs[0]).tolist() == [4, 6]

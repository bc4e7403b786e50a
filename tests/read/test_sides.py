import onnx
import onnx_ir as ir
import pytest

from onnx_ghn.read.dataflow import trace
from onnx_ghn.read.sides import Sides


@pytest.mark.parametrize(
    "name", ["light_resnet50", "light_squeezenet", "light_inception_v1", "light_bvlc_alexnet"]
)
def test_sides_are_those_of_shape_inference(light, name):
    proto = onnx.load(light / f"{name}.onnx")
    inferred = {
        info.name: [size.dim_value for size in info.type.tensor_type.shape.dim]
        for info in onnx.shape_inference.infer_shapes(proto).graph.value_info
    }
    flow = trace(ir.from_proto(proto))
    sides = Sides(flow)
    compared = 0
    for node in flow.nodes:
        if not any(map(flow.is_signal, node.outputs)):
            continue
        sides.visit(node)
        shape = inferred.get(node.outputs[0].name, [])
        if node.op_type in ("Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "Relu"):
            assert sides.of(node.outputs[0]) == (shape[3] if len(shape) == 4 else 0), node.name
            compared += 1
    assert compared > 10


@pytest.mark.parametrize(
    ("attributes", "side"),
    [
        ("kernel_shape=[3,3], strides=[2,2]", 10),
        ("kernel_shape=[3,3], strides=[2,2], ceil_mode=1", 11),
        ("kernel_shape=[3,3], strides=[2,2], pads=[0,0,1,1]", 11),
        ('kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_UPPER"', 11),
        ('kernel_shape=[3,3], auto_pad="VALID"', 20),
    ],
)
def test_windows(parse, attributes, side):
    model = parse(f"""g (float[1,3,22,22] x) => (float[a,b,c,d] y) {{
        y = MaxPool<{attributes}>(x)
    }}""")
    flow = trace(model)
    sides = Sides(flow)
    sides.visit(flow.nodes[0])
    assert sides.of(flow.nodes[0].outputs[0]) == side

import onnx_ir as ir
import pytest

from onnx_ghn.architectures.key import graph_key
from onnx_ghn.architectures.sample import sample


def test_names_and_values_play_no_role():
    model = sample("full", 5)
    before = graph_key(model)
    for number, value in enumerate(list(model.graph.initializers.values())):
        if value.const_value is None:
            value.name = f"renamed_{number}"
    for node in model.graph:
        node.name = ""
        for value in node.outputs:
            value.name = f"other_{value.name}"
    assert graph_key(model) == before


@pytest.mark.parametrize("seed", range(8))
def test_the_image_side_plays_no_role(seed):
    assert graph_key(sample("full", seed, image_side=16)) == graph_key(sample("full", seed))


def test_different_networks_have_different_keys():
    keys = {graph_key(sample("narrow", seed)) for seed in range(60)}
    assert len(keys) > 55  # a narrow space repeats itself now and then


def model_of(body):
    return ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["" : 21]>
        g (float[N,4,8,8] x) => (float[N,4,8,8] y)
        <float[4,4,3,3] w, float[4,4,3,3] v> {{ {body} }}"""
    )


def test_attributes_connections_and_shapes_count():
    base = graph_key(model_of("a = Conv<pads=[1,1,1,1]>(x, w) y = Add(a, x)"))
    assert base == graph_key(model_of("b = Conv<pads=[1,1,1,1]>(x, v) y = Add(b, x)"))
    others = [
        "a = Conv<pads=[1,1,1,1]>(x, w) y = Add(a, a)",
        "a = Conv<pads=[2,2,2,2], dilations=[2,2]>(x, w) y = Add(a, x)",
        "a = Conv<pads=[1,1,1,1]>(x, w) y = Mul(a, x)",
    ]
    keys = {graph_key(model_of(body)) for body in others}
    assert len(keys) == 3
    assert base not in keys

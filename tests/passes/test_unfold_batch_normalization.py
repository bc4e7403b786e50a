"""Which Convs get a BatchNormalization back, and that it changes nothing."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnx_ghn.passes.unfold_batch_normalization import UnfoldBatchNormalization
from onnx_ghn.run.session import open_session

WEIGHTS = (
    "float[2,2,1,1] w = {1, 2, 3, 4}, float[2] b = {5, 6}, "
    "float[2,2,1,1] w2 = {1, 2, 3, 4}, float[2] b2 = {5, 6}"
)


def model(body: str, output: str = "float y") -> ir.Model:
    return ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["" : 20]>
        g (float[N,2,4,4] x) => ({output}) <{WEIGHTS}> {{ {body} }}"""
    )


def unfolded(body: str) -> list[str]:
    unfold = UnfoldBatchNormalization()
    unfold(model(body))
    return [layer.weight for layer in unfold.layers]


@pytest.mark.parametrize(
    "after",
    [
        "y = Relu(h)",
        "zero = Constant<value_float=0.0>() y = Clip(h, zero)",
        "s = Sigmoid(h) y = Mul(h, s)",
        "y = HardSwish(h)",
        "y = Add(h, x)",
        "y = Concat<axis=1>(h, x)",
    ],
)
def test_convolutions_before_a_nonlinearity_or_a_sum_qualify(after: str):
    assert unfolded(f"h = Conv(x, w, b) {after}") == ["w"]


@pytest.mark.parametrize(
    "body",
    [
        "h = Conv(x, w) y = Relu(h)",  # no bias, hence nothing was folded
        "y = Conv(x, w, b)",  # a head
        "h = Conv(x, w, b) y = Flatten(h)",
        "h = Conv(x, w, b) y = Sigmoid(h)",  # a gate
        "p = GlobalAveragePool(x) h = Conv(p, w, b) r = Relu(h) k = Conv(r, w2, b2) y = Add(k, x)",
        "h = Conv(x, w, b) n = BatchNormalization(h, b2, b2, b2, b2) y = Relu(n)",
    ],
)
def test_others_do_not(body: str):
    assert unfolded(body) == []


def test_the_copy_computes_the_same():
    body = "h = Conv(x, w, b) r = Relu(h) k = Conv(r, w2, b2) y = Add(k, x)"
    original = model(body, output="float[N,2,4,4] y")
    unfold = UnfoldBatchNormalization()
    result = unfold(original)
    assert result.modified
    assert [layer.bias for layer in unfold.layers] == ["b", "b2"]
    assert sum(node.op_type == "BatchNormalization" for node in result.model.graph) == 2
    onnx.checker.check_model(ir.to_proto(result.model), full_check=True)
    x = np.random.default_rng(0).standard_normal((3, 2, 4, 4)).astype(np.float32)
    expected = open_session(original).run({"x": x})["y"]
    found = open_session(result.model).run({"x": x})["y"]
    assert found == pytest.approx(expected, rel=1e-4)
    assert sum(node.op_type == "BatchNormalization" for node in original.graph) == 0


def test_shared_weights_are_left_with_a_reason():
    unfold = UnfoldBatchNormalization()
    result = unfold(model("h = Conv(x, w, b) r = Relu(h) k = Conv(r, w, b2) y = Add(k, x)"))
    assert not result.modified
    assert unfold.left == {"w": "it serves several nodes"}

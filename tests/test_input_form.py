import numpy as np
import onnx_ir as ir
import pytest

from onnx_ghn.errors import ModelError
from onnx_ghn.input_form import InputForm, input_form

HEAD = '<ir_version: 8, opset_import: ["" : 17]> g'


def form(declared: str, body: str, initializers: str = "") -> InputForm:
    return input_form(ir.from_onnx_text(f"{HEAD} ({declared}) => (y) {initializers} {{ {body} }}"))


def test_a_convolution_means_channels_first_and_tells_how_many():
    found = form(
        "float[N,C,H,W] x",
        "a = Sub(x, m) y = Conv<group=2>(a, w)",
        "<float m = {1}, float[4,3,1,1] w = {1,1,1,1,1,1,1,1,1,1,1,1}>",
    )
    assert found == InputForm("x", np.dtype(np.float32), (None, 6, None, None), "NCHW")
    assert (found.batch, found.channels, found.size) == (None, 6, (None, None))


def test_a_transpose_means_channels_last_whatever_the_sizes():
    found = form("uint8[1,3,5,3] x", "y = Transpose<perm=[0,3,1,2]>(x)")
    assert found == InputForm("x", np.dtype(np.uint8), (1, 3, 5, 3), "NHWC")
    assert (found.batch, found.channels, found.size) == (1, 3, (3, 5))


@pytest.mark.parametrize(
    ("shape", "layout", "channels", "size"),
    [
        ("2,3,8,9", "NCHW", 3, (8, 9)),
        ("2,8,9,3", "NHWC", 3, (8, 9)),
        ("2,1,28,28", "NCHW", 1, (28, 28)),
        ("N,C,H,W", "NCHW", None, (None, None)),
    ],
)
def test_where_no_node_tells_the_sizes_do(shape, layout, channels, size):
    found = form(f"float[{shape}] x", "y = Relu(x)")
    assert (found.layout, found.channels, found.size) == (layout, channels, size)


def test_other_inputs_are_no_images():
    found = form("float16[N,12] x", "y = Relu(x)")
    assert found == InputForm("x", np.dtype(np.float16), (None, 12))
    assert (found.channels, found.size) == (None, (None, None))


def test_an_input_with_an_initializer_is_not_fed():
    text = f"{HEAD} (float[N,2] x, float[2] b) => (y) <float[2] b = {{1, 2}}> {{ y = Add(x, b) }}"
    assert input_form(ir.from_onnx_text(text)).name == "x"


@pytest.mark.parametrize(
    ("declared", "body", "message"),
    [
        ("float[N,2] x, float[N,2] z", "y = Add(x, z)", "one input.*'x', 'z'"),
        ("float[2] x", "y = Relu(x)", "'x' has no batch axis"),
        ("string[N,2] x", "y = Identity(x)", "'x' takes no tensor of numbers"),
    ],
)
def test_what_no_data_can_feed_is_refused(declared, body, message):
    with pytest.raises(ModelError, match=message):
        form(declared, body)

"""LSTM, GRU and RNN against ONNX Runtime and torch."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

from onnx_ghn.errors import UnsupportedOperatorError
from onnx_ghn.run.interpreter import Interpreter

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STEPS, BATCH, FEATURES, HIDDEN = 5, 3, 4, 6


def layer(normal, name: str, directions: int) -> list[np.ndarray]:
    rows = GATES[name] * HIDDEN
    return [
        normal(STEPS, BATCH, FEATURES),
        0.4 * normal(directions, rows, FEATURES),
        0.4 * normal(directions, rows, HIDDEN),
        normal(directions, 2 * rows),
    ]


def states(normal, name: str, directions: int) -> list[np.ndarray]:
    return [normal(directions, BATCH, HIDDEN) for _ in range(2 if name == "LSTM" else 1)]


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("opset", [7, 14])
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("initial", [False, True])
def test_recurrent(check_operator, normal, name, direction, opset, lengths, initial):
    directions = 2 if direction == "bidirectional" else 1
    inputs = layer(normal, name, directions)
    inputs.append(np.array([5, 2, 3], np.int32) if lengths else None)
    if initial:
        inputs += states(normal, name, directions)
    check_operator(
        name,
        inputs,
        opset,
        outputs=3 if name == "LSTM" else 2,
        hidden_size=HIDDEN,
        direction=direction,
        atol=1e-5,
    )


def test_single_output_without_bias(check_operator, normal):
    check_operator("LSTM", layer(normal, "LSTM", 1)[:3], 14, hidden_size=HIDDEN, atol=1e-5)


def test_gru_transforms_before_the_reset_gate(check_operator, normal):
    inputs = layer(normal, "GRU", 1)
    settings = {"hidden_size": HIDDEN, "linear_before_reset": 1, "outputs": 2}
    check_operator("GRU", inputs, 14, atol=1e-5, **settings)


def test_lstm_peepholes(check_operator, normal):
    inputs = [*layer(normal, "LSTM", 1), None, *states(normal, "LSTM", 1), normal(1, 3 * HIDDEN)]
    check_operator("LSTM", inputs, 14, hidden_size=HIDDEN, outputs=3, atol=1e-5)


@pytest.mark.parametrize(
    "activation", ["Relu", "Softsign", "Softplus", "Affine", "HardSigmoid", "LeakyRelu", "Elu"]
)
def test_activations(check_operator, normal, activation):
    inputs = layer(normal, "RNN", 1)
    inputs[1], inputs[2] = inputs[1] / 4, inputs[2] / 4
    # ONNX Runtime wants both numbers for the functions that have them.
    extra = {}
    if activation in ("Affine", "HardSigmoid"):
        extra = {"activation_alpha": [0.5], "activation_beta": [0.1]}
    elif activation in ("LeakyRelu", "Elu"):
        extra = {"activation_alpha": [0.5]}
    check_operator(
        "RNN", inputs, 14, hidden_size=HIDDEN, activations=[activation], atol=1e-5, **extra
    )


def test_gradients_reach_every_weight(normal):
    text = """
    <ir_version: 8, opset_import: ["" : 14]>
    lstm (float[5, 3, 4] x, float[1, 24, 4] w, float[1, 24, 6] r, float[1, 48] b)
        => (float[5, 1, 3, 6] y) {
      y = LSTM <hidden_size: int = 6> (x, w, r, b)
    }
    """
    x, w, r, b = (torch.from_numpy(array).double() for array in layer(normal, "LSTM", 1))
    interpreter = Interpreter(ir.from_onnx_text(text))
    weights = [tensor.requires_grad_() for tensor in (w, r, b)]

    def run(w, r, b):
        return interpreter({"x": x, "w": w, "r": r, "b": b})[0]

    assert torch.autograd.gradcheck(run, weights)


def test_clipping_is_refused(normal):
    text = """
    <ir_version: 8, opset_import: ["" : 14]>
    rnn (float[5, 3, 4] x, float[1, 6, 4] w, float[1, 6, 6] r) => (float[5, 1, 3, 6] y) {
      y = RNN <hidden_size: int = 6, clip: float = 1.0> (x, w, r)
    }
    """
    with pytest.raises(UnsupportedOperatorError, match="clip"):
        Interpreter(ir.from_onnx_text(text)).compile()

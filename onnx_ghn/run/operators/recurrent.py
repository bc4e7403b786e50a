"""LSTM, GRU and RNN: one step after the other, so that every variant is differentiable.

Shapes in the comments: T steps, B sequences, I features, H hidden, D directions (1 or 2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from onnx_ghn.run.registry import Kernel, NodeView, operator

Activation = Callable[[Tensor], Tensor]
States = tuple[Tensor, ...]
"""Hidden state, for LSTM also the cell state, each [B, H]."""


@dataclass(frozen=True)
class _Direction:
    """Weights and activations of one direction of a layer."""

    weight: Tensor  # [gates x H, I]
    recurrence: Tensor  # [gates x H, H]
    input_bias: Tensor | None  # [gates x H]
    hidden_bias: Tensor | None
    peepholes: Tensor | None  # [3 x H]
    activations: Sequence[Activation]
    before_reset: bool  # GRU: transform the hidden state before the reset gate


Step = Callable[[Tensor, States, _Direction], States]


def _lstm_step(x: Tensor, states: States, d: _Direction) -> States:
    """Gates in the order input, output, forget, cell; `x` is [B, 4 x H], already projected."""
    hidden, cell = states
    i, o, f, c = (x + functional.linear(hidden, d.recurrence, d.hidden_bias)).chunk(4, -1)
    gate, candidate, output = d.activations
    if d.peepholes is not None:
        peep_i, peep_o, peep_f = d.peepholes.chunk(3)
        i, f = i + peep_i * cell, f + peep_f * cell
    new_cell = gate(f) * cell + gate(i) * candidate(c)
    if d.peepholes is not None:
        o = o + peep_o * new_cell
    return gate(o) * output(new_cell), new_cell


def _gru_step(x: Tensor, states: States, d: _Direction) -> States:
    """Gates in the order update, reset, hidden."""
    (hidden,) = states
    size = hidden.shape[-1]
    gate, candidate = d.activations
    bias = d.hidden_bias
    gates = functional.linear(
        hidden, d.recurrence[: 2 * size], None if bias is None else bias[: 2 * size]
    )
    update, reset = gate(x[:, : 2 * size] + gates).chunk(2, -1)
    weight, offset = d.recurrence[2 * size :], None if bias is None else bias[2 * size :]
    if d.before_reset:
        proposal = reset * functional.linear(hidden, weight, offset)
    else:
        proposal = functional.linear(reset * hidden, weight, offset)
    new = candidate(x[:, 2 * size :] + proposal)
    return ((1 - update) * new + update * hidden,)


def _rnn_step(x: Tensor, states: States, d: _Direction) -> States:
    (hidden,) = states
    return (d.activations[0](x + functional.linear(hidden, d.recurrence, d.hidden_bias)),)


_DEFAULTS = {
    "LSTM": (_lstm_step, ("Sigmoid", "Tanh", "Tanh"), 2),
    "GRU": (_gru_step, ("Sigmoid", "Tanh"), 1),
    "RNN": (_rnn_step, ("Tanh",), 1),
}


def _build(node: NodeView) -> Kernel:
    step, defaults, state_count = _DEFAULTS[node.node.op_type]
    attributes = node.attributes
    direction = attributes.get_string("direction", "forward")
    names = list(attributes.get_strings("activations", ())) or list(defaults) * 2
    activations = _activations(node, names)
    batch_first = bool(attributes.get_int("layout", 0))
    before_reset = bool(attributes.get_int("linear_before_reset", 0))
    if attributes.get_int("input_forget", 0):
        raise node.unsupported("input_forget")
    if attributes.get_float("clip", 0.0):
        raise node.unsupported("clip")

    def recur(
        x: Tensor,
        w: Tensor,
        r: Tensor,
        b: Tensor | None = None,
        lengths: Tensor | None = None,
        *rest: Tensor | None,
    ) -> tuple[Tensor, ...]:
        if batch_first:
            x = x.transpose(0, 1)
        directions, hidden = w.shape[0], r.shape[-1]
        initial, peepholes = rest[:state_count], rest[2] if len(rest) > 2 else None
        outputs, finals = [], []
        for k in range(directions):
            count = len(defaults)
            half = None if b is None else b[k].chunk(2)
            weights = _Direction(
                w[k],
                r[k],
                None if half is None else half[0],
                None if half is None else half[1],
                None if peepholes is None else peepholes[k],
                activations[k * count : (k + 1) * count],
                before_reset,
            )
            states = tuple(
                _initial(initial, i, k, x, hidden, batch_first) for i in range(state_count)
            )
            backward = direction == "reverse" or k == 1
            y, states = _run(step, x, states, weights, lengths, backward)
            outputs.append(y)
            finals.append(states)
        y = torch.stack(outputs, 1)  # [T, D, B, H]
        last = [torch.stack([states[i] for states in finals]) for i in range(state_count)]
        if batch_first:
            return y.permute(2, 0, 1, 3), *[state.transpose(0, 1) for state in last]
        return y, *last

    return recur


def _initial(
    given: Sequence[Tensor | None], i: int, k: int, x: Tensor, hidden: int, batch_first: bool
) -> Tensor:
    state = given[i] if i < len(given) else None
    if state is None:
        return x.new_zeros(x.shape[1], hidden)
    return state[:, k] if batch_first else state[k]


def _run(
    step: Step,
    x: Tensor,
    states: States,
    weights: _Direction,
    lengths: Tensor | None,
    backward: bool,
) -> tuple[Tensor, States]:
    """One direction over all steps; [T, B, I] to [T, B, H] and the last states."""
    projected = functional.linear(x, weights.weight, weights.input_bias)
    order = range(x.shape[0])
    outputs: list[Tensor] = [x] * x.shape[0]
    for t in reversed(order) if backward else order:
        new = step(projected[t], states, weights)
        if lengths is None:
            states, outputs[t] = new, new[0]
        else:  # a sequence that has ended, or not begun backwards, keeps its state
            inside = (t < lengths).unsqueeze(1)
            states = tuple(
                torch.where(inside, after, before)
                for after, before in zip(new, states, strict=True)
            )
            outputs[t] = torch.where(inside, new[0], 0.0)
    return torch.stack(outputs), states


def _activations(node: NodeView, names: Sequence[str]) -> list[Activation]:
    alphas = list(node.attributes.get_floats("activation_alpha", ()))
    betas = list(node.attributes.get_floats("activation_beta", ()))
    found = []
    for name in names:
        if name not in _ACTIVATIONS:
            raise node.unsupported(f"activation {name!r}")
        function, alpha, beta = _ACTIVATIONS[name]
        if alpha is not None:
            function = partial(function, alpha=alphas.pop(0) if alphas else alpha)
        if beta is not None:
            function = partial(function, beta=betas.pop(0) if betas else beta)
        found.append(function)
    return found


def _affine(x: Tensor, alpha: float, beta: float) -> Tensor:
    return alpha * x + beta


def _hard_sigmoid(x: Tensor, alpha: float, beta: float) -> Tensor:
    return (alpha * x + beta).clamp(0.0, 1.0)


def _scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    return alpha * torch.tanh(beta * x)


def _leaky_relu(x: Tensor, alpha: float) -> Tensor:
    return functional.leaky_relu(x, alpha)


def _elu(x: Tensor, alpha: float) -> Tensor:
    return functional.elu(x, alpha)


# Function, default alpha, default beta (None where it takes none).
_ACTIVATIONS: dict[str, tuple[Callable[..., Tensor], float | None, float | None]] = {
    "Sigmoid": (torch.sigmoid, None, None),
    "Tanh": (torch.tanh, None, None),
    "Relu": (torch.relu, None, None),
    "Softsign": (functional.softsign, None, None),
    "Softplus": (functional.softplus, None, None),
    "Affine": (_affine, 1.0, 0.0),
    "HardSigmoid": (_hard_sigmoid, 0.2, 0.5),
    "ScaledTanh": (_scaled_tanh, 1.0, 1.0),
    "LeakyRelu": (_leaky_relu, 0.01, None),
    "Elu": (_elu, 1.0, None),
}

for _name in _DEFAULTS:
    operator(_name, since=1, many=True)(_build)

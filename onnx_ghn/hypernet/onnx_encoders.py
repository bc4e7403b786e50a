"""The encoders of GHN-2 and GHN-3, and that of our own design, in ONNX's text format.

`W_` and a weight's name, with underscores for dots, stand for the weight.
"""

from __future__ import annotations

import re

from onnx_ghn.hypernet.config import (
    EDGE_CODES,
    GRAPHORMER,
    MAX_DEGREE,
    MAX_DISTANCE_FROM_INPUT,
    NetworkConfig,
)

CONSTANTS = """
  zero = Constant <value_int = 0> ()
  one = Constant <value_int = 1> ()
  flat = Constant <value_ints = [-1]> ()
  axis0 = Constant <value_ints = [0]> ()
  axis1 = Constant <value_ints = [1]> ()
"""


def linear(result: str, x: str, layer: str) -> str:
    """A linear layer with the weights of `layer`."""
    return f"  {result} = Gemm <transB = 1> ({x}, W_{layer}_weight, W_{layer}_bias)\n"


def norm(result: str, x: str, layer: str) -> str:
    """A LayerNorm with the weights of `layer`."""
    return (
        f"  {result} = LayerNormalization <axis = -1, epsilon = 1e-5> "
        f"({x}, W_{layer}_weight, W_{layer}_bias)\n"
    )


def squashed(rows: str, width: int) -> str:
    """A scale near 1 and a shift near 0: `rows` [n, 2 * width] to `vectors` [n, 2, width].

    The names of what is computed on the way are there to use: `shift_row`, `fifth`.
    """
    return f"""
  half = Constant <value_float = 0.5> ()
  double = Constant <value_float = 2.0> ()
  fifth = Constant <value_float = 0.2> ()
  scale_row, shift_row = Split <axis = 1, num_outputs = 2> ({rows})
  scale_half = Mul (scale_row, half)
  scale_squashed = Sigmoid (scale_half)
  scales = Mul (scale_squashed, double)
  shift_fifth = Mul (shift_row, fifth)
  shifts = Tanh (shift_fifth)
  side_by_side = Concat <axis = 1> (scales, shifts)
  two_rows = Constant <value_ints = [-1, 2, {width}]> ()
  vectors = Reshape (side_by_side, two_rows)
"""


def encode(network: NetworkConfig) -> str:
    """The text of `encode`: node features and distances to states."""
    text = "encode (int64[N, F] features, int64[N, N] distance) => (float[N, H] states) {\n"
    text += CONSTANTS
    text += """
  channel_columns = Constant <value_ints = [1, 2]> ()
  side_columns = Constant <value_ints = [3, 4]> ()
  op = Gather <axis = 1> (features, zero)
  channels = Gather <axis = 1> (features, channel_columns)
  sides = Gather <axis = 1> (features, side_columns)
  op_embedding = Gather (W_embedding_op_weight, op)
  channel_embedding = Gather (W_embedding_channel_weight, channels)
  side_embedding = Gather (W_embedding_side_weight, sides)
  channel_part = Flatten <axis = 1> (channel_embedding)
  side_part = Flatten <axis = 1> (side_embedding)
  shape_embedding = Concat <axis = 1> (channel_part, side_part)
  x = Add (op_embedding, shape_embedding)
"""
    text += graphormer(network) if network.encoder == GRAPHORMER else _gated()
    if network.final_norm:
        text += norm("states", "encoded", "norm")
    else:
        text += "  states = Identity (encoded)\n"
    return text + "}"


def graphormer(network: NetworkConfig) -> str:
    """The transformer: `x` and `distance` to `encoded`."""
    text = f"""
  is_edge = Equal (distance, one)
  edge = Cast <to = 7> (is_edge)
  most_edges = Constant <value_int = {MAX_DEGREE}> ()
  most_steps = Constant <value_int = {MAX_DISTANCE_FROM_INPUT}> ()
  all_in = ReduceSum <keepdims = 0> (edge, axis0)
  all_out = ReduceSum <keepdims = 0> (edge, axis1)
  steps = Gather (distance, zero)
  in_degree = Min (all_in, most_edges)
  out_degree = Min (all_out, most_edges)
  from_input = Min (steps, most_steps)
  in_embedding = Gather (W_encoder_centrality_in_degree_weight, in_degree)
  out_embedding = Gather (W_encoder_centrality_out_degree_weight, out_degree)
  from_embedding = Gather (W_encoder_centrality_from_input_weight, from_input)
  degrees = Add (in_embedding, out_embedding)
  centrality = Add (degrees, from_embedding)
  x0 = Add (x, centrality)

  far = Constant <value_int = {EDGE_CODES - 3}> ()
  base = Constant <value_int = 256> ()
  shift = Constant <value_int = 2> ()
  codes = Constant <value_ints = [65536]> ()
  there = Min (distance, far)
  back = Transpose <perm = [1, 0]> (there)
  high = Mul (there, base)
  code = Add (high, back)
  code_list = Reshape (code, flat)
  none = ConstantOfShape <value = int64[1] {{0}}> (codes)
  code_count = Shape (code_list)
  marks = Expand (one, code_count)
  present = ScatterElements (none, code_list, marks)
  running = CumSum (present, zero)
  place = Sub (running, one)
  index = Gather (place, code)
  found = NonZero (present)
  pairs = Transpose <perm = [1, 0]> (found)
  pair_there = Div (pairs, base)
  pair_back = Mod (pairs, base)
  both = Concat <axis = 1> (pair_there, pair_back)
  ends = Add (both, shift)
  end_embedding = Gather (W_encoder_bias_embedding_weight, ends)
  pair = Flatten <axis = 1> (end_embedding)
"""
    text += linear("pair_inner", "pair", "encoder_bias_mix_0")
    text += "  pair_active = Relu (pair_inner)\n"
    text += linear("pair_bias", "pair_active", "encoder_bias_mix_2")
    width = network.hidden // network.heads
    text += f"""
  table = Transpose <perm = [1, 0]> (pair_bias)
  bias = Gather <axis = 1> (table, index)
  scale = Constant <value_float = {width**-0.5!r}> ()
  split_heads = Constant <value_ints = [-1, 3, {network.heads}, {width}]> ()
  join_heads = Constant <value_ints = [-1, {network.hidden}]> ()
"""
    for k in range(network.layers):
        text += _layer(k)
    return text + f"  encoded = Identity (x{network.layers})\n"


def _layer(k: int) -> str:
    layer = f"encoder_layers_{k}"
    text = norm(f"a{k}", f"x{k}", f"{layer}_attention_norm")
    text += f"""
  qkv{k} = Gemm <transB = 1> (a{k}, W_{layer}_attention_qkv_weight)
  parts{k} = Reshape (qkv{k}, split_heads)
  heads{k} = Transpose <perm = [1, 2, 0, 3]> (parts{k})
  q{k}, k{k}, v{k} = Split <axis = 0, num_outputs = 3> (heads{k})
  kt{k} = Transpose <perm = [0, 1, 3, 2]> (k{k})
  products{k} = MatMul (q{k}, kt{k})
  scaled{k} = Mul (products{k}, scale)
  scores{k} = Add (scaled{k}, bias)
  attention{k} = Softmax <axis = -1> (scores{k})
  mixed{k} = MatMul (attention{k}, v{k})
  rows{k} = Transpose <perm = [0, 2, 1, 3]> (mixed{k})
  joined{k} = Reshape (rows{k}, join_heads)
"""
    text += linear(f"out{k}", f"joined{k}", f"{layer}_attention_out")
    text += f"  y{k} = Add (x{k}, out{k})\n"
    text += norm(f"b{k}", f"y{k}", f"{layer}_feed_norm")
    text += linear(f"inner{k}", f"b{k}", f"{layer}_feed_in")
    text += f"  active{k} = Gelu (inner{k})\n"
    text += linear(f"outer{k}", f"active{k}", f"{layer}_feed_out")
    return text + f"  x{k + 1} = Add (y{k}, outer{k})\n"


def _gated() -> str:
    text = """
  nothing = Constant <value_float = 0.0> ()
  unit = Constant <value_float = 1.0> ()
  done_mark = Constant <value_float = -1.0> ()
  yes = Equal (one, one)
  is_edge = Equal (distance, one)
  edge = Cast <to = 1> (is_edge)
  at_least_one = Max (distance, one)
  length = Cast <to = 1> (at_least_one)
  inverse = Div (unit, length)
  connected = Greater (distance, zero)
  reach = Where (connected, inverse, nothing)
  edge_back = Transpose <perm = [1, 0]> (edge)
  reach_back = Transpose <perm = [1, 0]> (reach)
  no_message = Mul (x, nothing)
  shape = Shape (distance)
  nodes = Gather (shape, zero)
"""
    text += _sweep("h1", "x", "edge", "reach") + _sweep("h2", "h1", "edge_back", "reach_back")
    return text + "  encoded = Identity (h2)\n"


def _sweep(result: str, start: str, edge: str, reach: str) -> str:
    """Update every node after all that send to it, one level of the graph an iteration."""
    body = f"""
      is_level = Equal (waiting, nothing)
      level_row = NonZero (is_level)
      level = Reshape (level_row, flat)
      level_column = Transpose <perm = [1, 0]> (level_row)
      senders = Gather <axis = 1> ({edge}, level)
      far_senders = Gather <axis = 1> ({reach}, level)
      receivers = Transpose <perm = [1, 0]> (senders)
      far_receivers = Transpose <perm = [1, 0]> (far_senders)
      near_sum = MatMul (receivers, near)
      far_sum = MatMul (far_receivers, far)
      received = Add (near_sum, far_sum)
      old = Gather (h, level)
      from_message = Gemm <transB = 1>
        (received, W_encoder_update_weight_ih, W_encoder_update_bias_ih)
      from_state = Gemm <transB = 1> (old, W_encoder_update_weight_hh, W_encoder_update_bias_hh)
      mr, mz, mn = Split <axis = 1, num_outputs = 3> (from_message)
      sr, sz, sn = Split <axis = 1, num_outputs = 3> (from_state)
      r_sum = Add (mr, sr)
      r = Sigmoid (r_sum)
      z_sum = Add (mz, sz)
      z = Sigmoid (z_sum)
      gated = Mul (r, sn)
      n_sum = Add (mn, gated)
      n = Tanh (n_sum)
      step = Sub (old, n)
      kept = Mul (z, step)
      state = Add (n, kept)
      h_out = ScatterND (h, level_column, state)
"""
    for name, layer in (("near", "message"), ("far", "far_message")):
        body += linear(f"{name}_inner", "state", f"encoder_{layer}_inner")
        body += f"      {name}_hidden = Relu ({name}_inner)\n"
        body += linear(f"{name}_outer", f"{name}_hidden", f"encoder_{layer}_outer")
        body += f"      {name}_sent = Relu ({name}_outer)\n"
        body += f"      {name}_out = ScatterND ({name}, level_column, {name}_sent)\n"
    body += f"""
      sent = Gather ({edge}, level)
      fewer = ReduceSum <keepdims = 0> (sent, axis0)
      left = Sub (waiting, fewer)
      level_size = Shape (level)
      marks = Expand (done_mark, level_size)
      waiting_out = ScatterElements (left, level, marks)
      most = ReduceMax <keepdims = 0> (waiting_out)
      more = GreaterOrEqual (most, nothing)
"""
    # Names of a body must differ from those outside it, and from those of the other sweep.
    inner = re.findall(r"^\s*([\w, ]+?) =", body, re.MULTILINE)
    names = {name for group in inner for name in group.split(", ")}
    names |= {"h", "near", "far", "waiting"}
    body = re.sub(r"\b(?!W_)\w+\b", lambda m: _own(m[0], result, names), body)
    carried = ["h", "near", "far", "waiting"]
    types = ["float[N, H]", "float[N, H]", "float[N, H]", "float[N]"]
    takes = ", ".join(f"{t} {result}_{c}" for t, c in zip(types, carried, strict=True))
    gives = ", ".join(f"{t} {result}_{c}_out" for t, c in zip(types, carried, strict=True))
    outputs = ", ".join([result, *(f"{result}_last_{c}" for c in carried[1:])])
    return f"""
  {result}_predecessors = ReduceSum <keepdims = 0> ({edge}, axis0)
  {outputs} = Loop (nodes, yes, {start}, no_message, no_message, {result}_predecessors) <
    body = {result}_body (int64 {result}_k, bool {result}_go, {takes})
      => (bool {result}_more, {gives}) {{
{body}
    }}
  >
"""


def _own(name: str, prefix: str, names: set[str]) -> str:
    return f"{prefix}_{name}" if name in names else name

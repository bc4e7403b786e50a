"""The hypernetwork's methods as ONNX models, which run without torch.

The same networks as `onnx_ghn.hypernet.model` builds, written in ONNX's text format; our own design
is in `onnx_ghn.hypernet.onnx_kinds`. The models hold no weights: their initializers point into the
archive's safetensors file, which keeps tensors as ONNX external data does, raw and in a row. Where
that holds float16 the models compute in float32 all the same.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import onnx
import onnx.parser

from onnx_ghn.hypernet.config import KINDS, NetworkConfig
from onnx_ghn.hypernet.onnx_encoders import CONSTANTS, encode, linear, squashed
from onnx_ghn.hypernet.onnx_kinds import kinds_texts

HEADER = '<ir_version: 10, opset_import: ["" : 20]>\n'

BLOCK_BYTES = 16 << 20
"""Weights of the decoder's last layer, nearly all that a large hypernetwork has, that a model may
copy at once. Those of a small one are a single block."""

TYPES = {
    "F32": onnx.TensorProto.FLOAT,
    "F16": onnx.TensorProto.FLOAT16,
    "I64": onnx.TensorProto.INT64,
}
"""Element types by their names in safetensors."""


def build_graphs(network: NetworkConfig, weights: Path) -> dict[str, onnx.ModelProto]:
    """The ONNX models of a hypernetwork, by their names in `onnx_ghn.hypernet.onnx_engine`.

    Args:
        network: Design and sizes.
        weights: The safetensors file; the models must be saved in its folder.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    if network.encoder == KINDS:
        texts = kinds_texts(network)
    else:
        texts = _texts(network)
        shapes = {
            "weight.positions.weight": (4 * network.hidden, network.side**2, -1),
            "weight.positions.bias": (4 * network.hidden, network.side**2),
            "weight.outer.weight": (*network.channels, -1),
            "weight.outer.bias": network.channels,
        }
    models = {}
    for name, text in texts.items():
        models[name] = onnx.parser.parse_model(HEADER + text)
        _add_weights(models[name], text, weights, shapes)
    return models


def _texts(network: NetworkConfig) -> dict[str, str]:
    """The ONNX models of GHN-2 and GHN-3 as texts, by their names.

    - encode: features int64[N, F], distance int64[N, N] -> states [N, H].
    - weight: states [n, H], the window's rows int64[h] and columns int64[w] of the decoder's map,
      o int64[1], i int64[1], kernel int64[2] -> tile [n, o, i, kh, kw].
    - classifier: tile [n, C0, i] -> [n, classes, i].
    - vector: states [n, H] -> vectors [n, 2, M], class_bias [n, classes].
    """
    return {
        "encode": encode(network),
        "weight": _weight(network),
        "classifier": _classifier(),
        "vector": _vector(network),
    }


def _add_weights(
    model: onnx.ModelProto, text: str, weights: Path, shapes: dict[str, tuple[int, ...]]
) -> None:
    """Add an initializer for each `W_name` of the text that points into the safetensors file."""
    with weights.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        entries = json.loads(stream.read(length))
    used = set(re.findall(r"\bW_\w+", text))
    for key, entry in entries.items():
        name, halved = _name(key), entry.get("dtype") == "F16"
        if name not in used:
            continue
        start, end = entry["data_offsets"]
        tensor = model.graph.initializer.add(
            name=f"{name}_stored" if halved else name,
            data_type=TYPES[entry["dtype"]],
            dims=_shape(shapes.get(key, entry["shape"]), math.prod(entry["shape"])),
            data_location=onnx.TensorProto.EXTERNAL,
        )
        place = {"location": weights.name, "offset": 8 + length + start, "length": end - start}
        for attribute, value in place.items():
            tensor.external_data.add(key=attribute, value=str(value))
        if halved:
            cast = onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT)
            model.graph.node.insert(0, cast)


def _shape(shape: tuple[int, ...] | list[int], count: int) -> list[int]:
    """The shape with -1 replaced by what `count` elements leave for it."""
    known = math.prod(size for size in shape if size != -1)
    return [count // known if size == -1 else size for size in shape]


def _name(key: str) -> str:
    """The identifier of a weight in the text."""
    return "W_" + key.replace(".", "_")


def _weight(network: NetworkConfig) -> str:
    features = 4 * network.hidden
    text = (
        "weight (float[n, H] states, int64[h] rows, int64[w] columns, int64[1] o, int64[1] i, "
        "int64[2] kernel) => (float[n, o, i, kh, kw] tile) {\n"
    )
    text += CONSTANTS
    text += f"""
  features = Constant <value_ints = [{features}]> ()
  inner_width = Constant <value_ints = [{2 * features}]> ()
  hidden = Constant <value_ints = [{network.hidden}]> ()
  side = Constant <value_int = {network.side}> ()
  row_column = Unsqueeze (rows, axis1)
  row_starts = Mul (row_column, side)
  places = Add (row_starts, columns)
  place_list = Reshape (places, flat)
  window = Gather <axis = 1> (W_weight_positions_weight, place_list)
  bias_window = Gather <axis = 1> (W_weight_positions_bias, place_list)
  window_shape = Concat <axis = 0> (flat, hidden)
  window_weight = Reshape (window, window_shape)
  window_bias = Reshape (bias_window, flat)
  at = Gemm <transB = 1> (states, window_weight, window_bias)
  at_active = Relu (at)
  nodes = Shape <start = 0, end = 1> (states)
  by_feature = Concat <axis = 0> (nodes, features, flat)
  at_positions = Reshape (at_active, by_feature)
  by_position = Transpose <perm = [0, 2, 1]> (at_positions)
  feature_rows = Concat <axis = 0> (flat, features)
  position_rows = Reshape (by_position, feature_rows)
"""
    text += linear("inner", "position_rows", "weight_inner")
    text += f"""
  inner_active = Relu (inner)
  outer_shape = Concat <axis = 0> (flat, inner_width)
  both_axes = Constant <value_ints = [0, 1]> ()
  largest_block = Constant <value_ints = [{_block(network)}]> ()
  block = Min (o, largest_block)
  before_o = Sub (o, axis1)
  last_block = Div (before_o, block)
  blocks = Add (last_block, axis1)
  block_number = Squeeze (blocks)
  yes = Equal (zero, zero)
  outer = Loop (block_number, yes) <
    body = one_block (int64 k, bool go) => (bool more, float[m, c] block_rows) {{
      more = Identity (go)
      first = Mul (block, k)
      end = Add (first, block)
      from = Concat <axis = 0> (first, axis0)
      to = Concat <axis = 0> (end, i)
      block_part = Slice (W_weight_outer_weight, from, to, both_axes)
      bias_part = Slice (W_weight_outer_bias, from, to, both_axes)
      block_weight = Reshape (block_part, outer_shape)
      block_bias = Reshape (bias_part, flat)
      block_rows = Gemm <transB = 1> (inner_active, block_weight, block_bias)
    }}
  >
  height = Shape (rows)
  width = Shape (columns)
  map_size = Concat <axis = 0> (height, width)
  split_shape = Concat <axis = 0> (blocks, nodes, flat, block, i)
  by_block = Reshape (outer, split_shape)
  by_channel = Transpose <perm = [1, 0, 3, 4, 2]> (by_block)
  joined_shape = Concat <axis = 0> (nodes, flat, i, map_size)
  joined = Reshape (by_channel, joined_shape)
  whole_map = Slice (joined, axis0, o, axis1)
  channels = Mul (o, i)
  map_shape = Concat <axis = 0> (nodes, channels, map_size)
  map = Reshape (whole_map, map_shape)
  exceeds = Greater (kernel, map_size)
  exceeds_number = Cast <to = 7> (exceeds)
  exceeds_any = ReduceMax <keepdims = 0> (exceeds_number)
  resize = Cast <to = 9> (exceeds_any)
  kernels = If (resize) <
    then_branch = resized () => (float[n, c, kh, kw] larger) {{
      size = Concat <axis = 0> (nodes, channels, kernel)
      larger = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel">
        (map, , , size)
    }},
    else_branch = plain () => (float[n, c, kh, kw] same) {{ same = Identity (map) }}
  >
  tile_shape = Concat <axis = 0> (nodes, o, i, kernel)
  tile = Reshape (kernels, tile_shape)
}}"""
    return text


def _block(network: NetworkConfig) -> int:
    """Output channels that are decoded at once: their share of the last layer is copied.

    A divisor of all channels, so that the last block is as large as the others.
    """
    channels = network.channels[0]
    fits = BLOCK_BYTES // (4 * network.channels[1] * 8 * network.hidden)
    return max(
        size for size in range(1, channels + 1) if not channels % size and size <= max(1, fits)
    )


def _classifier() -> str:
    return f"""classifier (float[n, c, i] tile) => (float[n, k, i] weight) {{
{CONSTANTS}
  active = Relu (tile)
  mixed = MatMul (W_weight_classifier_weight, active)
  bias = Unsqueeze (W_weight_classifier_bias, axis1)
  weight = Add (mixed, bias)
}}"""


def _vector(network: NetworkConfig) -> str:
    text = "vector (float[n, H] states) => (float[n, 2, m] vectors, float[n, k] class_bias) {\n"
    text += CONSTANTS
    text += linear("inner", "states", "vector_inner")
    text += "  active = Relu (inner)\n"
    text += linear("rows", "active", "vector_outer")
    text += squashed("rows", max(network.channels))
    text += "  shift_active = Relu (shift_row)\n"
    text += linear("class_row", "shift_active", "vector_classifier")
    return (
        text
        + """
  class_fifth = Mul (class_row, fifth)
  class_bias = Tanh (class_fifth)
}"""
    )

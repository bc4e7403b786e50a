"""Our own hypernetwork, `onnx_ghn.hypernet.kinds`, in ONNX's text format.

`W_` and a weight's name, with underscores for dots, stand for the weight.
"""

from __future__ import annotations

import math

from onnx_ghn.hypernet.config import NetworkConfig
from onnx_ghn.hypernet.kinds import (
    CHANNELS,
    COLUMNS,
    DEPTHWISE,
    GROUPED,
    LARGE,
    LINEAR,
    POINTWISE,
    POSITION,
    SPATIAL,
    STEM,
    TILES,
)
from onnx_ghn.hypernet.onnx_encoders import CONSTANTS, graphormer, linear, norm, squashed
from onnx_ghn.read.graph import Op

NODES = "float[n, H] states, int64[n, F] features"


def kinds_texts(network: NetworkConfig) -> dict[str, str]:
    """The ONNX models of the design as texts, by their names.

    - encode: features int64[N, F], distance int64[N, N] -> states [N, H].
    - weight: states [n, H], features int64[n, F], o int64[1], i int64[1], kernel int64[2] ->
      tile [n, o, i, kh, kw].
    - classifier: states, features -> weight [n, classes, C1].
    - vector: states, features -> vectors [n, 2, M], class_bias [n, classes].
    """
    return {
        "encode": _encode(network),
        "weight": _weight(),
        "classifier": _classifier(network.classes),
        "vector": _vector(),
    }


def _encode(network: NetworkConfig) -> str:
    return (
        "encode (int64[N, F] features, int64[N, N] distance) => (float[N, H] states) {\n"
        + CONSTANTS
        + _buckets()
        + """
  embedded = Gather (W_embedding_weight, rows)
  x = ReduceSum <keepdims = 0> (embedded, axis1)
"""
        + graphormer(network)
        + norm("states", "encoded", "norm")
        + "}"
    )


def _weight() -> str:
    text = f"weight ({NODES}, int64[1] o, int64[1] i, int64[2] kernel) =>\n"
    text += f"  (float[n, o, i, kh, kw] tile) {{\n{CONSTANTS}{_buckets()}{_read()}{_kinds()}"
    text += """
  nodes = Shape <start = 0, end = 1> (states)
  tile_shape = Concat <axis = 0> (nodes, o, i, kernel)
  result0 = ConstantOfShape (tile_shape)
  two = Constant <value_int = 2> ()
  half_kernel = Div (kernel, two)
  map_axes = Constant <value_ints = [3, 4]> ()
  o_end = Squeeze (o)
  i_end = Squeeze (i)
  o_range = Range (zero, o_end, one)
  i_range = Range (zero, i_end, one)
"""
    for kind, (out, ins, side) in enumerate(TILES):
        text += _tile(kind, out, ins, side)
    return text + f"  tile = Identity (result{len(TILES)})\n}}"


def _tile(k: int, out: int, ins: int, side: int) -> str:
    """Decode the nodes of one kind, if there are any, into their places of the result."""
    return f"""
  number{k} = Constant <value_int = {k}> ()
  is{k} = Equal (kinds, number{k})
  found{k} = NonZero (is{k})
  count{k} = Size (found{k})
  any{k} = Greater (count{k}, zero)
  result{k + 1} = If (any{k}) <
    then_branch = decoded{k} () => (float[n, o, i, kh, kw] filled{k}) {{
      places{k} = Reshape (found{k}, flat)
      x{k} = Gather (read, places{k})
{_mixture(f"mixture{k}", f"x{k}", f"decoders_{k}")}
{linear(f"values{k}", f"mixture{k}", f"decoders_{k}_templates")}
      side{k} = Constant <value_int = {side}> ()
      map_shape{k} = Constant <value_ints = [-1, {out * ins}, {side}, {side}]> ()
      map{k} = Reshape (values{k}, map_shape{k})
      exceeds{k} = Greater (kernel, side{k})
      exceeds_number{k} = Cast <to = 7> (exceeds{k})
      exceeds_any{k} = ReduceMax <keepdims = 0> (exceeds_number{k})
      resize{k} = Cast <to = 9> (exceeds_any{k})
      size{k} = Constant <value_ints = [{out}, {ins}]> ()
      tiles_shape{k} = Concat <axis = 0> (flat, size{k}, kernel)
      kernels{k} = If (resize{k}) <
        then_branch = resized{k} () => (float[m, c, kh, kw] larger{k}) {{
          map_start{k} = Shape <start = 0, end = 2> (map{k})
          map_size{k} = Concat <axis = 0> (map_start{k}, kernel)
          larger{k} = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel">
            (map{k}, , , map_size{k})
        }},
        else_branch = cut{k} () => (float[m, c, kh, kw] smaller{k}) {{
          half{k} = Constant <value_int = {side // 2}> ()
          start{k} = Sub (half{k}, half_kernel)
          end{k} = Add (start{k}, kernel)
          last_axes{k} = Constant <value_ints = [2, 3]> ()
          smaller{k} = Slice (map{k}, start{k}, end{k}, last_axes{k})
        }}
      >
      tiles{k} = Reshape (kernels{k}, tiles_shape{k})
      out{k} = Constant <value_int = {out}> ()
      ins{k} = Constant <value_int = {ins}> ()
      o_index{k} = Mod (o_range, out{k})
      i_index{k} = Mod (i_range, ins{k})
      repeated_out{k} = Gather <axis = 1> (tiles{k}, o_index{k})
      repeated{k} = Gather <axis = 2> (repeated_out{k}, i_index{k})
      column{k} = Transpose <perm = [1, 0]> (found{k})
      filled{k} = ScatterND (result{k}, column{k}, repeated{k})
    }},
    else_branch = left{k} () => (float[n, o, i, kh, kw] same{k}) {{
      same{k} = Identity (result{k})
    }}
  >
"""


def _classifier(classes: int) -> str:
    return (
        f"classifier ({NODES}) => (float[n, k, i] weight) {{\n{CONSTANTS}{_buckets()}{_read()}"
        + _mixture("mixture", "read", "class_weight")
        + linear("values", "mixture", "class_weight_templates")
        + f"""
  shape = Constant <value_ints = [-1, {classes}, {CHANNELS}]> ()
  classes = Reshape (values, shape)
  mean = ReduceMean (classes, axis1)
  weight = Sub (classes, mean)
}}"""
    )


def _vector() -> str:
    return (
        f"vector ({NODES}) => (float[n, 2, m] vectors, float[n, k] class_bias) {{\n"
        + CONSTANTS
        + _buckets()
        + _read()
        + _mixture("mixture", "read", "vector")
        + linear("values", "mixture", "vector_templates")
        + linear("class_row", "read", "class_bias")
        + squashed("values", CHANNELS)
        + """
  class_fifth = Mul (class_row, fifth)
  class_shift = Tanh (class_fifth)
  class_mean = ReduceMean (class_shift, axis1)
  class_bias = Sub (class_shift, class_mean)
}"""
    )


def _buckets() -> str:
    """Features to rows of the tables."""
    return f"""
  unit = Constant <value_float = 1.0> ()
  steps_a_fold = Constant <value_float = {8 / math.log(2)!r}> ()
  positive = Max (features, zero)
  inside = Min (positive, W_buckets_largest)
  inside_number = Cast <to = 1> (inside)
  after = Add (inside_number, unit)
  logarithm = Log (after)
  bucket_number = Mul (logarithm, steps_a_fold)
  nearest = Round (bucket_number)
  bucket = Cast <to = 7> (nearest)
  rows = Add (bucket, W_buckets_starts)
"""


def _read() -> str:
    """What decoders read of the nodes."""
    return """
  fixed_parts = Gather (W_fixed, rows)
  fixed = ReduceSum <keepdims = 0> (fixed_parts, axis1)
  read = Concat <axis = 1> (states, fixed)
"""


def _mixture(result: str, x: str, decoder: str) -> str:
    """How much of each template a decoder takes."""
    return (
        linear(f"{result}_inner", x, f"{decoder}_inner")
        + norm(f"{result}_normal", f"{result}_inner", f"{decoder}_norm")
        + f"  {result} = Relu ({result}_normal)\n"
    )


def _kinds() -> str:
    """The kind of each node's weight; later rules go before earlier ones."""
    text = ""
    for column in ("primitive", "in_per_group", "height", "width", "groups", "is_linear"):
        index = COLUMNS.index(column)
        text += f"  {column}_column = Constant <value_int = {index}> ()\n"
        text += f"  {column} = Gather <axis = 1> (features, {column}_column)\n"
    numbers = {
        "three": 3,
        "four": 4,
        "table": int(Op.POS_ENC),
        "spatial": SPATIAL,
        "pointwise": POINTWISE,
        "linear": LINEAR,
        "large": LARGE,
        "stem": STEM,
        "depthwise": DEPTHWISE,
        "grouped": GROUPED,
        "position": POSITION,
    }
    for name, number in numbers.items():
        text += f"  {name} = Constant <value_int = {number}> ()\n"
    return (
        text
        + """
  larger_side = Max (height, width)
  is_spatial = Greater (larger_side, one)
  is_large = Greater (larger_side, three)
  few_ins = LessOrEqual (in_per_group, four)
  is_stem = And (few_ins, is_spatial)
  in_linear = Greater (is_linear, zero)
  is_grouped = Greater (groups, one)
  one_in = LessOrEqual (in_per_group, one)
  is_depthwise = And (is_grouped, one_in)
  is_position = Equal (primitive, table)
  kind_a = Where (is_spatial, spatial, pointwise)
  kind_b = Where (is_large, large, kind_a)
  kind_c = Where (is_stem, stem, kind_b)
  kind_d = Where (in_linear, linear, kind_c)
  kind_e = Where (is_grouped, grouped, kind_d)
  kind_f = Where (is_depthwise, depthwise, kind_e)
  kinds = Where (is_position, position, kind_f)
"""
    )

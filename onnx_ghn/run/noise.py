"""Seeded unit noise as a model's input: what calibrates and checks a model without data."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_ghn.errors import ModelError
from onnx_ghn.random_stream import RandomStream
from onnx_ghn.run.session import Input, Session

SIDES = (128, 224, 32, 64, 256, 299, 512, 28, 16, 8)
"""Sizes to try for dynamic axes of inputs with four axes or more: pictures."""

LENGTHS = (16, 32, 64, 128, 77, 256, 512, 8, 1, 16000)
"""Sizes to try for dynamic axes of other inputs: tokens, features, samples of sound."""

COLOURS = 3
"""Size of a dynamic channel axis where no convolution tells it."""

Feeds = dict[str, npt.NDArray[Any]]

_REARRANGING = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")
_ELEMENTWISE = ("Identity", "Cast", "Add", "Sub", "Mul", "Div", "Pad", "BatchNormalization")
_TABLES = {
    ("Gather", 1): 0,
    ("GatherND", 1): 0,
    ("EmbedLayerNormalization", 0): 2,
    ("EmbedLayerNormalization", 1): 4,
}
"""(operator, input that indexes): input that is indexed, along its first axis or `axis`."""


@dataclass(frozen=True)
class _Hints:
    """What an input's consumers say of it: entries of the table it indexes, channels."""

    entries: int | None
    channels: int | None


def run_on_noise(
    session: Session,
    model: ir.Model,
    *,
    seed: int = 0,
    batch: int = 16,
    samples: int = 1,
    outputs: Collection[str] | None = None,
) -> Iterator[tuple[Feeds, dict[str, Any]]]:
    """Run a model on seeded noise, with sizes for its dynamic axes found by trying.

    Floats are normal with mean 0 and variance 1. What indexes a table stays within the table,
    bytes are those of a random picture, and other integers are 1, as in an attention mask.

    Args:
        session: The model, loaded.
        model: The same model, or one with the same inputs: it tells what they feed.
        seed: Seed of the noise.
        batch: Size of a dynamic first axis.
        samples: Run with fresh noise until at least so many samples were seen.
        outputs: Names of the outputs that are wanted; all where None.

    Yields:
        What was fed and what came out, for each run.

    Raises:
        ModelError: None of the sizes runs (with ONNX Runtime's first complaint), or an input is
            of a type that can't be made up.
    """
    hints = {value.name: _hints(value) for value in model.graph.inputs}
    failure: ModelError | None = None
    for shapes in _shapes(session.inputs, hints, batch):
        feeds = _feeds(session.inputs, shapes, hints, seed, 0)
        try:
            results = session.run(feeds, outputs)
        except ModelError as error:
            failure = failure or error
            continue
        yield feeds, results
        first = next(iter(shapes.values()), ())
        size = first[0] if first else samples
        for run in range(1, -(-samples // max(1, size))):
            feeds = _feeds(session.inputs, shapes, hints, seed, run)
            yield feeds, session.run(feeds, outputs)
        return
    assert failure is not None
    raise failure


def _shapes(
    inputs: tuple[Input, ...], hints: dict[str | None, _Hints], batch: int
) -> Iterator[dict[str, tuple[int, ...]]]:
    """The shapes to try, likeliest first. Axes of one name have one size."""
    tried: list[dict[str, tuple[int, ...]]] = []
    for size in (batch, 1):
        for side, length in zip(SIDES, LENGTHS, strict=True):
            named: dict[str, int] = {}
            shapes: dict[str, tuple[int, ...]] = {}
            for item in inputs:
                sizes = [side if len(item.shape) > 3 else length] * len(item.shape)
                sizes[:1] = [size] * len(sizes[:1])
                channels = hints[item.name].channels if item.name in hints else None
                if channels is not None or len(sizes) > 3:
                    sizes[1:2] = [channels or COLOURS]
                for axis, dimension in enumerate(item.shape):
                    if isinstance(dimension, str):
                        sizes[axis] = named.setdefault(dimension, sizes[axis])
                    elif dimension is not None and dimension >= 0:
                        sizes[axis] = dimension
                shapes[item.name] = tuple(sizes)
            if shapes not in tried:
                tried.append(shapes)
                yield shapes


def _feeds(
    inputs: tuple[Input, ...],
    shapes: dict[str, tuple[int, ...]],
    hints: dict[str | None, _Hints],
    seed: int,
    run: int,
) -> Feeds:
    feeds: Feeds = {}
    for index, item in enumerate(inputs):
        if item.dtype is None:
            raise ModelError(f"input {item.name!r} is of a type that noise can't stand for")
        # The position, not the name, keys the noise: it must not change with a renaming.
        stream = RandomStream(seed, f"noise of input {index}, run {run}")
        shape = shapes[item.name]
        entries = hints[item.name].entries if item.name in hints else None
        feeds[item.name] = _noise(np.dtype(item.dtype), shape, entries, stream)
    return feeds


def _noise(
    dtype: np.dtype[Any], shape: tuple[int, ...], entries: int | None, stream: RandomStream
) -> npt.NDArray[Any]:
    if dtype == np.bool_:
        return np.ones(shape, dtype)
    if dtype == np.object_:
        return np.full(shape, "", dtype)
    if entries is None and dtype.kind == "f":
        return stream.normal(shape).astype(dtype)
    if entries is None and dtype.itemsize > 1:
        return np.ones(shape, dtype)
    if entries is None:
        entries = np.iinfo(dtype).max + 1
    count = int(np.prod(shape, dtype=np.int64))
    return (stream.uniform(count) * entries).astype(dtype).reshape(shape)


def _hints(value: ir.Value) -> _Hints:
    entries = channels = None
    for node, index in _uses(value, _REARRANGING):
        table = _TABLES.get((node.op_type, index))
        if table is not None:
            size = _size(node.inputs[table], node.attributes.get_int("axis", 0))
            if size is not None:
                entries = min(size, entries or size)
    for node, index in _uses(value, _ELEMENTWISE):
        if node.op_type == "Conv" and index == 0 and channels is None:
            per_group = _size(node.inputs[1], 1)
            if per_group is not None:
                channels = per_group * node.attributes.get_int("group", 1)
    return _Hints(entries, channels)


def _uses(value: ir.Value, passing: tuple[str, ...]) -> list[tuple[ir.Node, int]]:
    """The (node, input index) that use a value, directly or behind nodes of types `passing`."""
    found: list[tuple[ir.Node, int]] = []
    pending = [value]
    seen = {value}
    while pending:
        for node, index in pending.pop(0).uses():
            found.append((node, index))
            for output in node.outputs if node.op_type in passing else ():
                if output not in seen:
                    seen.add(output)
                    pending.append(output)
    return found


def _size(value: ir.Value | None, axis: int) -> int | None:
    """A static size, or None."""
    if value is None or value.shape is None or not -len(value.shape) <= axis < len(value.shape):
        return None
    size = value.shape[axis]
    return size if isinstance(size, int) else None

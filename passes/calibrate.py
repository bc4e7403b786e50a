"""Estimates the running statistics of BatchNormalization, from data or from noise."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_ghn.errors import ModelError
from onnx_ghn.passes.batch_statistics import BatchStatistics, Statistics
from onnx_ghn.passes.unfold_batch_normalization import (
    EPSILON,
    UnfoldBatchNormalization,
    Unfolded,
)
from onnx_ghn.run.noise import run_on_noise
from onnx_ghn.run.session import Session, open_session

NOISE_SAMPLES = 16
"""Most samples of noise, and the size of a dynamic batch of it."""

NOISE_ELEMENTS = 256
"""Elements a channel after which more noise would tell little: a variance is known to 9 %."""

NEUTRAL = 1e-2
"""A Conv's output is taken for normalised when mean and variance are so near to 0 and 1."""

Batch = Mapping[str, npt.NDArray[Any]]


class Calibrate(ir.passes.InPlacePass):
    """Set running means and variances to the average over batches of each batch's statistics.

    The model runs in training mode (`BatchStatistics`) in ONNX Runtime: each layer is normalised
    by its own batch, so that one pass over the data is enough. Equal to what torch makes of the
    same batches in train mode with `momentum=None`.

    Every tensor of the model needs a value. A running statistic that is the output of an
    Identity, by which an exporter merged equal tensors, becomes an initializer of that name.

    A second run over the same batches changes nothing.

    Attributes:
        notes: After a run, by the name of the tensor, what its new value is from, or why it has
            none.

    Examples:
        >>> import numpy as np
        >>> import onnx_ir as ir
        >>> from onnx_ghn.passes import Calibrate
        >>> model = ir.from_onnx_text('''
        ... <ir_version: 10, opset_import: ["" : 21]>
        ... net (float[n, 1, 2, 2] x) => (float[n, 1, 2, 2] y)
        ... <float[1] s = {1}, float[1] b = {0}, float[1] mean = {0}, float[1] variance = {1}>
        ... { y = BatchNormalization (x, s, b, mean, variance) }
        ... ''')
        >>> batch = np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2)
        >>> Calibrate([{"x": batch}])(model).modified
        True
        >>> model.graph.initializers["mean"].const_value.numpy().tolist()
        [3.5]
        >>> model.graph.initializers["variance"].const_value.numpy().round(3).tolist()
        [6.0]
    """

    def __init__(
        self,
        batches: Iterable[Batch] | None = None,
        *,
        seed: int = 0,
        only: Collection[str] | None = None,
        folded: bool = False,
        device: str = "cpu",
        threads: int = 1,
    ) -> None:
        """Make the pass.

        Args:
            batches: The model's inputs by name, batch by batch; seeded unit noise where None.
            seed: Seed of the noise.
            only: Names of the running means and variances to set; all where None.
            folded: Also scale each Conv that may hold a folded BatchNormalization: its output
                gets mean 0 and variance 1 a channel, as the folded layer gave it.
            device: "cpu" or "cuda".
            threads: Threads of ONNX Runtime; with one, the number of cores changes no bit.
        """
        self.batches = batches
        self.seed = seed
        self.only = None if only is None else frozenset(only)
        self.folded = folded
        self.device = device
        self.threads = threads
        self.notes: dict[str, str] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run all batches and set the statistics.

        Raises:
            ModelError: ONNX Runtime can't load the model or run a batch, or there is no batch.
            MissingDependencyError: ONNX Runtime is not installed.
        """
        self.notes = {}
        unfold = UnfoldBatchNormalization()
        unfolded = unfold(model).model if self.folded else model
        observe = BatchStatistics()
        observed = observe(unfolded).model
        if self.only is not None:
            # A layer whose statistics stay as they are must also run with them.
            folded = {layer.running_mean for layer in unfold.layers}
            wanted = {
                layer.node
                for layer in observe.statistics
                if self._wants(layer) or layer.running_mean in folded
            }
            observe = BatchStatistics(only=wanted)
            observed = observe(unfolded).model
        convolutions = {layer.running_mean: layer for layer in unfold.layers}
        layers = [
            layer
            for layer in observe.statistics
            if layer.running_mean in convolutions or self._wants(layer)
        ]
        if not layers:
            return ir.passes.PassResult(model, modified=False)
        moments = self._measure(observed, model, layers)
        modified = False
        single: list[Statistics] = []
        for layer in layers:
            key = (layer.running_mean, layer.running_variance)
            if key not in moments:
                continue  # shared, and done
            if moments[key].single and layer.running_mean not in convolutions:
                single.append(layer)
                continue
            if layer.running_mean in convolutions:
                changed = self._fold(model, convolutions[layer.running_mean], moments.pop(key))
            else:
                changed = self._set(model, key, moments.pop(key))
            modified = changed or modified
        for layer in single:
            modified = self._set_single(model, layer) or modified
        for name, reason in unfold.left.items():
            self.notes[name] = f"left as it was: {reason}"
        return ir.passes.PassResult(model, modified)

    def _set_single(self, model: ir.Model, layer: Statistics) -> bool:
        """Set the statistics of a layer that has one element a channel in each batch.

        Normalised by itself that is always 0, so such a layer is measured on its own, with the
        statistics of the layers before it in use, as the spread from batch to batch.
        """
        if isinstance(self.batches, Iterator):
            raise ModelError(
                f"BatchNormalization {layer.node!r} has one element a channel in each batch: give "
                "larger batches, or batches that can be read again (a list, not a generator)"
            )
        observe = BatchStatistics(only={layer.node}, normalise=False)
        observed = observe(model).model
        key = (layer.running_mean, layer.running_variance)
        return self._set(model, key, self._measure(observed, model, observe.statistics)[key])

    def _measure(
        self, observed: ir.Model, model: ir.Model, layers: Sequence[Statistics]
    ) -> dict[tuple[str, str], _Moments]:
        """Run the observed copy of a model; moments by (running mean, running variance)."""
        moments: dict[tuple[str, str], _Moments] = {}
        session = open_session(
            observed,
            device=self.device,
            threads=self.threads,
            few_runs=self.batches is None,
        )
        for results in self._run(session, model, layers):
            for layer in layers:
                # Layers that share their statistics average over all of their runs, as a torch
                # module that is called several times does.
                key = (layer.running_mean, layer.running_variance)
                moments.setdefault(key, _Moments()).add(results, layer)
            if self.batches is None and all(
                layer.elements >= NOISE_ELEMENTS for layer in moments.values()
            ):
                break
        return moments

    def _wants(self, layer: Statistics) -> bool:
        return self.only is None or not self.only.isdisjoint(
            (layer.running_mean, layer.running_variance)
        )

    def _run(
        self, session: Session, model: ir.Model, layers: Sequence[Statistics]
    ) -> Iterator[dict[str, Any]]:
        """The statistics of each batch: what comes after the last of them need not run."""
        names = [name for layer in layers for name in (layer.mean, layer.variance, layer.count)]
        if self.batches is None:
            for _, results in run_on_noise(
                session,
                model,
                seed=self.seed,
                batch=NOISE_SAMPLES,
                samples=NOISE_SAMPLES,
                outputs=names,
            ):
                yield results
            return
        empty = True
        for batch in self.batches:
            yield session.run(batch, names)
            empty = False
        if empty:
            raise ModelError("there is no data to calibrate from: the first batch is missing")

    def _fold(self, model: ir.Model, layer: Unfolded, moments: _Moments) -> bool:
        """Divide a Conv by its output's standard deviation, and take off the mean."""
        mean, variance = moments.mean, moments.variance(keep_zeros=False)
        if moments.single or not (np.isfinite(mean).all() and np.isfinite(variance).all()):
            reason = "one element a channel in each batch" if moments.single else "not finite"
            self.notes[layer.weight] = f"left as it was: what was measured is {reason}"
            return False
        weight = model.graph.initializers[layer.weight]
        bias = model.graph.initializers[layer.bias]
        assert weight.const_value is not None and bias.const_value is not None
        if np.abs(mean).max() <= NEUTRAL and np.abs(variance - 1).max() <= NEUTRAL:
            self.notes[layer.weight] = "its output has mean 0 and variance 1 already"
            return False
        scale = 1 / np.sqrt(variance + EPSILON)
        kernel = weight.const_value.numpy().astype(np.float64)
        _hold(weight, kernel * scale.reshape(-1, *[1] * (kernel.ndim - 1)))
        _hold(bias, (bias.const_value.numpy().astype(np.float64) - mean) * scale)
        source = "noise" if self.batches is None else "data"
        self.notes[layer.weight] = self.notes[layer.bias] = (
            f"scaled to mean 0, variance 1 over {moments.runs} batch(es) of {source}"
        )
        return True

    def _set(self, model: ir.Model, names: tuple[str, str], moments: _Moments) -> bool:
        """Make the averages a layer's running mean and variance; true where a tensor changed."""
        modified = False
        for name in names:
            if _separate(_find(model, name)):
                # Before version 4 an initializer has to be an input.
                model.ir_version = max(model.ir_version, 4)
                modified = True
        source = "noise" if self.batches is None else "data"
        note = f"average over {moments.runs} batch(es) of {source}{moments.remark()}"
        averages = (moments.mean, moments.variance(keep_zeros=self.batches is not None))
        for index, (name, average) in enumerate(zip(names, averages, strict=True)):
            if self.only is not None and name not in self.only:
                continue
            value = _find(model, name)
            refusal = _reason_to_leave(value, 3 + index, average)
            if refusal is None and value is not None:
                self.notes[name] = note
                modified = _hold(value, average) or modified
            else:
                self.notes[name] = f"left as it was: {refusal}"
        return modified


class _Moments:
    """Averages over batches of a layer's mean and variance, in float64."""

    def __init__(self) -> None:
        self.runs = 0
        self.elements = 0.0
        self.single = True
        """Whether every batch held one element a channel."""
        self.mean: npt.NDArray[np.float64] = np.zeros(())
        self._spread: npt.NDArray[np.float64] = np.zeros(())
        self._variance: npt.NDArray[np.float64] = np.zeros(())

    def add(self, results: Mapping[str, Any], layer: Statistics) -> None:
        count = float(results[layer.count])
        self.runs += 1
        self.elements += count
        self.single = self.single and count == 1.0
        # Welford's update: nothing cancels.
        with np.errstate(invalid="ignore"):  # what isn't finite is reported at the end
            step = results[layer.mean].astype(np.float64) - self.mean
            self.mean = self.mean + step / self.runs
            self._spread = self._spread + step * (results[layer.mean] - self.mean)
            change = results[layer.variance] - self._variance
            self._variance = self._variance + change / self.runs

    def variance(self, *, keep_zeros: bool) -> npt.NDArray[np.float64]:
        """Average unbiased variance of the batches, or where there is none, that of their means.

        A channel without variance gets 1, unless `keep_zeros` says that it is to be believed.
        """
        between = self._spread / max(1, self.runs - 1)
        variance = between if self.single else self._variance
        if self.single or not keep_zeros:
            variance = np.where(variance > 0, variance, 1.0)
        return variance

    def remark(self) -> str:
        """What the report should add."""
        return ", each of one element a channel: the variance is that of the means" * self.single


def _reason_to_leave(
    value: ir.Value | None, slot: int, average: npt.NDArray[np.float64]
) -> str | None:
    """Why a running statistic can't be set, or None."""
    if not np.isfinite(average).all():
        return "what was measured is not finite"
    if value is None:
        return "it is computed in a function"
    if not value.is_initializer():
        return "it is no initializer"
    if any(node.op_type != "BatchNormalization" or index != slot for node, index in value.uses()):
        return "it is used elsewhere too"
    return None


def _find(model: ir.Model, name: str) -> ir.Value | None:
    """The value of that name that feeds a node of the main graph."""
    feeding = (value for node in model.graph for value in node.inputs if value is not None)
    return next((value for value in feeding if value.name == name), None)


def _separate(value: ir.Value | None) -> bool:
    """Undo an exporter's merging of equal tensors: each gets its own initializer.

    The Identity nodes behind the initializer, or the one that gives the value, become
    initializers of the same names and values.
    """
    if value is None:
        return False
    producer = value.producer()
    if producer is not None and producer.op_type != "Identity":
        return False
    source = value if producer is None else producer.inputs[0]
    if source is None or source.const_value is None or not source.is_initializer():
        return False
    separated = False
    for node, _ in source.uses():
        if node.op_type != "Identity" or not isinstance(node.graph, ir.Graph):
            continue
        output, graph = node.outputs[0], node.graph
        held = ir.Value(
            name=output.name,
            shape=source.shape,
            type=source.type,
            const_value=source.const_value,
            metadata_props=dict(output.metadata_props),
        )
        output.replace_all_uses_with(held, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        graph.register_initializer(held)
        separated = True
    return separated


def _hold(value: ir.Value, average: npt.NDArray[np.float64]) -> bool:
    """Make the average the value of an initializer; true where that changes it."""
    dtype = value.dtype or ir.DataType.FLOAT
    array = np.clip(average, dtype.min, dtype.max).astype(dtype.numpy())
    before = value.const_value
    if before is not None and np.array_equal(before.numpy(), array):
        return False
    value.const_value = ir.Tensor(array, dtype=dtype, name=value.name)
    return True

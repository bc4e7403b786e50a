"""How well a model classifies labelled data, and how fast."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_ghn.batches import Batches, Feeds
from onnx_ghn.data import DataError
from onnx_ghn.errors import ModelError
from onnx_ghn.report import FORMAT, Report, Status

Z = 1.959964
"""Standard deviations to either side that hold 95 % of a normal distribution."""

TOP = 5
"""The larger of the two numbers of guesses that count."""

TENSORS_NAMED = 3
"""Names that a warning lists at most."""

_RESHAPING = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Squeeze"})

Interval = tuple[float, float]


class Runner(Protocol):
    """A loaded model: an ONNX Runtime session, or what runs in its place.

    Attributes:
        outputs: Names of the outputs, in order.
        provider: What runs it.
    """

    outputs: tuple[str, ...]
    provider: str

    def run(self, feeds: Feeds, outputs: Collection[str] | None = None) -> dict[str, Any]:
        """The outputs of those names for a batch."""
        ...


@dataclass
class Evaluation:
    """The result of `evaluate`.

    Attributes:
        model: Path or name of the model.
        top1: Share of the examples whose label has the highest score.
        top5: Share whose label is among the five highest scores.
        loss: Mean cross-entropy in nats; None where a score is not finite.
        n: Examples.
        top1_interval: 95 % confidence interval (Wilson's) of `top1`.
        top5_interval: The same of `top5`.
        loss_interval: 95 % confidence interval of `loss`, from its standard error.
        classes: Classes that the model tells apart.
        scores: "logits", or "probabilities" where the model ends in a Softmax.
        not_finite: Examples with a score that is not finite; they count as wrong.
        images_per_second: Examples by the time in ONNX Runtime, without reading and preparing
            data, and without the first batch where there are more.
        batch_statistics: Whether each batch was normalised by its own statistics.
        provider: ONNX Runtime's execution provider.
        threads: Its threads.
        initialized: Learnable tensors without a value that were initialised for the evaluation.
        input: What the model was fed, see `Batches.to_json`.
        warnings: What the user should know; each one sentence.
    """

    model: str
    top1: float
    top5: float
    loss: float | None
    n: int
    top1_interval: Interval
    top5_interval: Interval
    loss_interval: Interval | None
    classes: int
    scores: str
    not_finite: int
    images_per_second: float
    batch_statistics: bool
    provider: str
    threads: int
    initialized: int = 0
    input: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The JSON object of `eval --format json`."""
        return {"format": FORMAT} | dataclasses.asdict(self)


def run_evaluation(
    session: Runner,
    model: ir.Model,
    batches: Batches,
    *,
    batch_statistics: bool = False,
    threads: int = 1,
) -> Evaluation:
    """Run a model over labelled data. Its first output holds the scores [batch, classes].

    Args:
        session: The model, loaded.
        model: The same model: it tells what its scores are.
        batches: The data.
        batch_statistics: For the result: whether the model normalises by the batch.
        threads: For the result.

    Raises:
        DataError: The classes of the data are not those of the model.
        ModelError: The first output holds no scores, or a batch does not run.
    """
    output = session.outputs[0]
    probabilities = gives_probabilities(model.graph.outputs[0])
    losses: list[npt.NDArray[np.float64]] = []
    ranks: list[npt.NDArray[np.int64]] = []
    times: list[tuple[int, float]] = []
    classes = 0
    for feeds, labels in batches.labelled():
        start = time.perf_counter()
        results = session.run(feeds, [output])[output]
        times.append((len(labels), time.perf_counter() - start))
        fed = len(feeds[batches.form.name])
        scores = _scores(results, output, fed)[: len(labels)]
        if not classes:
            classes = scores.shape[1]
            check_classes(batches, classes)
        losses.append(_cross_entropy(scores, labels, probabilities))
        ranks.append(_ranks(scores, labels))
    loss = np.concatenate(losses)
    rank = np.concatenate(ranks)
    n = len(rank)
    hits = [int((rank < k).sum()) for k in (1, TOP)]
    mean = float(loss.mean())
    margin = Z * float(loss.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    finite = math.isfinite(mean)
    timed = times[1:] or times  # the first batch pays for the runtime's own preparations
    return Evaluation(
        model=model.graph.name or "",
        top1=hits[0] / n,
        top5=hits[1] / n,
        loss=mean if finite else None,
        n=n,
        top1_interval=wilson(hits[0], n),
        top5_interval=wilson(hits[1], n),
        loss_interval=(mean - margin, mean + margin) if finite and n > 1 else None,
        classes=classes,
        scores="probabilities" if probabilities else "logits",
        not_finite=int((rank == np.iinfo(np.int64).max).sum()),
        images_per_second=sum(count for count, _ in timed) / sum(spent for _, spent in timed),
        batch_statistics=batch_statistics,
        provider=session.provider,
        threads=threads,
        input=batches.to_json(),
    )


def warnings_of_missing(report: Report) -> list[str]:
    """That tensors had no value, and got one for the evaluation."""
    warnings = []
    made = [
        outcome.name
        for outcome in report.outcomes
        if outcome.status in (Status.PREDICTED, Status.FALLBACK)
    ]
    guessed = report.count(Status.CALIBRATED)
    if made:
        names = ", ".join(made[:TENSORS_NAMED]) + (", ..." if len(made) > TENSORS_NAMED else "")
        method = report.decision["method"]
        warnings.append(f"{len(made)} tensors without a value were initialised ({method}): {names}")
    if guessed:
        warnings.append(f"{guessed} running statistics without a value were estimated from noise")
    return warnings


def warnings_of_training_mode(model: ir.Model, *, batch_statistics: bool) -> list[str]:
    """That layers behave as in training, which the file asks for."""
    warnings = []
    nodes = list(model.graph.all_nodes())
    norms = [
        node
        for node in nodes
        if node.op_type == "BatchNormalization" and node.attributes.get_int("training_mode", 0) == 1
    ]
    if norms and not batch_statistics:
        warnings.append(
            f"{len(norms)} BatchNormalization nodes are exported in training mode: they use the "
            "statistics of the batch, not the stored ones"
        )
    dropouts = [node for node in nodes if node.op_type == "Dropout" and _drops(node)]
    if dropouts:
        warnings.append(
            f"{len(dropouts)} Dropout nodes are exported in training mode: they drop at random, "
            "and the result is not that of the network in use"
        )
    return warnings


def wilson(hits: int, n: int) -> Interval:
    """95 % confidence interval of a share (Wilson, "Probable inference", 1927)."""
    share = hits / n
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    margin = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    # At no hit, and at nothing but hits, one end is exactly the share.
    return max(0.0, min(share, centre - margin)), min(1.0, max(share, centre + margin))


def _scores(results: Any, name: str, fed: int) -> npt.NDArray[np.float64]:
    """The scores as [batch, classes]; axes of size 1 behind are dropped."""
    scores = np.asarray(results)
    if scores.ndim > 2 and all(size == 1 for size in scores.shape[2:]):
        scores = scores.reshape(scores.shape[:2])
    if scores.ndim != 2 or len(scores) != fed or scores.shape[1] < 2:
        raise ModelError(
            f"the first output {name!r} has the shape {np.shape(results)} for {fed} examples: it "
            "should be scores [batch, classes], of two classes or more"
        )
    return scores.astype(np.float64)


def check_classes(batches: Batches, classes: int) -> None:
    """Check that a model that tells `classes` apart knows the classes of the data.

    Raises:
        DataError: It does not.
    """
    data = batches.data
    if len(data.classes) > classes:
        raise DataError(
            f"{data.source}: has {len(data.classes)} classes, and the model tells {classes} apart"
        )
    numbered = data.classes == tuple(str(label) for label in range(len(data.classes)))
    if len(data.classes) < classes and not numbered:
        # The names are numbered in order: with some of them missing the numbers would be others.
        raise DataError(
            f"{data.source}: has {len(data.classes)} named classes, and the model tells {classes} "
            "apart: give the folders of all classes, or an .npz file with the class numbers"
        )


def gives_probabilities(output: ir.Value) -> bool:
    """Whether a Softmax makes the scores, so that they sum to 1."""
    producer = output.producer()
    while producer is not None and producer.op_type in _RESHAPING:
        value = producer.inputs[0]
        producer = None if value is None else value.producer()
    return producer is not None and producer.op_type == "Softmax"


def _cross_entropy(
    scores: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], probabilities: bool
) -> npt.NDArray[np.float64]:
    rows = np.arange(len(labels))
    with np.errstate(divide="ignore", invalid="ignore"):
        if probabilities:
            tiny = np.finfo(np.float32).tiny  # what is 0 in float32 was not quite 0
            return -np.log(np.maximum(scores[rows, labels], tiny))
        shifted = scores - scores.max(axis=1, keepdims=True)
        return np.log(np.exp(shifted).sum(axis=1)) - shifted[rows, labels]


def _ranks(scores: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Position of the label among the scores, 0 the best; of equals the lower class comes first.

    An example with a score that is not finite gets the largest integer.
    """
    own = scores[np.arange(len(labels)), labels][:, None]
    before = np.arange(scores.shape[1]) < labels[:, None]
    rank = ((scores > own) | ((scores == own) & before)).sum(axis=1)
    return np.where(np.isfinite(scores).all(axis=1), rank, np.iinfo(np.int64).max)


def _drops(node: ir.Node) -> bool:
    """Whether a Dropout is told to drop."""
    flag = node.inputs[2] if len(node.inputs) > 2 else None
    tensor = None if flag is None else ir.convenience.get_const_tensor(flag)
    return tensor is not None and bool(tensor.numpy().any())

"""Class scores of a model under training, and how well it classifies so far."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from onnx_ghn.batches import Batches, Feeds
from onnx_ghn.errors import ModelError
from onnx_ghn.evaluation import gives_probabilities, run_evaluation
from onnx_ghn.finetuning.history import Validation
from onnx_ghn.run.interpreter import Interpreter


def class_scores(outputs: tuple[Tensor, ...], name: str, examples: int) -> Tensor:
    """The first output as scores [batch, classes]; axes of size 1 behind are dropped.

    Raises:
        ModelError: It holds no scores.
    """
    scores = outputs[0]
    if scores.dim() > 2 and all(size == 1 for size in scores.shape[2:]):
        scores = scores.flatten(1)
    if scores.dim() != 2 or len(scores) != examples or scores.shape[1] < 2:
        raise ModelError(
            f"the first output {name!r} has the shape {list(outputs[0].shape)} for {examples} "
            "examples: it should be scores [batch, classes], of two classes or more"
        )
    return scores if scores.dtype == torch.float64 else scores.float()


class TorchRunner:
    """Runs a model in torch with the weights that it has at the moment.

    Attributes:
        outputs: Names of the outputs.
        provider: What runs it.
        parameters: The weights.
    """

    def __init__(self, model: ir.Model, device: torch.device) -> None:
        self._interpreter = Interpreter(model, device=device)
        self._device = device
        self.parameters: dict[str, Tensor] = {}
        self.outputs = self._interpreter.output_names
        self.provider = f"torch {device.type}"

    def run(self, feeds: Feeds, outputs: Collection[str] | None = None) -> dict[str, Any]:
        """The outputs of those names for a batch, as arrays."""
        given = {name: torch.from_numpy(x).to(self._device) for name, x in feeds.items()}
        with torch.no_grad():
            results = self._interpreter(given, self.parameters)
        by_name = dict(zip(self.outputs, results, strict=True))
        names = self.outputs if outputs is None else outputs
        return {name: by_name[name].float().cpu().numpy() for name in names}


class Validator:
    """Tests a model under training: the numbers are those that `evaluate` gives.

    Args:
        model: The model.
        batches: Labelled data.
        device: Where to compute.
    """

    def __init__(self, model: ir.Model, batches: Batches, device: torch.device) -> None:
        self._model, self._batches = model, batches
        self._runner = TorchRunner(model, device)

    def validate(self, parameters: dict[str, Tensor], step: int) -> Validation:
        """Test the model with these weights and statistics.

        Raises:
            DataError: The classes of the data are not those of the model.
            ModelError: It gives no class scores, or can't be run.
        """
        self._runner.parameters = parameters
        found = run_evaluation(self._runner, self._model, self._batches)
        return Validation(step, found.top1, found.top5, found.loss, found.n)


def log_scores(model: ir.Model, scores: Tensor) -> Tensor:
    """What a cross-entropy takes: logits as they are, the logarithm of probabilities."""
    if gives_probabilities(model.graph.outputs[0]):
        # Their softmax is the probabilities again. What is 0 in float32 was not quite 0.
        return scores.clamp_min(torch.finfo(scores.dtype).tiny).log()
    return scores

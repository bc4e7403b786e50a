"""Architectures to train on, each prepared once: read, planned and compiled.

Which architecture a step trains on is a function of the seed, the step and the schedule alone,
hence the same after a resume and for any number of processes.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import torch

from onnx_ghn.architectures.key import graph_key
from onnx_ghn.architectures.sample import FAMILY, NORM, sample
from onnx_ghn.errors import OptionError
from onnx_ghn.hypernet.config import NetworkConfig
from onnx_ghn.model_io.loading import load
from onnx_ghn.read.reading import read_model
from onnx_ghn.run.interpreter import Interpreter
from onnx_ghn.train.prediction import PredictionPlan

FIRST_SEED = 1 << 32
"""Training draws from here on; held-out lists use small seeds."""
POOL = 64
"""Architectures that the first steps choose from."""


@dataclass(frozen=True, eq=False)
class Task:
    """One architecture, ready to be predicted for and run.

    Attributes:
        name: Where it comes from.
        family, norm: What it was drawn as; "" for a file.
        plan: What to predict and how.
        interpreter: Runs it, BatchNorm with the statistics of the batch.
    """

    name: str
    family: str
    norm: str
    plan: PredictionPlan
    interpreter: Interpreter

    def logits(self, images: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
        """The first output for a batch of images."""
        return self.interpreter(images, weights)[0]


def prepare(
    model: ir.Model, network: NetworkConfig, name: str, device: str | torch.device = "cpu"
) -> Task:
    """Read a model and plan its prediction.

    Raises:
        OnnxGhnError: It can't be read, has no graph, or an operator that can't be run.
    """
    reading = read_model(model)
    plan = PredictionPlan(reading, network, device)
    cuda = torch.device(device).type == "cuda"
    interpreter = Interpreter(
        model,
        batch_statistics=True,
        device=device,
        autocast=torch.bfloat16 if cuda else None,  # without AMX, bf16 is slow on a CPU
        channels_last=True,
    )
    metadata = model.metadata_props
    return Task(name, metadata.get(FAMILY, ""), metadata.get(NORM, ""), plan, interpreter)


class Corpus:
    """Architectures by step: drawn from a space, or from a folder of ONNX files.

    New architectures come in at a steady rate and each is used about `reuse` times while it is
    among the newest `window`, so that reading costs little and diversity stays high. Processes
    that don't wait for each other take disjoint ones: `share` is (this one, of how many).
    """

    def __init__(
        self,
        network: NetworkConfig,
        *,
        seed: int = 0,
        held_out: Iterable[str] = (),
        folder: Path | None = None,
        reuse: int = 8,
        window: int = 2048,
        share: tuple[int, int] = (0, 1),
        device: str | torch.device = "cpu",
    ) -> None:
        self._network = network
        self._seed = seed
        self._held_out = frozenset(held_out)
        self._reuse = reuse
        self._window = window
        self._share = share
        self._device = device
        self._tasks: OrderedDict[tuple[str, int, int], Task] = OrderedDict()
        self._files = [] if folder is None else _files_in(folder)

    def task(self, space: str, step: int, side: int) -> Task:
        """The architecture of a step, for images of `side` pixels."""
        draw = random.Random(f"{self._seed}/{space}/{step}").random()
        if self._files:
            return self._cached(str(self._files[int(draw * len(self._files))]), 0, side)
        newest = POOL + step // self._reuse
        oldest = max(0, newest - self._window)
        chosen = oldest + int(draw * (newest - oldest))
        mine, of = self._share
        return self._cached(space, FIRST_SEED + chosen - chosen % of + mine, side)

    def _cached(self, source: str, seed: int, side: int) -> Task:
        key = (source, seed, side)
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = self._make(source, seed, side)
            while len(self._tasks) > self._window:
                self._tasks.popitem(last=False)
        self._tasks.move_to_end(key)
        return task

    def _make(self, source: str, seed: int, side: int) -> Task:
        if self._files:
            return prepare(load(source), self._network, source, self._device)
        classes = self._network.classes
        model = sample(source, seed, image_side=side, classes=classes)
        # A held-out architecture is replaced by one that no other step draws.
        while graph_key(model) in self._held_out:
            seed += FIRST_SEED
            model = sample(source, seed, image_side=side, classes=classes)
        return prepare(model, self._network, f"{source}-{seed}", self._device)


def _files_in(folder: Path) -> list[Path]:
    files = sorted(folder.glob("**/*.onnx"))
    if not files:
        raise OptionError(f"{folder}: no .onnx files to train on")
    return files

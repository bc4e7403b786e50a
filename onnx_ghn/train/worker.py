"""One process's part of training: draw, predict, run, differentiate, update."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from onnx_ghn.hypernet.kinds import KindsHypernetwork
from onnx_ghn.train.corpus import Corpus, Task
from onnx_ghn.train.images import Images
from onnx_ghn.train.options import TrainOptions
from onnx_ghn.train.parameters import (
    PARTS,
    TRUNK,
    FlatState,
    Optimizer,
    bind,
    bind_gradients,
    part_of,
)
from onnx_ghn.train.step import StepResult, architecture_step

Reduce = Callable[[tuple[Tensor, ...]], None]
"""Averages gradients over processes, in place."""

TINY = 1e-12


@dataclass(frozen=True)
class Update:
    """What one update measured.

    Attributes:
        results: Of each architecture of the meta-batch.
        skipped: Architectures whose loss or gradient wasn't finite.
        gradient_norm: Before clipping in total.
        rate: Factor of the learning rate.
    """

    results: tuple[StepResult, ...]
    skipped: int
    gradient_norm: float
    rate: float


class Worker:
    """Trains on a state that it may share with others.

    Args:
        network: The hypernetwork; its parameters become views of `state`.
        state: Weights and moments.
        corpus: Architectures.
        images: Training images.
        options: Options of the run.
        rank, world: This process's number, and how many work on each update together.
        reduce: Averages gradients over them.
        lock: Held during an update, where processes share the state.
    """

    def __init__(
        self,
        network: KindsHypernetwork,
        state: FlatState,
        corpus: Corpus,
        images: Images,
        options: TrainOptions,
        *,
        rank: int = 0,
        world: int = 1,
        reduce: Reduce | None = None,
        lock: AbstractContextManager[object] | None = None,
    ) -> None:
        self._network = network
        self._state = state
        self._corpus = corpus
        self._images = images
        self._options = options
        self._schedule = options.schedule()
        self._rank, self._world, self._reduce = rank, world, reduce
        self._shared = lock is not None
        self._lock: AbstractContextManager[object] = lock if lock is not None else nullcontext()
        self._optimizer = Optimizer(
            state,
            rates=(options.trunk_rate, options.output_rate),
            weight_decay=options.weight_decay,
        )
        bind(network, state.weights)
        bind_gradients(network, self._optimizer.gradients)
        self._generator = torch.Generator()

    def update(self, step: int, progress: float) -> Update:
        """Train on the architectures of update `step`."""
        options, optimizer = self._options, self._optimizer
        space = self._schedule.space(progress)
        side = self._schedule.image_side(progress)
        results, skipped = [], 0
        alone = options.meta_batch == 1 and self._reduce is None
        total = None if alone else [torch.zeros_like(g) for g in optimizer.gradients]
        shrink, norms = 1.0, {}
        for slot in range(options.meta_batch):
            number = (step * options.meta_batch + slot) * self._world + self._rank
            task = self._corpus.task(space, number, side)
            parts = [TRUNK, *{part_of(decoder) for decoder in task.plan.nodes}]
            optimizer.zero_gradients(parts)
            result = self._train_on(task, number, side)
            norms = optimizer.norms(parts)
            norm = _total(norms)
            if not (math.isfinite(norm) and math.isfinite(result.loss)):
                skipped += 1
                norms = {}
                continue
            results.append(result)
            shrink = min(1.0, options.clip_architecture / max(norm, TINY))
            if total is not None:
                for part in parts:
                    total[part].add_(optimizer.gradients[part], alpha=shrink / options.meta_batch)
        if total is not None:
            for whole, gradient in zip(total, optimizer.gradients, strict=True):
                gradient.copy_(whole)
            if self._reduce is not None:
                self._reduce(optimizer.gradients)
            shrink, norms = 1.0, optimizer.norms(range(PARTS))
        norm = shrink * _total(norms)
        shrink *= min(1.0, options.clip_total / max(norm, TINY))
        rate = self._schedule.rate(progress, int(self._state.steps[TRUNK]))
        with self._lock:
            optimizer.update(rate, [part for part, n in norms.items() if n > 0], shrink)
            if self._shared:
                self._state.settle()
        return Update(tuple(results), skipped, norm, rate)

    def _train_on(self, task: Task, number: int, side: int) -> StepResult:
        self._generator.manual_seed(self._options.seed * 1_000_003 + number)
        images, labels = self._images.random(self._generator, self._options.batch, side)
        return architecture_step(
            self._network, task, images, labels, smoothing=self._options.smoothing
        )


def _total(norms: dict[int, float]) -> float:
    return math.hypot(*norms.values())

"""Watches a run: progress, log, held-out accuracy, checkpoints and the exported archive."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from onnx_ghn.architectures.sample import sample
from onnx_ghn.architectures.splits import held_out
from onnx_ghn.hypernet.config import ArchiveConfig, NetworkConfig
from onnx_ghn.hypernet.kinds import KindsHypernetwork
from onnx_ghn.train.checkpoint import Checkpoint, Counters, save_checkpoint
from onnx_ghn.train.corpus import Task, prepare
from onnx_ghn.train.export import export_archive
from onnx_ghn.train.heldout import HeldOutResult, evaluate
from onnx_ghn.train.images import Images
from onnx_ghn.train.log import Log
from onnx_ghn.train.metrics import Metrics
from onnx_ghn.train.options import Budget, RunPaths, TrainOptions
from onnx_ghn.train.parameters import PARTS, FlatState, Parts, bind

LOG_SECONDS = 10.0
FIRST_EVALUATION_SECONDS = 60.0

Show = Callable[[float, dict[str, Any]], None]
"""Called with the progress in [0, 1] and the newest measurements."""


@dataclass(frozen=True)
class Run:
    """What stays the same over a run.

    Attributes:
        paths: Its files.
        budget: How long it lasts.
        options: How it trains.
        config: Description of the archive that it makes, held-out results apart.
        before: Counters of the checkpoint that it goes on from.
    """

    paths: RunPaths
    budget: Budget
    options: TrainOptions
    config: ArchiveConfig
    before: Counters


class Monitor:
    """Called often, acts seldom.

    Args:
        run: The run.
        state: Weights; only read, under `lock`.
        buffers: Buffers of the network.
        metrics: Measurements; only read.
        images: Validation images, shuffled: batches of one class would spoil batch statistics.
        lock: Keeps updates out while the state is copied.
        show: Displays progress.
        device: Where held-out architectures run.
        log: Where records go; the run's log if None.
    """

    def __init__(
        self,
        run: Run,
        state: FlatState,
        network: KindsHypernetwork,
        metrics: Metrics,
        images: Images,
        lock: AbstractContextManager[object],
        show: Show,
        device: str | torch.device = "cpu",
        log: Log | None = None,
    ) -> None:
        self._run = run
        self._state = state
        self._network = network
        self._metrics = metrics
        self._images = images
        self._lock = lock
        self._show = show
        self._log = Log(run.paths.log) if log is None else log
        self._device = device
        self._start = time.monotonic()
        self._last_log = self._start
        self._logged_updates = 0
        self._logged_architectures = 0
        wait = min(FIRST_EVALUATION_SECONDS, run.options.evaluate_seconds)
        self._next_evaluation = self._start + wait
        self._tasks: dict[tuple[str, int], list[Task]] = {}
        self._newest: dict[str, Any] = {}
        self.held_out: dict[str, Any] = {}

    @property
    def counters(self) -> Counters:
        """How far the run is now."""
        before = self._run.before
        return Counters(
            before.updates + self._metrics.updates,
            before.architecture_steps + self._metrics.architectures,
            before.elapsed_seconds + time.monotonic() - self._start,
            before.cpu_seconds + self._metrics.cpu_seconds,
        )

    @property
    def progress(self) -> float:
        """How far the run is, in [0, 1]."""
        counters = self.counters
        return self._run.budget.progress(counters.updates, counters.elapsed_seconds)

    def tick(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        if now - self._last_log >= LOG_SECONDS:
            self._log_training(now)
        if now >= self._next_evaluation:
            self._next_evaluation = now + self._run.options.evaluate_seconds
            self.save(evaluated=True)

    def save(self, *, evaluated: bool) -> None:
        """Write a checkpoint; if `evaluated`, test held-out architectures and export an archive."""
        with self._lock:
            tensors = self._state.copy()
            counters = self.counters
        buffers = dict(self._network.named_buffers())
        about = {
            "options": self._run.options.to_json(),
            "archive": json.loads(self._run.config.to_json()),
        }
        save_checkpoint(self._run.paths.checkpoint, Checkpoint(tensors, buffers, counters, about))
        if evaluated:
            average = tuple(tensors[f"average.{part}"] for part in range(PARTS))
            network = _with_weights(self._network, average, self._run.config.network)
            result, side, space = self._evaluate(network)
            self.held_out = {"space": space, "side": side, **result.summary()}
            record = {"event": "held-out", **self._position(counters), **self.held_out}
            self._log.write(record, counters.architecture_steps)
            export_archive(self._run.paths.archive, self._run.config, network, self.held_out)

    def _evaluate(self, network: KindsHypernetwork) -> tuple[HeldOutResult, int, str]:
        options, progress = self._run.options, self.progress
        schedule = options.schedule()
        # Always the space where the curriculum ends, so that results of one run compare.
        space, side = schedule.curriculum[-1].space, schedule.image_side(progress)
        tasks = self._tasks.get((space, side))
        if tasks is None:
            classes = self._run.config.network.classes
            chosen = held_out(space, "val")[: options.evaluate_architectures]
            tasks = self._tasks[space, side] = [
                prepare(
                    sample(entry.space, entry.seed, image_side=side, classes=classes),
                    self._run.config.network,
                    f"{entry.space}-{entry.seed}",
                    self._device,
                )
                for entry in chosen
            ]
        result = evaluate(
            network, tasks, self._images, side=side, examples=options.evaluate_examples
        )
        return result, side, space

    def _log_training(self, now: float) -> None:
        counters = self.counters
        updates, architectures = self._metrics.updates, self._metrics.architectures
        seconds = now - self._last_log
        rate = (architectures - self._logged_architectures) / seconds
        self._newest = {
            **self._metrics.means(self._logged_updates),
            "architectures_per_second": round(rate, 2),
        }
        self._last_log = now
        self._logged_updates, self._logged_architectures = updates, architectures
        schedule, progress = self._run.options.schedule(), self.progress
        place = {"space": schedule.space(progress), "side": schedule.image_side(progress)}
        record = {"event": "train", **self._position(counters), **place, **self._newest}
        self._log.write(record, counters.architecture_steps)
        self._show(progress, {**self._newest, "val": self.held_out.get("mean")})

    def _position(self, counters: Counters) -> dict[str, Any]:
        return {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "updates": counters.updates,
            "architecture_steps": counters.architecture_steps,
            "minutes": round(counters.elapsed_seconds / 60, 2),
        }


def _with_weights(
    network: KindsHypernetwork,
    flat: Parts,
    config: NetworkConfig,
) -> KindsHypernetwork:
    """A second network with the buffers of `network` and the weights in `flat`."""
    from onnx_ghn.hypernet.model import build_network

    with torch.device(flat[0].device):
        second = build_network(config)
    assert isinstance(second, KindsHypernetwork)
    second.load_state_dict(dict(network.named_buffers()), strict=False)
    bind(second, flat)
    return second.eval()


class Interrupted(Exception):
    """The run was asked to stop; its checkpoint is written.

    Attributes:
        monitor: What watched the run.
    """

    def __init__(self, monitor: Monitor) -> None:
        super().__init__("training was interrupted")
        self.monitor = monitor


@contextmanager
def saved_at_the_end(monitor: Monitor) -> Iterator[None]:
    """Save the run when it is done, and, without a last evaluation, when it is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        monitor.save(evaluated=False)
        raise Interrupted(monitor) from None
    monitor.save(evaluated=True)

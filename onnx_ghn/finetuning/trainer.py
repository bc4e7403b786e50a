"""The training loop: feed, differentiate, update; validate, log and save when it is due."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy.typing as npt
import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import Tensor

from onnx_ghn.data import Labels
from onnx_ghn.errors import ModelError
from onnx_ghn.finetuning.checkpoint import Checkpoint, RunFiles, save_checkpoint
from onnx_ghn.finetuning.feed import Feed
from onnx_ghn.finetuning.group import Group
from onnx_ghn.finetuning.history import History, Log
from onnx_ghn.finetuning.options import FinetuneOptions
from onnx_ghn.finetuning.picture import draw
from onnx_ghn.finetuning.validation import Validator, class_scores, log_scores
from onnx_ghn.finetuning.weights import Weights
from onnx_ghn.model_io.atomic import write_whole
from onnx_ghn.run.interpreter import Interpreter

FLUSH_STEPS = 10
"""Updates after which losses are fetched: each time an accelerator has to be waited for."""

Show = Callable[[int, int, dict[str, float]], None]
"""Called with the updates that are done, all of them, and the newest measurements."""


class Trainer:
    """Trains the weights of a model.

    Attributes:
        history: What was measured so far.
        total: Updates of the whole run.
        seconds: Time spent in updates by this process.
        best: The weights of the best validation, where these are kept.
    """

    def __init__(
        self,
        model: ir.Model,
        weights: Weights,
        feed: Feed,
        validator: Validator | None,
        options: FinetuneOptions,
        group: Group,
        *,
        files: RunFiles | None = None,
        about: dict[str, Any] | None = None,
        show: Show | None = None,
    ) -> None:
        """Prepare a run.

        Args:
            model: The model; it must not change during the run.
            weights: What moves.
            feed: The batches.
            validator: Tests the model; None where nothing is validated.
            options: How to train.
            group: The processes that train together.
            files: Where the run is kept; None where it is not.
            about: For the log and the checkpoint: what is trained and how.
            show: Displays progress.
        """
        self._model, self._weights, self._feed = model, weights, feed
        self._validator, self._options, self._group = validator, options, group
        self._files, self._about, self._show = files, about or {}, show
        self._interpreter = Interpreter(
            model,
            tracked=weights.tracked,
            device=group.device,
            autocast=torch.bfloat16 if options.precision == "bfloat16" else None,
            channels_last=True,
        )
        self._optimizer = _optimizer(weights, options)
        self._pending: list[Tensor] = []
        self._log = None if files is None else Log(files.log, self._about)
        self.history = History()
        self.total = options.total_steps(feed.steps_per_epoch)
        self.seconds = 0.0
        self.best: dict[str, Tensor] | None = None

    @property
    def step(self) -> int:
        """Updates done."""
        return len(self.history.rates)

    @property
    def stopped_early(self) -> bool:
        """Whether validation has not got better for too long."""
        patience, best = self._options.patience, self.history.best
        if not patience or best is None:
            return False
        return sum(entry.step > best.step for entry in self.history.validations) >= patience

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            ModelError: It is of another model.
        """
        self._weights.load(checkpoint.weights)
        self._optimizer.load_state_dict(checkpoint.optimizer)
        self.history, self.best = checkpoint.history, checkpoint.best

    def train(self) -> None:
        """Train until the last step, or until validation gets no better.

        Raises:
            KeyboardInterrupt: By SIGINT or SIGTERM, after the state was saved.
            ModelError: The loss or a statistic is not finite, or an operator failed.
        """
        if self._log is not None and self._group.rank == 0:
            self._log.restart(self.history)
        with _interruptions() as interrupted, _threads(self._options.threads):
            if not self.history.validations and self.step == 0:
                self._validate()
            with contextlib.closing(self._feed.after(self.step)) as batches:
                self._loop(batches, interrupted)
            if not self.history.validations or self.history.validations[-1].step != self.step:
                self._validate()
            self._save()

    def _loop(
        self, batches: Iterator[tuple[npt.NDArray[Any], Labels]], interrupted: threading.Event
    ) -> None:
        saved = time.monotonic()
        stop = self._group.any(self.stopped_early)
        while self.step < self.total and not stop:
            self._update(*next(batches))
            due = self._options.validates_after(self.step, self._feed.steps_per_epoch)
            alone = self._group.size == 1
            if not (due or self.step % FLUSH_STEPS == 0 or (alone and interrupted.is_set())):
                continue
            self._flush()
            if self._group.any(interrupted.is_set()):
                self._save()
                raise KeyboardInterrupt
            if due:
                self._validate()
                stop = self._group.any(self.stopped_early)
            if due or time.monotonic() - saved >= self._options.checkpoint_seconds:
                self._save()
                saved = time.monotonic()
        self._flush()

    def _update(self, x: npt.NDArray[Any], labels: Labels) -> None:
        start = time.perf_counter()
        rate = self._options.rate_at(self.step, self.total)
        for settings in self._optimizer.param_groups:
            settings["lr"] = rate
        device = self._group.device
        try:
            outputs = self._interpreter(torch.from_numpy(x).to(device), self._weights.parameters())
            name = self._interpreter.output_names[0]
            scores = log_scores(self._model, class_scores(outputs, name, len(labels)))
            loss = F.cross_entropy(
                scores,
                torch.from_numpy(labels).to(device),
                label_smoothing=self._options.label_smoothing,
            )
            if not loss.requires_grad:
                raise ModelError(
                    "the scores do not depend on any tensor that is trained: is this the whole "
                    "model, and its first output the scores?"
                )
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
        except torch.OutOfMemoryError as error:
            raise ModelError("out of memory on the GPU: lower --batch-size") from error
        leaves = self._weights.leaves
        self._group.average([leaf.grad for leaf in leaves if leaf.grad is not None])
        if self._options.clip:
            torch.nn.utils.clip_grad_norm_(leaves, self._options.clip)
        self._optimizer.step()
        self._pending.append(loss.detach())
        self.history.rates.append(rate)
        self.seconds += time.perf_counter() - start

    def _flush(self) -> None:
        """Fetch the losses since the last time."""
        if not self._pending:
            return
        losses = torch.stack(self._pending).float()
        self._pending = []
        self._group.average([losses])
        values = losses.tolist()
        first = len(self.history.losses) + 1
        for number, loss in enumerate(values, first):
            if not math.isfinite(loss):
                raise ModelError(
                    f"the loss is not finite at step {number}: lower --lr (now "
                    f"{self._options.rate:g}), or limit the gradient with --clip"
                )
        self._weights.check_finite()
        self.history.losses += values
        self._note(sum(values) / len(values))

    def _note(self, loss: float | None = None) -> None:
        """Log and show what is new."""
        if self._log is not None and self._group.rank == 0:
            self._log.update(self.history)
        if self._show is not None:
            measured = {} if loss is None else {"loss": loss}
            if self.history.validations:
                measured["top1"] = self.history.validations[-1].top1
            self._show(self.step, self.total, measured)

    def _validate(self) -> None:
        """Test the model in process 0; the others learn no more than when to stop."""
        if self._validator is None or self._group.rank > 0:
            return
        parameters = {name: t.detach() for name, t in self._weights.parameters().items()}
        before = self.history.best
        validation = self._validator.validate(parameters, self.step)
        self.history.validations.append(validation)
        keeps = self._options.keep_best or self._options.patience
        if keeps and (before is None or validation.is_better(before)):
            self.best = self._weights.copy()
        self._note()

    def _save(self) -> None:
        if self._files is None or self._group.rank > 0:
            return
        save_checkpoint(
            self._files.state,
            Checkpoint(
                self._weights.copy(),
                self._optimizer.state_dict(),
                self.history,
                self.best,
                self._about,
            ),
        )
        write_whole(self._files.picture, draw(self.history).encode(), overwrite=True)


def _optimizer(weights: Weights, options: FinetuneOptions) -> torch.optim.Optimizer:
    if options.optimizer == "adamw":
        return torch.optim.AdamW(weights.leaves, lr=options.rate, weight_decay=options.weight_decay)
    return torch.optim.SGD(
        weights.leaves,
        lr=options.rate,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
    )


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch use so many threads; 0: as many as it does."""
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _interruptions() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set: an update is never torn. A second one is heeded now."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def note(number: int, frame: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Runs training: in this process, in several processes on one machine, or under torchrun.

- One process: the plain loop.
- Several processes on a CPU or on one GPU: each trains by itself on shared weights, with one lock
  around the update ("Hogwild!", Niu et al., 2011). Nobody waits for anybody's architecture. The
  parent watches; the children end when it does, however it ends. A GPU needs them because starting
  kernels is what an architecture step waits for.
- Under torchrun: gradients are averaged over all processes, which keep equal weights. N processes
  give the losses of one process with N times the meta-batch.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.multiprocessing as multiprocessing

from onnx_ghn.hypernet.kinds import KindsHypernetwork
from onnx_ghn.hypernet.model import build_network
from onnx_ghn.train.distributed import train_synchronously
from onnx_ghn.train.metrics import COUNTS, Metrics
from onnx_ghn.train.monitor import Monitor, Show, saved_at_the_end
from onnx_ghn.train.setup import Setup
from onnx_ghn.train.worker import Worker

POLL_SECONDS = 0.25
CACHED_KERNELS = "16000"
"""oneDNN compiles a convolution for each new shape, which takes up to hundreds of milliseconds, and
keeps 1,024 of them; a corpus of architectures has many more."""


def train(setup: Setup, show: Show, *, processes: int = 1) -> Monitor | None:
    """Train until the budget is spent, and write checkpoint, archive and log.

    Args:
        setup: What to train, and from where.
        show: Displays progress.
        processes: Processes that share the weights, on a CPU or on one GPU.

    Returns:
        The monitor, which knows the results; None in a torchrun process other than the first.

    Raises:
        Interrupted: By SIGINT or SIGTERM, after the state was saved.
    """
    # oneDNN reads it at its first use, in this process and in those that it starts.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", CACHED_KERNELS)
    with _signals_raise():
        if "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            return train_synchronously(setup, show)
        if processes > 1:
            return _train_shared(setup, show, processes)
        return _train_alone(setup, show)


def _train_alone(setup: Setup, show: Show) -> Monitor:
    metrics = Metrics(1)
    worker = setup.worker(setup.network, setup.state)
    monitor = setup.monitor(metrics, show)
    with saved_at_the_end(monitor):
        drive(setup, worker, metrics, monitor)
    return monitor


def drive(setup: Setup, worker: Worker, metrics: Metrics, monitor: Monitor) -> None:
    """The loop of one process that watches itself."""
    start = time.process_time()
    while (progress := monitor.progress) < 1.0:
        update = worker.update(setup.run.before.updates + metrics.updates, progress)
        metrics.record(update, 0, time.process_time() - start)
        monitor.tick()


def _train_shared(setup: Setup, show: Show, processes: int) -> Monitor:
    context = multiprocessing.get_context("spawn")
    metrics = Metrics(processes).share()
    setup.state.share()
    lock, stop = context.Lock(), context.Event()
    arguments = (setup, metrics, lock, stop, os.getpid())
    children = [
        context.Process(target=_child, args=(index, *arguments), daemon=True)
        for index in range(processes)
    ]
    for child in children:
        child.start()
    monitor = setup.monitor(metrics, show, lock)
    try:
        with saved_at_the_end(monitor):
            while monitor.progress < 1.0:
                time.sleep(POLL_SECONDS)
                monitor.tick()
                if not all(child.is_alive() for child in children) and monitor.progress < 1.0:
                    raise RuntimeError("a training process died; its error is above")
            _join(stop, children)
    finally:
        _join(stop, children)
    return monitor


def _join(stop: Any, children: list[Any]) -> None:
    stop.set()
    for child in children:
        child.join()


def _child(index: int, setup: Setup, metrics: Metrics, lock: Any, stop: Any, parent: int) -> None:
    """One training process: ends at the budget, when told, or when its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the parent's to handle
    torch.set_num_threads(1)
    if torch.device(setup.device).type == "cuda":
        torch.cuda.set_device(setup.device)
    network = build_network(setup.run.config.network)
    assert isinstance(network, KindsHypernetwork)
    network.load_state_dict(setup.buffers, strict=False)
    network.to(setup.device)
    share = (index, len(metrics.counts) - COUNTS)
    worker = setup.worker(network, setup.state, lock=lock, share=share)
    start, begin = time.process_time(), time.monotonic()
    before = setup.run.before
    while not stop.is_set() and os.getppid() == parent:
        with lock:
            number = before.updates + int(metrics.counts[0])
            metrics.counts[0] += 1
        elapsed = before.elapsed_seconds + time.monotonic() - begin
        progress = setup.run.budget.progress(number, elapsed)
        if progress >= 1.0:
            break
        update = worker.update(number, progress)
        with lock:
            metrics.record(update, index, time.process_time() - start)


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C, so that a stopped job saves its state."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

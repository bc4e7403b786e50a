"""Synchronous training under torchrun: one process for each GPU, or several on CPUs."""

from __future__ import annotations

import os
import time

import torch
import torch.distributed as distributed
from torch import Tensor

from onnx_ghn.train.metrics import Metrics
from onnx_ghn.train.monitor import Monitor, Show, saved_at_the_end
from onnx_ghn.train.setup import Setup
from onnx_ghn.train.worker import Worker


def train_synchronously(setup: Setup, show: Show) -> Monitor | None:
    """Train together with the other processes of the group; rank 0 watches and writes.

    Returns:
        The monitor of rank 0, None in the others.
    """
    cuda = torch.device(setup.device).type == "cuda"
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        return _train(setup, show)
    finally:
        distributed.destroy_process_group()


def _train(setup: Setup, show: Show) -> Monitor | None:
    rank, world = distributed.get_rank(), distributed.get_world_size()
    metrics = Metrics(1)
    # Weights are equal by their seed or file; that of rank 0 counts all the same.
    for tensor in setup.state.tensors().values():
        distributed.broadcast(tensor, 0)
    worker = setup.worker(setup.network, setup.state, rank=rank, world=world, reduce=_average)
    if rank > 0:
        _follow(setup, worker)
        return None
    monitor = setup.monitor(metrics, show)
    start = time.process_time()
    with saved_at_the_end(monitor):
        while (progress := _agree(monitor.progress, setup.device)) < 1.0:
            update = worker.update(setup.run.before.updates + metrics.updates, progress)
            metrics.record(update, 0, (time.process_time() - start) * world, world)
            monitor.tick()
    return monitor


def _follow(setup: Setup, worker: Worker) -> None:
    """Work on every update that rank 0 announces."""
    step = setup.run.before.updates
    while (progress := _agree(0.0, setup.device)) < 1.0:
        worker.update(step, progress)
        step += 1


def _agree(progress: float, device: str) -> float:
    """Rank 0's progress, in all processes: clocks differ, and all must stop at one step."""
    value = torch.tensor([progress], dtype=torch.float64, device=device)
    distributed.broadcast(value, 0)
    return float(value)


def _average(gradients: tuple[Tensor, ...]) -> None:
    for gradient in gradients:
        distributed.all_reduce(gradient)
        gradient.div_(distributed.get_world_size())

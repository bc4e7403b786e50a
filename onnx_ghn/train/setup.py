"""What a run needs before its first step, made from options, a checkpoint or an archive."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onnx_ghn.architectures.splits import held_out_keys
from onnx_ghn.checkpoint_file import CheckpointError
from onnx_ghn.data import Data, load_data
from onnx_ghn.errors import OptionError
from onnx_ghn.hypernet.archive import load_network
from onnx_ghn.hypernet.config import ArchiveConfig
from onnx_ghn.hypernet.kinds import KindsHypernetwork
from onnx_ghn.hypernet.model import build_network
from onnx_ghn.random_stream import RandomStream
from onnx_ghn.torch_device import check_device
from onnx_ghn.train.checkpoint import Checkpoint, Counters, load_checkpoint
from onnx_ghn.train.corpus import Corpus
from onnx_ghn.train.export import archive_config, network_config
from onnx_ghn.train.images import Images
from onnx_ghn.train.log import Log
from onnx_ghn.train.metrics import Metrics
from onnx_ghn.train.monitor import Monitor, Run, Show
from onnx_ghn.train.options import Budget, RunPaths, TrainOptions
from onnx_ghn.train.parameters import FlatState, bind
from onnx_ghn.train.worker import Worker

VALIDATION_SHARE = 0.1
"""The last tenth of each class is held out."""


@dataclass(eq=False)
class Setup:
    """A run that is ready to start. Travels to child processes, hence holds no images.

    Attributes:
        run: Files, budget, options, archive description, counters so far.
        data_path: Labelled training images.
        state: Weights and optimiser.
        network: The hypernetwork; parameters are views of the state's weights.
        corpus: Folder of ONNX files to train on in place of sampled architectures.
        device: Where to compute.
        tensorboard: Whether to log for TensorBoard too.
    """

    run: Run
    data_path: Path
    state: FlatState
    network: KindsHypernetwork
    corpus: Path | None = None
    device: str = "cpu"
    tensorboard: bool = False

    def log(self) -> Log:
        """The run's log."""
        paths = self.run.paths
        return Log(paths.log, paths.tensorboard if self.tensorboard else None)

    @property
    def buffers(self) -> dict[str, torch.Tensor]:
        """What the network has besides its weights."""
        return dict(self.network.named_buffers())

    def training_data(self) -> Data:
        """Images to train on."""
        return load_data(self.data_path).split(VALIDATION_SHARE)[0]

    def validation_data(self) -> Data:
        """Held-out images, shuffled."""
        return shuffled(load_data(self.data_path).split(VALIDATION_SHARE)[1])

    def worker(
        self,
        network: KindsHypernetwork,
        state: FlatState,
        *,
        lock: Any = None,
        share: tuple[int, int] = (0, 1),
        **distributed: Any,
    ) -> Worker:
        """The worker of a process; it loads the images itself.

        Args:
            network: The process's own network, whose weights those of `state` become.
            state: Weights and optimiser, which processes may share.
            lock: Held while a shared state is updated.
            share: Number of the process, and how many there are.
            distributed: Rank, size and `reduce` of a group that keeps equal weights.
        """
        config = self.run.config
        corpus = Corpus(
            config.network,
            seed=self.run.options.seed,
            held_out=held_out_keys(),
            folder=self.corpus,
            share=share,
            device=self.device,
        )
        images = Images(self.training_data(), config.mean, config.std, self.device)
        return Worker(network, state, corpus, images, self.run.options, lock=lock, **distributed)

    def monitor(self, metrics: Metrics, show: Show, lock: Any = None) -> Monitor:
        """What watches the run; it takes the lock where it reads a shared state."""
        config = self.run.config
        images = Images(self.validation_data(), config.mean, config.std, self.device)
        return Monitor(
            self.run,
            self.state,
            self.network,
            metrics,
            images,
            nullcontext() if lock is None else lock,
            show,
            self.device,
            self.log(),
        )

    def __getstate__(self) -> dict[str, Any]:
        """Children build a network of their own: views don't survive being sent."""
        return self.__dict__ | {"network": _Buffers(self.buffers)}


@dataclass
class _Buffers:
    """Stands for a network in a setup that was sent to another process."""

    buffers: dict[str, torch.Tensor]

    def named_buffers(self) -> list[tuple[str, torch.Tensor]]:
        return list(self.buffers.items())


def shuffled(data: Data) -> Data:
    """Labelled data in a fixed random order: a batch of one class would have odd statistics."""
    return data.take(np.asarray(RandomStream(0, "validation").permutation(len(data))))


def new_run(
    data: Path,
    out: Path,
    budget: Budget,
    options: TrainOptions,
    *,
    start: Path | None = None,
    corpus: Path | None = None,
    device: str = "cpu",
) -> Setup:
    """Prepare a run from nothing, from the weights of an archive, or from another run.

    Another run gives its optimiser state too; from an archive the optimiser starts empty, hence
    with a warm-up.

    Raises:
        OptionError: `out` holds a run already, or the archive is of another design.
        DataError: The data can't be read.
        ArchiveError: The archive can't be read.
    """
    paths = RunPaths(out)
    if paths.checkpoint.exists():
        raise OptionError(f"{out} holds a run already: go on with --resume, or name another folder")
    images = load_data(data)
    classes = len(images.classes)
    provenance: dict[str, Any] = {"seed": options.seed}
    checkpoint = None
    if start is None:
        torch.manual_seed(options.seed)
        network = build_network(network_config(classes))
        normalisation = images.split(VALIDATION_SHARE)[0].statistics()
    else:
        network, before, checkpoint = _start(start)
        # What was trained on channels by number goes on with channels by place.
        if replace(before.network, aligned=True) != network_config(classes):
            raise OptionError(
                f"{start}: training goes on only from what this trainer made for {classes} classes"
            )
        normalisation = (before.mean, before.std)
        provenance["from"] = before.name
    config = archive_config(
        out.resolve().name,
        classes,
        options.final_side,
        normalisation,
        f"{len(images)} labelled images of {classes} classes from {data.name}",
        provenance,
    )
    out.mkdir(parents=True, exist_ok=True)
    run = Run(paths, budget, options, config, Counters())
    return _setup(run, data, network, corpus, device, checkpoint)


def resumed_run(
    data: Path,
    out: Path,
    budget: Budget,
    changes: dict[str, Any],
    *,
    corpus: Path | None = None,
    device: str = "cpu",
) -> Setup:
    """Go on with a run from its checkpoint, with its own options apart from `changes`.

    Raises:
        CheckpointError: There is no checkpoint, it is damaged, or is of another number of classes.
    """
    paths = RunPaths(out)
    checkpoint = load_checkpoint(paths.checkpoint)
    options = replace(TrainOptions(**checkpoint.about["options"]), **changes)
    config = _config_of(checkpoint, paths.checkpoint)
    classes = len(load_data(data).classes)
    if classes != config.network.classes:
        raise CheckpointError(
            f"{paths.checkpoint}: trained for {config.network.classes} classes, {data} has "
            f"{classes}"
        )
    network = _network_of(checkpoint, config)
    run = Run(paths, budget, options, config, checkpoint.counters)
    return _setup(run, data, network, corpus, device, checkpoint)


def _setup(
    run: Run,
    data: Path,
    network: torch.nn.Module,
    corpus: Path | None,
    device: str,
    checkpoint: Checkpoint | None = None,
) -> Setup:
    assert isinstance(network, KindsHypernetwork)
    check_device(device)
    network.to(device)
    state = FlatState.of(network)
    if checkpoint is not None:
        state.load(checkpoint.tensors)
    bind(network, state.weights)
    return Setup(run, data, state, network, corpus, device)


def _start(path: Path) -> tuple[torch.nn.Module, ArchiveConfig, Checkpoint | None]:
    """The network of an archive, or of the run in a folder."""
    if not path.is_dir():
        network, config = load_network(path)
        return network, config, None
    checkpoint = load_checkpoint(RunPaths(path).checkpoint)
    config = _config_of(checkpoint, path)
    return _network_of(checkpoint, config), config, checkpoint


def _config_of(checkpoint: Checkpoint, path: Path) -> ArchiveConfig:
    return ArchiveConfig.from_json(json.dumps(checkpoint.about["archive"]), str(path))


def _network_of(checkpoint: Checkpoint, config: ArchiveConfig) -> torch.nn.Module:
    network = build_network(config.network)
    network.load_state_dict(checkpoint.buffers, strict=False)
    return network

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from onnx_ghn.checkpoint_file import CheckpointError
from onnx_ghn.errors import OptionError
from onnx_ghn.hypernet.archive import load_network, read_info
from onnx_ghn.train.checkpoint import load_checkpoint
from onnx_ghn.train.export import export_archive
from onnx_ghn.train.loop import train
from onnx_ghn.train.options import Budget, RunPaths
from onnx_ghn.train.setup import new_run, resumed_run


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def quiet(progress, measured):
    pass


def weights(folder):
    return load_checkpoint(RunPaths(folder).checkpoint).tensors


def test_a_resumed_run_ends_like_an_uninterrupted_one(data, options, tmp_path):
    train(new_run(data, tmp_path / "whole", Budget(steps=6), options), quiet)
    # The schedule asks for the whole length; a stop in the middle is what a kill would leave.
    setup = new_run(data, tmp_path / "parts", Budget(steps=6), options)
    stop = StopAfter(3)
    with pytest.raises(KeyboardInterrupt):
        run_with(setup, stop)
    assert load_checkpoint(setup.run.paths.checkpoint).counters.updates == 3
    train(resumed_run(data, tmp_path / "parts", Budget(steps=6), {}), quiet)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=0, atol=0)


class StopAfter:
    """Saves the state after so many updates, and stops there."""

    def __init__(self, updates):
        self.updates = updates

    def __call__(self, monitor, metrics):
        if metrics.updates == self.updates:
            monitor.save(evaluated=False)
            raise KeyboardInterrupt


def run_with(setup, stop):
    from onnx_ghn.train.metrics import Metrics

    metrics = Metrics(1)
    worker = setup.worker(setup.network, setup.state)
    monitor = setup.monitor(metrics, quiet)
    while (progress := monitor.progress) < 1.0:
        metrics.record(worker.update(metrics.updates, progress), 0, 0.0)
        stop(monitor, metrics)


def test_it_learns_and_writes_archive_log_and_checkpoint(data, options, tmp_path):
    setup = new_run(data, tmp_path / "run", Budget(steps=300), options)
    monitor = train(setup, quiet)
    assert monitor.held_out["mean"] > 0.45  # chance is 0.25
    paths = setup.run.paths
    info = read_info(paths.archive)
    assert info.trained
    assert info.config.held_out[0]["architectures"] == 2
    assert info.config.network.classes == 4
    assert len(info.config.mean) == len(info.config.std) == 3
    records = [json.loads(line) for line in paths.log.read_text().splitlines()]
    last = records[-1]
    assert last["event"] == "held-out"
    assert last["architecture_steps"] == 300
    assert set(last["families"]) >= {"bn"}
    assert load_checkpoint(paths.checkpoint).counters.cpu_seconds > 0


def test_processes_share_the_work(data, options, tmp_path):
    setup = new_run(data, tmp_path / "run", Budget(steps=12), options)
    before = setup.state.weights[0].clone()
    train(setup, quiet, processes=2)
    counters = load_checkpoint(setup.run.paths.checkpoint).counters
    assert counters.updates == 12
    assert float(weights(tmp_path / "run")["steps.0"]) == 12
    assert not torch.equal(before, setup.state.weights[0])


def test_an_archive_starts_with_an_empty_optimiser_and_its_weights(data, options, tmp_path):
    first = new_run(data, tmp_path / "first", Budget(steps=2), options)
    train(first, quiet)
    start = first.run.paths.archive
    second = new_run(data, tmp_path / "second", Budget(steps=2), options, start=start)
    assert float(second.state.steps[0]) == 0
    assert second.run.config.mean == first.run.config.mean
    network, _ = load_network(start)
    expected = dict(network.named_parameters())
    for name, parameter in second.network.named_parameters():
        torch.testing.assert_close(parameter, expected[name])
    third = new_run(data, tmp_path / "third", Budget(steps=2), options, start=tmp_path / "first")
    assert float(third.state.steps[0]) == 2
    torch.testing.assert_close(third.state.second[1], first.state.second[1])


def test_an_archive_without_aligned_channels_goes_on_with_them(data, options, tmp_path):
    first = new_run(data, tmp_path / "first", Budget(steps=2), options)
    assert first.run.config.network.aligned
    old = replace(first.run.config, network=replace(first.run.config.network, aligned=False))
    start = tmp_path / "old.pt"
    export_archive(start, old, first.network, {})
    assert not read_info(start).config.network.aligned
    second = new_run(data, tmp_path / "second", Budget(steps=2), options, start=start)
    assert second.run.config.network.aligned


def test_a_folder_that_holds_a_run_is_not_overwritten(data, options, tmp_path):
    train(new_run(data, tmp_path, Budget(steps=1), options), quiet)
    with pytest.raises(OptionError, match="--resume"):
        new_run(data, tmp_path, Budget(steps=1), options)


def test_there_is_nothing_to_resume(data, tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        resumed_run(data, tmp_path, Budget(steps=1), {})


def test_a_damaged_checkpoint_is_named(data, options, tmp_path):
    setup = new_run(data, tmp_path, Budget(steps=1), options)
    train(setup, quiet)
    path = setup.run.paths.checkpoint
    path.write_bytes(path.read_bytes()[: 1 << 16])
    with pytest.raises(CheckpointError, match=r"state\.pt.*damaged"):
        resumed_run(data, tmp_path, Budget(steps=2), {})


def test_another_number_of_classes_is_refused(data, options, tmp_path):
    train(new_run(data, tmp_path / "run", Budget(steps=1), options), quiet)
    other = tmp_path / "other.npz"
    np.savez(other, x=np.zeros((8, 16, 16, 3), np.uint8), y=np.arange(8) % 2)
    with pytest.raises(CheckpointError, match=r"4 classes.* 2"):
        resumed_run(other, tmp_path / "run", Budget(steps=2), {})


def test_a_budget_is_minutes_or_steps():
    for wrong in ({}, {"minutes": 1.0, "steps": 1}, {"steps": 0}, {"minutes": -1.0}):
        with pytest.raises(OptionError, match="steps"):
            Budget(**wrong)
    assert Budget(minutes=2.0).progress(999, 60.0) == 0.5
    assert Budget(steps=10).progress(5, 1e9) == 0.5

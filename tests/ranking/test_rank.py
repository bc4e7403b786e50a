"""Rankings of real networks on scikit-learn's digits, in worker processes."""

import dataclasses
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

import onnx_ghn
from onnx_ghn import DataError, InitializeOptions, OptionError, OutputError, RankOptions, RunOptions
from onnx_ghn.architectures.sample import sample
from onnx_ghn.errors import DeviceError
from onnx_ghn.ranking.candidates import Candidate, candidates_of
from onnx_ghn.ranking.flops import count_flops
from onnx_ghn.ranking.results import Record
from onnx_ghn.ranking.scorer import Job, Scorer
from onnx_ghn.ranking.training_free import naswot, synflow
from onnx_ghn.read.reading import read_model

RUN = RunOptions(limit=60)


def names(ranking):
    return [record.model for record in ranking.records]


def test_score_is_that_of_init_calibrate_and_eval(digits, tmp_path):
    """Rank says of a network what the single commands say, and writes the winner."""
    data = digits / "test.npz"
    best = tmp_path / "best.onnx"
    options = RankOptions(sample=2, seed=3, processes=1)
    ranking = onnx_ghn.rank((), data, options, run=RUN, save_best=best)
    assert len(ranking.records) == 2 and not ranking.failed
    for record in ranking.records:
        model = sample("narrow", int(record.model.split("/")[1]), image_side=8)
        fill = InitializeOptions(method="ghn", seed=3, missing_only=True)
        onnx_ghn.initialize(model, None, fill, data=data, run=RUN)
        result = onnx_ghn.evaluate(model, data, RUN, initialize=fill)
        assert record.score == record.top1 == result.top1
        assert record.loss == pytest.approx(result.loss, rel=1e-6)
    again = onnx_ghn.evaluate(best, data, RUN, initialize=InitializeOptions(seed=3))
    assert again.top1 == ranking.records[0].top1


def test_a_trained_file_keeps_its_weights_and_wins(digits, trained, export, tmp_path):
    ir.save(export(trained), tmp_path / "trained.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    options = RankOptions(sample=1, processes=1)
    ranking = onnx_ghn.rank(tmp_path, digits / "test.npz", options, run=RUN)
    alone = onnx_ghn.evaluate(tmp_path / "trained.onnx", digits / "test.npz", RUN)
    first, _, last = ranking.records
    assert first.model.endswith("trained.onnx") and first.top1 == alone.top1 and first.flags
    assert last.model.endswith("broken.onnx") and "not an ONNX model" in last.error
    assert last.score is None


def test_resume_skips_what_is_there_and_drops_half_a_line(digits, tmp_path):
    out = tmp_path / "out.jsonl"
    data = digits / "test.npz"
    options = RankOptions(sample=3, score="params", processes=1)
    whole = onnx_ghn.rank((), data, options, run=RUN, out=out)
    lines = out.read_bytes().splitlines(keepends=True)
    assert len(lines) == 4 and json.loads(lines[0])["format"] == 1
    out.write_bytes(b"".join(lines[:2]) + lines[2][:20])
    resumed = onnx_ghn.rank((), data, options, run=RUN, out=out)
    assert resumed.resumed == 1 and names(resumed) == names(whole)
    assert len([json.loads(line) for line in out.read_text().splitlines()]) == 4
    with pytest.raises(OutputError, match=r"score was .*params.*, now .*flops"):
        onnx_ghn.rank((), data, RankOptions(sample=3, score="flops"), run=RUN, out=out)
    with pytest.raises(OutputError, match="data was"):
        onnx_ghn.rank((), digits / "train.npz", options, run=RUN, out=out)
    stretched = dataclasses.replace(RUN, resize="stretch")
    with pytest.raises(OutputError, match="resize was"):
        onnx_ghn.rank((), data, options, run=stretched, out=out)
    for device in ("/dev/full", tmp_path):
        with pytest.raises(OutputError, match="no regular file"):
            onnx_ghn.rank((), data, options, run=RUN, out=device)
    other = tmp_path / "notes.txt"
    other.write_text("my notes\n")
    with pytest.raises(OutputError, match="something else"):
        onnx_ghn.rank((), data, options, run=RUN, out=other)
    assert other.read_text() == "my notes\n"
    header, record = out.read_text().splitlines()[:2]
    other.write_text("\n".join([header, json.dumps(json.loads(record) | {"flops": []}), ""]))
    with pytest.raises(OutputError, match="something else"):
        onnx_ghn.rank((), data, options, run=RUN, out=other)


@pytest.mark.long
def test_a_killed_ranking_of_a_thousand_goes_on(digits, tmp_path):
    out = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "onnx_ghn", "rank", "--sample", "1000", "--score", "params"]
    command += ["--data", digits / "test.npz", "--out", out, "--format", "json"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while not out.exists() or out.read_bytes().count(b"\n") < 300:
            assert process.poll() is None
            time.sleep(0.1)
        process.kill()
    left = out.read_bytes().rpartition(b"\n")[0]
    done = subprocess.run(command, capture_output=True, check=True)
    assert out.read_bytes().startswith(left)
    ranked = [record["model"] for record in json.loads(done.stdout)]
    kept = [json.loads(line)["model"] for line in out.read_text().splitlines()[1:]]
    expected = sorted(f"narrow/{seed}" for seed in range(1000))
    assert sorted(ranked) == sorted(kept) == expected


def test_a_killed_worker_costs_one_candidate(digits):
    killed = []

    def kill_one(done, total):
        if done == 1 and not killed:
            (victim,) = multiprocessing.active_children()
            killed.append(victim.pid)
            os.kill(victim.pid, signal.SIGKILL)

    # One worker, which has begun by then: of two, the other may still be starting, and one that
    # dies before it has begun ends the ranking.
    options = RankOptions(sample=6, processes=1)
    ranking = onnx_ghn.rank((), digits / "test.npz", options, run=RUN, progress=kill_one)
    assert killed and len(ranking.records) == 6
    assert len(ranking.failed) <= 1 and all("-9" in r.error for r in ranking.failed)
    assert not multiprocessing.active_children()


def test_a_device_that_does_not_start_ends_the_ranking(digits, monkeypatch):
    def refuse(*arguments, **options):
        raise DeviceError("no such device")

    monkeypatch.setattr("onnx_ghn.run.session.open_session", refuse)
    scorer = Scorer(Job(str(digits / "test.npz"), RankOptions(method="classical"), RUN, 8))
    with pytest.raises(DeviceError):
        scorer.score(Candidate("narrow/0", space="narrow"))


def test_what_spoils_a_score_is_flagged(trained, export, digits, tmp_path):
    ir.save(export(trained, batch=2), tmp_path / "few.onnx")
    ir.save(export(trained, folded=True), tmp_path / "folded.onnx")
    ir.save(export(trained), tmp_path / "good.onnx")
    options = RankOptions(overwrite=True, processes=1)
    ranking = onnx_ghn.rank(tmp_path, digits / "test.npz", options, run=RUN)
    assert not ranking.failed, ranking.failed[0].error
    flags = {Path(record.model).stem: " ".join(record.flags) for record in ranking.records}
    assert "statistics of batches of 2" in flags["few"]
    assert "no normalisation layer: folded" in flags["folded"]
    assert "statistics" not in flags["good"] and "normalisation" not in flags["good"]


def test_order():
    records = [
        Record(model="failed", error="x"),
        Record(model="none", parameters=1),
        Record(model="b", score=0.5, loss=1.0, parameters=5),
        Record(model="a", score=0.5, loss=1.0, parameters=5),
        Record(model="small", score=0.5, loss=1.0, parameters=4),
        Record(model="lower loss", score=0.5, loss=0.9, parameters=9),
        Record(model="best", score=0.6, loss=9.0, parameters=9),
    ]
    expected = ["best", "lower loss", "small", "a", "b", "none", "failed"]
    assert [record.model for record in sorted(records, key=Record.order)] == expected


def test_candidates(tmp_path):
    for name in ("a.onnx", "b.onnx", "deep/c.onnx"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "list.txt").write_text("# mine\nb.onnx\nmissing.onnx\n")
    found = candidates_of([tmp_path / "list.txt", f"{tmp_path}/*.onnx", tmp_path], RankOptions())
    stems = [os.path.relpath(c.path, tmp_path) for c in found]
    assert stems == ["b.onnx", "missing.onnx", "a.onnx", "deep/c.onnx"]
    with pytest.raises(OptionError, match="nothing to rank"):
        candidates_of([], RankOptions())
    with pytest.raises(OptionError, match="no such file"):
        candidates_of([tmp_path / "none.onnx"], RankOptions())
    with pytest.raises(OptionError, match="unknown space"):
        candidates_of([], RankOptions(sample=1, space="nowhere"))
    with pytest.raises(DataError, match="no such file"):
        onnx_ghn.rank(tmp_path, tmp_path / "nothing")


@pytest.mark.parametrize("lines", ["list.txt", "**/*", "[", "\ufefflist.txt\r\n", "a" * 300])
def test_a_list_that_names_itself_or_nothing_is_read_once(tmp_path, lines):
    (tmp_path / "list.txt").write_text(lines)
    (found,) = candidates_of([tmp_path / "list.txt"], RankOptions())
    assert found.path.startswith(str(tmp_path))


@pytest.mark.parametrize(
    "lines", ["", "#", "a\0b", "a" * 5000], ids=["empty", "comment", "null", "long"]
)
def test_a_list_that_is_none(tmp_path, lines):
    (tmp_path / "list.txt").write_text(lines)
    with pytest.raises(OptionError, match=r"list\.txt"):
        candidates_of([tmp_path / "list.txt"], RankOptions())


def test_a_name_that_no_system_takes(tmp_path):
    with pytest.raises(OptionError, match="too long"):
        candidates_of([tmp_path / ("a" * 300)], RankOptions())


NETWORK = """
<ir_version: 10, opset_import: ["" : 21]>
net (float[n, 2] x) => (float[n, 2] y)
<float[2, 2] first = {1, -2, 3, 4}, float[2, 2] second = {-1, 1, 2, 0.5}>
{ h = Gemm <transB = 1> (x, first)
  r = Relu (h)
  y = Gemm <transB = 1> (r, second) }
"""


def test_flops_and_synflow_by_hand():
    model = ir.from_onnx_text(NETWORK)
    assert count_flops(model, (1, 2)) == 2 * (4 + 4) == count_flops(model, (8, 2))
    # |first| @ 1 = (3, 7); R = |second| @ that = 10 + 9.5; each of two layers carries all of R.
    assert synflow(model, read_model(model), (1, 2)) == pytest.approx(math.log(2 * 19.5))


def test_naswot_by_hand():
    model = ir.from_onnx_text(NETWORK)
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # h = (1, 3) and (-2, 4): codes 11 and 01
    assert naswot(model, images) == pytest.approx(math.log(2 * 2 - 1 * 1))
    assert naswot(model, images[:1].repeat(2, 1)) == -math.inf


@pytest.mark.parametrize("space", ["narrow", "full"])
def test_flops_are_those_of_the_generator(space):
    from onnx_ghn.architectures.spaces import space_named

    for seed in (0, 1, 2, 2_000_000):  # the last one of `full` has GroupNormalization
        flops = count_flops(sample(space, seed), (1, 3, 32, 32))
        assert flops is not None and 0 < flops <= 2 * space_named(space).macs


@pytest.mark.parametrize("score", ["loss", "flops", "synflow", "naswot"])
def test_every_score_ranks(score, digits):
    options = RankOptions(sample=3, score=score, processes=1)
    ranking = onnx_ghn.rank((), digits / "test.npz", options, run=RUN)
    scores = [record.score for record in ranking.records]
    assert not ranking.failed and scores == sorted(scores, reverse=True)
    if score == "loss":
        assert scores == [-record.loss for record in ranking.records]


def test_ray(digits):
    """Equal to the local result, on a real Ray that this test starts."""
    pytest.importorskip("ray", reason="Ray is an extra: pip install 'onnx-ghn[ray]'")
    local = onnx_ghn.rank((), digits / "test.npz", RankOptions(sample=4, processes=1), run=RUN)
    command = Path(sys.executable).with_name("ray")
    start = [command, "start", "--head", "--port=6399", "--num-cpus=2", "--include-dashboard=false"]
    subprocess.run(start, check=True, capture_output=True)
    try:
        options = RankOptions(sample=4, ray="127.0.0.1:6399")
        there = onnx_ghn.rank((), digits / "test.npz", options, run=RUN)
    finally:
        subprocess.run([command, "stop"], check=False, capture_output=True)
    assert [(r.model, r.score) for r in there.records] == [
        (r.model, r.score) for r in local.records
    ]


def test_iterable_data_equals_the_file(digits):
    with np.load(digits / "test.npz") as arrays:
        pairs = [(arrays["x"], arrays["y"])]
    options = RankOptions(sample=2, processes=1)
    kept = onnx_ghn.rank((), pairs, options, run=RUN)
    file = onnx_ghn.rank((), digits / "test.npz", options, run=RUN)
    assert [r.score for r in kept.records] == [r.score for r in file.records]


COMPUTED = f"""
<ir_version: 10, opset_import: ["" : 21]>
net (float[n, 3, 8, 8] x) => (float[n, 2] y)
<float[4, 3, 3, 3] kernel = {{{", ".join(108 * "1")}}},
 float[2, 4] weight = {{1, 2, 3, 4, 5, 6, 7, 8}},
 int64[1] three = {{3}}, int64[1] seven = {{7}}, int64[1] two = {{2}}, int64[1] zero = {{0}},
 int64[1] rest = {{-1}}>
{{ h = Conv <pads = [1, 1, 1, 1]> (x, kernel)
  shape = Shape (h)
  one = Mod (seven, three)
  end = Add (one, one)
  begin = Slice (shape, zero, end)
  whole = Concat <axis = 0> (begin, rest)
  flat = Reshape (h, whole)
  mean_axis = Reshape (two, one)
  mean = ReduceMean <keepdims = 0> (flat, mean_axis)
  y = Gemm <transB = 1> (mean, weight) }}
"""


def test_flops_behind_axes_and_shapes_that_are_computed():
    model = ir.from_onnx_text(COMPUTED)
    assert count_flops(model, (1, 3, 8, 8)) == 2 * (8 * 8 * 4 * 27 + 4 * 2)
    assert "mean_axis" not in model.graph.initializers  # the model itself stays

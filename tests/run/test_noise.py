"""Noise as input: sizes that run, indices within their tables, the same bits every time."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnx_ghn.errors import ModelError
from onnx_ghn.run.noise import run_on_noise
from onnx_ghn.run.session import open_session

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'


def runs(text: str, **options):
    model = ir.from_onnx_text(HEAD + text)
    return list(run_on_noise(open_session(model), model, **options))


def conv(batch: str, channels: str, side: str) -> str:
    return f"""g (float[{batch},{channels},{side},{side}] x) => (float y)
        {{ w = RandomNormal<shape=[4,5,3,3], seed=1.0>()  y = Conv(x, w) }}"""


def test_dynamic_axes_get_sizes_and_the_batch_is_as_asked():
    [(feeds, results)] = runs(conv("N", "5", "S"), batch=7)
    assert feeds["x"].shape == (7, 5, 128, 128)
    assert results["y"].shape == (7, 4, 126, 126)
    assert feeds["x"].std() == pytest.approx(1.0, abs=0.01)


def test_fixed_batch_runs_until_the_samples_are_seen():
    seen = runs(conv("2", "5", "8"), batch=16, samples=5)
    assert [feeds["x"].shape for feeds, _ in seen] == [(2, 5, 8, 8)] * 3
    assert not np.array_equal(seen[0][0]["x"], seen[1][0]["x"])
    again = runs(conv("2", "5", "8"), samples=5)
    for (feeds, results), (other_feeds, other_results) in zip(seen, again, strict=True):
        assert np.array_equal(feeds["x"], other_feeds["x"])
        assert np.array_equal(results["y"], other_results["y"])


def test_seed_changes_the_noise():
    assert not np.array_equal(
        runs(conv("1", "5", "8"), seed=0)[0][0]["x"], runs(conv("1", "5", "8"), seed=1)[0][0]["x"]
    )


def test_channels_come_from_the_convolution():
    text = """g (float[N,C,H,W] x) => (float y) <float[1,5,1,1] w = {1, 2, 3, 4, 5}>
        { s = Mul(x, x)  y = Conv(s, w) }"""
    assert runs(text, batch=2)[0][0]["x"].shape == (2, 5, 128, 128)


def test_other_sizes_are_tried_until_one_runs():
    text = """g (float[N,3,S,S] x) => (float y) <int64[2] shape = {-1, 150528}>
        { y = Reshape(x, shape) }"""
    assert runs(text, batch=3)[0][0]["x"].shape == (3, 3, 224, 224)


def test_batch_of_one_where_nothing_larger_runs():
    text = "g (float[N,4] x) => (float y) <int64[1] shape = {4}> { y = Reshape(x, shape) }"
    assert runs(text, batch=16)[0][0]["x"].shape == (1, 4)


def test_indices_stay_within_their_table_and_masks_are_one():
    text = """g (int64[N,T] ids, int32[N,T] kinds, int64[N,T] mask, bool[N] flag)
        => (float y, bool z)
        <float[5,2] words = {1, 2, 3, 4, 5, 6, 7, 8, 9, 0}, float[2,2] types = {1, 2, 3, 4}>
        { k = Cast<to=7>(kinds)  a = Gather(words, ids)  b = Gather(types, k)  c = Add(a, b)
          m = Cast<to=1>(mask)  axes = Constant<value_ints=[2]>()  u = Unsqueeze(m, axes)
          y = Mul(c, u)  z = Identity(flag) }"""
    [(feeds, _)] = runs(text, batch=8)
    assert feeds["ids"].shape == feeds["mask"].shape == (8, 16)
    assert set(np.unique(feeds["ids"])) == set(range(5))
    assert set(np.unique(feeds["kinds"])) == {0, 1}
    assert feeds["mask"].all()
    assert feeds["flag"].all()


def test_pictures_in_bytes_are_not_constant():
    text = "g (uint8[N,16,16,3] x) => (float y) { y = Cast<to=1>(x) }"
    [(feeds, _)] = runs(text, batch=2)
    assert feeds["x"].dtype == np.uint8
    assert feeds["x"].std() > 50


def test_nothing_that_runs_is_an_error_with_the_cause():
    text = "g (float[N,4] x) => (float y) <int64[1] shape = {7}> { y = Reshape(x, shape) }"
    with pytest.raises(ModelError, match="can't run"):
        runs(text)

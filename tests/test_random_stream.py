"""Random numbers: keyed, reproducible, and distributed as they should be."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_ghn.random_stream import BLOCK, RandomStream


def test_normal_has_mean_zero_variance_one_and_normal_tails():
    values = RandomStream(0, "weight").normal((2_000_000,)).astype(np.float64)
    assert abs(values.mean()) < 0.003
    assert values.var() == pytest.approx(1.0, abs=0.004)
    assert (values**4).mean() == pytest.approx(3.0, abs=0.03)
    assert np.mean(np.abs(values) > 1.959964) == pytest.approx(0.05, abs=0.001)
    assert np.corrcoef(values[:-1], values[1:])[0, 1] == pytest.approx(0.0, abs=0.003)


@pytest.mark.parametrize("limit", [1.0, 2.0, 3.0])
def test_truncated_normal_is_bounded_and_keeps_unit_variance(limit: float):
    values = RandomStream(0, "table").normal((500_000,), limit=limit).astype(np.float64)
    grid = np.linspace(-limit, limit, 100_001)
    density = np.exp(-0.5 * grid**2)
    std_of_cut = np.sqrt((grid**2 * density).sum() / density.sum())
    assert values.var() == pytest.approx(1.0, abs=0.01)
    assert np.abs(values).max() == pytest.approx(limit / std_of_cut, rel=1e-3)


def test_bits_are_pinned():
    """A change here changes every model that anybody initialised: it needs a release note."""
    uniform = RandomStream(7, "conv1.weight").uniform(3)
    pinned = ["0x1.55291a2588b17p-1", "0x1.7223de4ea3330p-2", "0x1.8e71ba04bc34cp-3"]
    assert [number.hex() for number in uniform.tolist()] == pinned
    normal = RandomStream(7, "conv1.weight").normal((3,))
    # The table is computed in floating point: equal to rounding from one machine to the next.
    assert normal.tolist() == pytest.approx([0.63855439, 0.72892970, 0.12835014], abs=2e-7)


@given(st.integers(), st.text(), st.integers(0, 50), st.integers(0, 50))
def test_stream_depends_on_seed_and_name_alone(seed: int, name: str, first: int, second: int):
    whole = RandomStream(seed, name).uniform(first + second)
    stream = RandomStream(seed, name)
    parts = np.concatenate([stream.uniform(first), stream.uniform(second)])
    assert np.array_equal(whole, parts)
    assert np.all((whole >= 0) & (whole < 1))


def test_other_seeds_and_names_give_other_numbers():
    draws = [RandomStream(seed, name).normal((64,)) for seed in (0, 1, -1) for name in ("a", "b")]
    hashes = {hashlib.sha256(values.tobytes()).hexdigest() for values in draws}
    assert len(hashes) == 6


def test_blocks_do_not_repeat():
    values = RandomStream(0, "large").normal((2 * BLOCK + 5,))
    assert not np.array_equal(values[:BLOCK], values[BLOCK : 2 * BLOCK])


def test_permutation_and_signs():
    stream = RandomStream(0, "x")
    assert sorted(stream.permutation(100)) == list(range(100))
    signs = stream.signs(10_000)
    assert set(signs) == {-1.0, 1.0}
    assert abs(signs.mean()) < 0.05


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_scaling_and_rounding_in_the_table_gives_the_bits_of_doing_it_afterwards(dtype):
    unit = RandomStream(0, "weight").normal((1000,), 2.0)
    scaled = RandomStream(0, "weight").normal((1000,), 2.0, std=0.3, mean=1.5, dtype=dtype)
    assert scaled.tobytes() == (unit * 0.3 + 1.5).astype(dtype).tobytes()

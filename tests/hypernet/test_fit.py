import math

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_ghn.hypernet.fit import TOKEN_STD, fit_positions, fit_vector, fit_weight, scale
from onnx_ghn.random_stream import RandomStream


def random(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@settings(deadline=None)
@given(
    out=st.integers(1, 9),
    ins=st.integers(1, 9),
    tile=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    kernel=st.sampled_from([(), (3,), (1, 1), (3, 2)]),
)
def test_every_element_is_the_tiles_by_modulo(out, ins, tile, kernel):
    tile = (min(out, tile[0]), min(ins, tile[1]))
    values = random(*tile, *((*kernel, 1, 1)[:2]))
    shape = (out, ins, *kernel)
    fitted = fit_weight(values, shape)
    assert fitted.shape == shape
    assert fitted.dtype == np.float32
    fitted = fitted.reshape(out, ins, -1)
    values = values.reshape(*tile, -1)
    for o in range(out):
        for i in range(ins):
            expected = values[o % tile[0], i % tile[1]] * scale(shape)
            np.testing.assert_allclose(fitted[o, i], expected, rtol=1e-6)


@settings(deadline=None)
@given(
    data=st.data(),
    tile=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    transposed=st.booleans(),
)
def test_channels_take_the_part_of_the_tile_that_their_places_say(data, tile, transposed):
    line = st.lists(st.integers(0, 200), min_size=1, max_size=9)
    rows, columns = data.draw(line), data.draw(line)
    values = random(*tile, 1, 1)
    shape = (len(rows), len(columns))
    fitted = fit_weight(values, shape, transposed=transposed, rows=rows, columns=columns)
    as_torch = fit_weight(torch.tensor(values), shape, rows=rows, columns=columns)
    np.testing.assert_array_equal(fitted, as_torch.numpy())
    for o, row in enumerate(rows):
        for i, column in enumerate(columns):
            assert fitted[o, i] == values[row % tile[0], column % tile[1], 0, 0] * np.float32(
                scale(shape)
            )


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize(("shape", "transposed"), [((10, 7, 3, 3), False), ((7, 5), True)])
def test_rounding_the_tile_gives_the_bits_of_rounding_the_tensor(dtype, shape, transposed):
    tile = random(4, 3, *((*shape[2:], 1, 1)[:2]))
    rounded = fit_weight(tile, shape, transposed=transposed, dtype=dtype)
    assert rounded.dtype == dtype
    expected = fit_weight(tile, shape, transposed=transposed).astype(dtype)
    assert rounded.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("shape", "beta", "fan_in"),
    [
        ((8, 4), 2, 4),
        ((8, 1), 2, 1),
        ((8, 4, 3, 3), 2, 36),
        ((8, 1, 3, 3), 1, 9),
        ((8, 4, 1, 7), 1, 28),
        ((8, 4, 7, 1), 2, 28),
        ((8, 4, 5), 2, 20),
        ((8, 1, 5), 1, 5),
    ],
)
def test_scale_follows_fan_in(shape, beta, fan_in):
    assert scale(shape) == math.sqrt(beta / fan_in)


@pytest.mark.parametrize("shape", [(10, 7, 3, 3), (2, 3, 3, 3), (5, 5)])
def test_torch_and_numpy_agree_and_torch_has_gradients(shape):
    values = random(4, 3, *((*shape[2:], 1, 1)[:2]))
    values = values[: shape[0], : shape[1]]
    tensor = torch.tensor(values, requires_grad=True)
    fitted = fit_weight(tensor, shape)
    np.testing.assert_array_equal(fitted.detach().numpy(), fit_weight(values, shape))
    fitted.sum().backward()
    used = tensor.grad[: shape[0], : shape[1]]
    assert (used > 0).all()


@pytest.mark.parametrize("shape", [(10, 7), (3, 9), (2, 2)])
def test_a_transposed_matrix_has_the_same_values_in_the_other_memory_order(shape):
    values = random(4, 3, 1, 1)
    plain, transposed = fit_weight(values, shape), fit_weight(values, shape, transposed=True)
    np.testing.assert_array_equal(plain, transposed)
    assert plain.flags.c_contiguous
    assert transposed.T.flags.c_contiguous
    as_torch = fit_weight(torch.tensor(values), shape, transposed=True)
    np.testing.assert_array_equal(plain, as_torch.numpy())


def test_a_vector_repeats():
    np.testing.assert_array_equal(fit_vector(np.arange(3.0), (7,)), [0, 1, 2, 0, 1, 2, 0])
    assert fit_vector(torch.arange(3.0), (7,)).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert fit_vector(np.arange(3.0), (4,), rows=(2, 3, 4, 1)).tolist() == [2, 0, 1, 1]


@pytest.mark.parametrize(("rows", "tokens"), [(4, 0), (5, 1), (6, 2)])
def test_a_position_table_is_the_grid_after_its_tokens(rows, tokens):
    tile = random(1, 3, 2, 2)
    table = fit_positions(tile, (1, rows, 7), RandomStream(0, "pos"))
    assert table.shape == (1, rows, 7)
    for position in range(4):
        for d in range(7):
            assert table[0, tokens + position, d] == tile[0, d % 3, position // 2, position % 2]
    assert (np.abs(table[0, :tokens]) < 6 * TOKEN_STD).all()
    again = fit_positions(tile, (1, rows, 7), RandomStream(0, "pos"))
    np.testing.assert_array_equal(table, again)
    as_torch = fit_positions(torch.tensor(tile), (1, rows, 7), RandomStream(0, "pos"))
    np.testing.assert_array_equal(table, as_torch.numpy())
    if tokens:
        other = fit_positions(tile, (1, rows, 7), RandomStream(1, "pos"))
        assert not np.array_equal(table[:, :tokens], other[:, :tokens])

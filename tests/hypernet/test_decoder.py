import pytest
import torch
import torch.nn.functional as F

from onnx_ghn.hypernet.decoder import VectorDecoder, WeightDecoder

HIDDEN, C0, C1, SIDE, CLASSES = 8, 24, 20, 5, 10


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    return WeightDecoder(HIDDEN, (C0, C1), SIDE, CLASSES, centred=True)


def whole_map(decoder, states):
    """All positions and channels, written as the paper describes it: [n, C0, C1, S, S]."""
    n = len(states)
    x = torch.relu(decoder.positions(states)).reshape(n, 4 * HIDDEN, SIDE, SIDE)
    x = torch.relu(decoder.inner(x.permute(0, 2, 3, 1)))
    return decoder.outer(x).reshape(n, SIDE, SIDE, C0, C1).permute(0, 3, 4, 1, 2)


@pytest.mark.parametrize("o", [1, 7, C0, 100])
@pytest.mark.parametrize("i", [1, 15, 16, C1, 100])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 4), (5, 5)])
def test_only_what_is_used_is_computed_and_it_is_the_same(decoder, o, i, kernel):
    states = torch.randn(3, HIDDEN)
    kh, kw = kernel
    top, left = SIDE // 2 - kh // 2, SIDE // 2 - kw // 2
    expected = whole_map(decoder, states)[:, :o, :i, top : top + kh, left : left + kw]
    torch.testing.assert_close(decoder(states, o, i, kh, kw), expected, atol=1e-6, rtol=0)


def test_the_corner_window_starts_at_the_first_position(decoder):
    decoder.centred = False
    states = torch.randn(2, HIDDEN)
    expected = whole_map(decoder, states)[:, :4, :4, :3, :2]
    torch.testing.assert_close(decoder(states, 4, 4, 3, 2), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kernel", [(7, 7), (1, 9), (9, 3)])
def test_a_kernel_beyond_the_map_is_resized(decoder, kernel):
    states = torch.randn(2, HIDDEN)
    kh, kw = kernel
    inside = decoder(states, 4, 18, min(kh, SIDE), min(kw, SIDE))
    expected = F.interpolate(inside.flatten(1, 2), size=kernel, mode="bilinear")
    tile = decoder(states, 4, 18, kh, kw)
    assert tile.shape == (2, 4, 18, kh, kw)
    torch.testing.assert_close(tile, expected.reshape(tile.shape), atol=1e-6, rtol=0)


def test_class_weight_mixes_the_output_channels(decoder):
    states = torch.randn(2, HIDDEN)
    centre = whole_map(decoder, states)[..., SIDE // 2, SIDE // 2]
    mixed = torch.einsum("co,noi->nci", decoder.classifier.weight, torch.relu(centre))
    expected = mixed + decoder.classifier.bias[:, None]
    torch.testing.assert_close(decoder.class_weight(states, 100), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        decoder.class_weight(states, 7), expected[:, :, :7], atol=1e-6, rtol=0
    )


def test_vectors_are_squashed_around_one_and_zero():
    torch.manual_seed(0)
    decoder = VectorDecoder(HIDDEN, (C0, C1), CLASSES)
    states = 100 * torch.randn(5, HIDDEN)
    both = decoder.outer(torch.relu(decoder.inner(states))).reshape(5, 2, C0)
    tile = decoder(states, 11)
    assert tile.shape == (5, 2, 11)
    assert decoder(states, 1000).shape == (5, 2, C0)
    torch.testing.assert_close(tile[:, 0], 2 * torch.sigmoid(both[:, 0, :11] / 2))
    torch.testing.assert_close(tile[:, 1], torch.tanh(both[:, 1, :11] / 5))
    bias = torch.tanh(decoder.classifier(torch.relu(both[:, 1])) / 5)
    torch.testing.assert_close(decoder.class_bias(states), bias)


def test_gradients_reach_the_states_and_the_used_rows(decoder):
    states = torch.randn(2, HIDDEN, requires_grad=True)
    decoder(states, 4, 18, 3, 3).square().sum().backward()
    assert states.grad.abs().sum() > 0
    used = decoder.outer.weight.grad.reshape(C0, C1, -1).abs().sum(-1) > 0
    assert used[:4, :18].all() and not used[4:].any() and not used[:, 18:].any()

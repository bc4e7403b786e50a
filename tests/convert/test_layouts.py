from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from onnx_ghn.convert.layouts import infer_config, rename, state_of
from onnx_ghn.convert.unpickle import read_checkpoint
from onnx_ghn.errors import ArchiveError
from onnx_ghn.hypernet.config import CENTRE, CORNER, GATED, GRAPHORMER, NetworkConfig

DATA = Path(__file__).parent.parent / "hypernet" / "data"


def read(name):
    return read_checkpoint(DATA / name)


def sizes_only(hidden, layers, heads, side, classes):
    """The shapes of a GHN-3 that sizes are inferred from, without memory behind them."""
    shapes = {
        "embed.weight": (15, hidden),
        "decoder.fc.0.weight": (4 * hidden * side * side, hidden),
        "decoder.conv.2.weight": (hidden * hidden, 8 * hidden),
        "decoder.class_layer_predictor.1.weight": (classes, hidden),
        "gnn.0.attn.proj_e.2.weight": (heads, hidden),
        "ln.weight": (hidden,),
    }
    shapes |= {f"gnn.{k}.ln1.weight": (hidden,) for k in range(layers)}
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("hidden", "layers", "heads"),
    [(64, 3, 8), (128, 5, 16), (256, 12, 16), (384, 24, 16)],
    ids=["T", "S", "L", "XL"],
)
def test_published_sizes_are_inferred(hidden, layers, heads):
    assert infer_config(sizes_only(hidden, layers, heads, 16, 1000), "file") == NetworkConfig(
        encoder=GRAPHORMER,
        hidden=hidden,
        layers=layers,
        heads=heads,
        channels=(hidden, hidden),
        side=16,
        classes=1000,
        window=CENTRE,
    )


def test_small_files_are_inferred():
    assert infer_config(read("ghn3_tiny_hf.pt"), "file") == NetworkConfig(
        encoder=GRAPHORMER, hidden=16, layers=2, heads=8, channels=(16, 16), side=11, classes=10
    )
    assert infer_config(read("ghn2tiny_hf.pt"), "file") == NetworkConfig(
        encoder=GATED, hidden=8, channels=(16, 16), side=11, classes=10, window=CORNER
    )


def test_a_trainers_names_give_the_same_weights_as_published_ones():
    published = read("ghn3_tiny_hf.pt")
    moved = ("centrality_embed_in", "centrality_embed_out", "input_dist_embed")
    trainer = OrderedDict(
        (f"gnn.0.{name}" if name.startswith(moved) else name, value)
        for name, value in published.items()
    )
    assert trainer.keys() != published.keys()
    expected, state = rename(published, "file"), rename(trainer, "file")
    assert state.keys() == expected.keys()
    for name in state:
        np.testing.assert_array_equal(state[name], expected[name])


def test_one_by_one_convolutions_become_matrices():
    state = read("ghn2tiny_hf.pt")
    assert state["decoder.conv.0.weight"].shape == (64, 32, 1, 1)
    assert rename(state, "file")["weight.inner.weight"].shape == (64, 32)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 0}])
def test_the_state_dict_is_found_in_its_wrapping(wrap):
    state = {"module.embed.weight": np.zeros(3)}
    assert list(state_of(wrap(state), "file")) == ["embed.weight"]


@pytest.mark.parametrize("other", [3, [], {}, {"state_dict": 3}, {"a": "text"}])
def test_other_contents_are_an_error(other):
    with pytest.raises(ArchiveError, match="no state dict"):
        state_of(other, "file")


def test_an_ordinary_network_is_no_hypernetwork():
    with pytest.raises(ArchiveError, match="isn't a GHN-2 or GHN-3 checkpoint"):
        infer_config({"conv1.weight": np.zeros((64, 3, 7, 7))}, "file")


def test_a_tensor_without_counterpart_is_an_error():
    with pytest.raises(ArchiveError, match=r"unknown tensor 'extra\.weight'"):
        rename({"extra.weight": np.zeros(3)}, "file")

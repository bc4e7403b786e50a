import pytest
import torch

from onnx_ghn.architectures.sample import sample
from onnx_ghn.hypernet.features import features
from onnx_ghn.hypernet.kinds import (
    CHANNELS,
    COLUMNS,
    DEPTHWISE,
    GROUPED,
    KINDS,
    LARGE,
    LARGEST,
    LINEAR,
    POINTWISE,
    POSITION,
    SPATIAL,
    STEM,
    TEMPLATES,
    TILES,
    Buckets,
    KindOf,
    KindsHypernetwork,
    window,
)
from onnx_ghn.read.graph import Op
from onnx_ghn.read.reading import read_model
from onnx_ghn.train.export import network_config


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return KindsHypernetwork(32, 2, 4, 10)


@pytest.fixture(scope="module")
def graph():
    graph = read_model(sample("full", 0)).graph
    table = torch.from_numpy(features(graph, network_config(10), COLUMNS))
    return table, torch.from_numpy(graph.distance.astype("int64"))


def test_tables_agree_with_each_other():
    assert len(KINDS) == len(TILES) == len(TEMPLATES)
    assert len(COLUMNS) == len(LARGEST)
    assert all(CHANNELS % out == 0 and CHANNELS % ins == 0 for out, ins, _ in TILES)


def node(**values):
    row = dict.fromkeys(COLUMNS, 0) | {"primitive": int(Op.CONV), "groups": 1} | values
    return [row[name] for name in COLUMNS]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (SPATIAL, {"in_per_group": 32, "height": 3, "width": 3}),
        (SPATIAL, {"in_per_group": 32, "height": 1, "width": 3}),
        (POINTWISE, {"in_per_group": 32, "height": 1, "width": 1}),
        (POINTWISE, {"in_per_group": 3, "height": 1, "width": 1}),
        (LINEAR, {"in_per_group": 32, "height": 1, "width": 1, "is_linear": 1}),
        (LARGE, {"in_per_group": 32, "height": 7, "width": 7}),
        (STEM, {"in_per_group": 3, "height": 7, "width": 7}),
        (STEM, {"in_per_group": 1, "height": 3, "width": 3}),
        (DEPTHWISE, {"in_per_group": 1, "height": 3, "width": 3, "groups": 32}),
        (GROUPED, {"in_per_group": 4, "height": 3, "width": 3, "groups": 8}),
        (POSITION, {"in_per_group": 64, "height": 8, "width": 8, "primitive": int(Op.POS_ENC)}),
    ],
)
def test_kind_of_a_node(kind, values):
    assert KindOf()(torch.tensor([node(**values)])).tolist() == [kind]


def test_buckets_tell_small_numbers_apart_and_clip_large_ones():
    buckets = Buckets((20, 20))
    rows = buckets(torch.arange(13)[:, None].expand(-1, 2))
    assert len(set(rows[:, 0].tolist())) == 13
    assert not set(rows[:, 0].tolist()) & set(rows[:, 1].tolist())
    far = buckets(torch.tensor([[20, 20], [10_000, -3]]))
    assert far[0, 0] == far[1, 0]
    assert far.max() < buckets.rows


def test_compiled_by_torchscript_it_gives_the_same(network, graph):
    for method in (
        "encode",
        "decode_weight",
        "decode_class_weight",
        "decode_vector",
        "decode_class_bias",
    ):
        torch.jit.export(getattr(KindsHypernetwork, method))
    compiled = torch.jit.script(network)
    states = network.encode(*graph)
    torch.testing.assert_close(compiled.encode(*graph), states)
    for size in ((32, 32, 3, 3), (128, 96, 1, 1), (8, 3, 7, 7), (24, 1, 9, 9), (16, 16, 2, 3)):
        tile = network.decode_weight(states, graph[0], *size)
        o, i, *kernel = size
        assert tile.shape == (len(states), min(o, CHANNELS), min(i, CHANNELS), *kernel)
        torch.testing.assert_close(compiled.decode_weight(states, graph[0], *size), tile)
    rows = network.decode_vector(states, graph[0], 40)
    assert rows.shape == (len(states), 2, 40)
    torch.testing.assert_close(compiled.decode_vector(states, graph[0], 40), rows)
    assert network.decode_class_weight(states, graph[0], 48).shape == (len(states), 10, 48)
    assert network.decode_class_bias(states, graph[0]).shape == (len(states), 10)


def test_starts_as_a_good_random_initialisation(network, graph):
    states = network.encode(*graph)
    tile = network.decode_weight(states, graph[0], 32, 32, 3, 3)
    assert 0.8 < tile.std() < 1.2
    scales, shifts = network.decode_vector(states, graph[0], 64).unbind(1)
    assert (scales - 1).abs().max() < 0.6
    assert shifts.abs().max() < 0.5


def test_no_class_is_ahead_of_all_others_at_every_input(network, graph):
    """Else a classifier that ends in a ReLU could give zeros only."""
    features, distance = graph
    states = network.encode(features, distance)
    weight = network.decode_class_weight(states, features, 48)
    torch.testing.assert_close(weight.mean(1), torch.zeros_like(weight[:, 0]), atol=1e-6, rtol=0)
    bias = network.decode_class_bias(states, features)
    torch.testing.assert_close(bias.mean(1), torch.zeros(len(bias)), atol=1e-6, rtol=0)
    assert weight.std() > 0
    assert bias.std() > 0


def test_nodes_at_different_depths_get_different_weights(network):
    table = torch.tensor(
        [node(in_per_group=32, out=32, height=3, width=3, depth=d, rest=9 - d) for d in (2, 6)]
    )
    same_states = torch.zeros(2, 32)
    first, second = network.decode_weight(same_states, table, 32, 32, 3, 3).flatten(1)
    assert torch.cosine_similarity(first, second, dim=0).item() < 0.95


def test_window_takes_the_centre_and_resizes_what_is_larger():
    tiles = torch.arange(25.0).reshape(1, 1, 1, 5, 5)
    assert window(tiles, 1, 1, 3, 1).flatten().tolist() == [7, 12, 17]
    assert window(tiles, 1, 1, 2, 2).flatten().tolist() == [6, 7, 11, 12]
    assert window(tiles, 1, 1, 7, 7).shape == (1, 1, 1, 7, 7)

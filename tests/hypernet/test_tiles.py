import itertools

import numpy as np
import pytest

from onnx_ghn.hypernet.features import features
from onnx_ghn.hypernet.tiles import Decoder, Source, decode_tiles, group
from onnx_ghn.read.graph import Part


def weight(node, *size):
    return Source(node, Part.WEIGHT, Decoder.WEIGHT, size)


class Counting:
    """Counts the calls of an engine."""

    def __init__(self, engine):
        self.engine, self.calls = engine, 0

    def __getattr__(self, name):
        self.calls += 1
        return getattr(self.engine, name)


def test_equal_sizes_share_a_call():
    sources = [weight(node, 8, 8, 3, 3) for node in (4, 2, 9)]
    assert group(sources) == {(Decoder.WEIGHT, (8, 8, 3, 3)): sources}


def test_a_slightly_smaller_size_joins_a_larger_one():
    large, small = weight(1, 32, 32, 1, 1), weight(2, 32, 28, 1, 1)
    assert list(group([small, large])) == [(Decoder.WEIGHT, (32, 32, 1, 1))]


@pytest.mark.parametrize(
    "other", [(32, 28, 3, 3), (28, 33, 1, 1), (2, 2, 1, 1)], ids=["kernel", "crossing", "tiny"]
)
def test_what_would_not_fit_or_not_pay_stays_apart(other):
    many = [weight(node, *other) for node in range(2, 40)]
    assert len(group([weight(1, 32, 32, 1, 1), *many])) == 2


def test_groups_do_not_depend_on_the_order_of_the_sources():
    sources = [weight(k, o, i, 1, 1) for k, (o, i) in enumerate(itertools.product((8, 9), (8, 9)))]
    expected = {key: set(members) for key, members in group(sources).items()}
    for order in itertools.permutations(sources):
        assert {key: set(members) for key, members in group(order).items()} == expected


def test_tiles_of_merged_groups_are_those_of_single_calls(archives, data, parity_values):
    archive = archives["ghn3_tiny"]
    reading, arrays = parity_values.read_fixture(data / "ghn3_tiny" / "resnet18.npz")
    network = archive.info.config.network
    rows, states = features(reading.graph, network), arrays["x1"]
    sources = dict(
        enumerate(weight(k, o, i, 1, 1) for k in range(5) for o in (1, 15, 16) for i in (3, 14, 16))
    )
    sources |= {100: Source(3, Part.SCALE, Decoder.VECTOR, (16,))}
    sources |= {101: Source(3, Part.SHIFT, Decoder.VECTOR, (13,))}
    engine = Counting(archive.engine)
    tiles = decode_tiles(engine, sources, states, rows, network)
    assert engine.calls < 6
    for key, source in sources.items():
        node = [source.node]
        alone = getattr(archive.engine, source.decoder.value)(
            states[node], rows[node], *source.size
        )[0]
        if source.decoder is Decoder.VECTOR:
            alone = alone[0 if source.part is Part.SCALE else 1]
        np.testing.assert_allclose(tiles[key], alone, atol=1e-6)

import numpy as np
import pytest

from onnx_ghn.errors import ArchiveError
from onnx_ghn.hypernet.config import GRAPHORMER, NetworkConfig
from onnx_ghn.hypernet.features import channel_table, features, side_table
from onnx_ghn.read.graph import ATTRIBUTES, GhnGraph, Op


def network(classes, side):
    return NetworkConfig(
        encoder=GRAPHORMER, hidden=16, heads=8, channels=(16, 16), side=side, classes=classes
    )


def graph_of(*shapes):
    count = len(shapes)
    return GhnGraph(
        op=np.full(count, Op.CONV, np.int64),
        shape=np.array(shapes, np.int64).reshape(count, 4),
        attributes=np.zeros((count, len(ATTRIBUTES)), np.int64),
        distance=np.zeros((count, count), np.uint8),
        slots=((),) * count,
        nodes=("",) * count,
    )


def channel(size, classes):
    row = features(graph_of((size, size, 1, 1)), network(classes, 11))[0]
    assert row[1] == row[2]
    return channel_table(classes)[row[1]]


def kernel(size, side):
    row = features(graph_of((1, 1, size, size)), network(10, side))[0]
    assert row[3] == row[4]
    return side_table(side)[row[3]]


def test_tables_have_the_published_sizes():
    assert len(channel_table(10)) == len(channel_table(1000)) == 391
    assert len(channel_table(96)) == 390  # 96 is in the ranges already
    assert len(side_table(11)) == 8
    assert len(side_table(16)) == 10


@pytest.mark.parametrize(
    ("size", "classes", "entry"),
    [
        (1, 10, 1),
        (2, 10, 1),
        (3, 10, 3),
        *((k, 1000, 8) for k in (4, 5, 6, 7)),
        (12, 1000, 8),
        (12, 10, 10),
        (60, 10, 56),
        (1000, 1000, 1000),
        (1000, 10, 992),
        (8192, 10, 8192),
        (30522, 10, 8192),
    ],
)
def test_channels_snap_to_the_nearest_entry(size, classes, entry):
    assert channel(size, classes) == entry


@pytest.mark.parametrize(
    ("size", "side", "entry"),
    [
        (1, 11, 1),
        (2, 11, 3),
        (4, 11, 3),
        (6, 11, 5),
        (12, 11, 11),
        (12, 16, 11),
        (14, 11, 14),
        (16, 16, 16),
        (31, 16, 16),
    ],
)
def test_kernels_snap_to_the_nearest_entry(size, side, entry):
    assert kernel(size, side) == entry


def test_a_class_count_of_five_is_an_entry_of_its_own():
    assert channel(5, 5) == 5
    assert channel(6, 5) == 8


def test_a_node_without_a_shape_takes_the_rows_past_the_tables():
    rows = features(graph_of((0, 0, 0, 0), (64, 0, 0, 0)), network(10, 11))
    assert rows.dtype == np.int64
    assert rows[0].tolist() == [Op.CONV, 391, 391, 8, 8]
    assert rows[1].tolist() == features(graph_of((64, 1, 1, 1)), network(10, 11))[0].tolist()


def test_an_unknown_column_is_an_error():
    with pytest.raises(ArchiveError, match="weather"):
        features(graph_of((1, 1, 1, 1)), network(10, 11), ("op", "weather"))
